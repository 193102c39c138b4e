/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The daemon's end of a shim's socket, on the loop's thread. Never blocks.
 */
#ifndef CAPSULE_RUNTIME_SHIM_CLIENT_H
#define CAPSULE_RUNTIME_SHIM_CLIENT_H

#include "base/error.h"
#include "shim/protocol.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct shim_client;

struct shim_exit {
	bool known;           /* false: the shim vanished without a word; the workload is to be treated as killed */
	int exit_code;        /* 128 + signal for a kill */
	bool oom_killed;
	bool stopped;         /* because of shim_client_stop() */
	int64_t finished_at_ns;
	char reason[SHIM_REASON_MAX]; /* as in struct shim_result */
};

/* Takes over the connected fd (driver_instance.shim_fd). on_exit is called once, when the run has ended or the shim is
 * gone; the client may be freed in it. */
struct shim_client *shim_client_new(uv_loop_t *loop, int fd, void (*on_exit)(const struct shim_exit *exit, void *arg),
				    void *arg);

/* on_volume is called for each volume of the run that has met an error, on_ending when the payload of a microVM has ended and its
 * guest still cleans up; for those of the past too. */
void shim_client_watch(struct shim_client *c, void (*on_volume)(const char *volume, void *arg), void (*on_ending)(void *arg));

/* Forgets the shim, which goes on. NULL is fine. No callback runs any more. */
void shim_client_free(struct shim_client *c);

/* Asks the shim to send the signal (0: the one that the image names) and, after grace_ms, to kill everything in the
 * workload. The shim sees to it even if the daemon is gone. Again with a smaller grace: shortens it. */
int shim_client_stop(struct shim_client *c, int signal, int64_t grace_ms, struct error *err);

#endif
