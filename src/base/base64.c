/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/base64.h"

#include <stdlib.h>
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const void *data, size_t len)
{
	char *out = malloc((len + 2) / 3 * 4 + 1), *p = out;
	const unsigned char *in = data;

	for (size_t i = 0; out && i < len; i += 3) {
		unsigned v = (unsigned)in[i] << 16;

		v |= i + 1 < len ? (unsigned)in[i + 1] << 8 : 0;
		v |= i + 2 < len ? (unsigned)in[i + 2] : 0;
		*p++ = digits[v >> 18];
		*p++ = digits[v >> 12 & 63];
		*p++ = i + 1 < len ? digits[v >> 6 & 63] : '=';
		*p++ = i + 2 < len ? digits[v & 63] : '=';
	}
	if (out)
		*p = '\0';
	return out;
}

static int value_of(char c)
{
	const char *p = c ? strchr(digits, c) : NULL;

	return p ? (int)(p - digits) : -1;
}

void *base64_decode(const char *text, size_t *ret_len)
{
	size_t len = strlen(text), padding = 0, n = 0;
	unsigned char *out = malloc(len / 4 * 3 + 1);

	while (padding < 2 && padding < len && text[len - 1 - padding] == '=')
		padding++;
	for (size_t i = 0; out && i < len; i += 4) {
		unsigned v = 0;
		int digit = len % 4 ? -1 : 0;

		for (size_t k = i; digit >= 0 && k < i + 4; k++) {
			digit = k >= len - padding ? 0 : value_of(text[k]);
			v = v << 6 | (unsigned)digit;
		}
		if (digit < 0) {
			free(out);
			return NULL;
		}
		out[n++] = (unsigned char)(v >> 16);
		out[n++] = (unsigned char)(v >> 8);
		out[n++] = (unsigned char)v;
	}
	*ret_len = out ? n - padding : 0;
	return out;
}
