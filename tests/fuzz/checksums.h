/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Puts the checksums of tar headers right, or hardly any mutation of an archive would get past them. */
#ifndef CAPSULE_FUZZ_CHECKSUMS_H
#define CAPSULE_FUZZ_CHECKSUMS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define TAR_BLOCK 512

static inline void correct_checksums(uint8_t *data, size_t len)
{
	for (size_t at = 0; at + TAR_BLOCK <= len; at += TAR_BLOCK) {
		uint8_t *h = data + at;
		unsigned sum = 0;
		char text[8];

		if (memcmp(h + 257, "ustar", 5) != 0)
			continue;
		memset(h + 148, ' ', 8);
		for (size_t i = 0; i < TAR_BLOCK; i++)
			sum += h[i];
		snprintf(text, sizeof text, "%06o", sum & 0777777);
		memcpy(h + 148, text, 7);
	}
}

#endif
