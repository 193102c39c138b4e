/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Quoted text. text_quote() writes what is at the same time a JSON string (RFC 8259) and a YAML double-quoted scalar, so
 * that one function serves output and messages alike.
 */
#ifndef CAPSULE_MANIFEST_TEXT_H
#define CAPSULE_MANIFEST_TEXT_H

#include "base/buf.h"

/* Whether YAML allows the character to stand in a text unescaped (YAML 1.2.2, 5.1, c-printable). */
bool text_is_printable(uint32_t c);

/* Appends s in double quotes; bytes that are not UTF-8 become U+FFFD. */
void text_quote(struct buf *out, const char *s, size_t len);

/* The same for a message: a long text is cut after TEXT_EXCERPT_MAX bytes and ends in "...". */
#define TEXT_EXCERPT_MAX 64
void text_quote_excerpt(struct buf *out, const char *s, size_t len);

#endif
