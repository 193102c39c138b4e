/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/limit.h"

#include "base/fs.h"
#include "shim/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>

struct limits limits_of(const Capsule__V1__Resources *resources)
{
	if (!resources)
		return (struct limits){ 0 };
	return (struct limits){
		.memory_bytes = (int64_t)resources->memory_mib << 20,
		.cpu_quota_us = resources->cpus > 0 ? (int64_t)(resources->cpus * LIMITS_CPU_PERIOD_US + 0.5) : 0,
		.pids_max = resources->pids_max,
	};
}

bool limits_equal(const struct limits *a, const struct limits *b)
{
	return a->memory_bytes == b->memory_bytes && a->cpu_quota_us == b->cpu_quota_us && a->pids_max == b->pids_max;
}

/* none: what the file takes for "no limit". A file that is not there limits nothing. 0, or -errno. */
static int set_limit(int dirfd, const char *file, int64_t limit, const char *none)
{
	_cleanup_close_ int fd = dirfd < 0 ? -1 : openat(dirfd, file, O_WRONLY | O_CLOEXEC);
	char number[24];
	int r;

	if (fd < 0)
		return limit == 0 || dirfd < 0 || errno == ENOENT ? 0 : -errno;
	snprintf(number, sizeof number, "%" PRId64, limit);
	r = fs_write_all(fd, limit ? number : none, strlen(limit ? number : none));
	return r == -ENODEV ? 0 : r; /* the cgroup has gone meanwhile */
}

static int set_memory_v1(int dirfd, int64_t bytes)
{
	int r;

	/* That of memory and swap together may never be the lower one: raised it comes first, lowered it comes last. */
	(void)set_limit(dirfd, "memory.memsw.limit_in_bytes", bytes, "-1");
	r = set_limit(dirfd, "memory.limit_in_bytes", bytes, "-1");
	return r < 0 ? r : set_limit(dirfd, "memory.memsw.limit_in_bytes", bytes, "-1");
}

/* The limit of swap is apart: with one on memory there is none to be had. */
static int set_memory_v2(int dirfd, int64_t bytes)
{
	_cleanup_close_ int swap = openat(dirfd, "memory.swap.max", O_WRONLY | O_CLOEXEC);

	if (swap >= 0)
		(void)fs_write_all(swap, bytes ? "0" : "max", bytes ? 1 : 3);
	return set_limit(dirfd, "memory.max", bytes, "max");
}

static int set_cpu_v2(int dirfd, int64_t quota_us)
{
	_cleanup_close_ int fd = openat(dirfd, "cpu.max", O_WRONLY | O_CLOEXEC);
	char text[64];

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (quota_us)
		snprintf(text, sizeof text, "%" PRId64 " %d", quota_us, LIMITS_CPU_PERIOD_US);
	return fs_write_all(fd, quota_us ? text : "max", strlen(quota_us ? text : "max"));
}

int limits_set(const char *cgroup_parent, const char *name, const struct limits *limits, struct error *err)
{
	_cleanup_free_ char *path = fs_path("%s/%s", cgroup_parent, name);
	bool v2 = cgroup_mode() == CGROUP_V2;
	_cleanup_close_ int memory = path ? cgroup_open("memory", path) : -1, cpu = path ? cgroup_open("cpu", path) : -1,
			    pids = path ? cgroup_open("pids", path) : -1;
	int cpu_result, pids_result, memory_result;

	if (!path)
		return error_errno(err, ENOMEM, "cannot set its limits");
	if (v2 && memory < 0)
		return 0;
	cpu_result = v2 ? set_cpu_v2(cpu, limits->cpu_quota_us) :
			  set_limit(cpu, "cpu.cfs_quota_us", limits->cpu_quota_us, "-1");
	pids_result = set_limit(pids, "pids.max", limits->pids_max, "max");
	memory_result = v2 ? set_memory_v2(memory, limits->memory_bytes) : set_memory_v1(memory, limits->memory_bytes);
	if (memory_result == -EBUSY)
		return error_set(err, ERR_FAILED_PRECONDITION, "it uses more memory than the new limit of %" PRId64
				 " MiB; restart it", limits->memory_bytes >> 20);
	if (memory_result < 0)
		return error_errno(err, -memory_result, "cannot limit its memory");
	if (cpu_result < 0)
		return error_errno(err, -cpu_result, "cannot limit its processor time");
	return pids_result < 0 ? error_errno(err, -pids_result, "cannot limit its processes") : 0;
}
