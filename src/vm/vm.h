/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The parts of the program capsule-vm, which holds one microVM (docs/microvm.md). One process, one thread, a libuv loop:
 *
 *     main.c         options, the order of set-up
 *     holder.c       the life of the VM, from the first boot to the exit record
 *     connections.c  the daemon's connections: the shim's protocol
 *     relay.c        further processes and copies: three streams of a connection, one call to the guest
 *     guest.c        the gRPC client of the guest
 *     monitor.c      the monitor's process; monitor.h, the table of operations: qemu.c (over qmp.c), firecracker.c (over api.c)
 *     jail.c         where the monitor's process lives
 *     console.c      the serial console: its log, its last lines
 *     seclude.c      what it gives up once the machine is one to keep
 *     progress.c     whether it is at work on its disks
 *     tsc.c, watch.c
 *
 * The guest is not trusted, and so is the monitor, which a guest may have taken over: what either sends has limits.
 */
#ifndef CAPSULE_VM_VM_H
#define CAPSULE_VM_VM_H

#include "shim/protocol.h"

#define VM_DISKS_MAX (2 + SHIM_VOLUMES_MAX)
#define VM_FD_TAP SHIM_FD_TAP

struct monitor_ops;

struct vm_disk {
	const char *serial; /* "payload", "disk", "volume-0"; "rootfs" */
	const char *path;   /* a file or a block device */
	bool read_only;
};

struct vm_volume {
	const char *name;
	bool read_only;
};

/* What main.c was told. Constant after that. */
struct vm_options {
	const char *name;
	const char *run_dir;   /* the workload's: the bundle */
	const char *state_dir; /* the workload's: serial.log, payload.log */
	const char *cgroup;
	uint64_t generation;
	uint64_t log_max_bytes;
	unsigned log_max_files;
	int stop_signal;
	int64_t grace_ms; /* these two: for SIGTERM to capsule-vm */
	int64_t clean_up_ms; /* that the guest has to unmount and sync, at work on its disks */
	const struct monitor_ops *monitor;
	const char *monitor_program;
	const char *jailer; /* Firecracker's; NULL: none */
	uid_t uid; /* and gid, of the monitor */
	bool emulated;
	const char *kernel;
	const char *initramfs; /* NULL: none */
	const char *cmdline;   /* added to the kernel's command line; "" */
	unsigned vcpus;
	uint64_t memory_mib;
	struct vm_disk disks[VM_DISKS_MAX];
	size_t n_disks;
	struct vm_volume volumes[SHIM_VOLUMES_MAX];
	size_t n_volumes;
	char *address; /* "172.20.254.5", with prefix and gateway; NULL: no network */
	unsigned prefix;
	const char *gateway;
	bool tap;
	bool agent;
	char *own_argv; /* this process's arguments as the kernel laid them out, NUL after each */
	size_t own_argv_size;
};

/* holder.c. Until the VM has ended. The program's exit status. */
int vm_hold(const struct vm_options *options);

#endif
