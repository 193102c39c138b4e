/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* CapsuleService: the host and its daemon. */
#include "service/unary.h"

#include "base/fs.h"
#include "service/hostinfo.h"
#include "service/log_stream.h"

#include "capsule.pb-c.h"

/* ---- GetInfo ---- */

static void warn(Capsule__V1__GetInfoResponse *info, const char *backend, const char *text)
{
	char *warning = fs_path("%s volumes: %s", backend, text);

	info->warnings = realloc(info->warnings, (info->n_warnings + 1) * sizeof *info->warnings);
	if (!warning || !info->warnings)
		abort();
	info->warnings[info->n_warnings++] = warning;
}

/* What cannot be looked at is a warning: the rest of the answer is worth as much. */
static void fill_volumes(Capsule__V1__GetInfoResponse *info, const struct volume_backends *backends)
{
	for (size_t i = 0; i < backends->n; i++) {
		struct volume_backend *backend = backends->items[i];
		_cleanup_error_ struct error err = ERROR_INIT;
		struct volume_room room = { 0 };

		if (backend->ops->room(backend, &room, &err) < 0)
			warn(info, backend->ops->name, error_message(&err));
		else if (*room.warning)
			warn(info, backend->ops->name, room.warning);
		info->thinpool_total_bytes += room.pool_total_bytes;
		info->thinpool_used_bytes += room.pool_used_bytes;
	}
}

static void fill_micro_vms(Capsule__V1__GetInfoResponse *info, struct driver *driver)
{
	struct microvm_support support;

	microvm_driver_support(driver, &support);
	if (support.monitor)
		info->vm_monitor = support.monitor;
	if (support.obstacle)
		info->vm_obstacle = support.obstacle;
	info->vm_emulated = support.emulated;
	info->vm_jailed = support.jailed;
}

static void info_work(struct unary *u)
{
	Capsule__V1__GetInfoResponse *reply = malloc(sizeof *reply);

	if (!reply)
		abort();
	capsule__v1__get_info_response__init(reply);
	u->reply = &reply->base;
	if (hostinfo_fill(u->host->store, u->host->root, reply, &u->err) < 0)
		return;
	fill_volumes(reply, u->host->volumes);
	fill_micro_vms(reply, u->host->micro_vm);
}

static void info_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	unary_start(call, message, info_work, unary_answer);
}

/* ---- StreamLogs ---- */

static int send_log(struct rpc_call *call, const void *data, size_t len)
{
	Capsule__V1__CapsuleLogChunk chunk = CAPSULE__V1__CAPSULE_LOG_CHUNK__INIT;

	chunk.data.data = (uint8_t *)(uintptr_t)data;
	chunk.data.len = len;
	return rpc_call_send(call, &chunk.base);
}

static void logs_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__CapsuleLogsRequest *request = (const void *)message;
	struct service_host *host = call_host(call);
	_cleanup_error_ struct error err = ERROR_INIT;
	struct log_reader_options options = {
		.path = host->log_file,
		.plain = true,
		.follow = request->follow,
		.tail_lines = request->tail_lines,
	};
	struct log_stream *stream = NULL;

	if (request->tail_lines < 0)
		error_set(&err, ERR_INVALID_ARGUMENT, "tail_lines is %d; it must not be negative", request->tail_lines);
	else
		stream = log_stream_new(host, call, &options, send_log, &err);
	if (stream)
		rpc_call_set_data(call, stream);
	else
		rpc_call_fail(call, &err);
}

static void logs_writable(struct rpc_call *call)
{
	log_stream_resume(rpc_call_data(call));
}

static void logs_close(struct rpc_call *call, enum error_code code, const char *message)
{
	log_stream_free(rpc_call_data(call));
}

/* ---- what belongs to a bootable image of this system ---- */

static void not_here(struct rpc_call *call)
{
	rpc_call_finish(call, ERR_UNIMPLEMENTED,
			"this daemon runs on a host that it did not install; update and reboot it by the host's own means");
}

int capsule_service_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		{ .path = "/capsule.v1.CapsuleService/GetInfo",
		  .receives = &capsule__v1__get_info_request__descriptor,
		  .receives_one = true,
		  .message = info_message,
		  .close = unary_on_close },
		{ .path = "/capsule.v1.CapsuleService/StreamLogs",
		  .receives = &capsule__v1__capsule_logs_request__descriptor,
		  .receives_one = true,
		  .message = logs_message,
		  .writable = logs_writable,
		  .close = logs_close },
		{ .path = "/capsule.v1.CapsuleService/UpdateOS",
		  .receives = &capsule__v1__update_osrequest__descriptor,
		  .open = not_here },
		{ .path = "/capsule.v1.CapsuleService/UpdateConfirm",
		  .receives = &capsule__v1__update_confirm_request__descriptor,
		  .open = not_here },
		{ .path = "/capsule.v1.CapsuleService/RebootNode",
		  .receives = &capsule__v1__reboot_node_request__descriptor,
		  .open = not_here },
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
