/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/stream.h"

#include "base/fs.h"

#include <endian.h>
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <zstd.h>

#define RECORD_HEADER 12
#define DIGEST_SIZE 32
#define LEVEL 3
#define WINDOW_LOG_MAX 23 /* 8 MiB: what a stream may make us keep */

DEFINE_CLEANUP(EVP_MD_CTX *, EVP_MD_CTX_free)
#define _cleanup_digest_ _cleanup_(EVP_MD_CTX_freep)

static EVP_MD_CTX *digest_new(void)
{
	EVP_MD_CTX *digest = EVP_MD_CTX_new();

	if (!digest || EVP_DigestInit_ex(digest, EVP_sha256(), NULL) != 1)
		abort();
	return digest;
}

/* Has no way to fail once it is set up. */
static void digest_add(EVP_MD_CTX *digest, const void *data, size_t len)
{
	if (EVP_DigestUpdate(digest, data, len) != 1)
		abort();
}

static void digest_end(EVP_MD_CTX *digest, uint8_t ret[EVP_MAX_MD_SIZE])
{
	if (EVP_DigestFinal_ex(digest, ret, NULL) != 1)
		abort();
}

static void put64(uint8_t *to, uint64_t value)
{
	value = htole64(value);
	memcpy(to, &value, sizeof value);
}

static uint64_t get64(const uint8_t *from)
{
	uint64_t value;

	memcpy(&value, from, sizeof value);
	return le64toh(value);
}

static uint32_t get32(const uint8_t *from)
{
	uint32_t value;

	memcpy(&value, from, sizeof value);
	return le32toh(value);
}

static int storage_size(int storage, uint64_t *ret, struct error *err)
{
	off_t end = lseek(storage, 0, SEEK_END);

	if (end < 0)
		return error_errno(err, errno, "cannot see how large the volume is");
	*ret = (uint64_t)end;
	return 0;
}

/* ---- export ---- */

struct writer {
	int out;
	ZSTD_CCtx *zstd;
	EVP_MD_CTX *digest;
	uint8_t buffer[128 << 10];
};

static int compress(struct writer *w, const void *data, size_t len, ZSTD_EndDirective directive, struct error *err)
{
	ZSTD_inBuffer input = { data, len, 0 };
	size_t left;

	do {
		ZSTD_outBuffer output = { w->buffer, sizeof w->buffer, 0 };
		int r;

		left = ZSTD_compressStream2(w->zstd, &output, &input, directive);
		if (ZSTD_isError(left))
			return error_set(err, ERR_INTERNAL, "cannot compress the volume: %s", ZSTD_getErrorName(left));
		r = fs_write_all(w->out, w->buffer, output.pos);
		if (r < 0)
			return error_errno(err, -r, "cannot write the exported volume");
	} while (directive == ZSTD_e_end ? left > 0 : input.pos < input.size);
	return 0;
}

static int put_record(struct writer *w, uint64_t offset, const uint8_t *data, size_t len, struct error *err)
{
	uint32_t length = htole32((uint32_t)len);
	uint8_t header[RECORD_HEADER];

	put64(header, offset);
	memcpy(header + 8, &length, sizeof length);
	digest_add(w->digest, header, sizeof header);
	digest_add(w->digest, data, len);
	if (compress(w, header, sizeof header, ZSTD_e_continue, err) < 0)
		return -1;
	return len ? compress(w, data, len, ZSTD_e_continue, err) : 0;
}

static bool is_zero(const uint8_t *data, size_t len)
{
	return data[0] == 0 && memcmp(data, data + 1, len - 1) == 0;
}

/* Where the next data is, from offset on. A device does not tell: there everything is data. */
static uint64_t next_data(int storage, uint64_t offset, uint64_t size)
{
	off_t found = lseek(storage, (off_t)offset, SEEK_DATA);

	if (found >= 0)
		return (uint64_t)found;
	return errno == ENXIO ? size : offset;
}

static int put_data(struct writer *w, int storage, uint64_t size, struct error *err)
{
	_cleanup_free_ uint8_t *data = malloc(STREAM_RECORD_MAX);
	uint64_t offset = 0;

	if (!data)
		return error_errno(err, ENOMEM, "cannot export the volume");
	while ((offset = next_data(storage, offset, size)) < size) {
		size_t len = size - offset < STREAM_RECORD_MAX ? (size_t)(size - offset) : STREAM_RECORD_MAX;
		ssize_t n = pread(storage, data, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return error_errno(err, n < 0 ? errno : EIO, "cannot read the volume");
		if (!is_zero(data, (size_t)n) && put_record(w, offset, data, (size_t)n, err) < 0)
			return -1;
		offset += (uint64_t)n;
	}
	return 0;
}

static int write_all(struct writer *w, int storage, uint64_t size, struct error *err)
{
	uint8_t header[STREAM_HEADER] = STREAM_MAGIC, digest[EVP_MAX_MD_SIZE];
	int r;

	put64(header + strlen(STREAM_MAGIC), size);
	digest_add(w->digest, header, sizeof header);
	r = fs_write_all(w->out, header, sizeof header);
	if (r < 0)
		return error_errno(err, -r, "cannot write the exported volume");
	if (put_data(w, storage, size, err) < 0 || put_record(w, size, header, 0, err) < 0)
		return -1;
	digest_end(w->digest, digest);
	return compress(w, digest, DIGEST_SIZE, ZSTD_e_end, err);
}

int stream_export(int storage, int out, struct error *err)
{
	_cleanup_digest_ EVP_MD_CTX *digest = digest_new();
	_cleanup_free_ struct writer *w = malloc(sizeof *w);
	uint64_t size = 0;
	int r;

	if (!w)
		return error_errno(err, ENOMEM, "cannot export the volume");
	if (storage_size(storage, &size, err) < 0)
		return -1;
	w->out = out;
	w->digest = digest;
	w->zstd = ZSTD_createCCtx();
	if (!w->zstd || ZSTD_isError(ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, LEVEL)))
		r = error_errno(err, ENOMEM, "cannot export the volume");
	else
		r = write_all(w, storage, size, err);
	ZSTD_freeCCtx(w->zstd);
	return r;
}

/* ---- import ---- */

struct reader {
	int in;
	ZSTD_DCtx *zstd;
	EVP_MD_CTX *digest;
	ZSTD_inBuffer input;
	bool frame_ended;
	uint8_t buffer[128 << 10];
};

static int damaged(struct error *err, const char *how)
{
	return error_set(err, ERR_DATA_LOSS, "the exported volume is damaged: %s", how);
}

/* The bytes that were read; 0 at the end. */
static ssize_t fill(struct reader *r, struct error *err)
{
	ssize_t n;

	do {
		n = read(r->in, r->buffer, sizeof r->buffer);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_errno(err, errno, "cannot read the exported volume");
	r->input = (ZSTD_inBuffer){ r->buffer, (size_t)n, 0 };
	return n;
}

/* Exactly so many bytes out of the frame. */
static int take(struct reader *r, void *ret, size_t len, struct error *err)
{
	ZSTD_outBuffer output = { ret, len, 0 };

	while (output.pos < len) {
		size_t before = output.pos, left;
		ssize_t n;

		if (r->frame_ended)
			return damaged(err, "it ends too early");
		/* What is decompressed already comes first. */
		left = ZSTD_decompressStream(r->zstd, &output, &r->input);
		if (ZSTD_isError(left))
			return damaged(err, ZSTD_getErrorName(left));
		r->frame_ended = left == 0;
		if (output.pos > before || r->frame_ended || r->input.pos < r->input.size)
			continue;
		n = fill(r, err);
		if (n <= 0)
			return n < 0 ? -1 : damaged(err, "it is cut off");
	}
	return 0;
}

static int take_header(struct reader *r, uint64_t *ret_size, struct error *err)
{
	uint8_t header[STREAM_HEADER];
	size_t len = 0;

	while (len < sizeof header) {
		ssize_t n = read(r->in, header + len, sizeof header - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return error_set(err, ERR_INVALID_ARGUMENT, "what was sent is no exported volume");
		len += (size_t)n;
	}
	digest_add(r->digest, header, sizeof header);
	return stream_read_header(header, ret_size, err);
}

static int write_at(int storage, const uint8_t *data, size_t len, uint64_t offset, struct error *err)
{
	while (len) {
		ssize_t n = pwrite(storage, data, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(err, errno, "cannot write the volume");
		data += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

/* 1: another one; 0: that was the end; -1. *offset is where the next record may begin. */
static int take_record(struct reader *r, uint8_t *data, int storage, uint64_t size, uint64_t *offset, struct error *err)
{
	uint8_t header[RECORD_HEADER];
	uint64_t at;
	uint32_t len;

	if (take(r, header, sizeof header, err) < 0)
		return -1;
	digest_add(r->digest, header, sizeof header);
	at = get64(header);
	len = get32(header + 8);
	if (len == 0 && at == size)
		return 0;
	if (len == 0 || len > STREAM_RECORD_MAX || at < *offset || at > size || len > size - at)
		return damaged(err, "a part of it lies outside of it");
	if (take(r, data, len, err) < 0 || write_at(storage, data, len, at, err) < 0)
		return -1;
	digest_add(r->digest, data, len);
	*offset = at + len;
	return 1;
}

/* After the digest there is nothing more. */
static int expect_end(struct reader *r, struct error *err)
{
	uint8_t more;
	ZSTD_outBuffer output = { &more, 1, 0 };
	ssize_t n = 0;

	while (!r->frame_ended) {
		size_t left;

		if (r->input.pos == r->input.size && (n = fill(r, err)) <= 0)
			return n < 0 ? -1 : damaged(err, "it is cut off");
		left = ZSTD_decompressStream(r->zstd, &output, &r->input);
		if (ZSTD_isError(left) || output.pos)
			return damaged(err, "something follows its end");
		r->frame_ended = left == 0;
	}
	if (r->input.pos < r->input.size || (n = fill(r, err)) > 0)
		return damaged(err, "something follows its end");
	return (int)n;
}

static int read_all(struct reader *r, uint8_t *data, int storage, struct error *err)
{
	uint8_t told[DIGEST_SIZE], found[EVP_MAX_MD_SIZE];
	uint64_t size = 0, have = 0, offset = 0;
	int more;

	if (take_header(r, &size, err) < 0 || storage_size(storage, &have, err) < 0)
		return -1;
	/* A backend may round up. */
	if (size > have)
		return error_set(err, ERR_INTERNAL, "the volume was made smaller than what is imported");
	do {
		more = take_record(r, data, storage, size, &offset, err);
	} while (more > 0);
	if (more < 0 || take(r, told, sizeof told, err) < 0 || expect_end(r, err) < 0)
		return -1;
	digest_end(r->digest, found);
	return memcmp(told, found, sizeof told) ? damaged(err, "its digest is another one") : 0;
}

int stream_import(int in, int storage, struct error *err)
{
	_cleanup_digest_ EVP_MD_CTX *digest = digest_new();
	_cleanup_free_ struct reader *r = calloc(1, sizeof *r);
	_cleanup_free_ uint8_t *data = malloc(STREAM_RECORD_MAX);
	int result;

	if (!r || !data)
		return error_errno(err, ENOMEM, "cannot import the volume");
	r->in = in;
	r->digest = digest;
	r->zstd = ZSTD_createDCtx();
	if (!r->zstd || ZSTD_isError(ZSTD_DCtx_setParameter(r->zstd, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)))
		result = error_errno(err, ENOMEM, "cannot import the volume");
	else
		result = read_all(r, data, storage, err);
	ZSTD_freeDCtx(r->zstd);
	return result;
}
