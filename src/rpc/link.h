/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A connection bound to a connected socket, or to a device that is a byte stream, and a libuv loop: what rpc/server.c and rpc/client.c have in common.
 *
 * A link is the first member of its owner's object. It ends by itself (the peer left, the protocol was broken, a drain
 * is complete), which `ended` tells, or by the owner. Either way the owner calls rpc_link_close(), and when `closed` is
 * called the calls are closed, the connection is freed and the memory is the owner's again.
 */
#ifndef CAPSULE_RPC_LINK_H
#define CAPSULE_RPC_LINK_H

#include "rpc/conn.h"

#include <uv.h>

#define LINK_READ_SIZE (32u << 10)

struct rpc_link {
	uv_poll_t poll;        /* the socket, once it is there */
	uv_timer_t timer;      /* the next deadline */
	uv_idle_t flush;       /* active while there is something to do; unlike a prepare handle it keeps the loop from
				* waiting also when it was started by another one */
	struct rpc_conn *conn;
	uint8_t *read_buffer;  /* LINK_READ_SIZE bytes, the owner's, shared by its links */
	int fd;                /* -1: not connected */
	bool device;           /* no socket: a virtio-serial port, say */
	bool blocked;          /* the socket takes no more for now */
	bool closing;
	unsigned handles;      /* to be closed yet */
	bool idle_unref;       /* without calls it does not keep the loop alive */
	enum error_code end_code; /* of the calls that are left at the end */
	const char *end_message;

	void (*ended)(struct rpc_link *link, int errnum); /* 0: in good order */
	void (*closed)(struct rpc_link *link);
};

/* Initializes the handles. The caller sets the fields above, and conn from rpc_link_conn_options(). */
void rpc_link_init(struct rpc_link *link, uv_loop_t *loop);
struct rpc_conn_options rpc_link_conn_options(struct rpc_link *link);

/* Takes over a connected, non-blocking socket or device, in any case. 0, or a negative errno. */
int rpc_link_open(struct rpc_link *link, int fd);

/* Closes the socket; the calls and the connection stay. */
void rpc_link_disconnect(struct rpc_link *link);

/* Soon, before the loop waits, runs what is due and writes what there is. */
void rpc_link_schedule(struct rpc_link *link);

void rpc_link_close(struct rpc_link *link);

#endif
