/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A call whose work may block: the request is copied, `work` runs on a task's thread, `done` on the loop's. The client may
 * leave in between; then there is nobody to answer, but the work is done all the same, and `done` runs.
 */
#ifndef CAPSULE_SERVICE_UNARY_H
#define CAPSULE_SERVICE_UNARY_H

#include "manifest/manifest.h"
#include "service/service.h"

struct unary;
typedef void (*unary_fn)(struct unary *u);

struct unary {
	struct service_host *host;
	struct rpc_call *call;     /* NULL once the client has left; the loop's thread only */
	ProtobufCMessage *request; /* owned */
	struct error err;          /* set by work: the answer, unless done says otherwise */
	unary_fn work, done;
	/* Outcome of work, by method. */
	struct store_workload record;
	ProtobufCMessage *reply;   /* owned, unpacked or built with protobuf-c's allocator (malloc) */
	void *state;               /* owned by the method */
};

/* The `message` callback of a method ends in this. `done` answers through unary_reply() or unary_fail(), and may start
 * again with unary_continue(); after answering it returns and the object is freed. */
void unary_start(struct rpc_call *call, const ProtobufCMessage *request, unary_fn work, unary_fn done);

/* Inside done: one more round. */
void unary_continue(struct unary *u, unary_fn work, unary_fn done);

/* Inside done: to be finished later, by unary_finish(). For calls that wait for an event. */
void unary_hold(struct unary *u);
void unary_finish(struct unary *u);

void unary_reply(struct unary *u, const ProtobufCMessage *reply);
void unary_fail(struct unary *u); /* with u->err */

/* `done` for those that have nothing to add: u->reply, or the error. */
void unary_answer(struct unary *u);

/* The `close` callback that every such method has. */
void unary_on_close(struct rpc_call *call, enum error_code code, const char *message);

/* Whether the name that a request carries can be one. If not, the call has been failed with INVALID_ARGUMENT. `what` is
 * "workload name" or the like. */
bool call_name_valid(struct rpc_call *call, const char *what, const char *name);

static inline struct service_host *call_host(const struct rpc_call *call)
{
	return rpc_call_method(call)->arg;
}

/* One table a service; the arg of each method is the host. Called by services_register(). */
int workload_service_register(struct rpc_server *server, struct service_host *host);
int workload_stream_register(struct rpc_server *server, struct service_host *host);
int workload_events_register(struct rpc_server *server, struct service_host *host);
int workload_stats_register(struct rpc_server *server, struct service_host *host);
int workload_exec_register(struct rpc_server *server, struct service_host *host);
int workload_copy_register(struct rpc_server *server, struct service_host *host);
int volume_service_register(struct rpc_server *server, struct service_host *host);
int image_service_register(struct rpc_server *server, struct service_host *host);
int capsule_service_register(struct rpc_server *server, struct service_host *host);

/* Copies a constant table, sets the arg of each entry and registers it; the copy is freed by services_free(). */
int service_add(struct rpc_server *server, struct service_host *host, const struct rpc_method *methods, size_t n);

#endif
