/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * One run of the OCI runtime that leaves a payload behind: "run --detach" (runtime-spec/runtime.md), as crun and runc
 * have it.
 *
 * Whoever starts it is a subreaper, or the first process: the payload becomes its child when the runtime has exited.
 * The payload's process is held up by no one then, but may not have executed its program yet. A gate tells: the write
 * end of a pipe that the runtime inherits as OCI_RUN_GATE_FD and execve() closes.
 *
 * Threads: any. Functions read small files of the bundle and of /proc.
 */
#ifndef CAPSULE_SHIM_OCI_RUN_H
#define CAPSULE_SHIM_OCI_RUN_H

#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>

/* Away from the descriptors that the runtime uses for itself. */
#define OCI_RUN_GATE_FD 30
#define OCI_RUN_CONFIG_FD 31

struct oci_run {
	char *log, *pid_file; /* owned */
	const char *argv[18];
};

/* The command. The strings must live as long. root: the runtime's own directory. config_pipe: the configuration is not to be
 * found in the bundle but will come through a pipe, OCI_RUN_CONFIG_FD; for crun only. */
int oci_run_init(struct oci_run *run, const char *runtime, const char *root, const char *bundle, const char *name,
		 bool config_pipe, struct error *err);
void oci_run_release(struct oci_run *run);
#define _cleanup_oci_run_ _cleanup_(oci_run_release)

extern const char *const oci_run_env[];

/* A copy of the runtime's program in a sealed memory file: executed from it, crun and runc need not make one themselves
 * and start anew (so that no container can get at the program by /proc/PID/exe). -1 where the kernel has no executable
 * memory files. */
int oci_run_sealed_copy(int program_fd);

/* The payload's first process, after the runtime's exit with 0. */
int oci_run_pid(int bundle_fd, pid_t *ret_pid, struct error *err);

/* With the gate shut: whether the process never became the payload. It must not have been reaped. */
bool oci_run_ended_before_exec(pid_t pid);

/* Sets the error to what the runtime says of its failure. stderr_fd: the non-blocking read end of the payload's.
 * Returns -1. */
int oci_run_failure(int bundle_fd, int stderr_fd, struct error *err);

#endif
