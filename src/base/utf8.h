/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * UTF-8 (RFC 3629), and how foreign text becomes it: the console of a guest, what a tool prints, a name out of an image may
 * be any bytes, and a message whose strings are not UTF-8 is refused as a whole by whoever reads it.
 *
 * Threads: any; nothing here allocates or fails.
 */
#ifndef CAPSULE_BASE_UTF8_H
#define CAPSULE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one character of at most len bytes. Returns its length, or 0 if the bytes are not UTF-8 (overlong forms,
 * surrogates and what is above U+10FFFF included) or len is 0. */
size_t utf8_decode(const char *s, size_t len, uint32_t *ret_char);

bool utf8_is_valid(const char *s, size_t len);

/* Each byte that is of no character becomes '?'. The length stays. */
void utf8_clean(char *s, size_t len);

/* Drops what a cut left of a character at the end. */
void utf8_trim(char *s);

/* Makes one line of foreign text, for a message: utf8_trim(), utf8_clean(), spaces for line breaks and tabs, '?' for other
 * control characters. The text does not grow. */
void utf8_line(char *s);

#endif
