/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The monitor: the process that is the machine. What differs between monitors is a table of operations; a further one is
 * a file with such a table and a line in monitor_find().
 *
 * The loop's thread. Starting one blocks for the milliseconds that its jail takes (jail.h). Whatever a monitor says is
 * bounded; one that breaks its own protocol has `failed`.
 */
#ifndef CAPSULE_VM_MONITOR_H
#define CAPSULE_VM_MONITOR_H

#include "base/buf.h"
#include "vm/console.h"
#include "vm/jail.h"
#include "vm/vm.h"

struct monitor_events {
	/* The machine's processors run. */
	void (*running)(void *arg);
	/* The guest listens on its stream, whose descriptor, a connected stream socket, is the callee's. Once. */
	void (*agent)(int fd, void *arg);
	/* It could not be configured, or cannot be controlled any more; it is to be killed. */
	void (*failed)(const struct error *err, void *arg);
	/* The process has ended (waitpid(2)) and all that it wrote is in the console's log. */
	void (*ended)(int status, void *arg);
	void *arg;
};

struct monitor {
	const struct monitor_ops *ops;
	const struct vm_options *options;
	uv_loop_t *loop;
	struct console *console;
	bool verbose;
	struct monitor_events events;
	pid_t pid;             /* 0: reaped */
	struct watch *process; /* its pidfd */
	pid_t first;           /* of its pid namespace, where that is another process; 0: reaped, or none */
	struct watch *first_process;
	int status;            /* of the process, while `first` ends */
	int tasks_fd;          /* /proc/PID/task of the process; -1: it cannot be read */
	void *data;            /* the operations' own */
	int claim_fd;          /* holds the root file system of a user's own system; -1: there is none */
};

struct monitor_ops {
	const char *option; /* "qemu" */
	const char *name;   /* "QEMU" */
	bool host_network;  /* it has to open its TAP by name */
	char reboot;        /* the kernel's "reboot=" with which a reset is the orderly end of this machine */
	/* Describes the process: adds arguments, descriptors and files to the jail. */
	int (*describe)(struct monitor *m, struct jail *jail, struct error *err);
	/* The process runs. */
	int (*connect)(struct monitor *m, struct error *err);
	/* Presses the power button. */
	void (*power_off)(struct monitor *m);
	/* Ends the control connection; also after a describe() that failed. */
	void (*close)(struct monitor *m);
};

extern const struct monitor_ops monitor_qemu, monitor_firecracker;

/* By its option; NULL: there is none. */
const struct monitor_ops *monitor_find(const char *option);

/* NULL, and err: nothing runs. Options and console are borrowed. verbose: the kernel tells of its boot on the console. */
struct monitor *monitor_start(uv_loop_t *loop, const struct vm_options *options, bool verbose, struct console *console,
			      const struct monitor_events *events, struct error *err);

/* An owner who has no agent in the guest asks the guest's system to shut down; it need not obey. */
void monitor_power_off(struct monitor *m);

/* Kills it, frozen or not; `ended` tells when it is dead. */
void monitor_kill(struct monitor *m);

/* After `ended`, or in it. NULL is fine. */
void monitor_free(struct monitor *m);

#define MONITOR_KERNEL "/kernel" /* in the jail */
#define MONITOR_INITRAMFS "/initramfs"

/* For the operations. Opens a file or block device of the VM, which must be there. */
int monitor_open_disk(const struct vm_disk *disk, struct error *err);
/* Appends what the kernel is told besides what the monitor adds. */
void monitor_cmdline(const struct monitor *m, bool acpi, struct buf *out);
/* Locally administered, the same for the same address. */
#define MONITOR_MAC_MAX sizeof "02:ca:00:00:00:00"
const char *monitor_mac(const struct vm_options *options, char out[MONITOR_MAC_MAX]);

#endif
