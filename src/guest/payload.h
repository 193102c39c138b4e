/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The payload, from Run to its end:
 *
 *     NONE     --Run-->               STARTING   a child makes the root and becomes the OCI runtime
 *     STARTING --the gate is shut-->  RUNNING    the payload is a child of ours; Exec and Copy are possible
 *     RUNNING  --it ended-->          ENDING     further processes end; a child kills what is left and unmounts. The host
 *                                                was told, at the latest now: nothing is due to the payload any more
 *     STARTING --a step failed-->     ENDING
 *     ENDING   --all is read-->       OVER       the host is told; when the call has closed, the guest powers off
 *
 * A Run that closes early kills the payload. Threads: the loop's.
 */
#ifndef CAPSULE_GUEST_PAYLOAD_H
#define CAPSULE_GUEST_PAYLOAD_H

#include "base/error.h"
#include "rpc/rpc.h"

#include <stdbool.h>
#include <uv.h>

struct guest;

enum payload_state { PAYLOAD_NONE, PAYLOAD_STARTING, PAYLOAD_RUNNING, PAYLOAD_ENDING, PAYLOAD_OVER };

/* The read end of a pipe. */
struct output {
	int fd; /* -1: ended */
	uv_poll_t poll;
};

struct payload {
	struct guest *guest;
	enum payload_state state;
	struct rpc_call *call;          /* Run; NULL: closed */
	char *cgroup;                   /* owned; NULL before Run */
	int report_fd;                  /* the child's word on what failed; -1: none */
	struct output gate, streams[2]; /* stdout, stderr */
	pid_t runtime, pid, cleaner;    /* 0: there is none, or it was reaped */
	int pidfd;                      /* of pid; -1 */
	struct error failure;           /* why it did not start */
	bool cleaned;                   /* nothing of it runs and nothing is mounted any more */
	bool told_ending;
	bool stopping;
	int stop_signal;                /* of the first Stop, with its grace */
	int64_t grace_ms;
	uv_timer_t timer;               /* to the end of the start, or of the grace */
	int exit_code;
	bool oom_killed;
};

void payload_init(struct payload *p, struct guest *g);

/* A child has ended: whether it was one of the payload's. */
bool payload_reap(struct payload *p, pid_t pid, int exit_code);

/* No further process or copy is left, maybe: the end goes on when it is under way. */
void payload_continue_end(struct payload *p);

/* Tells the host that the volume has met an error. */
void payload_tell_volume_failed(struct payload *p, char *volume);

/* Nobody waits for it any more. */
void payload_abort(struct payload *p);

#endif
