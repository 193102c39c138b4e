/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * `capsuled --down`: ends everything that runs, as for a shutdown or before the package is removed. Each workload gets its
 * stop signal and its grace; then its cgroup, its run directory, and the bridge with rules and resolver go, and the cgroup parent
 * if it is empty and came with a daemon. Nothing that is declared changes: the next daemon starts the same workloads again, but
 * for those that had ended by themselves for good.
 */
#ifndef CAPSULE_CAPSULED_DOWN_H
#define CAPSULE_CAPSULED_DOWN_H

#include "net/net.h"
#include "runtime/driver.h"
#include "store/store.h"

#include <uv.h>

struct down_host {
	uv_loop_t *loop;
	struct store *store;
	struct net *net;
	struct driver *container, *micro_vm;
	const struct driver_options *driver_options;
	int64_t stop_grace_ms; /* where a workload does not say */
};

/* Runs the loop until all is over; for a process that holds the lock and does not serve. What fails does not keep the rest
 * from going: the error is the first one. */
int down(const struct down_host *host, struct error *err);

/* At the start of one that serves: notes in the run root, which lasts as long as cgroups do, that the cgroup parent is not there
 * yet. So it will come with the first workload. One that is there without a note is somebody's else. */
int down_note_parent(const struct driver_options *options, struct error *err);

#endif
