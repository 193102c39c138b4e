/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/utf8.h"

#include <string.h>

size_t utf8_decode(const char *s, size_t len, uint32_t *ret_char)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const uint8_t *p = (const uint8_t *)s;
	uint32_t c;
	size_t n;

	if (len == 0)
		return 0;
	if (p[0] < 0x80) {
		*ret_char = p[0];
		return 1;
	}
	n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
	if (p[0] < 0xc2 || p[0] > 0xf4 || n > len)
		return 0;
	c = p[0] & (0xffu >> (n + 1));
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3fu);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*ret_char = c;
	return n;
}

bool utf8_is_valid(const char *s, size_t len)
{
	uint32_t c;
	size_t n;

	for (; len; s += n, len -= n) {
		n = utf8_decode(s, len, &c);
		if (n == 0)
			return false;
	}
	return true;
}

void utf8_clean(char *s, size_t len)
{
	uint32_t c;
	size_t n;

	for (; len; s += n, len -= n) {
		n = utf8_decode(s, len, &c);
		if (n == 0) {
			*s = '?';
			n = 1;
		}
	}
}

void utf8_trim(char *s)
{
	size_t len = strlen(s), n = 0;
	uint8_t lead;

	/* From the end to the byte that began the last character. */
	while (n < 3 && n < len && ((uint8_t)s[len - n - 1] & 0xc0) == 0x80)
		n++;
	if (n == len)
		return;
	lead = (uint8_t)s[len - ++n];
	if (lead >= 0xc2 && lead <= 0xf4 && n < (lead >= 0xf0 ? 4u : lead >= 0xe0 ? 3u : 2u))
		s[len - n] = '\0';
}

static char stand_in_for(char control)
{
	return control == '\n' || control == '\r' || control == '\t' ? ' ' : '?';
}

void utf8_line(char *s)
{
	size_t len, n;
	uint32_t c;

	utf8_trim(s);
	for (len = strlen(s); len; s += n, len -= n) {
		n = utf8_decode(s, len, &c);
		/* C1 is written in two bytes. */
		if (n == 0 || c < 0x20 || (c >= 0x7f && c < 0xa0)) {
			n = n ? n : 1;
			memset(s, n == 1 ? stand_in_for(*s) : '?', n);
		}
	}
}
