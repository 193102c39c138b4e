/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The daemon's and the workloads' figures for Prometheus: text format 0.0.4 under /metrics. docs/metrics.md lists them.
 *
 * Threads: the loop's. What has to be read from the kernel is read by a task, when somebody asks; there is no tick.
 */
#ifndef CAPSULE_METRICS_METRICS_H
#define CAPSULE_METRICS_METRICS_H

#include "service/service.h"

struct metrics;

/* address: "HOST:PORT". host and server outlive it. */
int metrics_new(const char *address, struct service_host *host, struct rpc_server *server, struct metrics **ret,
		struct error *err);

/* Stops listening; the loop has to run once more to let go of the sockets. */
void metrics_close(struct metrics *metrics);

/* After metrics_close(), when no task is under way. NULL is fine. */
void metrics_free(struct metrics *metrics);

#endif
