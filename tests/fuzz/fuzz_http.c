/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Heads of HTTP requests: one that is whole stays so whatever comes behind it, and none is longer than what there is. */
#include "base/cleanup.h"
#include "metrics/http_head.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* A copy of its own, so that a byte too far is seen. */
	_cleanup_free_ char *text = malloc(size ? size : 1);
	struct http_head head, again;
	ssize_t n;

	if (!text)
		return 0;
	if (size)
		memcpy(text, data, size);
	n = http_head_parse(text, size, &head);
	if (n > (ssize_t)size)
		abort();
	if (n > 0 && (http_head_parse(text, (size_t)n, &again) != n || strcmp(head.path, again.path) != 0 ||
		      http_head_parse(text, (size_t)n - 1, &again) > 0))
		abort();
	return 0;
}
