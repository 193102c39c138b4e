/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What the running workloads use: the list is taken on the loop, the figures are read on a task's thread.
 */
#ifndef CAPSULE_SERVICE_STATS_H
#define CAPSULE_SERVICE_STATS_H

#include "service/service.h"

/* The loop's thread: those that run, of these names or (n 0) of all, without their figures. NOT_FOUND for a name that no
 * workload has. The answer is the caller's. */
Capsule__V1__WorkloadStatsResponse *stats_list(const struct service_host *host, char *const *names, size_t n,
					       struct error *err);

/* A task's thread: fills in the figures. One that ended meanwhile is left at 0. */
void stats_measure(const struct service_host *host, Capsule__V1__WorkloadStatsResponse *stats);

#endif
