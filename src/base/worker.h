/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A program of ours at work for the loop: it is fed through its standard input, what it writes to standard output is
 * handed on as it comes, and the end of what it wrote to standard error is kept.
 *
 * The worker runs in a session of its own with the caller's environment. What it should do when the caller dies is
 * its own business (base/confine.h).
 *
 * Threads: the loop's only. Nothing here blocks. Callbacks never run inside a call to this module. The program
 * ignores SIGPIPE. The loop has to run until it is idle for the last memory and the last process to be released.
 */
#ifndef CAPSULE_BASE_WORKER_H
#define CAPSULE_BASE_WORKER_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#define WORKER_QUEUE_HIGH (1u << 20)
#define WORKER_EXTRA_FD 3

struct worker;

struct worker_options {
	const char *const *argv; /* NULL-terminated; argv[0] is a path */
	bool input;              /* standard input is a pipe, else /dev/null */
	int extra_fd;            /* becomes WORKER_EXTRA_FD; -1: none */
};

/* How it ended. */
struct worker_end {
	int64_t exit_status;
	int term_signal;        /* 0: it exited */
	bool out_of_memory;     /* it was killed because input for it could not be kept */
	const char *last_words; /* last line of standard error, without control characters; "" for none */
};

struct worker_callbacks {
	void (*output)(const char *data, size_t len, void *arg);
	void (*drained)(void *arg); /* room for more input; may be NULL */
	/* Exactly once, when the process is gone and all of its output has been handed on (or dropped, if it was killed). After
	 * it the worker is gone. */
	void (*ended)(const struct worker_end *end, void *arg);
	void *arg;
};

/* NULL, and err, when it cannot be started. */
struct worker *worker_start(uv_loop_t *loop, const struct worker_options *options,
			    const struct worker_callbacks *callbacks, struct error *err);

/* Copies the bytes. Returns the number of bytes queued now: a caller that sees more than WORKER_QUEUE_HIGH waits for
 * `drained`. Bytes for a worker that has closed its input are dropped. */
size_t worker_write(struct worker *w, const void *data, size_t len);
void worker_end_input(struct worker *w);

/* Between the two no output is handed on, and the worker waits when its pipe is full. */
void worker_pause(struct worker *w);
void worker_resume(struct worker *w);

/* Of its process. */
pid_t worker_pid(const struct worker *w);

/* `ended` comes when it is dead, paused or not. What it wrote and was not handed on yet is dropped. */
void worker_kill(struct worker *w);

/* Kills it; no callback runs any more, and the worker is gone for the caller. */
void worker_abandon(struct worker *w);

#endif
