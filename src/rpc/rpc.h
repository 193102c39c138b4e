/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * gRPC over HTTP/2 on any connected byte stream, for servers and clients.
 *
 * The core (struct rpc_conn) knows no event loop: bytes go in with rpc_conn_receive() and come out through
 * rpc_conn_pending() (rpc/conn.h). rpc/uv.h drives it from libuv. Rules: grpc/doc/PROTOCOL-HTTP2.md; RFC 9113.
 *
 * Threads: a connection and its calls belong to one thread. Callbacks run inside rpc_conn_receive() or the loop.
 * Limits: a message has at most RPC_MESSAGE_MAX bytes, a connection RPC_STREAMS_MAX calls, header lists 16 KiB.
 * Back-pressure, inward: the peer gets window only for bytes whose message was delivered, and none while the call is
 * paused. Outward: rpc_call_send() always takes the message; a sender stops when rpc_call_writable() turns false and
 * goes on in the method's `writable` callback.
 */
#ifndef CAPSULE_RPC_RPC_H
#define CAPSULE_RPC_RPC_H

#include "base/error.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define RPC_MESSAGE_MAX (4u << 20)
#define RPC_STREAMS_MAX 1024u
#define RPC_SEND_HIGH (1u << 20) /* queued bytes above which rpc_call_writable() is false */
#define RPC_SEND_LOW (256u << 10) /* `writable` is called when the queue has fallen below this */
/* Both are smaller in a connection of many (rpc/conn.h). */

struct rpc_conn;
struct rpc_call;

/* One method, of a server or of a client. Callbacks may be NULL. */
struct rpc_method {
	const char *path;                                /* "/package.Service/Method" */
	const ProtobufCMessageDescriptor *receives;      /* server: the request; client: the reply */
	/* Exactly one message is received. It is delivered when the sender has ended its side, so after it none can
	 * follow. Server: none or a second one ends the call with INVALID_ARGUMENT. Client: it is delivered right
	 * before `close` with ERR_OK; a success without it becomes INTERNAL. */
	bool receives_one;
	void (*open)(struct rpc_call *call);             /* server: headers are here, no message yet */
	/* A message arrived. It is the callee's for the time of the call only. */
	void (*message)(struct rpc_call *call, const ProtobufCMessage *message);
	void (*half_close)(struct rpc_call *call);       /* server: the client has sent everything */
	void (*writable)(struct rpc_call *call);         /* below RPC_SEND_LOW again */
	/* Last callback: the stream is gone. Client: code and message are the final status. Server: ERR_OK if the
	 * status was sent, else ERR_CANCELLED (client left, deadline passed, connection lost). */
	void (*close)(struct rpc_call *call, enum error_code code, const char *message);
	void *arg;                                       /* rpc_call_method(call)->arg */
	uint64_t *calls;                                 /* server: counts what was opened; NULL: nobody wants to know */
};

/* The far end of a connection. */
struct rpc_peer {
	int fd;        /* the socket, the connection's; -1 where there is none */
	bool local;    /* a Unix socket: the fields below are the process that connected (SO_PEERCRED) */
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

const struct rpc_method *rpc_call_method(const struct rpc_call *call);
void rpc_call_set_data(struct rpc_call *call, void *data);
void *rpc_call_data(const struct rpc_call *call);
const struct rpc_peer *rpc_call_peer(const struct rpc_call *call);

/* Queues a message. 0, or -1 if the call is finished or gone (then nothing is sent). */
int rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message);
bool rpc_call_writable(const struct rpc_call *call);

/* Stops and resumes the delivery of messages; while paused the peer's window is not renewed. */
void rpc_call_pause(struct rpc_call *call);
void rpc_call_resume(struct rpc_call *call);
/* Delivers at once what is here of a call that is paused and stays so: nobody will resume it. Not in a callback of it. */
void rpc_call_deliver_rest(struct rpc_call *call);

/* Server: ends the call with a status after what was queued. Further sends fail; no message is delivered any more.
 * `close` still comes. */
void rpc_call_finish(struct rpc_call *call, enum error_code code, const char *message);
/* The same from an error object. */
void rpc_call_fail(struct rpc_call *call, const struct error *err);

/* Client: ends the sending side / resets the stream. */
void rpc_call_half_close(struct rpc_call *call);
void rpc_call_cancel(struct rpc_call *call);

#endif
