/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/text.h"

#include "base/utf8.h"

bool text_is_printable(uint32_t c)
{
	if (c < 0x20)
		return c == '\t' || c == '\n' || c == '\r';
	if (c < 0xa0)
		return c < 0x7f || c == 0x85;
	return c != 0xfeff && c != 0xfffe && c != 0xffff;
}

static void quote_char(struct buf *out, const char *s, size_t n, uint32_t c)
{
	switch (c) {
	case '"':
	case '\\':
		buf_addf(out, "\\%c", (char)c);
		return;
	case '\n':
		buf_adds(out, "\\n");
		return;
	case '\r':
		buf_adds(out, "\\r");
		return;
	case '\t':
		buf_adds(out, "\\t");
		return;
	}
	/* NEL, LS and PS are printable, but YAML folds them as line breaks. */
	if (!text_is_printable(c) || c == 0x85 || c == 0x2028 || c == 0x2029)
		buf_addf(out, "\\u%04x", c);
	else
		buf_add(out, s, n);
}

void text_quote(struct buf *out, const char *s, size_t len)
{
	uint32_t c;
	size_t n;

	buf_addc(out, '"');
	while (len) {
		n = utf8_decode(s, len, &c);
		if (n == 0) {
			buf_adds(out, "\xef\xbf\xbd");
			n = 1;
		} else {
			quote_char(out, s, n, c);
		}
		s += n;
		len -= n;
	}
	buf_addc(out, '"');
}

void text_quote_excerpt(struct buf *out, const char *s, size_t len)
{
	size_t end = len;

	if (len > TEXT_EXCERPT_MAX) {
		end = TEXT_EXCERPT_MAX;
		while (end > 0 && ((uint8_t)s[end] & 0xc0) == 0x80)
			end--;
	}
	text_quote(out, s, end);
	if (end < len)
		buf_adds(out, "...");
}
