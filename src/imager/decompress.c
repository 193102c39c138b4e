/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* gzip by ISA-L, which is twice as fast as zlib here. It stops at the end of each member: see gzip_next_member(). */
#include "imager/decompress.h"

#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <zstd.h>

struct decompress {
	enum compression compression;
	bool in_frame; /* some bytes of a gzip member or zstd frame were taken, and not its last */
	bool any;      /* a whole member or frame was seen */
	bool padding;  /* gzip: zeros after the last member */
	struct inflate_state inflate;
	ZSTD_DStream *zstd;
};

enum compression compression_recognize(const void *first, size_t len)
{
	const uint8_t *p = first;

	if (len >= 3 && p[0] == 0x1f && p[1] == 0x8b && p[2] == 8)
		return COMPRESSION_GZIP;
	if (len >= 4 && p[0] == 0x28 && p[1] == 0xb5 && p[2] == 0x2f && p[3] == 0xfd)
		return COMPRESSION_ZSTD;
	/* A skippable frame may come first. */
	if (len >= 4 && (p[0] & 0xf0) == 0x50 && p[1] == 0x2a && p[2] == 0x4d && p[3] == 0x18)
		return COMPRESSION_ZSTD;
	return COMPRESSION_NONE;
}

int decompress_new(enum compression compression, struct decompress **ret, struct error *err)
{
	struct decompress *d = calloc(1, sizeof *d);

	if (!d)
		return error_errno(err, ENOMEM, "cannot decompress");
	d->compression = compression;
	if (compression == COMPRESSION_ZSTD) {
		d->zstd = ZSTD_createDStream();
		if (!d->zstd) {
			free(d);
			return error_errno(err, ENOMEM, "cannot decompress");
		}
	}
	*ret = d;
	return 0;
}

void decompress_free(struct decompress *d)
{
	if (!d)
		return;
	ZSTD_freeDStream(d->zstd);
	free(d);
}

static int gzip_error(int code, struct error *err)
{
	return error_set(err, ERR_INVALID_ARGUMENT, "the gzip stream is damaged%s",
			 code == ISAL_INCORRECT_CHECKSUM ? ": its checksum is wrong" : "");
}

/* Between members: what follows is another member, or zeros that fill a block. */
static int gzip_next_member(struct decompress *d, const uint8_t **in, size_t *in_len, struct error *err)
{
	if (d->any) {
		size_t zeros = 0;

		while (zeros < *in_len && (*in)[zeros] == 0)
			zeros++;
		d->padding |= zeros > 0;
		*in += zeros;
		*in_len -= zeros;
		if (!*in_len)
			return 0;
		if (d->padding || **in != 0x1f)
			return error_set(err, ERR_INVALID_ARGUMENT, "there is garbage after the gzip stream");
	}
	isal_inflate_init(&d->inflate);
	d->inflate.crc_flag = ISAL_GZIP;
	d->in_frame = true;
	return 0;
}

static int gzip_step(struct decompress *d, const uint8_t **in, size_t *in_len, uint8_t *out, size_t out_len,
		     size_t *ret_len, struct error *err)
{
	size_t made = 0;

	while (made < out_len) {
		uint32_t given = *in_len > INT_MAX ? INT_MAX : (uint32_t)*in_len;
		uint32_t room = out_len - made > INT_MAX ? INT_MAX : (uint32_t)(out_len - made);
		int r;

		if (!d->in_frame) {
			if (!*in_len)
				break;
			if (gzip_next_member(d, in, in_len, err) < 0)
				return -1;
			continue;
		}
		d->inflate.next_in = (uint8_t *)(uintptr_t)*in;
		d->inflate.avail_in = given;
		d->inflate.next_out = out + made;
		d->inflate.avail_out = room;
		r = isal_inflate(&d->inflate);
		if (r < 0 || r == ISAL_NEED_DICT)
			return gzip_error(r, err);
		*in += given - d->inflate.avail_in;
		*in_len -= given - d->inflate.avail_in;
		made += room - d->inflate.avail_out;
		if (d->inflate.block_state == ISAL_BLOCK_FINISH) {
			d->in_frame = false;
			d->any = true;
		} else if (!*in_len && d->inflate.avail_out) {
			break;
		}
	}
	*ret_len = made;
	return 0;
}

static int zstd_step(struct decompress *d, const uint8_t **in, size_t *in_len, uint8_t *out, size_t out_len,
		     size_t *ret_len, struct error *err)
{
	ZSTD_inBuffer from = { *in, *in_len, 0 };
	ZSTD_outBuffer to = { out, out_len, 0 };

	/* Also without input: what did not fit into the last output is still inside. */
	while (to.pos < to.size && (from.pos < from.size || d->in_frame)) {
		size_t before = to.pos, taken = from.pos;
		size_t r = ZSTD_decompressStream(d->zstd, &to, &from);

		if (ZSTD_isError(r))
			return error_set(err, ERR_INVALID_ARGUMENT, "the zstd stream is damaged: %s",
					 ZSTD_getErrorName(r));
		d->in_frame = r != 0;
		d->any |= r == 0;
		if (to.pos == before && from.pos == taken)
			break;
	}
	*in += from.pos;
	*in_len -= from.pos;
	*ret_len = to.pos;
	return 0;
}

int decompress_step(struct decompress *d, const uint8_t **in, size_t *in_len, uint8_t *out, size_t out_len,
		    size_t *ret_len, struct error *err)
{
	size_t n;

	switch (d->compression) {
	case COMPRESSION_GZIP:
		return gzip_step(d, in, in_len, out, out_len, ret_len, err);
	case COMPRESSION_ZSTD:
		return zstd_step(d, in, in_len, out, out_len, ret_len, err);
	case COMPRESSION_NONE:
		break;
	}
	n = *in_len < out_len ? *in_len : out_len;
	memcpy(out, *in, n);
	*in += n;
	*in_len -= n;
	*ret_len = n;
	return 0;
}

int decompress_finish(const struct decompress *d, struct error *err)
{
	if (d->compression != COMPRESSION_NONE && (d->in_frame || !d->any))
		return error_set(err, ERR_INVALID_ARGUMENT, "the compressed stream stops in the middle");
	return 0;
}
