/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a workload's writable layer was made from, in `origin.json` beside it. A layer is worth something only over the
 * image that it was written over and for the spec that wrote it. It also tells what a run that is found at start-up stands on.
 *
 * It is as durable as the layer, which is thrown away without it: written only when it changes, and synced. A power cut before
 * that leaves an older or no record, and then the layer, as old as a start, is thrown away, never mixed up.
 */
#ifndef CAPSULE_RUNTIME_ORIGIN_H
#define CAPSULE_RUNTIME_ORIGIN_H

#include "runtime/driver.h"

/* Borrowed. */
struct origin {
	uint64_t generation;
	const char *image;    /* digest of its manifest; NULL: none */
	char *const *layers;  /* lowest first; of a microVM the payload */
	size_t n_layers;
	bool emulated;        /* a microVM without KVM */
};

/* Whether the record in state_dir says this generation and image. */
bool origin_matches(const char *state_dir, const struct origin *origin);

/* Writes and syncs the record unless it is there. */
int origin_write(const char *state_dir, const struct origin *origin, struct error *err);

/* The layers, lowest first, that the writable layer stands on; the array and its strings are the caller's. -1 if the
 * record is not of this generation or there is none. */
int origin_layers(const char *state_dir, uint64_t generation, char ***ret, size_t *ret_n);

/* Fills image_digest, layers and emulated of the instance, and its generation where that is 0 because the shim cannot be
 * asked; leaves them empty when there is no record. */
void origin_read(const char *state_dir, struct driver_instance *instance);

#endif
