/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Waiting for workloads to get where they were sent. */
#ifndef CAPSULE_CAPSULECTL_WATCH_H
#define CAPSULE_CAPSULECTL_WATCH_H

#include "capsulectl/cli.h"

enum watch_goal {
	WATCH_RUNNING, /* runs; one that has ended by itself, or is to be stopped, is through as well */
	WATCH_HEALTHY, /* runs, and its health check says so */
	WATCH_STOPPED,
	WATCH_DELETED,
};

enum watch_flags {
	/* Nothing was asked for: whatever others wish for the workloads meanwhile, the wait goes on, until the goal is
	 * reached or cannot be. One that has ended by itself has stopped; one that ended badly has failed. */
	WATCH_ONLOOKER = 1,
	WATCH_QUIET = 2, /* no line for what has reached the goal */
};

/* Follows the daemon's events until every named workload has reached the goal, and prints a line for each
 * ("workload/web running"). One that fails for good or disappears on the way is reported on standard error; for one that
 * fails and will be tried again by its restart policy the wait goes on, after a remark there. 0, or -1: not all
 * reached it; err is set only if it was not reported. */
int watch_wait(struct cli *cli, char *const *names, size_t n, enum watch_goal goal, unsigned flags, struct error *err);

#endif
