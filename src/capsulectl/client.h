/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Calls that read like function calls.
 *
 * Each runs the event loop until its call has ended. The connection is made by the first one, to the daemon that
 * capsulectl/target.h finds, and serves all that follow. --timeout is one limit for the whole invocation. SIGINT,
 * SIGTERM and SIGHUP cancel the call under way, so that the daemon learns of it; client_signal() then tells which one it was.
 *
 * Requests and replies are messages of protobuf-c, whose first member is their base; the descriptors of struct method
 * are checked against them.
 */
#ifndef CAPSULE_CAPSULECTL_CLIENT_H
#define CAPSULE_CAPSULECTL_CLIENT_H

#include "capsulectl/cli.h"
#include "capsulectl/methods.h"
#include "rpc/rpc.h"

#include <uv.h>

static inline void message_freep(void *p)
{
	ProtobufCMessage *message = *(ProtobufCMessage **)p;

	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}
/* For a pointer to any message that client_call() returned. */
#define _cleanup_message_ _cleanup_(message_freep)

/* One request, one reply. *ret_reply (a pointer to the reply's type; NULL if it is of no interest) is the caller's. */
int client_call(struct cli *cli, const struct method *method, const void *request, void *ret_reply, struct error *err);

/* Takes the next message of a reply. 0: go on; 1: that was enough, the call ends and succeeds; -1: it ends and fails
 * with err. */
typedef int (*client_message_fn)(const void *message, void *arg, struct error *err);

/* One request, any number of replies. */
int client_stream(struct cli *cli, const struct method *method, const void *request, client_message_fn fn, void *arg,
		  struct error *err);

/* What feeds a stream of requests. Both run on the loop. */
struct client_feed {
	/* The call is there: start sending with rpc_call_send(), as long as rpc_call_writable(). */
	void (*start)(struct rpc_call *call, uv_loop_t *loop, void *arg);
	/* There is room again. */
	void (*writable)(struct rpc_call *call, void *arg);
	/* The call has ended, whoever ended it: let go of the loop. err is set, and the call failed with it, where
	 * feeding itself failed and cancelled the call. */
	void (*stop)(void *arg, struct error *err);
	void *arg;
};

/* Many requests, one reply. */
int client_upload(struct cli *cli, const struct method *method, const struct client_feed *feed, void *ret_reply,
		  struct error *err);

/* Many requests, and any number of replies meanwhile. */
int client_converse(struct cli *cli, const struct method *method, const struct client_feed *feed, client_message_fn fn,
		    void *arg, struct error *err);

/* Lets time pass between two calls, after at least one. 0, or -1: a signal came, or nobody reads the output any more. */
int client_pause(struct cli *cli, int64_t ns, struct error *err);

/* The signal that interrupted a call; 0 if none did. */
int client_signal(const struct cli *cli);

/* True if the connection is of no more use: further calls would fail in the same way. */
bool client_lost(const struct cli *cli);

/* Hangs up. May be called without a connection. True if a look-up of a name had to be left to itself: it may take long,
 * and exit() would wait for its thread, so the program must be left through _exit(). */
bool client_close(struct cli *cli);

/* Does it for each of the command's names from the first-th on. One that fails is reported and does not keep the others from
 * what was asked for; -1 in the end. Wrong usage and a lost connection end it at once. */
int client_each_name(struct cli *cli, size_t first, int (*one)(struct cli *cli, size_t i, struct error *err),
		     struct error *err);

#endif
