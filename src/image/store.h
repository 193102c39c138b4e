/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The images of a state root: an OCI image layout (image-spec/image-layout.md) in <root>/images that other tools can
 * read in place, and the unpacked layers in <root>/layers/<hex of diff id>/.
 *
 * An image is an entry of index.json whose annotation org.opencontainers.image.ref.name holds the full reference. It is
 * written last, after its blobs and unpacked layers are on disk, so what the index names is whole. Content that is on
 * its way has temporary names and is protected from collection by the transfer that brings it.
 *
 * This is the reader's and remover's side, used by the daemon; capsule-image writes. Both take the locks described in
 * store.c. Threads: any; calls may block on the disk: task threads only.
 */
#ifndef CAPSULE_IMAGE_STORE_H
#define CAPSULE_IMAGE_STORE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct image_store;

/* Makes the layout if it is missing and sweeps what a crash left half-written. root is the state root. */
int image_store_open(const char *root, struct image_store **ret, struct error *err);
void image_store_free(struct image_store *store);

/* What the image's config says of the process (image-spec/config.md); strings are NULL and lists empty when absent. */
struct image_config {
	char **entrypoint, **cmd, **env; /* NULL-terminated, never NULL */
	char *working_dir, *user, *stop_signal;
};

struct image {
	char *reference;     /* full */
	char *digest;        /* of the manifest, "sha256:..." */
	int64_t size_bytes;  /* manifest, config and layers as stored */
	int64_t created_unix;
	/* Filled by image_store_resolve() only: */
	struct image_config config;
	char **layers;       /* absolute paths of the unpacked layers, lowest first, each once */
	size_t n_layers;
};

void image_release(struct image *image);
#define _cleanup_image_ _cleanup_(image_release)

/* The image under this reference (any form). NOT_FOUND if it is not here; DATA_LOSS if a blob or layer is missing or is
 * damaged: then a new pull repairs it. */
int image_store_resolve(struct image_store *store, const char *reference, struct image *ret, struct error *err);

/* All, by reference; caller releases each and frees the array. */
int image_store_list(struct image_store *store, struct image **ret, size_t *ret_n, struct error *err);

/* The full reference of the image that a reference or a digest ("sha256:..." or at least 12 hex digits of it) stands
 * for. NOT_FOUND, FAILED_PRECONDITION for an ambiguous digest. Caller frees. */
int image_store_identify(struct image_store *store, const char *reference, char **ret_reference, struct error *err);

/* Takes the image out of the index. Its content goes with the next image_store_collect(), which the caller calls
 * because only it knows which layers are in use. The argument is a reference or a digest ("sha256:..." or at least 12
 * hex digits of it) that only one image has. NOT_FOUND, FAILED_PRECONDITION for an ambiguous digest. Whether the
 * image is in use is the caller's to know. *ret_reference is what was removed; caller frees. */
int image_store_delete(struct image_store *store, const char *reference, char **ret_reference, struct error *err);

/* Removes blobs, layers and payloads that no image of the index needs, that no transfer is bringing, and that are not in
 * `pinned` (paths of layers and payloads in use; may be NULL). ret_freed: bytes, may be NULL. */
int image_store_collect(struct image_store *store, const char *const *pinned, size_t n_pinned, uint64_t *ret_freed,
			struct error *err);

#endif
