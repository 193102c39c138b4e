/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The files of the image store, as its reader (store.h) and its writer (imager/content.h) share them.
 *
 *   <root>/images/oci-layout, index.json, blobs/sha256/<hex>    OCI image layout
 *   <root>/images/.lock                                         guards what follows
 *   <root>/images/.tmp-<random>/                                the stage of one transfer or collection
 *   <root>/layers/<hex of diff id>/                             unpacked layers
 *   <root>/payloads/<hex of manifest>.erofs                     flattened images (payload.h)
 *
 * The lock (flock) is held exclusively to change the index, to sweep and to decide what to collect, and shared to pin.
 * It is never held for long: nothing is unpacked, and no tree is removed, under it.
 *
 * A stage is a directory in which everything is made that is not whole yet. Its owner holds a flock on the directory
 * itself for as long as it lives; the kernel drops it with the process, whatever ends that. So a stage that can be
 * locked belongs to nobody, and a sweep removes it. A file `pin-<hex>` in a stage says that its owner counts on the
 * blob or the layer of that digest: no collection takes it while the stage lives. A pin is set, together with the look
 * whether the content exists or the rename that makes it exist, under the shared lock; a collection reads the pins and
 * moves what nobody needs into its own stage under the exclusive one. So what a transfer has seen stays.
 *
 * Threads: any. Everything here may block on the disk.
 */
#ifndef CAPSULE_IMAGE_LAYOUT_H
#define CAPSULE_IMAGE_LAYOUT_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define LAYOUT_STAGE_NAME 32

/* Where index.json keeps the full reference of an image (image-spec/annotations.md). */
#define LAYOUT_REF_NAME "org.opencontainers.image.ref.name"

struct layout {
	int root, images, blobs, layers, payloads; /* directories; -1 while not open */
};

#define LAYOUT_INIT { -1, -1, -1, -1, -1 }

struct layout_stage {
	int fd; /* the directory, locked */
	char name[LAYOUT_STAGE_NAME];
};

#define LAYOUT_STAGE_INIT { -1, "" }

/* Opens the store below the state root, making what is missing. */
int layout_open(const char *root, struct layout *ret, struct error *err);
void layout_release(struct layout *l);
#define _cleanup_layout_ _cleanup_(layout_release)

/* Waits for the lock; closing the returned descriptor gives it up. Negative on failure. */
int layout_lock(const struct layout *l, bool exclusive, struct error *err);

/* "sha256:<64 lower-case hex digits>" to the hex digits, inside the argument; NULL for anything else. */
const char *layout_digest_hex(const char *digest);
/* Whether the text is exactly 64 lower-case hex digits. */
bool layout_hex_valid(const char *hex);

int layout_stage_open(const struct layout *l, struct layout_stage *ret, struct error *err);
/* Removes the stage with all that is left in it; *ret_freed (may be NULL) as fs_remove_tree_counted(). */
int layout_stage_remove(const struct layout *l, struct layout_stage *stage, uint64_t *ret_freed, struct error *err);
/* The caller holds the lock. */
int layout_stage_pin(const struct layout_stage *stage, const char *hex, struct error *err);
/* Adds the hex digits of all pins of living stages as keys to the JSON object. The caller holds the exclusive lock. */
int layout_pins(const struct layout *l, json_t *set, struct error *err);

/* Removes the stages and half-written files that nobody owns any more. */
int layout_sweep(const struct layout *l, struct error *err);

/* The parsed index.json: an object whose "manifests" is an array of objects. The caller owns the reference. */
int layout_index_read(const struct layout *l, json_t **ret, struct error *err);
/* The caller holds the exclusive lock, since before the index was read. Survives a power cut. */
int layout_index_write(const struct layout *l, const json_t *index, struct error *err);

/* A blob that is a JSON document of at most OCI_DOCUMENT_MAX bytes. Its digest is not checked here. */
int layout_read_json(const struct layout *l, const char *digest, json_t **ret, struct error *err);

#endif
