/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* A client's and a server's connection back to back in memory, without sockets, loop or time. */
#ifndef CAPSULE_TESTS_RPC_PAIR_H
#define CAPSULE_TESTS_RPC_PAIR_H

#include "echo_service.h"
#include "rpc/conn.h"

struct pair {
	struct rpc_services *services;
	struct rpc_conn *client, *server;
	size_t step; /* bytes handed over at a time */
};

static inline void pair_init(struct pair *p, const struct rpc_method *methods, size_t n)
{
	struct rpc_conn_options options = { .peer = { .fd = -1 } };

	p->services = rpc_services_new();
	rpc_services_add(p->services, methods, n);
	p->server = rpc_conn_new_server(p->services, &options);
	p->client = rpc_conn_new_client("localhost", &options);
	p->step = SIZE_MAX;
	if (!p->server || !p->client)
		abort();
}

static inline void pair_release(struct pair *p)
{
	rpc_conn_free(p->client);
	rpc_conn_free(p->server);
	rpc_services_free(p->services);
}

/* Moves what one side has to say, in steps. Returns the number of bytes. */
static inline size_t pair_move(struct pair *p, struct rpc_conn *from, struct rpc_conn *to)
{
	const uint8_t *data;
	size_t len, moved = 0;

	while ((len = rpc_conn_pending(from, &data)) > 0) {
		if (len > p->step)
			len = p->step;
		if (rpc_conn_receive(to, data, len, NULL) < 0)
			return moved;
		rpc_conn_sent(from, len);
		moved += len;
	}
	return moved;
}

/* Until neither has anything to say. */
static inline void pair_run(struct pair *p)
{
	while (pair_move(p, p->client, p->server) + pair_move(p, p->server, p->client) > 0)
		;
}

#endif
