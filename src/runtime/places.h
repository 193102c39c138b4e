/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Where the things of one workload are, whatever its kind, and what the drivers share for that. A run of either kind
 * leaves a holder's process, a cgroup and a run directory; so either driver cleans up after both, and a workload may become one of
 * the other kind under its name.
 *
 * Threads: any; what acts on the host blocks.
 */
#ifndef CAPSULE_RUNTIME_PLACES_H
#define CAPSULE_RUNTIME_PLACES_H

#include "runtime/driver.h"

/* The beginning of every driver. */
struct driver_common {
	struct driver base;
	char *root, *run, *cgroup_parent;
	uint64_t log_max_bytes;
	unsigned log_max_files;
	int leaving; /* an eventfd, readable after leave() */
};

/* To be released also when it failed. */
int driver_common_init(struct driver_common *d, const struct driver_ops *ops, const struct driver_options *options,
		       struct error *err);
void driver_common_release(struct driver_common *d);

/* Owned strings. */
struct places {
	char *run_dir, *state_dir, *cgroup;
	char *volumes_dir;                  /* a container's, in run_dir */
	char *upper, *work;                 /* a container's writable layer */
	char *disk;                         /* a microVM's */
	char *runtime_root, *runtime_state; /* of the OCI runtime */
};

int places_init(struct places *p, const struct driver *driver, const char *name, struct error *err);
void places_release(struct places *p);
#define _cleanup_places_ _cleanup_(places_release)

/* For a start: the places, after whatever an earlier run left in the way is gone. */
int places_prepare(struct places *p, struct driver *driver, const struct driver_plan *plan, struct error *err);

/* Makes the state directory and records what the run stands on. What an earlier run wrote, of either kind, stays only if it was
 * of the same generation over the same image. */
struct origin;
int places_make_state(const struct places *p, const struct origin *origin, struct error *err);

/* The operations of the drivers' tables that are the same for both kinds. */
int places_cleanup(struct driver *driver, const char *name, struct error *err);
int places_remove(struct driver *driver, const char *name, struct error *err);
void driver_common_leave(struct driver *driver);

#endif
