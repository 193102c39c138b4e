/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * One look at whether a running workload does its work, as its health check says: a connection, a request or a process in
 * it. It is over when there is an answer, or at the check's timeout.
 *
 * Threads: the loop's. Nothing blocks, so one that hangs costs a few descriptors and delays nobody; only what prepares a
 * process runs as a task.
 */
#ifndef CAPSULE_RECONCILE_PROBE_H
#define CAPSULE_RECONCILE_PROBE_H

#include "base/task.h"
#include "runtime/driver.h"

#include "workload.pb-c.h"

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct probe;

/* Borrowed: the check and the name for as long as the probe, the rest for longer. */
struct probe_target {
	uv_loop_t *loop;
	struct task_runner *tasks;
	size_t *closing; /* counts what the loop still holds of ended probes */
	struct driver *driver;
	const char *name;
	pid_t pid;        /* its first process */
	uint32_t address; /* host byte order */
	const Capsule__V1__HealthCheck *check;
	int64_t timeout_ms;
};

/* reason: what is wrong, valid for the time of the call; NULL: nothing. The probe is no more. */
typedef void (*probe_done_fn)(const char *reason, void *arg);

/* done is called once, never inside this function. */
struct probe *probe_start(const struct probe_target *target, probe_done_fn done, void *arg);

/* done is not called any more. NULL is fine. */
void probe_cancel(struct probe *probe);

#endif
