/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The writer's side of the image store: what a pull and a push have in common.
 *
 * Blobs and layers are streamed in, verified by digest while they pass, kept under temporary names, and get their final
 * name only when they are whole and right. content_register() makes them durable (one sync of the file system, not
 * one a file) and then enters the image in index.json. A process that dies before that leaves only temporary names and
 * unreferenced content, which the next sweep removes.
 *
 * Threads: a struct content may be used by several threads; a writer belongs to one thread at a time.
 */
#ifndef CAPSULE_IMAGER_CONTENT_H
#define CAPSULE_IMAGER_CONTENT_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIGEST_TEXT 72 /* "sha256:" + 64 hex digits + NUL */

struct content_limits {
	uint64_t blob_max;      /* bytes of one blob as it comes */
	uint64_t unpacked_max;  /* bytes and... */
	uint64_t entries_max;   /* ...entries of one unpacked layer */
};

struct content;

/* Opens the store below the state root and protects what this process brings from collection until content_close().
 * limits may be NULL: defaults. */
int content_open(const char *root, const struct content_limits *limits, struct content **ret, struct error *err);
void content_close(struct content *c); /* aborts what was not committed; NULL is fine */

/* Whether a whole blob of this digest is already here. */
bool content_has_blob(struct content *c, const char *digest);
/* Whether the unpacked layer of this diff id ("sha256:...") is already here. */
bool content_has_layer(struct content *c, const char *diff_id);

/* Reads a small blob (manifest, config) of at most max bytes and checks its digest. Caller frees *ret. */
int content_read_blob(struct content *c, const char *digest, size_t max, char **ret, size_t *ret_len,
		      struct error *err);

/* ---- one blob, and, if it is a layer, its unpacked form, from one stream ---- */

struct blob_writer;

enum blob_kind {
	BLOB_PLAIN,   /* manifest, config, anything */
	BLOB_LAYER,   /* a tar, plain, gzip or zstd (recognized by its first bytes): is unpacked while it passes */
};

/* digest: what it must turn out to be, or NULL when not known yet. diff_id likewise, for layers. For a layer whose
 * unpacked form is already here only the blob is written. */
int blob_begin(struct content *c, enum blob_kind kind, const char *digest, const char *diff_id,
	       struct blob_writer **ret, struct error *err);
int blob_write(struct blob_writer *w, const void *data, size_t len, struct error *err);
/* Bytes taken so far: where a broken download goes on. */
uint64_t blob_offset(const struct blob_writer *w);
/* Checks digests and gives the final names. ret_diff_id only for layers; each may be NULL. Frees the writer in any
 * case. */
int blob_commit(struct blob_writer *w, char ret_digest[DIGEST_TEXT], uint64_t *ret_size, char ret_diff_id[DIGEST_TEXT],
		struct error *err);
void blob_abort(struct blob_writer *w); /* NULL is fine */

/* ---- the image ---- */

/* Checks that manifest, config, blobs and unpacked layers are all here and agree, unpacks layers that are missing from
 * their blobs, syncs, and enters the image in the index under the full reference, replacing what had that name. */
int content_register(struct content *c, const char *reference, const char *manifest_digest, struct error *err);

struct content_image {
	const char *reference;
	const char *manifest_digest;
};

/* The same for several images, of which all or none are entered. */
int content_register_all(struct content *c, const struct content_image *images, size_t n, struct error *err);

/* ---- results, on standard output (image/transfer.h describes the lines); thread-safe ---- */

void report_progress(uint64_t done, uint64_t total, const char *status);
void report_image(const char *reference, const char *digest);
void report_error(const struct error *err);

#endif
