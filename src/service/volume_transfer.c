/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * VolumeService: Export and Import.
 *
 * The stream (volume/stream.h) is made and read by a capsule-volume process over the volume's storage; between it and the
 * call the slower side sets the pace. What is exported is a snapshot, or else a copy of the volume that is made for it and
 * goes with the call. What is imported is recorded as being made until it is whole and checked, so that a crash leaves
 * nothing of it.
 *
 * Three phases follow each other: a task prepares, the process works, a task finishes. A call that closes kills the
 * process; the last task runs all the same.
 */
#include "service/volume.h"

#include "base/buf.h"
#include "base/worker.h"
#include "volume/stream.h"
#include "volume/worker.h"

#include <assert.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEATH_TIMEOUT_MS (60 * 1000)

static_assert(WORKER_EXTRA_FD == VOLUMER_FD, "the worker finds it elsewhere");

struct transfer {
	struct service_host *host;
	struct rpc_call *call; /* NULL: closed */
	bool import;
	bool busy;             /* the volume's name is taken, a phase is under way */
	bool finishing;        /* it is the last one */
	bool answered;
	struct error err;      /* why it fails */
	char *name, *where;    /* where: of an export the snapshot or "", of an import the backend or "" */
	struct volume_backend *backend; /* of what is to be removed at the end if need be; NULL: nothing is there */
	int storage;
	struct worker *worker;
	int dying;             /* a pidfd of the process when it was killed; -1 */
	/* Import. */
	struct buf pending;    /* what came before the process did */
	uint64_t size;
	bool sizing;           /* the header has not come yet */
	bool input_ended;
	Capsule__V1__Volume *volume;
};

static void transfer_free(struct transfer *t)
{
	free(t->name);
	free(t->where);
	buf_release(&t->pending);
	error_release(&t->err);
	cleanup_closep(&t->storage);
	cleanup_closep(&t->dying);
	if (t->volume)
		capsule__v1__volume__free_unpacked(t->volume, NULL);
	free(t);
}

static void answer(struct transfer *t)
{
	if (!t->call || t->answered)
		return;
	t->answered = true;
	if (t->err.code != ERR_OK)
		rpc_call_fail(t->call, &t->err);
	else if (t->import)
		rpc_reply(t->call, &t->volume->base);
	else
		rpc_call_finish(t->call, ERR_OK, NULL);
}

/* ---- the last phase ---- */

/* It has the storage open, and may be writing to the disk yet. */
static void await_death(const struct transfer *t)
{
	struct pollfd process = { .fd = t->dying, .events = POLLIN };

	if (t->dying >= 0)
		(void)poll(&process, 1, DEATH_TIMEOUT_MS);
}

static void finish_work(void *arg)
{
	struct transfer *t = arg;
	_cleanup_free_ char *key = NULL;

	cleanup_closep(&t->storage);
	t->storage = -1;
	await_death(t);
	if (!t->backend)
		return;
	if (!t->import) {
		key = volume_snapshot_key(t->name, "");
		if (key)
			(void)t->backend->ops->remove(t->backend, key, NULL);
		return;
	}
	if (t->err.code == ERR_OK && t->backend->ops->finish(t->backend, t->name, &t->err) == 0 &&
	    volume_complete(t->host, t->name, &t->err) == 0)
		t->volume = volume_get_message(t->host, t->name, &t->err);
	if (t->err.code != ERR_OK)
		volume_undo(t->host, t->backend, t->name);
}

static void finish_done(void *arg)
{
	struct transfer *t = arg;

	volume_busy_end(t->name);
	t->busy = false;
	answer(t);
	if (!t->call)
		transfer_free(t);
}

static void finish(struct transfer *t)
{
	t->finishing = true;
	task_start(t->host->tasks, finish_work, finish_done, t);
}

/* ---- the process ---- */

static void on_output(const char *data, size_t len, void *arg)
{
	Capsule__V1__VolumeExportChunk chunk = CAPSULE__V1__VOLUME_EXPORT_CHUNK__INIT;
	struct transfer *t = arg;

	if (!t->call || t->answered || t->import)
		return;
	chunk.data.data = (uint8_t *)(uintptr_t)data;
	chunk.data.len = len;
	if (rpc_call_send(t->call, &chunk.base) == 0 && !rpc_call_writable(t->call))
		worker_pause(t->worker);
}

static void on_drained(void *arg)
{
	struct transfer *t = arg;

	if (t->call)
		rpc_call_resume(t->call);
}

static void on_ended(const struct worker_end *end, void *arg)
{
	struct transfer *t = arg;
	const char *message = strchr(end->last_words, ' ');
	_cleanup_free_ char *code = message ? strndup(end->last_words, (size_t)(message - end->last_words)) : NULL;

	t->worker = NULL;
	if (end->out_of_memory)
		error_set(&t->err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	else if (!end->term_signal && end->exit_status == VOLUMER_EXIT_FAILED && code)
		error_set(&t->err, error_code_by_name(code), "volume %s: %s", t->name, message + 1);
	else if (end->term_signal || end->exit_status)
		error_set(&t->err, ERR_INTERNAL, "the transfer of volume %s ended with %s %d", t->name,
			  end->term_signal ? "signal" : "exit code",
			  end->term_signal ? end->term_signal : (int)end->exit_status);
	finish(t);
}

static int start_worker(struct transfer *t)
{
	const char *const argv[] = { t->host->volume_worker, t->import ? "import" : "export", NULL };
	const struct worker_callbacks callbacks = { on_output, on_drained, on_ended, t };
	const struct worker_options options = { argv, t->import, t->storage };

	t->worker = worker_start(t->host->loop, &options, &callbacks, &t->err);
	cleanup_closep(&t->storage);
	t->storage = -1;
	if (!t->worker)
		return -1;
	if (!t->import)
		return 0;
	worker_write(t->worker, buf_data(&t->pending), t->pending.len);
	buf_release(&t->pending);
	if (t->input_ended)
		worker_end_input(t->worker);
	rpc_call_resume(t->call);
	return 0;
}

/* ---- the first phase ---- */

static int prepare_export(struct transfer *t)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };
	_cleanup_store_snapshot_ struct store_snapshot s = { 0 };
	_cleanup_free_ char *key = volume_snapshot_key(t->name, t->where);
	struct volume_backend *backend = volume_find(t->host, t->name, &v, &t->err);

	if (!key)
		return error_set(&t->err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	if (!backend || (*t->where && store_snapshot_get(t->host->store, t->name, t->where, &s, &t->err) < 0))
		return -1;
	if (!*t->where) {
		t->backend = backend;
		if (volume_copy_present(t->host, backend, &v, key, &t->err) < 0)
			return -1;
	}
	return backend->ops->open(backend, key, false, &t->storage, &t->err);
}

static int prepare_import(struct transfer *t)
{
	t->backend = volume_begin(t->host, t->name, t->where, t->size, &t->err);
	if (!t->backend || t->backend->ops->allocate(t->backend, t->name, t->size, &t->err) < 0)
		return -1;
	return t->backend->ops->open(t->backend, t->name, true, &t->storage, &t->err);
}

static void prepare_work(void *arg)
{
	struct transfer *t = arg;

	(void)(t->import ? prepare_import(t) : prepare_export(t));
}

static void prepare_done(void *arg)
{
	struct transfer *t = arg;

	if (!t->call && t->err.code == ERR_OK)
		error_set(&t->err, ERR_CANCELLED, "the client left");
	if (t->err.code != ERR_OK || start_worker(t) < 0)
		finish(t);
}

static int begin(struct transfer *t, struct error *err)
{
	if (volume_busy_begin(t->name, err) < 0)
		return -1;
	t->busy = true;
	task_start(t->host->tasks, prepare_work, prepare_done, t);
	return 0;
}

/* ---- the calls ---- */

static struct transfer *transfer_new(struct rpc_call *call, bool import)
{
	struct transfer *t = calloc(1, sizeof *t);

	if (!t)
		abort();
	t->host = call_host(call);
	t->call = call;
	t->import = import;
	t->storage = t->dying = -1;
	buf_init(&t->pending, RPC_MESSAGE_MAX + STREAM_HEADER);
	rpc_call_set_data(call, t);
	return t;
}

static int keep_names(struct transfer *t, const char *name, const char *where, struct error *err)
{
	t->name = strdup(name);
	t->where = strdup(where);
	if (!t->name || !t->where)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	return 0;
}

/* Nothing is under way. */
static void refuse(struct transfer *t, struct error *err)
{
	error_move(&t->err, err);
	answer(t);
}

static void export_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__VolumeExportRequest *request = (const void *)message;
	struct transfer *t = transfer_new(call, false);
	struct error err = ERROR_INIT;

	if (manifest_check_name(VOLUME_NAME, request->name, &err) < 0 ||
	    (*request->snapshot && manifest_check_name(SNAPSHOT_NAME, request->snapshot, &err) < 0) ||
	    keep_names(t, request->name, request->snapshot, &err) < 0 || begin(t, &err) < 0)
		refuse(t, &err);
}

static void export_writable(struct rpc_call *call)
{
	struct transfer *t = rpc_call_data(call);

	if (t && t->worker)
		worker_resume(t->worker);
}

static void import_open(struct rpc_call *call)
{
	transfer_new(call, true)->sizing = true;
}

/* The size, which the header tells, is that of a volume like any other. */
static int check_import(struct transfer *t, struct error *err)
{
	Capsule__V1__VolumeCreateRequest wanted = CAPSULE__V1__VOLUME_CREATE_REQUEST__INIT;

	wanted.name = t->name;
	wanted.backend = t->where;
	if (stream_read_header(buf_data(&t->pending), &t->size, err) < 0)
		return -1;
	if (t->size % (1 << 20))
		return error_set(err, ERR_INVALID_ARGUMENT, "the exported volume has an impossible size");
	wanted.size_mib = t->size >> 20;
	return volume_check(&wanted, err);
}

static int take_chunk(struct transfer *t, const ProtobufCBinaryData *chunk, struct error *err)
{
	if (!t->name)
		return error_set(err, ERR_INVALID_ARGUMENT, "the first message must hold the metadata");
	if (t->worker) {
		if (worker_write(t->worker, chunk->data, chunk->len) > WORKER_QUEUE_HIGH)
			rpc_call_pause(t->call);
		return 0;
	}
	if (buf_add(&t->pending, chunk->data, chunk->len) < 0)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "a chunk is too large");
	if (!t->sizing || t->pending.len < STREAM_HEADER)
		return 0;
	t->sizing = false;
	rpc_call_pause(t->call);
	return check_import(t, err) < 0 ? -1 : begin(t, err);
}

static int take(struct transfer *t, const Capsule__V1__VolumeImportRequest *request, struct error *err)
{
	switch (request->msg_case) {
	case CAPSULE__V1__VOLUME_IMPORT_REQUEST__MSG_METADATA:
		if (t->name)
			return error_set(err, ERR_INVALID_ARGUMENT, "the metadata comes first, once, not again");
		if (manifest_check_name(VOLUME_NAME, request->metadata->name, err) < 0)
			return -1;
		return keep_names(t, request->metadata->name, request->metadata->backend, err);
	case CAPSULE__V1__VOLUME_IMPORT_REQUEST__MSG_CHUNK:
		return take_chunk(t, &request->chunk, err);
	default:
		return error_set(err, ERR_INVALID_ARGUMENT, "a message holds neither metadata nor a chunk");
	}
}

static void import_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct transfer *t = rpc_call_data(call);
	struct error err = ERROR_INIT;

	if (t->answered || t->finishing || take(t, (const void *)message, &err) == 0)
		return;
	if (!t->busy) {
		refuse(t, &err);
		return;
	}
	rpc_call_fail(call, &err);
	t->answered = true;
	error_move(&t->err, &err);
	if (t->worker)
		worker_kill(t->worker);
}

static void import_half_close(struct rpc_call *call)
{
	struct transfer *t = rpc_call_data(call);
	struct error err = ERROR_INIT;

	t->input_ended = true;
	if (t->worker)
		worker_end_input(t->worker);
	else if (!t->busy && !t->answered) {
		error_set(&err, ERR_INVALID_ARGUMENT, "the stream ended without an exported volume");
		refuse(t, &err);
	}
}

static void on_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct transfer *t = rpc_call_data(call);

	if (!t)
		return;
	t->call = NULL;
	if (!t->busy) {
		transfer_free(t);
		return;
	}
	/* No callback of the process comes any more: the last phase begins here. */
	if (t->worker) {
		t->dying = (int)syscall(SYS_pidfd_open, worker_pid(t->worker), 0);
		worker_abandon(steal_ptr(&t->worker));
		if (t->err.code == ERR_OK)
			error_set(&t->err, ERR_CANCELLED, "the client left");
		finish(t);
	}
}

int volume_transfer_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		{ .path = "/capsule.v1.VolumeService/Export",
		  .receives = &capsule__v1__volume_export_request__descriptor,
		  .receives_one = true,
		  .message = export_message,
		  .writable = export_writable,
		  .close = on_close },
		{ .path = "/capsule.v1.VolumeService/Import",
		  .receives = &capsule__v1__volume_import_request__descriptor,
		  .open = import_open,
		  .message = import_message,
		  .half_close = import_half_close,
		  .close = on_close },
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
