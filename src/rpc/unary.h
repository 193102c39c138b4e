/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * One request, one reply.
 *
 * Server: a method with `receives_one` gets its request in `message`, once and whole, and answers there or at any later
 * time with rpc_reply() or rpc_call_fail(). Until then the call is valid; `close` tells when it no longer is.
 *
 * Client: rpc_client_unary() of rpc/uv.h, or rpc_conn_unary() over a connection of one's own.
 */
#ifndef CAPSULE_RPC_UNARY_H
#define CAPSULE_RPC_UNARY_H

#include "rpc/rpc.h"

/* Server: sends the message and ends the call with OK. */
void rpc_reply(struct rpc_call *call, const ProtobufCMessage *reply);

/* The end of a client's call: the reply (the callee's for the time of the call only) with err NULL, or NULL with the
 * error. Called exactly once. */
typedef void (*rpc_unary_done_fn)(const ProtobufCMessage *reply, const struct error *err, void *arg);

/* Client: sends the request and calls done when the answer is here. timeout_ms: 0 is none. Returns the call, for
 * rpc_call_cancel() only; it is gone after done, which never runs inside this function. NULL without memory only. */
struct rpc_call *rpc_conn_unary(struct rpc_conn *conn, const char *path, const ProtobufCMessage *request,
				const ProtobufCMessageDescriptor *reply, int64_t timeout_ms, rpc_unary_done_fn done,
				void *arg);

#endif
