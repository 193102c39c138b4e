/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a container was made from, kept beside its writable layer: the generation of the spec and the image. A writable
 * layer is worth something only over the layers that it was written over; and the layers of a container that runs must not be
 * collected, even when its image's name has moved on and the daemon was started anew.
 *
 * Functions block on the disk: task threads.
 */
#ifndef CAPSULE_RUNTIME_CONTAINER_ORIGIN_H
#define CAPSULE_RUNTIME_CONTAINER_ORIGIN_H

#include "base/error.h"
#include "image/store.h"

#include <stdbool.h>
#include <stdint.h>

struct origin {
	uint64_t generation;
	char *image_digest;
	char **layers; /* paths, lowest first */
	size_t n_layers;
};

void origin_release(struct origin *o);
#define _cleanup_origin_ _cleanup_(origin_release)

/* Writes the record into the workload's directory in the state root. Not synced: a record that a power cut takes away, or
 * leaves old, only makes the next start begin with an empty writable layer. */
int origin_write(const char *state_dir, uint64_t generation, const struct image *image, struct error *err);

/* 1, or 0 when there is no whole record. */
int origin_read(const char *state_dir, struct origin *ret);

/* Whether the record was made for this generation and image. */
bool origin_matches(const struct origin *o, uint64_t generation, const struct image *image);

#endif
