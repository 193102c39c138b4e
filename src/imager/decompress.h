/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Streams that are plain, gzip (RFC 1952, several members one after another too) or zstd (RFC 8878), told apart by
 * their first bytes. Checksums inside the formats are verified. Memory is bounded whatever the stream says: gzip
 * needs its 32 KiB window, zstd at most 128 MiB. One thread an object.
 */
#ifndef CAPSULE_IMAGER_DECOMPRESS_H
#define CAPSULE_IMAGER_DECOMPRESS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

enum compression { COMPRESSION_NONE, COMPRESSION_GZIP, COMPRESSION_ZSTD };

#define COMPRESSION_MAGIC_LEN 4

/* Fewer than COMPRESSION_MAGIC_LEN bytes are enough only if the stream ends there. */
enum compression compression_recognize(const void *first, size_t len);

struct decompress;

int decompress_new(enum compression compression, struct decompress **ret, struct error *err);
void decompress_free(struct decompress *d);
DEFINE_CLEANUP(struct decompress *, decompress_free)

/* Takes from *in (moving it and *in_len on) and fills out until one of the two is used up. A full out may mean that
 * more is to come without more input: call again until *ret_len < out_len. INVALID_ARGUMENT for a damaged stream. */
int decompress_step(struct decompress *d, const uint8_t **in, size_t *in_len, uint8_t *out, size_t out_len,
		    size_t *ret_len, struct error *err);

/* After the last input: INVALID_ARGUMENT if the stream stops in the middle. */
int decompress_finish(const struct decompress *d, struct error *err);

#endif
