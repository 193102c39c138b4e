/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/buf.h"

#include <stdio.h>
#include <string.h>

void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf)BUF_INIT(max);
}

void buf_release(struct buf *b)
{
	free(b->base);
	*b = (struct buf)BUF_INIT(b->max);
}

void buf_reset(struct buf *b)
{
	b->off = b->len = 0;
	b->failed = false;
	if (b->base)
		b->base[0] = '\0';
}

const char *buf_str(const struct buf *b)
{
	return b->len ? (const char *)buf_data(b) : "";
}

uint8_t *buf_reserve(struct buf *b, size_t len)
{
	size_t need, cap;
	uint8_t *base;

	if (b->failed || len > b->max || b->len > b->max - len) {
		b->failed = true;
		return NULL;
	}
	need = b->len + len + 1;
	if (b->off + need > b->cap && b->off > 0) {
		memmove(b->base, b->base + b->off, b->len);
		b->off = 0;
	}
	if (need > b->cap) {
		cap = b->cap ? b->cap : 64;
		while (cap < need)
			cap *= 2;
		base = realloc(b->base, cap);
		if (!base) {
			b->failed = true;
			return NULL;
		}
		b->base = base;
		b->cap = cap;
	}
	return buf_data(b) + b->len;
}

void buf_commit(struct buf *b, size_t len)
{
	b->len += len;
	buf_data(b)[b->len] = '\0';
}

int buf_add(struct buf *b, const void *data, size_t len)
{
	uint8_t *to = buf_reserve(b, len);

	if (!to)
		return -1;
	if (len)
		memcpy(to, data, len);
	buf_commit(b, len);
	return 0;
}

int buf_adds(struct buf *b, const char *s)
{
	return buf_add(b, s, strlen(s));
}

int buf_addc(struct buf *b, char c)
{
	return buf_add(b, &c, 1);
}

int buf_addv(struct buf *b, const char *fmt, va_list ap)
{
	va_list again;
	uint8_t *to;
	int n;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	if (n < 0) {
		b->failed = true;
		return -1;
	}
	to = buf_reserve(b, (size_t)n);
	if (!to)
		return -1;
	vsnprintf((char *)to, (size_t)n + 1, fmt, ap);
	buf_commit(b, (size_t)n);
	return 0;
}

int buf_addf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = buf_addv(b, fmt, ap);
	va_end(ap);
	return r;
}

void buf_take(struct buf *b, size_t len)
{
	if (len >= b->len) {
		b->off = b->len = 0;
		return;
	}
	b->off += len;
	b->len -= len;
}

char *buf_steal(struct buf *b)
{
	char *s;

	if (b->failed || !buf_reserve(b, 0))
		return NULL;
	buf_commit(b, 0);
	if (b->off)
		memmove(b->base, b->base + b->off, b->len + 1);
	s = (char *)b->base;
	*b = (struct buf)BUF_INIT(b->max);
	return s;
}
