/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What conn.c (the HTTP/2 session) and call.c (the calls in it) share.
 *
 * The life of a call. It is linked into its connection from its start until nghttp2 has closed its stream. The method
 * hears `close` at one of two moments: when the stream closes, or earlier, when the call was cut off (cancelled, timed
 * out) and the stream only waits for its reset to be sent. From then on `closed` is set and the user's pointer to the
 * call is dead. A client's call may also outlive its stream (`lingering`), while it is paused with messages to deliver.
 *
 * Callbacks that are not the direct consequence of received bytes (after a resume, a cancel, a drained queue) are not
 * made on the spot, inside the user's own call, but put on the connection's list of work, which rpc_conn_pending()
 * runs.
 */
#ifndef CAPSULE_RPC_INTERNAL_H
#define CAPSULE_RPC_INTERNAL_H

#include "base/buf.h"
#include "rpc/conn.h"

#include <nghttp2/nghttp2.h>

#define RPC_OUT_CHUNK (64u << 10)

/* A queued message, framed: 5 bytes of prefix and the serialized message. */
struct rpc_frame {
	struct rpc_frame *next;
	size_t len, off;
	uint8_t data[];
};

enum call_work {
	WORK_DELIVER = 1 << 0,
	WORK_WRITABLE = 1 << 1,
	WORK_CLOSE = 1 << 2,
};

struct rpc_call {
	struct rpc_call *next, **link;         /* conn->calls */
	struct rpc_call *work_next;            /* conn->work */
	unsigned work;                         /* enum call_work; not 0: on the list */
	struct rpc_conn *conn;
	const struct rpc_method *method;       /* NULL: a server was asked for one it does not have */
	void *data;
	int32_t stream;                        /* 0: closed, or never opened */

	struct buf in;                         /* received, not delivered */
	size_t withheld;                       /* bytes at the end of `in` for which the peer got no new window */
	ProtobufCMessage *held;                /* receives_one */
	struct rpc_frame *out, **out_tail;
	size_t queued;                         /* bytes in `out` */

	int64_t deadline_ns;                   /* -1: none */
	size_t header_bytes;
	enum error_code code;                  /* final status, valid if has_status */
	char *message;
	int http_status;                       /* server: to be sent instead of a gRPC status; client: received */

	bool has_status;
	bool headers_sent;                     /* server */
	bool status_sent;                      /* server: the trailers went out */
	bool local_done, remote_done;          /* no more messages will be sent, received */
	bool half_close_told;
	bool paused;
	bool full;                             /* queued went above send_high */
	bool delivering;
	bool cut;                              /* the stream is to be reset: nothing is sent or delivered any more */
	bool closed;                           /* `close` was called */
	bool lingering;
	bool post, content_type_ok, timeout_bad; /* server: of the request's headers */
};

struct rpc_conn {
	nghttp2_session *session;
	const struct rpc_services *services;   /* NULL: a client */
	char *authority;
	struct rpc_conn_options options;
	struct buf out;
	struct rpc_call *calls;
	size_t n_calls;
	struct rpc_call *work, **work_tail;
	size_t unread;                         /* sum of the calls' in.len */
	size_t queued;                         /* sum of the calls' queued */
	uint32_t window;                       /* of a call */
	size_t send_high, send_low;            /* of what is queued in a call */
	int64_t deadline_ns;                   /* no call's is earlier; -1: none */
	unsigned busy;                         /* inside the driver's call: no need to wake it */
	bool draining;
	bool broken;                           /* the session gave up */
	bool freeing;
	bool dead;                             /* rpc_conn_fail() */
	enum error_code dead_code;
	char *dead_message;
};

static inline bool conn_is_server(const struct rpc_conn *conn)
{
	return conn->services != NULL;
}

/* conn.c */
struct rpc_call *conn_add_call(struct rpc_conn *conn, const struct rpc_method *method);
void conn_wake(struct rpc_conn *conn);
void conn_note_deadline(struct rpc_conn *conn, int64_t deadline_ns);

/* call.c: from the session */
void call_open(struct rpc_call *call);        /* server: the request's headers are complete */
void call_receive(struct rpc_call *call, const uint8_t *data, size_t len);
void call_remote_done(struct rpc_call *call); /* the peer has ended its side */
void call_trailers_sent(struct rpc_call *call);
/* The stream is gone; frees the call, now or when its messages are delivered. */
void call_stream_closed(struct rpc_call *call, uint32_t h2_error);
/* The deadline has passed. */
void call_expire(struct rpc_call *call);

/* call.c: from the connection */
int call_submit_request(struct rpc_call *call, int64_t timeout_ms);
void call_run_work(struct rpc_call *call, unsigned work);
void call_schedule(struct rpc_call *call, enum call_work work);
void call_close(struct rpc_call *call);       /* calls the method's `close`, once */
void call_free(struct rpc_call *call);
/* Ends the call because of what the peer did: a server answers with the status, a client resets the stream. */
void call_reject(struct rpc_call *call, enum error_code code, const char *message);
/* The first status stays. */
void call_set_status(struct rpc_call *call, enum error_code code, const char *message);

#endif
