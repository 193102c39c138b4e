/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* References: what is taken has a full form that means the same and is its own full form. */
#include "image/reference.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = strndup((const char *)data, size), *full = NULL, *again = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (!text)
		return 0;
	if (reference_normalize(text, &full, &err) < 0) {
		if (err.code != ERR_INVALID_ARGUMENT || !err.message)
			abort();
		return 0;
	}
	if (reference_normalize(full, &again, NULL) < 0 || strcmp(full, again) != 0)
		abort();
	return 0;
}
