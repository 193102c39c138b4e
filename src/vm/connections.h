/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The daemon's connections, in the shim's protocol (shim/protocol.h). The first comes as SHIM_FD_CONNECTION, others through
 * SHIM_FD_LISTEN. Until the payload runs they wait for SHIM_HELLO or SHIM_FAILED; then each can carry one further process or
 * copy (vm/relay.h), and one volume that is held still (vm/hold.h). The loop's thread.
 */
#ifndef CAPSULE_VM_CONNECTIONS_H
#define CAPSULE_VM_CONNECTIONS_H

#include "vm/relay.h"

struct connections;

struct connections_events {
	void (*start)(void *arg);    /* the bundle is written */
	void (*orphaned)(void *arg); /* the first connection ended before that */
	void (*stop)(int sig, int64_t grace_ms, void *arg); /* sig 0: the image's */
	void (*quieter)(void *arg);  /* a connection has ended */
	void *arg;
};

/* NULL, and err, on failure. Lives as long as the program. */
struct connections *connections_new(uv_loop_t *loop, const struct connections_events *events, struct error *err);

/* The payload runs: tells all, now and later. guest NULL: it takes no further processes. */
void connections_welcome(struct connections *c, const struct shim_hello *hello, struct guest *guest);

/* The payload ends: no further processes from now on. */
void connections_seclude(struct connections *c);

/* The payload has ended, and the guest cleans up: tells all, now and later. */
void connections_tell_ending(struct connections *c);

/* A volume has met an error: tells all, now and later. The name lives on. */
void connections_tell_volume_failed(struct connections *c, const char *volume);

/* The last words to everybody, also to those who wait to be accepted. */
void connections_refuse(struct connections *c, const struct error *reason);
void connections_finish(struct connections *c, const struct shim_result *result);

#endif
