/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/usage.h"

#include "base/fs.h"
#include "shim/cgroup.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX_BYTES (256u << 10)
#define NO_LIMIT_V1 (UINT64_C(1) << 62) /* v1 shows "no limit" as the largest number of whole pages */

/* NULL for a file that is not there. */
static char *read_text(int dirfd, const char *file)
{
	char *text = NULL;

	if (dirfd < 0 || fs_read(dirfd, file, FILE_MAX_BYTES, &text, NULL, NULL) < 0)
		return NULL;
	return text;
}

static uint64_t read_number(int dirfd, const char *file)
{
	_cleanup_free_ char *text = read_text(dirfd, file);

	return text ? strtoull(text, NULL, 10) : 0;
}

/* "max", or a number that means it: 0. */
static uint64_t read_limit(int dirfd, const char *file)
{
	uint64_t limit = read_number(dirfd, file);

	return limit >= NO_LIMIT_V1 ? 0 : limit;
}

/* The number behind "key " at the beginning of a line. */
static uint64_t read_key(int dirfd, const char *file, const char *key)
{
	_cleanup_free_ char *text = read_text(dirfd, file);
	size_t len = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, len) == 0 && line[len] == ' ')
			return strtoull(line + len, NULL, 10);
	}
	return 0;
}

/* The sum of the numbers behind each occurrence of the word: a line a device. */
static uint64_t sum_behind(const char *text, const char *word)
{
	uint64_t sum = 0;

	for (const char *p = text; p && (p = strstr(p, word));) {
		p += strlen(word);
		sum += strtoull(p, NULL, 10);
	}
	return sum;
}

static uint64_t less(uint64_t all, uint64_t part)
{
	return all > part ? all - part : 0;
}

static void read_v2(int dirfd, struct usage *ret)
{
	_cleanup_free_ char *io = read_text(dirfd, "io.stat");

	*ret = (struct usage){
		.cpu_time_ns = read_key(dirfd, "cpu.stat", "usage_usec") * 1000,
		.memory_bytes = less(read_number(dirfd, "memory.current"), read_key(dirfd, "memory.stat", "inactive_file")),
		.memory_limit_bytes = read_limit(dirfd, "memory.max"),
		.block_read_bytes = sum_behind(io, " rbytes="),
		.block_written_bytes = sum_behind(io, " wbytes="),
		.pids = read_number(dirfd, "pids.current"),
		.pids_limit = read_limit(dirfd, "pids.max"),
	};
}

static void read_v1(const struct usage_dirs *dirs, struct usage *ret)
{
	_cleanup_free_ char *io = read_text(dirs->blkio, "blkio.throttle.io_service_bytes_recursive");

	*ret = (struct usage){
		.cpu_time_ns = read_number(dirs->cpuacct, "cpuacct.usage"),
		.memory_bytes = less(read_number(dirs->memory, "memory.usage_in_bytes"),
				     read_key(dirs->memory, "memory.stat", "total_inactive_file")),
		.memory_limit_bytes = read_limit(dirs->memory, "memory.limit_in_bytes"),
		.block_read_bytes = sum_behind(io, " Read "),
		.block_written_bytes = sum_behind(io, " Write "),
		.pids = read_number(dirs->pids, "pids.current"),
		.pids_limit = read_limit(dirs->pids, "pids.max"),
	};
}

void usage_read_dirs(const struct usage_dirs *dirs, struct usage *ret)
{
	if (dirs->v2 >= 0)
		read_v2(dirs->v2, ret);
	else
		read_v1(dirs, ret);
}

int usage_read(const char *cgroup_parent, const char *name, struct usage *ret)
{
	_cleanup_free_ char *path = fs_path("%s/%s", cgroup_parent, name);
	_cleanup_close_ int v2 = -1, cpuacct = -1, memory = -1, blkio = -1, pids = -1;

	if (!path)
		return -1;
	if (cgroup_mode() == CGROUP_V2) {
		v2 = cgroup_open("", path);
	} else {
		cpuacct = cgroup_open("cpuacct", path);
		memory = cgroup_open("memory", path);
		blkio = cgroup_open("blkio", path);
		pids = cgroup_open("pids", path);
	}
	if (v2 < 0 && cpuacct < 0 && memory < 0 && blkio < 0 && pids < 0)
		return -1;
	usage_read_dirs(&(struct usage_dirs){ v2, cpuacct, memory, blkio, pids }, ret);
	return 0;
}
