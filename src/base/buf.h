/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A growing byte buffer with a stated maximum.
 *
 * Bytes are appended at the end and may be taken from the front. The content is always followed by a NUL that is not
 * counted, so text can be used as a C string. A failed append (limit reached, no memory) sets `failed`, drops what
 * was to be appended and makes every later append fail too: a caller may append freely and check once at the end.
 *
 * Ownership: buf_release() frees; buf_steal() hands the bytes to the caller (free()).
 */
#ifndef CAPSULE_BASE_BUF_H
#define CAPSULE_BASE_BUF_H

#include "base/cleanup.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *base;
	size_t off;  /* first byte that was not taken */
	size_t len;  /* bytes from off on */
	size_t cap;  /* allocated bytes */
	size_t max;  /* content never grows beyond this */
	bool failed;
};

#define BUF_INIT(limit) { NULL, 0, 0, 0, (limit), false }

void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b);
#define _cleanup_buf_ _cleanup_(buf_release)

/* Empties the buffer and clears `failed`; keeps the memory. */
void buf_reset(struct buf *b);

static inline uint8_t *buf_data(const struct buf *b)
{
	return b->base + b->off;
}

/* The content as a C string; "" when empty. Valid until the next change. */
const char *buf_str(const struct buf *b);

/* Each returns 0, or -1 with `failed` set. */
int buf_add(struct buf *b, const void *data, size_t len);
int buf_adds(struct buf *b, const char *s);
int buf_addc(struct buf *b, char c);
int buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int buf_addv(struct buf *b, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));

/* Makes room for len bytes at the end and returns where they go; NULL on failure. buf_commit() then counts those
 * that were really written (at most len). */
uint8_t *buf_reserve(struct buf *b, size_t len);
void buf_commit(struct buf *b, size_t len);

/* Drops len bytes from the front (at most all). */
void buf_take(struct buf *b, size_t len);

/* Returns the content, NUL-terminated, owned by the caller, and empties the buffer. NULL if `failed` or no memory. */
char *buf_steal(struct buf *b);

#endif
