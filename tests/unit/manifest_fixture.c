/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest_fixture.h"

struct manifest parsed(const char *text, size_t len)
{
	struct manifest m = { 0 };
	struct manifest_mistakes found;
	struct buf report = BUF_INIT(1 << 20);

	if (manifest_parse(text, len, &m, &found) < 0)
		manifest_mistakes_print(&found, NULL, &report);
	ck_assert_str_eq(buf_str(&report), "");
	manifest_mistakes_release(&found);
	buf_release(&report);
	return m;
}

Capsule__V1__Workload *workload(const char *text)
{
	struct manifest m = parsed(text, strlen(text));
	Capsule__V1__Workload *w;

	ck_assert_uint_eq(m.n, 1);
	w = steal_ptr(&m.objects[0].workload);
	ck_assert_ptr_nonnull(w);
	manifest_release(&m);
	return w;
}

void drop(Capsule__V1__Workload *w)
{
	capsule__v1__workload__free_unpacked(w, NULL);
}

char *report_on(const char *text, size_t len, const char *file)
{
	struct manifest m = { 0 };
	struct manifest_mistakes found;
	struct buf report = BUF_INIT(4 << 20);

	ck_assert_int_eq(manifest_parse(text, len, &m, &found), -1);
	ck_assert_ptr_null(m.objects);
	manifest_mistakes_print(&found, file, &report);
	manifest_mistakes_release(&found);
	return buf_steal(&report);
}

void expect_report(const char *text, const char *expected)
{
	char *report = report_on(text, strlen(text), NULL);

	ck_assert_str_eq(report, expected);
	free(report);
}

char *to_json(const void *message)
{
	struct buf out = BUF_INIT(1 << 20);

	ck_assert_int_eq(message_to_json(message, 0, &out), 0);
	return buf_steal(&out);
}

char *repeated(const char *head, const char *text, size_t n, const char *tail)
{
	struct buf b = BUF_INIT(64 << 20);

	buf_adds(&b, head);
	while (n--)
		buf_adds(&b, text);
	buf_adds(&b, tail);
	return buf_steal(&b);
}
