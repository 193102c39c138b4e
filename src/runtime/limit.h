/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a workload may use, as its cgroup has it (kernel: admin-guide/cgroup-v2.rst, cgroup-v1/), whatever runs it. At the
 * start of a run the OCI runtime sets the limits; here they are set anew in a cgroup that is in use.
 *
 * Threads: any. limits_set() may block: a limit on memory that is lowered makes the kernel free memory.
 */
#ifndef CAPSULE_RUNTIME_LIMIT_H
#define CAPSULE_RUNTIME_LIMIT_H

#include "base/error.h"

#include "workload.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

#define LIMITS_CPU_PERIOD_US 100000 /* the kernel's own default */

struct limits {
	int64_t memory_bytes; /* swap included, where the kernel counts it; 0: no limit, like those below */
	int64_t cpu_quota_us; /* of each LIMITS_CPU_PERIOD_US */
	int64_t pids_max;
};

/* resources: NULL for no limits. */
struct limits limits_of(const Capsule__V1__Resources *resources);

bool limits_equal(const struct limits *a, const struct limits *b);

/* Sets all of them. FAILED_PRECONDITION if the workload uses more memory than it shall and the kernel (v1) does not take
 * it away; all other limits are set then. A cgroup that is gone is no error. */
int limits_set(const char *cgroup_parent, const char *name, const struct limits *limits, struct error *err);

#endif
