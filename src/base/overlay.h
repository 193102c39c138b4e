/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The layers of an image as one tree, for those that mount it in a mount namespace of their own: the shim for a container's
 * run, capsule-copy for one that does not run, capsule-image to flatten an image. */
#ifndef CAPSULE_BASE_OVERLAY_H
#define CAPSULE_BASE_OVERLAY_H

#include "base/error.h"

#include <stddef.h>

#define OVERLAY_LAYERS_MAX 128

/* From here on what this process mounts is seen by it and its children only. */
int overlay_own_namespace(struct error *err);

/* Mounts the layers, lowest first, on target: under the writable layer in state_dir (upper/, work/) or, where that is
 * NULL, read-only; then there must be two layers at least. */
int overlay_mount(const char *const *layers, size_t n_layers, const char *state_dir, const char *target,
		  struct error *err);

#endif
