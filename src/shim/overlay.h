/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The mounts of a container's root, for those that make them in a mount namespace of their own: the shim for a run,
 * capsule-copy for a container that does not run. */
#ifndef CAPSULE_SHIM_OVERLAY_H
#define CAPSULE_SHIM_OVERLAY_H

#include "base/error.h"

#include <stddef.h>

/* From here on what this process mounts is seen by it and its children only. */
int overlay_own_namespace(struct error *err);

/* Mounts the layers, lowest first, under the writable layer in state_dir (upper/, work/) on target. */
int overlay_mount(const char *const *layers, size_t n_layers, const char *state_dir, const char *target,
		  struct error *err);

#endif
