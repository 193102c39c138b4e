/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * WorkloadService: CopyTo and CopyFrom.
 *
 * A copy is an access to the workload's files (reconcile/access.h) and, once that is ready, a capsule-copy process
 * (copier/protocol.h) between the call's stream and the files. Both ways the slower side sets the pace: the call is
 * paused while the worker's queue is full, the worker waits while the client does not read. The access ends after the
 * process.
 */
#include "service/unary.h"

#include "base/buf.h"
#include "base/worker.h"
#include "copier/protocol.h"
#include "manifest/manifest.h"
#include "reconcile/access.h"
#include "shim/protocol.h"

#include "workload.pb-c.h"

#include <assert.h>
#include <limits.h>
#include <string.h>

#define ARGS_MAX (8 + 2 * SHIM_LAYERS_MAX + 2 * SHIM_VOLUMES_MAX)

static_assert(WORKER_EXTRA_FD == COPIER_FD_PROCESS && WORKER_EXTRA_FD == COPIER_FD_GUEST, "the worker finds it elsewhere");

/* Lives as long as the call or the access. */
struct copy {
	struct service_host *host;
	struct rpc_call *call;            /* NULL: closed */
	struct reconciler_access *access; /* NULL: not begun, or ended */
	struct worker *worker;
	bool to;
	bool answered;
	char *name, *path;
	int64_t received;
};

static void copy_free(struct copy *copy)
{
	free(copy->name);
	free(copy->path);
	free(copy);
}

static void fail(struct copy *copy, const struct error *err)
{
	if (copy->call && !copy->answered)
		rpc_call_fail(copy->call, err);
	copy->answered = true;
}

static void succeed(struct copy *copy)
{
	Capsule__V1__WorkloadCopyToResponse reply = CAPSULE__V1__WORKLOAD_COPY_TO_RESPONSE__INIT;

	if (!copy->call || copy->answered)
		return;
	copy->answered = true;
	reply.bytes_received = copy->received;
	if (copy->to)
		rpc_reply(copy->call, &reply.base);
	else
		rpc_call_finish(copy->call, ERR_OK, NULL);
}

/* The process is gone, or never was. */
static void end_access(struct copy *copy)
{
	reconciler_access_end(steal_ptr(&copy->access));
	if (!copy->call)
		copy_free(copy);
}

/* ---- the worker ---- */

static void on_output(const char *data, size_t len, void *arg)
{
	Capsule__V1__WorkloadCopyFromChunk chunk = CAPSULE__V1__WORKLOAD_COPY_FROM_CHUNK__INIT;
	struct copy *copy = arg;

	if (!copy->call || copy->answered || copy->to)
		return;
	chunk.data.data = (uint8_t *)(uintptr_t)data;
	chunk.data.len = len;
	if (rpc_call_send(copy->call, &chunk.base) == 0 && !rpc_call_writable(copy->call))
		worker_pause(copy->worker);
}

static void on_drained(void *arg)
{
	struct copy *copy = arg;

	if (copy->call)
		rpc_call_resume(copy->call);
}

static void judge(struct copy *copy, const struct worker_end *end, struct error *err)
{
	const char *words = end->last_words, *message = strchr(words, ' ');
	_cleanup_free_ char *code = message ? strndup(words, (size_t)(message - words)) : NULL;

	if (end->out_of_memory)
		error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	else if (!end->term_signal && end->exit_status == COPIER_EXIT_FAILED && code)
		error_set(err, error_code_by_name(code), "workload %s: %s", copy->name, message + 1);
	else
		error_set(err, ERR_INTERNAL, "the copy of workload %s ended with %s %d%s%s", copy->name,
			  end->term_signal ? "signal" : "exit code",
			  end->term_signal ? end->term_signal : (int)end->exit_status, *words ? ": " : "", words);
}

static void on_ended(const struct worker_end *end, void *arg)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct copy *copy = arg;

	copy->worker = NULL;
	if (!end->term_signal && !end->exit_status) {
		succeed(copy);
	} else {
		judge(copy, end, &err);
		fail(copy, &err);
	}
	end_access(copy);
}

/* The worker's arguments; those that were made for it are owned. */
struct command {
	const char *argv[ARGS_MAX + 1];
	size_t n;
	char *owned[SHIM_VOLUMES_MAX];
	size_t n_owned;
};

static void command_release(struct command *c)
{
	for (size_t i = 0; i < c->n_owned; i++)
		free(c->owned[i]);
}

static void add_option(struct command *c, const char *option, const char *value)
{
	c->argv[c->n++] = option;
	c->argv[c->n++] = value;
}

static int build_command(struct command *c, const struct copy *copy, const struct access_place *place,
			 struct error *err)
{
	if (place->root->n_layers > SHIM_LAYERS_MAX || place->n_volumes > SHIM_VOLUMES_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "workload %s has too many layers or volumes", copy->name);
	c->argv[c->n++] = copy->host->copy_worker;
	c->argv[c->n++] = copy->to ? "in" : "out";
	if (place->root->pidfd >= 0)
		c->argv[c->n++] = "--process";
	else if (place->root->guest_fd >= 0)
		c->argv[c->n++] = "--guest";
	else
		add_option(c, "--state", place->root->state_dir);
	for (size_t i = 0; i < place->root->n_layers; i++)
		add_option(c, "--layer", place->root->layers[i]);
	for (size_t i = 0; i < place->n_volumes; i++) {
		const struct driver_volume *v = &place->volumes[i];
		char *text;

		if (asprintf(&text, "%s:%s:%s", v->read_only ? "ro" : "rw", v->device, v->mount_path) < 0)
			return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
		c->owned[c->n_owned++] = text;
		add_option(c, "--volume", text);
	}
	add_option(c, "--", copy->path);
	c->argv[c->n] = NULL;
	return 0;
}

static int start_worker(struct copy *copy, const struct access_place *place, struct error *err)
{
	_cleanup_(command_release) struct command command = { .n = 0 };
	const struct worker_callbacks callbacks = { on_output, on_drained, on_ended, copy };
	const struct driver_root *root = place->root;
	const struct worker_options options = { command.argv, copy->to, root->pidfd >= 0 ? root->pidfd : root->guest_fd };

	if (build_command(&command, copy, place, err) < 0)
		return -1;
	copy->worker = worker_start(copy->host->loop, &options, &callbacks, err);
	return copy->worker ? 0 : -1;
}

/* ---- the access ---- */

static void on_ready(const struct access_place *place, const struct error *failure, void *arg)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct copy *copy = arg;

	if (!place || start_worker(copy, place, &err) < 0) {
		fail(copy, place ? &err : failure);
		end_access(copy);
	} else if (copy->to) {
		rpc_call_resume(copy->call);
	}
}

static void on_revoked(void *arg)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct copy *copy = arg;

	error_set(&err, ERR_FAILED_PRECONDITION, "workload %s was stopped or deleted during the copy", copy->name);
	fail(copy, &err);
	if (copy->worker)
		worker_kill(copy->worker);
	else
		end_access(copy);
}

static int begin(struct copy *copy, const char *name, const char *path, struct error *err)
{
	const struct access_callbacks callbacks = { on_ready, on_revoked, copy };

	if (manifest_check_name("workload name", name, err) < 0)
		return -1;
	if (!*path || strlen(path) >= PATH_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the path in workload %s must have 1 to %d bytes", name,
				 PATH_MAX - 1);
	copy->name = strdup(name);
	copy->path = strdup(path);
	if (!copy->name || !copy->path)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	copy->access = reconciler_access_begin(copy->host->reconciler, name, &callbacks, err);
	return copy->access ? 0 : -1;
}

/* ---- the calls ---- */

static struct copy *copy_new(struct rpc_call *call, bool to)
{
	struct copy *copy = calloc(1, sizeof *copy);

	if (!copy)
		abort();
	copy->host = call_host(call);
	copy->call = call;
	copy->to = to;
	rpc_call_set_data(call, copy);
	return copy;
}

static void to_open(struct rpc_call *call)
{
	copy_new(call, true);
}

static int to_take(struct copy *copy, const Capsule__V1__WorkloadCopyToRequest *request, struct error *err)
{
	switch (request->payload_case) {
	case CAPSULE__V1__WORKLOAD_COPY_TO_REQUEST__PAYLOAD_METADATA:
		if (copy->access)
			return error_set(err, ERR_INVALID_ARGUMENT, "the metadata comes first, once, not again");
		rpc_call_pause(copy->call);
		return begin(copy, request->metadata->name, request->metadata->dest_path, err);
	case CAPSULE__V1__WORKLOAD_COPY_TO_REQUEST__PAYLOAD_CHUNK:
		if (!copy->access)
			return error_set(err, ERR_INVALID_ARGUMENT, "the first message must hold the metadata");
		copy->received += (int64_t)request->chunk.len;
		if (copy->worker &&
		    worker_write(copy->worker, request->chunk.data, request->chunk.len) > WORKER_QUEUE_HIGH)
			rpc_call_pause(copy->call);
		return 0;
	default:
		return error_set(err, ERR_INVALID_ARGUMENT, "a message holds neither metadata nor a chunk");
	}
}

/* Ends the call from this side; the worker, if there is one, has nothing more to wait for. */
static void give_up(struct copy *copy, const struct error *err)
{
	fail(copy, err);
	if (copy->worker)
		worker_kill(copy->worker);
}

static void to_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct copy *copy = rpc_call_data(call);

	if (to_take(copy, (const void *)message, &err) < 0)
		give_up(copy, &err);
}

static void to_half_close(struct rpc_call *call)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct copy *copy = rpc_call_data(call);

	if (copy->worker) {
		worker_end_input(copy->worker);
	} else {
		error_set(&err, ERR_INVALID_ARGUMENT, "the stream ended without an archive");
		fail(copy, &err);
	}
}

static void from_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__WorkloadCopyFromRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;
	struct copy *copy = copy_new(call, false);

	if (begin(copy, request->name, request->src_path, &err) < 0)
		fail(copy, &err);
}

static void from_writable(struct rpc_call *call)
{
	struct copy *copy = rpc_call_data(call);

	if (copy && copy->worker)
		worker_resume(copy->worker);
}

static void on_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct copy *copy = rpc_call_data(call);

	if (!copy)
		return;
	copy->call = NULL;
	if (copy->worker)
		worker_kill(copy->worker);
	else if (copy->access)
		end_access(copy);
	else
		copy_free(copy);
}

int workload_copy_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		{ .path = "/capsule.v1.WorkloadService/CopyTo",
		  .receives = &capsule__v1__workload_copy_to_request__descriptor,
		  .open = to_open,
		  .message = to_message,
		  .half_close = to_half_close,
		  .close = on_close },
		{ .path = "/capsule.v1.WorkloadService/CopyFrom",
		  .receives = &capsule__v1__workload_copy_from_request__descriptor,
		  .receives_one = true,
		  .message = from_message,
		  .writable = from_writable,
		  .close = on_close },
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
