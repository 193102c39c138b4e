/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a further process in a container is to be: the struct shim_exec_spec that the shim is given. It gets what the
 * container's first process got, which config.json in the run directory tells, but for what the request names. Users are
 * looked up in the container as it is now.
 *
 * Threads: any; reads the disk.
 */
#ifndef CAPSULE_RUNTIME_CONTAINER_EXEC_SPEC_H
#define CAPSULE_RUNTIME_CONTAINER_EXEC_SPEC_H

#include "runtime/driver.h"

/* All that the shim is to be given: the description as a memory file and, without a terminal, the streams. The connection is
 * left to the caller. */
int exec_spec_prepare(int run_dirfd, const struct driver_exec *exec, struct driver_process *ret, struct error *err);

#endif
