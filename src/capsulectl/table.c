/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/output.h"

#include <errno.h>

#define GAP 2 /* spaces between columns */

void table_init(struct table *t, const char *const *headers, size_t columns)
{
	*t = (struct table){ .columns = columns };
	buf_init(&t->text, TABLE_BYTES_MAX);
	for (size_t i = 0; i < columns; i++)
		table_cell(t, STYLE_PLAIN, "%s", headers[i]);
}

void table_release(struct table *t)
{
	free(t->offsets);
	free(t->styles);
	buf_release(&t->text);
	*t = (struct table){ 0 };
}

static int table_grow(struct table *t)
{
	size_t capacity = t->capacity ? t->capacity * 2 : 64;
	size_t *offsets = reallocarray(t->offsets, capacity, sizeof *offsets);
	uint8_t *styles;

	if (!offsets)
		return -1;
	t->offsets = offsets;
	styles = realloc(t->styles, capacity);
	if (!styles)
		return -1;
	t->styles = styles;
	t->capacity = capacity;
	return 0;
}

void table_cell(struct table *t, enum style style, const char *fmt, ...)
{
	size_t at = t->text.len;
	va_list ap;

	if (t->cells == t->capacity && table_grow(t) < 0) {
		t->text.failed = true;
		return;
	}
	va_start(ap, fmt);
	buf_addv(&t->text, fmt, ap);
	va_end(ap);
	if (t->text.len == at)
		buf_addc(&t->text, '-');
	buf_add(&t->text, "", 1);
	if (t->text.failed)
		return;
	text_clean((char *)buf_data(&t->text) + at);
	t->offsets[t->cells] = at;
	t->styles[t->cells++] = (uint8_t)style;
}

static const char *cell_text(const struct table *t, size_t i)
{
	return (const char *)buf_data(&t->text) + t->offsets[i];
}

/* Columns that the text takes: its code points. Wide and combining characters would need the locale's tables, and no
 * name of ours holds any. */
static size_t text_width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

/* Bytes of the text's first n code points. */
static size_t text_prefix(const char *s, size_t n)
{
	const char *p = s;

	for (; *p; p++)
		if (((unsigned char)*p & 0xc0) != 0x80 && n-- == 0)
			break;
	return (size_t)(p - s);
}

void style_add(struct buf *out, enum style style, bool colour, const char *text, size_t len)
{
	static const char *const sequences[] = {
		[STYLE_GOOD] = "\033[32m",
		[STYLE_BAD] = "\033[31m",
		[STYLE_BUSY] = "\033[33m",
		[STYLE_FAINT] = "\033[2m",
	};

	if (!colour || style == STYLE_PLAIN) {
		buf_add(out, text, len);
		return;
	}
	buf_adds(out, sequences[style]);
	buf_add(out, text, len);
	buf_adds(out, "\033[0m");
}

static void print_last(const struct table *t, size_t cell, size_t used, size_t width, bool colour, struct buf *out)
{
	const char *text = cell_text(t, cell);
	size_t room = width > used ? width - used : 0;

	/* On a screen too narrow for anything, wrapping is the lesser evil. */
	if (room < 4 || text_width(text) <= room) {
		style_add(out, t->styles[cell], colour, text, strlen(text));
		return;
	}
	style_add(out, t->styles[cell], colour, text, text_prefix(text, room - 1));
	buf_adds(out, "…");
}

int table_print(const struct table *t, size_t width, bool colour, struct buf *out)
{
	size_t widths[TABLE_COLUMNS_MAX] = { 0 };

	if (t->text.failed || t->columns > TABLE_COLUMNS_MAX)
		return -1;
	for (size_t i = 0; i < t->cells; i++) {
		size_t w = text_width(cell_text(t, i));

		if (w > widths[i % t->columns])
			widths[i % t->columns] = w;
	}
	for (size_t row = 0; row < t->cells / t->columns; row++) {
		size_t used = 0, cell = row * t->columns;

		for (size_t c = 0; c + 1 < t->columns; c++, cell++) {
			const char *text = cell_text(t, cell);

			style_add(out, t->styles[cell], colour, text, strlen(text));
			buf_addf(out, "%*s", (int)(widths[c] - text_width(text)) + GAP, "");
			used += widths[c] + GAP;
		}
		print_last(t, cell, used, width, colour, out);
		buf_addc(out, '\n');
	}
	return out->failed ? -1 : 0;
}
