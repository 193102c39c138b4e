/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What drives a connection: bytes in, bytes out, time. For rpc/uv.h and for programs with a loop of their own.
 *
 * A driver reads and hands what it got to rpc_conn_receive(); after that, and whenever `wake` was called, it writes
 * what rpc_conn_pending() gives until there is nothing more, and sets its timer to rpc_conn_deadline(). When
 * rpc_conn_receive() fails or rpc_conn_finished() is true it closes the stream and frees the connection.
 *
 * Threads: as rpc.h. No function here may be called from a callback of a call, except where it says so.
 * Memory: an idle connection holds no buffer; a call holds what is queued in it. All that a connection has received
 * and not delivered is at most RPC_UNREAD_MAX bytes, all that a server has queued for one client RPC_QUEUED_MAX: the
 * call that would exceed it ends with RESOURCE_EXHAUSTED.
 */
#ifndef CAPSULE_RPC_CONN_H
#define CAPSULE_RPC_CONN_H

#include "rpc/rpc.h"

#define RPC_WINDOW (1u << 20)     /* what a peer may send to a call that does not read */
#define RPC_SHARED_WINDOW (128u << 10)
#define RPC_UNREAD_MAX (64u << 20)
#define RPC_QUEUED_MAX (64u << 20)
#define RPC_HEADERS_MAX (16u << 10)

/* The methods of a server, shared by its connections, which must not outlive it. The tables are the caller's and must
 * live as long. */
struct rpc_services;

struct rpc_services *rpc_services_new(void); /* NULL without memory */
void rpc_services_free(struct rpc_services *services);
DEFINE_CLEANUP(struct rpc_services *, rpc_services_free)

/* 0, or -1 without memory. */
int rpc_services_add(struct rpc_services *services, const struct rpc_method *methods, size_t n);

/* NULL if there is no such method. The path need not be NUL-terminated. */
const struct rpc_method *rpc_services_find(const struct rpc_services *services, const char *path, size_t len);

/* Calls fn for every method, in the order of registration. */
void rpc_services_each(const struct rpc_services *services, void (*fn)(const struct rpc_method *method, void *arg),
		       void *arg);

struct rpc_conn_options {
	/* There is something to write or the deadline has changed, and not because of a call of the driver. May be
	 * called from anywhere inside; it only takes a note (to call rpc_conn_pending() soon). NULL: the driver looks
	 * by itself. */
	void (*wake)(struct rpc_conn *conn, void *arg);
	void *arg;
	struct rpc_peer peer;       /* .fd = -1 where there is none */
	/* Its calls are for many who do not know of each other: each has RPC_SHARED_WINDOW instead of RPC_WINDOW, and as much to
	 * be sent, so that some hundreds that nobody reads stay below the limits of the connection and end no other. */
	bool shared;
};

/* NULL without memory. */
struct rpc_conn *rpc_conn_new_server(const struct rpc_services *services, const struct rpc_conn_options *options);
struct rpc_conn *rpc_conn_new_client(const char *authority, const struct rpc_conn_options *options);

/* Ends every call (the client's: UNAVAILABLE "connection lost"), then frees. NULL is fine. */
void rpc_conn_free(struct rpc_conn *conn);
DEFINE_CLEANUP(struct rpc_conn *, rpc_conn_free)

/* Takes bytes from the peer. -1: the peer broke the protocol; what is pending (a GOAWAY that says why) may still be
 * written, then the stream is to be closed. */
int rpc_conn_receive(struct rpc_conn *conn, const void *data, size_t len, struct error *err);

/* Runs the callbacks that are due, then gives the next bytes for the peer, about 64 KiB at most; 0 if there are none.
 * They stay where they are until rpc_conn_sent(), with the number of bytes that went out. */
size_t rpc_conn_pending(struct rpc_conn *conn, const uint8_t **ret_data);
void rpc_conn_sent(struct rpc_conn *conn, size_t len);

/* Nothing more will come in or go out. */
bool rpc_conn_finished(const struct rpc_conn *conn);

/* CLOCK_MONOTONIC time of the next deadline among the calls; -1 if there is none. When it has passed,
 * rpc_conn_expire() ends the calls concerned with DEADLINE_EXCEEDED. */
int64_t rpc_conn_deadline(const struct rpc_conn *conn);
void rpc_conn_expire(struct rpc_conn *conn, int64_t monotonic_ns);

/* No new calls: GOAWAY after those that are here. The connection is finished when the last one is. May be called from
 * a callback. */
void rpc_conn_drain(struct rpc_conn *conn);

/* The stream is broken: ends every call, and those that are started later, with this status. */
void rpc_conn_fail(struct rpc_conn *conn, enum error_code code, const char *message);

/* Client: starts a call. timeout_ms: 0 is none. The call belongs to the connection and is gone after `close`, which
 * always comes and never inside this function. NULL without memory, or while the connection is being freed. May be
 * called from a callback. */
struct rpc_call *rpc_conn_call(struct rpc_conn *conn, const struct rpc_method *method, int64_t timeout_ms, void *data);

/* Calls that have not been closed. */
size_t rpc_conn_calls(const struct rpc_conn *conn);

void *rpc_conn_arg(const struct rpc_conn *conn); /* options.arg */

#endif
