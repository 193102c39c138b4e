/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A driver runs workloads of one kind. It gets everything that it needs in a plan; it never reads the store, never asks
 * the network for anything and never decides whether something should run.
 *
 * start(), cleanup(), remove() and recover() block and are called on task threads, at most one at a time for a
 * workload, several at a time for different ones; exec(), root() and hold() block too, and are called at any time. A running
 * workload is held by a shim; the daemon talks to it through a
 * `struct shim_client` (runtime/shim_client.h), which belongs to the loop's thread.
 */
#ifndef CAPSULE_RUNTIME_DRIVER_H
#define CAPSULE_RUNTIME_DRIVER_H

#include "base/error.h"
#include "image/store.h"
#include "shim/protocol.h"

#include "workload.pb-c.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct driver;

struct driver_volume {
	const char *name;       /* as in the spec's mounts; the order is that of the spec */
	const char *device;     /* block device with ext4 */
	bool read_only;
	const char *mount_path; /* in the workload */
};

/* Everything a start needs. Borrowed for the time of the call. */
struct driver_plan {
	const Capsule__V1__Workload *spec;
	uint64_t generation;          /* recorded with the instance, see driver_instance */
	const struct image *image;    /* resolved; empty for a microVM with a root file system of its own */
	int netns_fd;                 /* of a container; -1: the host's network */
	int *tap_fd;                  /* of a microVM; closed, and -1, once its holder has it */
	const char *address;          /* "172.20.254.2"; NULL on the host's network */
	const char *gateway;          /* of a microVM, and the prefix of its subnet */
	unsigned prefix;
	const char *resolv_conf;      /* content */
	const struct driver_volume *volumes;
	size_t n_volumes;
};

/* One run of a workload, found or started. */
struct driver_instance {
	pid_t pid;                    /* first process of the workload; 0 when it has ended */
	uint64_t generation;          /* of the plan it was started from */
	int64_t started_at_ns;        /* realtime */
	int shim_fd;                  /* connected to the shim; owned; -1 if there is no shim any more */
	bool starting;                /* recover(): it may run soon, and nothing else is known */
	bool ended;                   /* the run is over and the fields below say how */
	int exit_code;                /* 128 + signal for a kill; 255 unknown */
	bool oom_killed;
	bool stopped;                 /* it ended because of a stop request */
	int64_t finished_at_ns;       /* 0: nobody saw it end */
	char reason[SHIM_REASON_MAX]; /* as in struct shim_result */
	/* What the run was started from, so that it can be kept from collection (image_store_collect). Owned. */
	char *image_digest;
	char **layers;
	size_t n_layers;
	bool emulated;                /* a microVM whose processors are emulated */
};

void driver_instance_release(struct driver_instance *instance);

/* How a copy reaches the files of a workload (copier/protocol.h). Owned. */
struct driver_root {
	int pidfd;       /* a container that runs: of its first process, which sees all of it; else -1 */
	int guest_fd;    /* a microVM that runs: a connection to its holder; else -1 */
	/* A container that does not run: to be mounted from these. */
	char *state_dir; /* with upper/ and work/ */
	char **layers;   /* the lowest first */
	size_t n_layers;
};

#define DRIVER_ROOT_NONE ((struct driver_root){ .pidfd = -1, .guest_fd = -1 })

void driver_root_release(struct driver_root *root);

/* A further process in a running workload. Borrowed for the time of the call. */
struct driver_exec {
	const Capsule__V1__WorkloadExecConfig *config; /* the name in it is that of a workload of this driver */
	pid_t pid;                                     /* its first process */
};

/* Ready to be started by process_start() (runtime/process.h). Owned descriptors, -1 where there is none. */
struct driver_process {
	bool terminal;
	bool in_guest;   /* its terminal is in a microVM: what is read and written goes through pipes all the same */
	int control_fd;  /* a connection to the shim, for this process alone */
	int theirs[4];   /* what the shim is given: its description; where there are pipes stdin, stdout and stderr too */
	int ours[3];     /* the other ends of these */
};

#define DRIVER_PROCESS_NONE                                                                                           \
	((struct driver_process){ .control_fd = -1, .theirs = { -1, -1, -1, -1 }, .ours = { -1, -1, -1 } })

void driver_process_release(struct driver_process *process);

/* Pipes for its standard streams. */
int driver_process_make_streams(struct driver_process *process, struct error *err);

struct driver_ops {
	const char *name;

	/* Prepares the run and starts it; returns when the payload's process has been executed. On failure everything is
	 * undone, except after leave(). What the payload prints goes to the workload's log from the first byte. The writable layer of the last
	 * run is kept only if it was made for the same generation and the same image digest. */
	int (*start)(struct driver *d, const struct driver_plan *plan, struct driver_instance *ret, struct error *err);

	/* After a run has ended, however: kills what is left of it, removes its cgroup, runtime state and run directory.
	 * Idempotent; also for a name that never ran. */
	int (*cleanup)(struct driver *d, const char *name, struct error *err);

	/* cleanup(), and the workload's directory in the state root (writable layer, logs) goes too. */
	int (*remove)(struct driver *d, const char *name, struct error *err);

	/* At start-up: what there is of this workload now. A live shim: a connected instance. A run that ended while
	 * nobody looked, or whose shim was killed: ended = true. Nothing at all: returns 0 with pid 0 and ended false. A
	 * shim that has yet to start its payload is waited for and, when that takes too long, killed; unless patient, it
	 * is left to itself after a second: starting = true. */
	int (*recover)(struct driver *d, const char *name, bool patient, struct driver_instance *ret, struct error *err);

	/* The files of the run whose first process is pid or, with pid 0, those that the last run of this generation
	 * left; then the caller sees to it that none is started meanwhile. FAILED_PRECONDITION if there are none. */
	int (*root)(struct driver *d, const char *name, pid_t pid, uint64_t generation, struct driver_root *ret,
		    struct error *err);

	/* Prepares a further process: who it is, what it may do, its environment. Nothing is started yet. */
	int (*exec)(struct driver *d, const struct driver_exec *exec, struct driver_process *ret, struct error *err);

	/* The daemon ends: what waits for a holder that has been told to start gives up, with CANCELLED, and leaves the start
	 * to the holder and to the next daemon's recover(). Any thread. */
	void (*leave)(struct driver *d);

	/* Has a volume of a workload held still where the host cannot do that itself (volume/freeze.h): in the guest of ours
	 * that has mounted it. *ret_hold: for holder_let_go(); -1 where no machine runs. UNAVAILABLE while it starts or ends.
	 * `what` names the volume in messages. NULL: the host can. */
	int (*hold)(struct driver *d, const char *name, const char *volume, const char *what, int *ret_hold, struct error *err);

	void (*free)(struct driver *d);
};

struct driver {
	const struct driver_ops *ops;
};

/* Options that all drivers share. Strings are copied. */
struct driver_options {
	const char *root, *run;        /* the two roots */
	const char *shim;              /* program capsule-shim; it must be there, and the one that is there now is used */
	const char *oci_runtime;       /* "auto", "crun", "runc" or a path */
	const char *vm_holder;         /* program capsule-vm */
	const char *image_worker;      /* program capsule-image */
	const char *guest_dir;         /* the guest's kernel and initramfs */
	const char *guest_kernel;      /* another kernel; NULL: the one in guest_dir */
	const char *vm_monitor;        /* "auto", "qemu", "firecracker" */
	const char *vm_accel;          /* "auto", "kvm", "emulated" */
	bool vm_jailer;                /* Firecracker's jailer is used where it is installed */
	const char *cgroup_parent;     /* "/capsule" */
	uint64_t log_max_bytes;        /* of one log file */
	unsigned log_max_files;        /* with the one being written */
};

int container_driver_new(const struct driver_options *options, struct driver **ret, struct error *err);
int microvm_driver_new(const struct driver_options *options, struct driver **ret, struct error *err);

/* What would run a microVM now that does not say. Owned. */
struct microvm_support {
	char *monitor;  /* "qemu", "firecracker"; NULL: nothing can */
	char *obstacle; /* why */
	bool emulated, jailed;
};

/* Blocks: for up to a second the first time. Of a driver that microvm_driver_new() made. */
void microvm_driver_support(struct driver *d, struct microvm_support *ret);

/* Calls fn for every workload name that has a directory or a cgroup in either root: at start, those that the store does
 * not know are removed. */
int driver_enumerate(const struct driver_options *options, void (*fn)(const char *name, void *arg), void *arg,
		     struct error *err);

#endif
