/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Where the files of a container are: driver_ops.root. */
#ifndef CAPSULE_RUNTIME_CONTAINER_ROOT_H
#define CAPSULE_RUNTIME_CONTAINER_ROOT_H

#include "runtime/driver.h"

/* By a process of the container. cgroup: the container's, by which it is told that the pid still means it.
 * FAILED_PRECONDITION if it has ended. */
int root_of_process(pid_t pid, const char *cgroup, struct driver_root *ret, struct error *err);

/* What the last run left in the container's directory. FAILED_PRECONDITION if it was of another generation, or its
 * image is gone. */
int root_of_last_run(const char *state_dir, uint64_t generation, struct driver_root *ret, struct error *err);

#endif
