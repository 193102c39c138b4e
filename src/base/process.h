/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Outside commands. Every command gets an argv (never a shell), an empty signal mask, default signal dispositions,
 * only the file descriptors meant for it, a time limit and an output limit.
 *
 * process_run() blocks its thread until the command has ended: use it on a task thread. It does not depend on
 * SIGCHLD and reaps only its own child.
 */
#ifndef CAPSULE_BASE_PROCESS_H
#define CAPSULE_BASE_PROCESS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct process_fd {
	int fd;     /* of the caller; stays open there */
	int target; /* number in the child; 0, 1 and 2 not named here are /dev/null */
};

struct process_spawn {
	const char *const *argv; /* argv[0] is searched in PATH when it holds no '/' */
	const char *program;     /* path of what is executed as argv[0]; NULL: argv[0] */
	const char *const *env;  /* NULL: the caller's */
	const char *dir;         /* working directory; NULL: the caller's */
	const struct process_fd *fds;
	size_t n_fds;
	bool new_session;        /* setsid(): for what shall outlive the caller */
};

/* Starts the command. *ret_pid is to be reaped by the caller; *ret_pidfd (may be NULL) to be closed.
 * An exec failure is reported here, not as an exit status. */
int process_spawn(const struct process_spawn *spawn, pid_t *ret_pid, int *ret_pidfd, struct error *err);

struct process_result {
	int exit_code;   /* 0 to 255, or 128 + signal */
	char *output;    /* standard output, and standard error unless separate; never NULL on success; owned */
	size_t output_len;
};

void process_result_release(struct process_result *r);
#define _cleanup_process_result_ _cleanup_(process_result_release)

struct process_run {
	struct process_spawn spawn;
	int64_t timeout_ms;  /* must be positive; then the command is killed: DEADLINE_EXCEEDED */
	int64_t patience_ms; /* 0, or SIGTERM comes first, and SIGKILL only so much later: for what must not be cut off anywhere */
	size_t output_max;   /* 0: 64 KiB; what is beyond is read and dropped */
};

/* Runs the command to its end and collects its output. A non-zero exit is not an error here. */
int process_run(const struct process_run *run, struct process_result *ret, struct error *err);

/* Runs the command and turns a non-zero exit into an error (INTERNAL) that ends with the last line it printed. */
int process_run_ok(const char *const *argv, int64_t timeout_ms, struct error *err);

/* The path of a program: of a name, the first in PATH that is absolute and executable; of a path, without links. NULL: there
 * is none. Caller frees. */
char *process_find(const char *name);

/* For a child before it executes: default dispositions and an empty signal mask. Async-signal-safe. */
void process_reset_signals(void);

/* Waits for a child to end, through EINTR. The exit code as in process_result, or -errno. */
int process_wait(pid_t pid);

#endif
