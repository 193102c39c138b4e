/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The parts of the program capsule-shim. One process, one thread, one workload:
 *
 *     main.c        options, the order of set-up
 *     mounts.c      the mount namespace: overlay, volumes
 *     launch.c      one run of the OCI runtime
 *     log_writer.c  stdout and stderr to the log
 *     serve.c       the event loop: signals, pipes, connections, the stop, the end
 *     exec.c        further processes, exec_child.c their first steps
 *
 * Memory is allocated during set-up only and mostly given back; the loop works in static buffers.
 */
#ifndef CAPSULE_SHIM_SHIM_H
#define CAPSULE_SHIM_SHIM_H

#include "shim/log_writer.h"
#include "shim/protocol.h"

struct shim_volume {
	const char *name;
	const char *device;
	bool read_only;
};

struct shim_options {
	const char *name;
	const char *run_dir;   /* the workload's: the OCI bundle */
	const char *state_dir; /* the workload's: upper/, work/, payload.log */
	const char *cgroup;
	const char *runtime;      /* program */
	bool sealed_runtime;      /* SHIM_FD_RUNTIME is what is executed as the program */
	const char *runtime_root; /* its --root */
	const char *layers[SHIM_LAYERS_MAX]; /* lowest first */
	size_t n_layers;
	struct shim_volume volumes[SHIM_VOLUMES_MAX];
	size_t n_volumes;
	uint64_t generation;
	uint64_t log_max_bytes;
	unsigned log_max_files;
	int stop_signal;
	int64_t grace_ms; /* these two: for SIGTERM to the shim */
	bool netns;
	bool hide_unified; /* keep the v2 hierarchy of a hybrid host from the runtime */
};

struct shim {
	const struct shim_options *options;
	int run_fd;
	int out_fd, err_fd; /* pipes from the payload */
	pid_t pid;          /* its first process */
	int pidfd;          /* names it to the shim's children, who count pids differently */
	struct shim_result result;
	struct log_writer log;
};

/* mounts.c. All of it happens in a mount namespace of the shim's own. */
int mounts_setup(const struct shim_options *options, struct error *err);
/* Gives the volumes' devices back, with all that was written to them. */
void mounts_release(const struct shim_options *options);

/* launch.c. Returns when the payload has been executed; fills pid, out_fd and err_fd. On failure nothing runs. */
int launch_payload(struct shim *shim, struct error *err);

/* serve.c. Until the workload has ended. The program's exit status. */
int serve(struct shim *shim);

#endif
