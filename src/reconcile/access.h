/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Access to a workload's files, for a copy.
 *
 * A workload that runs may be accessed by any number at a time, and goes its way meanwhile; when its run ends, the
 * accesses are revoked, and what the run left is cleaned up when they have ended. One that does not run is accessed
 * by one at a time, with its volumes claimed and attached; as long as it is, it is not started. A start that is
 * wished for meanwhile waits; a deletion revokes. An access that comes while the workload is on its way between the
 * two, or after another one, waits in turn.
 *
 * Threads: the loop's. An access is not ended by the reconciler; it outlives it if need be.
 */
#ifndef CAPSULE_RECONCILE_ACCESS_H
#define CAPSULE_RECONCILE_ACCESS_H

#include "reconcile/reconcile.h"

struct reconciler_access;

/* Borrowed from the access. */
struct access_place {
	const struct driver_root *root;
	const struct driver_volume *volumes; /* to be mounted in a root that does not run */
	size_t n_volumes;
};

struct access_callbacks {
	/* Once, never inside reconciler_access_begin(). place is NULL on failure, with err. */
	void (*ready)(const struct access_place *place, const struct error *err, void *arg);
	/* End it as soon as possible. The access may be ended in it. */
	void (*revoked)(void *arg);
	void *arg;
};

/* NULL with NOT_FOUND if there is no such workload, FAILED_PRECONDITION if it is being deleted. */
struct reconciler_access *reconciler_access_begin(struct reconciler *r, const char *name,
						  const struct access_callbacks *callbacks, struct error *err);

/* Nobody uses the files any more. No callback runs after it; it may be called before `ready`. */
void reconciler_access_end(struct reconciler_access *access);

#endif
