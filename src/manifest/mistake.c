/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/mistake.h"

#include <limits.h>
#include <stdarg.h>
#include <string.h>

#define PATH_TEXT_MAX 8192
#define MESSAGE_TEXT_MAX 4096
#define SENTENCE_MISTAKES_MAX 10

static bool is_plain_name(const char *name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
	static const char others[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789-";

	return *name && strchr(letters, *name) && name[strspn(name, others)] == '\0';
}

void path_print_link(const struct path *link, struct buf *out)
{
	if (!link->name) {
		buf_addf(out, "[%zu]", link->index);
	} else if (is_plain_name(link->name)) {
		if (link->up)
			buf_addc(out, '.');
		buf_adds(out, link->name);
	} else {
		buf_addc(out, '[');
		text_quote_excerpt(out, link->name, strlen(link->name));
		buf_addc(out, ']');
	}
}

void path_print(const struct path *path, struct buf *out)
{
	if (!path)
		return;
	path_print(path->up, out);
	path_print_link(path, out);
}

const char *excerpt(struct excerpt *e, const char *s, size_t len)
{
	_cleanup_buf_ struct buf b = BUF_INIT(sizeof e->text - 1);

	text_quote_excerpt(&b, s, len);
	snprintf(e->text, sizeof e->text, "%s", buf_str(&b));
	return e->text;
}

static int mistakes_grow(struct manifest_mistakes *m)
{
	struct manifest_mistake *items;

	/* The room doubles whenever the count is a power of two. */
	if (m->n & (m->n - 1))
		return 0;
	items = realloc(m->items, (m->n ? 2 * m->n : 1) * sizeof *items);
	if (!items)
		return -1;
	m->items = items;
	return 0;
}

int mistake_add_at(struct manifest_mistakes *m, const char *path, unsigned line, unsigned column, const char *message)
{
	struct manifest_mistake *item;

	if (mistakes_full(m))
		return -1;
	if (m->n == MANIFEST_MISTAKES_MAX) {
		path = "";
		line = column = 0;
		message = "there are more mistakes than can be shown";
	}
	if (mistakes_grow(m) < 0) {
		m->out_of_memory = true;
		return -1;
	}
	item = &m->items[m->n];
	*item = (struct manifest_mistake){ line, column, strdup(path), strdup(message) };
	if (!item->path || !item->message) {
		free(item->path);
		free(item->message);
		m->out_of_memory = true;
		return -1;
	}
	m->n++;
	return -1;
}

int mistake_add(struct manifest_mistakes *m, const struct path *path, unsigned line, unsigned column, const char *fmt,
		...)
{
	_cleanup_buf_ struct buf message = BUF_INIT(MESSAGE_TEXT_MAX), where = BUF_INIT(PATH_TEXT_MAX);
	va_list ap;

	path_print(path, &where);
	va_start(ap, fmt);
	buf_addv(&message, fmt, ap);
	va_end(ap);
	return mistake_add_at(m, buf_str(&where), line, column, buf_str(&message));
}

static unsigned before_nothing(unsigned line)
{
	return line ? line : UINT_MAX;
}

void mistakes_sort(struct manifest_mistakes *m)
{
	/* Insertion keeps the order of equal places; there are few, and most are in order. */
	for (size_t i = 1; i < m->n; i++) {
		struct manifest_mistake item = m->items[i];
		size_t j = i;

		for (; j > 0; j--) {
			const struct manifest_mistake *above = &m->items[j - 1];

			if (before_nothing(above->line) < before_nothing(item.line) ||
			    (above->line == item.line && above->column <= item.column))
				break;
			m->items[j] = *above;
		}
		m->items[j] = item;
	}
}

void manifest_mistakes_release(struct manifest_mistakes *m)
{
	for (size_t i = 0; i < m->n; i++) {
		free(m->items[i].path);
		free(m->items[i].message);
	}
	free(m->items);
	*m = (struct manifest_mistakes){ 0 };
}

void manifest_mistakes_print(const struct manifest_mistakes *m, const char *file, struct buf *out)
{
	for (size_t i = 0; i < m->n; i++) {
		const struct manifest_mistake *item = &m->items[i];

		if (file)
			buf_addf(out, "%s:", file);
		if (item->line)
			buf_addf(out, "%u:%u:", item->line, item->column);
		if (file || item->line)
			buf_addc(out, ' ');
		if (*item->path)
			buf_addf(out, "%s: ", item->path);
		buf_addf(out, "%s\n", item->message);
	}
	if (m->out_of_memory)
		buf_addf(out, "%s%sout of memory\n", file ? file : "", file ? ": " : "");
}

int manifest_mistakes_error(const struct manifest_mistakes *m, struct error *err)
{
	_cleanup_buf_ struct buf sentence = BUF_INIT(SENTENCE_MISTAKES_MAX * (MESSAGE_TEXT_MAX + PATH_TEXT_MAX));
	size_t n = m->n < SENTENCE_MISTAKES_MAX ? m->n : SENTENCE_MISTAKES_MAX;

	if (m->out_of_memory)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	for (size_t i = 0; i < n; i++) {
		const struct manifest_mistake *item = &m->items[i];

		if (i)
			buf_adds(&sentence, "; ");
		if (*item->path)
			buf_addf(&sentence, "%s: ", item->path);
		buf_adds(&sentence, item->message);
	}
	if (n < m->n)
		buf_addf(&sentence, "; and %zu more", m->n - n);
	return error_set(err, ERR_INVALID_ARGUMENT, "%s", buf_str(&sentence));
}
