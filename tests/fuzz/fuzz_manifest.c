/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A text that is taken for a manifest must come back from its printed form as the same workload, and a text that is
 * refused must say why. All the other ways out of a workload are walked too.
 */
#include "manifest/manifest.h"

#include "../same_message.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define OUTPUT_MAX (64u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
	if (!condition)
		abort();
}

static void print_mistakes(struct manifest_mistakes *mistakes)
{
	_cleanup_buf_ struct buf report = BUF_INIT(OUTPUT_MAX);
	_cleanup_error_ struct error err = ERROR_INIT;

	require(mistakes->n > 0 || mistakes->out_of_memory);
	manifest_mistakes_print(mistakes, "fuzz", &report);
	require(!report.failed);
	manifest_mistakes_error(mistakes, &err);
	manifest_mistakes_release(mistakes);
}

static void check_printed(const Capsule__V1__Workload *workload)
{
	_cleanup_buf_ struct buf out = BUF_INIT(OUTPUT_MAX), json = BUF_INIT(OUTPUT_MAX), yaml = BUF_INIT(OUTPUT_MAX);
	_cleanup_(manifest_release) struct manifest again = { 0 };
	const Capsule__V1__Workload *read;
	struct manifest_mistakes mistakes;
	Capsule__V1__FieldChange **changes;
	size_t n;

	require(manifest_print_workload(workload, &out) == 0);
	require(manifest_parse(buf_str(&out), out.len, &again, &mistakes) == 0);
	require(again.n == 1 && again.objects[0].workload);
	read = again.objects[0].workload;
	require(same_message(&read->base, &workload->base));
	require(manifest_diff(workload, read, &changes, &n) == 0 && n == 0);
	manifest_changes_free(changes, n);
	require(message_to_yaml(&workload->base, &yaml) == 0);
	require(message_to_json(&workload->base, 0, &json) == 0);

	/* What is JSON is a manifest too. */
	manifest_release(&again);
	require(manifest_parse(buf_str(&json), json.len, &again, &mistakes) == 0);
	require(again.n == 1 && same_message(&again.objects[0].workload->base, &workload->base));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(manifest_release) struct manifest manifest = { 0 };
	struct manifest_mistakes mistakes;

	if (manifest_parse((const char *)data, size, &manifest, &mistakes) < 0) {
		print_mistakes(&mistakes);
		return 0;
	}
	require(mistakes.n == 0 && manifest.n > 0);
	for (size_t i = 0; i < manifest.n; i++)
		if (manifest.objects[i].kind == MANIFEST_WORKLOAD)
			check_printed(manifest.objects[i].workload);
	return 0;
}
