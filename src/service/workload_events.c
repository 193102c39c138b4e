/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* WorkloadService: Events, the record of what has happened. */
#include "service/unary.h"

#include "service/history.h"

#include <inttypes.h>
#include <string.h>

struct events {
	struct rpc_call *call;
	struct history *history;
	struct history_listener listener;
	Capsule__V1__WorkloadEventsRequest *request;
	uint64_t last; /* sequence number of the last one that was looked at */
	bool finished; /* an answer that does not follow has been given whole */
};

static bool events_want(const struct events *events, const Capsule__V1__WorkloadOccurrence *occurrence)
{
	const Capsule__V1__WorkloadEventsRequest *request = events->request;

	if (occurrence->time_unix_ns < request->since_unix_ns)
		return false;
	for (size_t i = 0; i < request->n_names; i++)
		if (!strcmp(request->names[i], occurrence->name))
			return true;
	return request->n_names == 0;
}

static void events_flush(void *arg)
{
	struct events *events = arg;
	const Capsule__V1__WorkloadOccurrence *next;

	while (!events->finished && rpc_call_writable(events->call)) {
		next = history_next(events->history, events->last);
		if (!next) {
			if (!events->request->follow) {
				events->finished = true;
				rpc_call_finish(events->call, ERR_OK, NULL);
			}
			return;
		}
		events->last = next->sequence;
		if (events_want(events, next))
			(void)rpc_call_send(events->call, &next->base);
	}
}

static void events_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__WorkloadEventsRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;
	struct events *events;

	for (size_t i = 0; i < request->n_names; i++)
		if (!call_name_valid(call, "workload name", request->names[i]))
			return;
	if (request->since_unix_ns < 0) {
		error_set(&err, ERR_INVALID_ARGUMENT, "since_unix_ns is %" PRId64 "; it must not be negative",
			  request->since_unix_ns);
		rpc_call_fail(call, &err);
		return;
	}
	events = calloc(1, sizeof *events);
	if (!events)
		abort();
	events->call = call;
	events->history = call_host(call)->history;
	events->request = (Capsule__V1__WorkloadEventsRequest *)message_copy(message);
	events->listener = (struct history_listener){ .fn = events_flush, .arg = events };
	history_listen(events->history, &events->listener);
	rpc_call_set_data(call, events);
	events_flush(events);
}

static void events_writable(struct rpc_call *call)
{
	if (rpc_call_data(call))
		events_flush(rpc_call_data(call));
}

static void events_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct events *events = rpc_call_data(call);

	if (!events)
		return;
	history_unlisten(events->history, &events->listener);
	protobuf_c_message_free_unpacked(&events->request->base, NULL);
	free(events);
}

int workload_events_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		{ .path = "/capsule.v1.WorkloadService/Events",
		  .receives = &capsule__v1__workload_events_request__descriptor,
		  .receives_one = true,
		  .message = events_message,
		  .writable = events_writable,
		  .close = events_close },
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
