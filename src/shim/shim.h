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
	bool config_pipe;  /* the runtime can be given its configuration through a pipe */
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
int mounts_own_namespace(const struct shim_options *options, struct error *err);
int mounts_setup(const struct shim_options *options, struct error *err);
/* Gives the volumes' devices back, with all that was written to them. */
void mounts_release(const struct shim_options *options);

/* launch.c. One run of the OCI runtime, in two steps. */
struct launch {
	struct shim *shim;
	pid_t runtime;
	int runtime_pidfd;
	int out[2], err[2];
	/* The payload's process inherits the write end, which execve() closes: the read end tells when that was. */
	int gate[2];
	int config[2];
	int64_t deadline; /* monotonic, nanoseconds */
};

#define LAUNCH_NONE (struct launch) { .runtime_pidfd = -1, .out = { -1, -1 }, .err = { -1, -1 }, .gate = { -1, -1 }, \
				      .config = { -1, -1 } }

/* Executes the runtime. Where it takes its configuration through a pipe, this is done before there is a bundle or a root file
 * system: loading it takes a third of a start. */
int launch_runtime(struct launch *launch, struct shim *shim, struct error *err);

/* Returns when the payload has been executed; fills the shim's pid, out_fd and err_fd. */
int launch_payload(struct launch *launch, struct error *err);

/* Of a launch that failed, or is not to go on, nothing stays behind; of one that did not, the payload. */
void launch_release(struct launch *launch);
#define _cleanup_launch_ _cleanup_(launch_release)

/* serve.c. Until the workload has ended. The program's exit status. */
int serve(struct shim *shim);

#endif
