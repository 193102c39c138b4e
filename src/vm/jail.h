/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Where a monitor's process lives: a user of its own without capabilities and without a way to gain any, mount, pid, ipc,
 * uts and network namespaces of its own, the workload's cgroup, and a root that holds nothing but the program, libraries,
 * what it was given, /dev/null and the devices that were named, all of it read-only. It ends with its parent.
 *
 * A jail is described first, then its process is started; after that, or instead of it, the jail is released.
 *
 * Firecracker's jailer, where one is named, does the last part: it copies the program, makes the devices that it knows, changes
 * the root once more, becomes the user and executes the program. A change of the user takes away the signal at the parent's end.
 * So the pid namespace has a first process of its own then, whose end is the end of all others in it: it has the signal, the user,
 * the cgroup, and nothing that is open. And the user may write to the root, a file system of the jail's own, until it is sealed.
 */
#ifndef CAPSULE_VM_JAIL_H
#define CAPSULE_VM_JAIL_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define JAIL_ARGS_MAX 511
#define JAIL_FDS_MAX 80
#define JAIL_BINDS_MAX 48
#define JAIL_SCRATCH "/scratch"
#define JAIL_FD_FIRST 3 /* number in the process of the first descriptor that was added */

struct jail_bind {
	const char *source; /* on the host; borrowed */
	char *target;       /* its path in the jail */
	bool writable;
	bool optional;      /* it need not exist */
};

struct jail {
	const char *program; /* borrowed, as the others that are not added by a function */
	const char *name;    /* for messages: "QEMU" */
	const char *cgroup;
	const char *mount_point; /* any directory; used in the process's own mount namespace only */
	const char *jailer;      /* Firecracker's; NULL: none */
	const char *id;          /* for the jailer: letters, digits and hyphens, 64 at most */
	char *own_argv;          /* the caller's own arguments as the kernel laid them out, for the first process to overwrite */
	size_t own_argv_size;
	uid_t uid;
	bool host_network; /* it stays in the caller's network namespace */
	bool scratch;      /* JAIL_SCRATCH is a directory of its own, for sockets */
	const char *listener_path; /* below it, where listener_fd listens */
	int listener_fd;           /* borrowed; -1: none */
	char *args[JAIL_ARGS_MAX + 1];
	size_t n_args;
	int fds[JAIL_FDS_MAX];
	size_t n_fds;
	struct jail_bind binds[JAIL_BINDS_MAX];
	size_t n_binds;
	bool failed; /* without memory or beyond a limit; told by jail_start() */
};

struct jail_process {
	pid_t pid;
	int pidfd;
	pid_t first;  /* of its pid namespace; 0: itself. The caller's to kill and to reap, the process itself before it */
	int first_fd; /* its pidfd; -1 */
	int out_fd, err_fd; /* read ends of its standard output and error */
};

/* argv[0] is added by jail_start(). */
void jail_add_arg(struct jail *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Takes over the descriptor. Returns its number in the process. */
int jail_add_fd(struct jail *j, int fd);

/* A file, directory or device of the host. A device is the user's own there, whomever it belongs to on the host. */
void jail_add_bind(struct jail *j, const char *source, const char *target, bool writable, bool optional);

/* A stream socket that listens in the jail before its program runs, on a path below JAIL_SCRATCH, which is borrowed. One a
 * jail; returns it, the caller's, or -1. */
int jail_listen(struct jail *j, const char *path, struct error *err);

/* Waits until the program, or the jailer, was executed. The process and the descriptors are the caller's. */
int jail_start(struct jail *j, struct jail_process *ret, struct error *err);

/* When the process that the jailer has started is there and has not been told anything yet: its root is read-only from now on. */
int jail_seal(pid_t pid, struct error *err);

/* Closes the descriptors and frees what was added. */
void jail_release(struct jail *j);

#endif
