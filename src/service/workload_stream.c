/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* WorkloadService: Logs and Watch, the calls that answer with a stream. */
#include "service/unary.h"

#include "base/timeutil.h"
#include "manifest/manifest.h"
#include "runtime/log_reader.h"
#include "service/log_stream.h"

#include <inttypes.h>
#include <string.h>
#include <utlist.h>

/* ---- Logs ---- */

struct logs {
	struct log_stream *stream;
	struct reconciler_watch watch;
	struct service_host *host;
	bool watching;
	char name[64];
};

static int send_log(struct rpc_call *call, const void *data, size_t len)
{
	Capsule__V1__WorkloadLogChunk chunk = CAPSULE__V1__WORKLOAD_LOG_CHUNK__INIT;

	chunk.data.data = (uint8_t *)(uintptr_t)data;
	chunk.data.len = len;
	return rpc_call_send(call, &chunk.base);
}

static void logs_watch_end(struct logs *logs)
{
	if (logs->watching)
		reconciler_watch_remove(logs->host->reconciler, &logs->watch);
	logs->watching = false;
}

static void logs_workload_changed(const char *name, bool gone, void *arg)
{
	struct logs *logs = arg;

	if (!gone || strcmp(name, logs->name) != 0)
		return;
	logs_watch_end(logs);
	log_stream_finish(logs->stream);
}

static int logs_check(const Capsule__V1__WorkloadLogsRequest *request, const Capsule__V1__Workload *w,
		      struct error *err)
{
	if (manifest_check_name("workload name", request->name, err) < 0)
		return -1;
	if (!w)
		return error_set(err, ERR_NOT_FOUND, "there is no workload %s", request->name);
	if (!protobuf_c_enum_descriptor_get_value(&capsule__v1__log_source__descriptor, (int)request->source))
		return error_set(err, ERR_INVALID_ARGUMENT, "%d is not a known source of logs", (int)request->source);
	if (request->since_unix_nanos < 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "since_unix_nanos is %" PRId64 "; it must not be negative",
				 request->since_unix_nanos);
	if (request->tail_lines < 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "tail_lines is %d; it must not be negative",
				 request->tail_lines);
	if (request->source == CAPSULE__V1__LOG_SOURCE__LOG_SOURCE_SERIAL && !w->micro_vm)
		return error_set(err, ERR_FAILED_PRECONDITION, "workload %s has no serial console; only a microVM has one",
				 request->name);
	return 0;
}

/* A root file system of the user's own writes to the console only. */
static bool logs_wants_serial(const Capsule__V1__WorkloadLogsRequest *request, const Capsule__V1__Workload *w)
{
	return request->source == CAPSULE__V1__LOG_SOURCE__LOG_SOURCE_SERIAL ||
	       (w && w->micro_vm && *w->micro_vm->kernel_path);
}

static void logs_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__WorkloadLogsRequest *request = (const void *)message;
	struct service_host *host = call_host(call);
	Capsule__V1__Workload *w = reconciler_get(host->reconciler, request->name);
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *path = log_path_of_workload(host->root, request->name, logs_wants_serial(request, w));
	struct log_reader_options options = {
		.path = path,
		.follow = request->follow,
		.tail_lines = request->tail_lines,
		.since_ns = request->since_unix_nanos,
		.timestamps = request->timestamps,
	};
	struct logs *logs;

	if (logs_check(request, w, &err) < 0 || !(logs = calloc(1, sizeof *logs))) {
		rpc_call_fail(call, &err);
	} else {
		logs->host = host;
		snprintf(logs->name, sizeof logs->name, "%s", request->name);
		rpc_call_set_data(call, logs);
		logs->stream = log_stream_new(host, call, &options, send_log, &err);
		if (!logs->stream) {
			rpc_call_fail(call, &err);
		} else if (request->follow) {
			logs->watch = (struct reconciler_watch){ .changed = logs_workload_changed, .arg = logs };
			reconciler_watch_add(host->reconciler, &logs->watch);
			logs->watching = true;
		}
	}
	if (w)
		protobuf_c_message_free_unpacked(&w->base, NULL);
}

static void logs_writable(struct rpc_call *call)
{
	struct logs *logs = rpc_call_data(call);

	if (logs)
		log_stream_resume(logs->stream);
}

static void logs_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct logs *logs = rpc_call_data(call);

	if (!logs)
		return;
	logs_watch_end(logs);
	log_stream_free(logs->stream);
	free(logs);
}

/* ---- Watch ---- */

/* A name that the client has not been told about yet. A watcher that reads slowly is told the latest state of each, not
 * every state in between: what is kept for it never exceeds the number of workloads. */
struct pending {
	char name[64];
	bool gone;
	struct pending *prev, *next;
};

struct watch {
	struct rpc_call *call;
	struct service_host *host;
	struct reconciler_watch watch;
	char **names; /* those asked for; n_names 0: all */
	size_t n_names;
	struct pending *pending;
	bool synced;  /* the SYNCED event has been sent */
};

static bool watch_wants(const struct watch *watch, const char *name)
{
	if (!watch->n_names)
		return true;
	for (size_t i = 0; i < watch->n_names; i++)
		if (!strcmp(watch->names[i], name))
			return true;
	return false;
}

static void watch_note(struct watch *watch, const char *name, bool gone)
{
	struct pending *p;

	if (!watch_wants(watch, name))
		return;
	DL_FOREACH(watch->pending, p)
		if (!strcmp(p->name, name))
			break;
	if (!p) {
		p = calloc(1, sizeof *p);
		if (!p)
			abort();
		snprintf(p->name, sizeof p->name, "%s", name);
		DL_APPEND(watch->pending, p);
	}
	p->gone = gone;
}

static void watch_send(struct watch *watch, Capsule__V1__WorkloadEventType type, Capsule__V1__Workload *workload)
{
	Capsule__V1__WorkloadEvent event = CAPSULE__V1__WORKLOAD_EVENT__INIT;

	event.type = type;
	event.workload = workload;
	event.time_unix_ms = time_realtime_ns() / NSEC_PER_MSEC;
	(void)rpc_call_send(watch->call, &event.base);
}

static void watch_send_one(struct watch *watch, const struct pending *p)
{
	Capsule__V1__Workload gone = CAPSULE__V1__WORKLOAD__INIT, *w = NULL;

	if (!p->gone)
		w = reconciler_get(watch->host->reconciler, p->name);
	if (w) {
		watch_send(watch, CAPSULE__V1__WORKLOAD_EVENT_TYPE__WORKLOAD_EVENT_TYPE_STATE, w);
		protobuf_c_message_free_unpacked(&w->base, NULL);
		return;
	}
	gone.name = (char *)(uintptr_t)p->name;
	watch_send(watch, CAPSULE__V1__WORKLOAD_EVENT_TYPE__WORKLOAD_EVENT_TYPE_DELETED, &gone);
}

static void watch_flush(struct watch *watch)
{
	while (watch->pending && rpc_call_writable(watch->call)) {
		struct pending *p = watch->pending;

		DL_DELETE(watch->pending, p);
		watch_send_one(watch, p);
		free(p);
	}
	if (!watch->pending && !watch->synced) {
		watch->synced = true;
		watch_send(watch, CAPSULE__V1__WORKLOAD_EVENT_TYPE__WORKLOAD_EVENT_TYPE_SYNCED, NULL);
	}
}

static void watch_changed(const char *name, bool gone, void *arg)
{
	watch_note(arg, name, gone);
	watch_flush(arg);
}

static void watch_initial(const Capsule__V1__Workload *workload, void *arg)
{
	watch_note(arg, workload->name, false);
}

static void watch_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__WorkloadWatchRequest *request = (const void *)message;
	struct watch *watch;

	for (size_t i = 0; i < request->n_names; i++)
		if (!call_name_valid(call, "workload name", request->names[i]))
			return;
	watch = calloc(1, sizeof *watch);
	if (!watch)
		abort();
	watch->call = call;
	watch->host = call_host(call);
	watch->names = calloc(request->n_names + 1, sizeof *watch->names);
	for (size_t i = 0; watch->names && i < request->n_names; i++)
		watch->names[watch->n_names++] = strdup(request->names[i]);
	rpc_call_set_data(call, watch);
	watch->watch = (struct reconciler_watch){ .changed = watch_changed, .arg = watch };
	reconciler_watch_add(watch->host->reconciler, &watch->watch);
	reconciler_each(watch->host->reconciler, watch_initial, watch);
	watch_flush(watch);
}

static void watch_writable(struct rpc_call *call)
{
	struct watch *watch = rpc_call_data(call);

	if (watch)
		watch_flush(watch);
}

static void watch_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct watch *watch = rpc_call_data(call);
	struct pending *p, *next;

	if (!watch)
		return;
	reconciler_watch_remove(watch->host->reconciler, &watch->watch);
	DL_FOREACH_SAFE(watch->pending, p, next)
		free(p);
	for (size_t i = 0; i < watch->n_names; i++)
		free(watch->names[i]);
	free(watch->names);
	free(watch);
}

int workload_stream_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		{ .path = "/capsule.v1.WorkloadService/Logs",
		  .receives = &capsule__v1__workload_logs_request__descriptor,
		  .receives_one = true,
		  .message = logs_message,
		  .writable = logs_writable,
		  .close = logs_close },
		{ .path = "/capsule.v1.WorkloadService/Watch",
		  .receives = &capsule__v1__workload_watch_request__descriptor,
		  .receives_one = true,
		  .message = watch_message,
		  .writable = watch_writable,
		  .close = watch_close },
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
