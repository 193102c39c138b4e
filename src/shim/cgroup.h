/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The cgroup of a workload, on v2, v1 and hybrid hosts (kernel: admin-guide/cgroup-v2.rst, cgroup-v1/). The OCI runtime
 * makes it; this finds out what is in it, empties it and removes it. A path is that of the OCI config's cgroupsPath:
 * absolute, the same below every hierarchy ("/capsule/web").
 *
 * Threads: any. Calls touch the kernel only; cgroup_kill() waits for processes to end.
 */
#ifndef CAPSULE_SHIM_CGROUP_H
#define CAPSULE_SHIM_CGROUP_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CGROUP_ROOT "/sys/fs/cgroup"

enum cgroup_mode {
	CGROUP_NONE, /* nothing is mounted on /sys/fs/cgroup */
	CGROUP_V1,
	CGROUP_V2,
	CGROUP_HYBRID, /* v1 hierarchies, and a v2 one on `unified` */
};

enum cgroup_mode cgroup_mode(void);

/* The cgroup's directory in the hierarchy of a controller ("memory"); on v2 there is only one. An fd, or -errno. */
int cgroup_open(const char *controller, const char *path);

/* Whether a limit on memory and swap together can be set. */
bool cgroup_counts_swap(void);

/* Sends SIGKILL to every process in the cgroup and below it. Returns how many there were, at least; 0: it is empty or
 * does not exist. A process that forks meanwhile may get away: call until 0. */
size_t cgroup_kill_once(const char *path);

/* Kills until the cgroup is empty and the processes are gone, or the time is over (DEADLINE_EXCEEDED). */
int cgroup_kill(const char *path, int64_t timeout_ms, struct error *err);

/* As cgroup_kill_once(), but only what belongs to this session (setsid(2)). Its leader may be dead, not yet reaped. */
void cgroup_kill_session(const char *path, pid_t session);

/* Puts the calling process, which has one thread, into the cgroup: in every hierarchy where it exists. Where a workload
 * keeps its processes in cgroups that it made below (v2 allows nothing else then), into that of `first`. */
int cgroup_join(const char *path, pid_t first, struct error *err);

/* Makes the cgroup, and those above it, in all hierarchies, with the controllers that there are. It may exist. */
int cgroup_make(const char *path, struct error *err);

/* For the first process that is moved between cgroups after a quiet time the kernel waits for an RCU grace period, some 20 ms
 * (percpu_down_write() of cgroup_threadgroup_rwsem); for those that follow it does not. This has the calling process moved to
 * where it is, only to wait for that while other work goes on: a move that the OCI runtime makes meanwhile finds the wait begun.
 * Blocks as long. Does nothing on hosts without v2. */
void cgroup_hasten_moves(void);

/* Removes the cgroup and those below it from all hierarchies. Missing: success. It must be empty. */
int cgroup_remove(const char *path, struct error *err);

/* Removes the cgroup from every hierarchy where it is empty: no process, no cgroup below it. */
void cgroup_remove_empty(const char *path);

/* Calls fn with the cgroup's directory in every hierarchy; stops at the first call that does not return 0, and returns that. */
int cgroup_each_directory(const char *path, int (*fn)(int dirfd, void *arg), void *arg);

bool cgroup_exists(const char *path);

/* Whether the kernel killed a process in it for want of memory. */
bool cgroup_oom_killed(const char *path);

/* Calls fn once or more for the name of every cgroup directly below path, in any hierarchy. */
void cgroup_enumerate(const char *path, void (*fn)(const char *name, void *arg), void *arg);

#endif
