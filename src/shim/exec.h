/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Further processes in the workload (docs/runtime.md, "Further processes").
 *
 * The shim forks; the child makes itself a process of the container (exec_child.c) and executes the command. No OCI
 * runtime takes part. Until it has executed, the child reports through a socket in messages of the shim's protocol: at most
 * one SHIM_EXEC_STARTED with its terminal, or SHIM_EXEC_FAILED. The socket closes in execve, which is what tells success.
 *
 * Nothing here blocks: whatever may take time happens in the child.
 */
#ifndef CAPSULE_SHIM_EXEC_H
#define CAPSULE_SHIM_EXEC_H

#include "shim/shim.h"

/* The process of one connection. */
struct exec {
	pid_t pid;       /* 0: none; else not reaped yet */
	int report_fd;   /* -1: the child has executed, or failed */
	int terminal_fd; /* its terminal's master side, on the way to the daemon; -1: none */
	bool failed;     /* the daemon was told why it does not run */
};

#define EXEC_NONE ((struct exec){ .report_fd = -1, .terminal_fd = -1 })

/* Once, when the payload runs: from now on the shim's children are born in its pid namespace. */
int exec_prepare(struct shim *shim, struct error *err);

/* Starts a process; the descriptors stay the caller's. */
int exec_begin(struct exec *e, const struct shim *shim, const struct shim_exec *request, const int *fds, size_t n_fds,
	       struct error *err);

/* The report can be read: tells the daemon (connection; -1: it has gone) what there is to tell. */
void exec_take_report(struct exec *e, int connection);

/* The process was reaped. */
void exec_ended(struct exec *e, int connection, int exit_code);

/* Kills it with everything in its session. */
void exec_kill(const struct exec *e, const struct shim *shim);

/* exec_child.c: what the child does. report: where it tells of a failure. */
_Noreturn void exec_child(const struct shim *shim, const struct shim_exec *request, const int *fds, int report);

#endif
