/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Takes the process to the root of a workload, and takes away from it what it does not need there. */
#ifndef CAPSULE_COPIER_REACH_H
#define CAPSULE_COPIER_REACH_H

#include "base/error.h"
#include "shim/protocol.h"

#include <stdbool.h>

struct reach_volume {
	const char *device, *path;
	bool read_only;
};

struct reach {
	bool running;          /* COPIER_FD_PROCESS is of it, else: */
	const char *state_dir;
	const char *layers[SHIM_LAYERS_MAX];
	size_t n_layers;
	struct reach_volume volumes[SHIM_VOLUMES_MAX];
	size_t n_volumes;
};

/* Sorts the volumes. From here on "/" is the workload's root, with its volumes, for this process alone, which has
 * few of root's rights left and ends with its parent. */
int reach_root(struct reach *reach, struct error *err);

#endif
