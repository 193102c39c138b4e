/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Hexadecimal digits. Threads: any. */
#ifndef CAPSULE_BASE_HEX_H
#define CAPSULE_BASE_HEX_H

/* 0 to 15; -1 for what is no digit. Both cases count, whatever the locale. */
static inline int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

#endif
