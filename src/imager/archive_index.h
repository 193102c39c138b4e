/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a pushed archive holds, collected while it passes (archive.c), and the images that its documents make of it.
 *
 * An entry's key is its path made plain: without "." and "..", without a leading '/'. Keys are only compared with each
 * other and never become paths of this host. One thread; at most ARCHIVE_FILES_MAX entries are kept.
 */
#ifndef CAPSULE_IMAGER_ARCHIVE_INDEX_H
#define CAPSULE_IMAGER_ARCHIVE_INDEX_H

#include "base/buf.h"
#include "image/oci.h"
#include "imager/content.h"
#include "imager/decompress.h"

#define ARCHIVE_FILES_MAX 32768
#define ARCHIVE_IMAGES_MAX 1024

/* The key of `path` as seen from the directory of the entry `from` ("": the archive's root). Caller frees; NULL without
 * memory. */
char *archive_key(const char *from, const char *path);

enum archive_role {
	ARCHIVE_DOCUMENT, /* index.json, manifest.json: says what the rest means */
	ARCHIVE_LEGACY,   /* the same in archives that have neither (archive_legacy.h) */
	ARCHIVE_IGNORED,  /* known and not needed */
	ARCHIVE_BLOB,     /* anything else: layer, config, manifest */
};

enum archive_role archive_role(const char *key);

/* "sha256:..." if the key is that of a blob of an OCI layout, whose name obliges it. Valid until the next call of the
 * same thread. NULL otherwise. */
const char *archive_index_digest_of(const char *key);

const char *archive_layer_type(enum compression compression);

struct archive_blob {
	char digest[DIGEST_TEXT];
	uint64_t size;
	bool is_layer;
	const char *media_type; /* of layers; static */
	char diff_id[DIGEST_TEXT]; /* of layers that were unpacked; else "" */
};

struct archive_index;

int archive_index_new(struct content *content, struct archive_index **ret, struct error *err);
void archive_index_free(struct archive_index *index);

int archive_index_add_blob(struct archive_index *index, const char *key, const struct archive_blob *blob,
			   struct error *err);
/* target is seen from the directory of `from`. */
int archive_index_add_link(struct archive_index *index, const char *key, const char *from, const char *target,
			   struct error *err);
int archive_index_add_document(struct archive_index *index, const char *key, const char *text, size_t len,
			       struct error *err);
/* text NULL: it is longer than LEGACY_TEXT_MAX. */
void archive_index_add_legacy(struct archive_index *index, const char *key, const char *text, size_t len);

/* Makes images of what was added, registers all of them or none, and reports them. */
int archive_index_register(struct archive_index *index, struct error *err);

#endif
