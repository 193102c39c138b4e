/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a workload uses, from the files of its cgroup (kernel: admin-guide/cgroup-v2.rst, cgroup-v1/), whatever runs it.
 *
 * Threads: any. Reads from the kernel only, but some of its files take a while: not on the event loop.
 */
#ifndef CAPSULE_RUNTIME_USAGE_H
#define CAPSULE_RUNTIME_USAGE_H

#include <stdint.h>

struct usage {
	uint64_t cpu_time_ns;
	uint64_t memory_bytes;       /* without the file cache that is dropped first */
	uint64_t memory_limit_bytes; /* 0: none */
	uint64_t block_read_bytes, block_written_bytes;
	uint64_t pids;
	uint64_t pids_limit;         /* 0: none */
};

/* What a host does not count stays 0: on v1, recent kernels count block I/O only for devices that are throttled. -1 if there
 * is no such cgroup. */
int usage_read(const char *cgroup_parent, const char *name, struct usage *ret);

/* The directories that one cgroup has in the hierarchies of its host. -1: it has none there. */
struct usage_dirs {
	int v2;
	int cpuacct, memory, blkio, pids; /* v1; of no interest where there is v2 */
};

void usage_read_dirs(const struct usage_dirs *dirs, struct usage *ret);

#endif
