/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * VolumeService. One call at a time works on a volume: a second one is told to come back, so that a create, a resize and a
 * delete of the same volume never meet half-way.
 */
#include "service/unary.h"

#include "manifest/manifest.h"

#include "volume.pb-c.h"

#include <string.h>
#include <unistd.h>
#include <utlist.h>

#define MIB (1ull << 20)
#define NAME "volume name"

/* ---- one at a time: names that were checked ---- */

struct busy {
	char name[64];
	struct busy *prev, *next;
};

static struct busy *busy_volumes; /* the loop's thread */

static int busy_begin(const char *name, struct error *err)
{
	struct busy *b;

	DL_FOREACH(busy_volumes, b)
		if (!strcmp(b->name, name))
			return error_set(err, ERR_UNAVAILABLE, "volume %s is being worked on; try again", name);
	b = calloc(1, sizeof *b);
	if (!b)
		abort();
	snprintf(b->name, sizeof b->name, "%s", name);
	DL_APPEND(busy_volumes, b);
	return 0;
}

static void busy_end(const char *name)
{
	struct busy *b, *next;

	DL_FOREACH_SAFE(busy_volumes, b, next)
		if (!strcmp(b->name, name)) {
			DL_DELETE(busy_volumes, b);
			free(b);
		}
}

/* Checks what a volume of this name and size must be, then begins to work on it. */
static int begin(const char *name, uint64_t size_mib, struct error *err)
{
	Capsule__V1__VolumeCreateRequest volume = CAPSULE__V1__VOLUME_CREATE_REQUEST__INIT;
	struct manifest_mistakes mistakes = { 0 };
	int result;

	volume.name = (char *)(uintptr_t)name;
	volume.size_mib = size_mib;
	result = manifest_check_volume(&volume, &mistakes);
	if (result < 0)
		manifest_mistakes_error(&mistakes, err);
	manifest_mistakes_release(&mistakes);
	return result < 0 ? -1 : busy_begin(name, err);
}

/* ---- the message ---- */

static Capsule__V1__Volume *message_of(struct service_host *host, const struct store_volume *v)
{
	Capsule__V1__Volume *m = malloc(sizeof *m);

	if (!m)
		abort();
	capsule__v1__volume__init(m);
	m->name = strdup(v->name);
	m->size_bytes = v->size_bytes;
	m->host_path = host->volumes->ops->host_path(host->volumes, v->name);
	m->created_at_unix = v->created_at_ns / 1000000000;
	if (v->claimed_by) {
		m->mounted_by = malloc(sizeof *m->mounted_by);
		if (!m->mounted_by)
			abort();
		m->mounted_by[0] = strdup(v->claimed_by);
		m->n_mounted_by = 1;
	}
	return m;
}

static int load(struct unary *u, const char *name)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };

	if (store_volume_get(u->host->store, name, &v, &u->err) < 0)
		return -1;
	u->reply = &message_of(u->host, &v)->base;
	return 0;
}

/* ---- Create ---- */

/* What stands where the volume would come and is in no store is somebody's data: a failed creation would remove it. */
static int refuse_stranger(struct unary *u, const char *name)
{
	_cleanup_free_ char *path = u->host->volumes->ops->host_path(u->host->volumes, name);
	_cleanup_store_volume_ struct store_volume v = { 0 };

	if (!path)
		return error_set(&u->err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	if (access(path, F_OK) < 0 || store_volume_get(u->host->store, name, &v, NULL) == 0)
		return 0;
	return error_set(&u->err, ERR_ALREADY_EXISTS,
			 "volume %s cannot be made: %s exists and belongs to no volume; move it away or choose another name",
			 name, path);
}

static int create_storage(struct unary *u, const char *name, uint64_t size)
{
	struct volume_backend *backend = u->host->volumes;

	if (refuse_stranger(u, name) < 0 ||
	    store_volume_create(u->host->store, name, backend->ops->name, size, &u->err) < 0)
		return -1;
	if (backend->ops->create(backend, name, size, &u->err) == 0 &&
	    store_volume_set_ready(u->host->store, name, true, &u->err) == 0)
		return 0;
	if (backend->ops->remove(backend, name, NULL) == 0)
		(void)store_volume_remove(u->host->store, name, NULL);
	return -1;
}

static void create_work(struct unary *u)
{
	const Capsule__V1__VolumeCreateRequest *request = (const void *)u->request;
	uint64_t size = request->size_mib ? request->size_mib * MIB : VOLUME_SIZE_DEFAULT;

	if (create_storage(u, request->name, size) == 0)
		(void)load(u, request->name);
}

static void create_done(struct unary *u)
{
	busy_end(((const Capsule__V1__VolumeCreateRequest *)(const void *)u->request)->name);
	unary_answer(u);
}

static void create_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__VolumeCreateRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (begin(request->name, request->size_mib ? request->size_mib : VOLUME_SIZE_DEFAULT / MIB, &err) < 0)
		rpc_call_fail(call, &err);
	else
		unary_start(call, message, create_work, create_done);
}

/* ---- Get, List ---- */

static void get_work(struct unary *u)
{
	(void)load(u, ((const Capsule__V1__VolumeGetRequest *)(const void *)u->request)->name);
}

static void get_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	if (call_name_valid(call, NAME, ((const Capsule__V1__VolumeGetRequest *)(const void *)message)->name))
		unary_start(call, message, get_work, unary_answer);
}

static void list_work(struct unary *u)
{
	Capsule__V1__VolumeListResponse *reply;
	struct store_volume *volumes;
	size_t n;

	if (store_volume_list(u->host->store, &volumes, &n, &u->err) < 0)
		return;
	reply = malloc(sizeof *reply);
	if (!reply)
		abort();
	capsule__v1__volume_list_response__init(reply);
	reply->volumes = malloc((n + 1) * sizeof *reply->volumes);
	if (!reply->volumes)
		abort();
	for (size_t i = 0; i < n; i++) {
		if (volumes[i].ready)
			reply->volumes[reply->n_volumes++] = message_of(u->host, &volumes[i]);
		store_volume_release(&volumes[i]);
	}
	free(volumes);
	u->reply = &reply->base;
}

static void list_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	unary_start(call, message, list_work, unary_answer);
}

/* ---- Resize ---- */

static int check_growth(const struct store_volume *v, uint64_t size, struct error *err)
{
	char have[MANIFEST_SIZE_TEXT], want[MANIFEST_SIZE_TEXT];

	if (v->claimed_by)
		return error_set(err, ERR_FAILED_PRECONDITION, "volume %s is in use by %s; stop it before resizing", v->name,
				 v->claimed_by);
	if (size < v->size_bytes)
		return error_set(err, ERR_FAILED_PRECONDITION, "volume %s has %s and cannot shrink to %s; volumes only grow",
				 v->name, manifest_format_size(v->size_bytes, have), manifest_format_size(size, want));
	return 0;
}

static void resize_work(struct unary *u)
{
	const Capsule__V1__VolumeResizeRequest *request = (const void *)u->request;
	struct volume_backend *backend = u->host->volumes;
	_cleanup_store_volume_ struct store_volume v = { 0 };
	uint64_t size = request->new_size_mib * MIB;

	if (store_volume_get(u->host->store, request->name, &v, &u->err) < 0 || check_growth(&v, size, &u->err) < 0)
		return;
	if (size > v.size_bytes && store_volume_set_size(u->host->store, request->name, size, &u->err) < 0)
		return;
	/* Also when the size is the recorded one: a resize that was cut off is completed by the next one. */
	if (backend->ops->grow(backend, request->name, size, &u->err) < 0) {
		if (u->err.code == ERR_RESOURCE_EXHAUSTED)
			(void)store_volume_undo_size(u->host->store, request->name, v.size_bytes, NULL);
		return;
	}
	(void)load(u, request->name);
}

static void resize_done(struct unary *u)
{
	busy_end(((const Capsule__V1__VolumeResizeRequest *)(const void *)u->request)->name);
	unary_answer(u);
}

static void resize_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__VolumeResizeRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (begin(request->name, request->new_size_mib, &err) < 0)
		rpc_call_fail(call, &err);
	else
		unary_start(call, message, resize_work, resize_done);
}

/* ---- Delete ---- */

/* A forced delete that waits for the holder of the volume to stop; unary.state. */
struct waiting {
	struct reconciler_watch watch;
	struct unary *u;
	char holder[64];
};

static const char *delete_name(const struct unary *u)
{
	return ((const Capsule__V1__VolumeDeleteRequest *)(const void *)u->request)->name;
}

static void remove_work(struct unary *u)
{
	const Capsule__V1__VolumeDeleteRequest *request = (const void *)u->request;
	struct volume_backend *backend = u->host->volumes;

	if (store_volume_begin_delete(u->host->store, request->name, request->force, &u->err) < 0)
		return;
	if (backend->ops->remove(backend, request->name, &u->err) == 0)
		(void)store_volume_remove(u->host->store, request->name, &u->err);
}

static void remove_done(struct unary *u)
{
	Capsule__V1__VolumeDeleteResponse reply = CAPSULE__V1__VOLUME_DELETE_RESPONSE__INIT;

	busy_end(delete_name(u));
	if (u->err.code != ERR_OK)
		unary_fail(u);
	else
		unary_reply(u, &reply.base);
}

static void stop_holder_work(struct unary *u)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };

	if (store_volume_get(u->host->store, delete_name(u), &v, &u->err) < 0 || !v.claimed_by)
		return;
	(void)store_set_desired(u->host->store, v.claimed_by, CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_STOPPED, &u->record,
				&u->err);
	/* One that is already on its way out gives the volume up by itself. */
	if (u->err.code == ERR_FAILED_PRECONDITION) {
		error_release(&u->err);
		(void)store_get(u->host->store, v.claimed_by, &u->record, &u->err);
	}
}

static void waiting_end(struct unary *u)
{
	struct waiting *waiting = u->state;

	reconciler_watch_remove(u->host->reconciler, &waiting->watch);
	free(waiting);
	u->state = NULL;
}

static void on_holder_changed(const char *name, bool gone, void *arg)
{
	struct waiting *waiting = arg;
	struct unary *u = waiting->u;
	struct reconciler *r = u->host->reconciler;

	/* One that was started again keeps the volume: the next step refuses, by its name. */
	if (strcmp(name, waiting->holder) != 0 || (!gone && !reconciler_is_down(r, name) && !reconciler_is_wanted(r, name)))
		return;
	waiting_end(u);
	unary_continue(u, remove_work, remove_done);
}

static void stop_holder_done(struct unary *u)
{
	struct waiting *waiting;

	if (u->err.code != ERR_OK) {
		busy_end(delete_name(u));
		unary_fail(u);
		return;
	}
	if (!u->record.spec) {
		unary_continue(u, remove_work, remove_done);
		return;
	}
	waiting = calloc(1, sizeof *waiting);
	if (!waiting)
		abort();
	waiting->u = u;
	u->state = waiting;
	waiting->watch = (struct reconciler_watch){ .changed = on_holder_changed, .arg = waiting };
	snprintf(waiting->holder, sizeof waiting->holder, "%s", u->record.spec->name);
	unary_hold(u);
	reconciler_submit(u->host->reconciler, &u->record);
	reconciler_watch_add(u->host->reconciler, &waiting->watch);
	on_holder_changed(waiting->holder, false, waiting);
}

static void delete_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__VolumeDeleteRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (!call_name_valid(call, NAME, request->name))
		return;
	if (busy_begin(request->name, &err) < 0)
		rpc_call_fail(call, &err);
	else if (request->force)
		unary_start(call, message, stop_holder_work, stop_holder_done);
	else
		unary_start(call, message, remove_work, remove_done);
}

/* A client that leaves while its call waits takes back its wish. */
static void delete_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct unary *u = rpc_call_data(call);

	unary_on_close(call, code, message);
	if (u && u->state) {
		waiting_end(u);
		busy_end(delete_name(u));
		unary_finish(u);
	}
}

#define METHOD(verb, handler, request)                                                                                \
	{                                                                                                             \
		.path = "/capsule.v1.VolumeService/" #verb, .receives = &capsule__v1__##request##__descriptor,        \
		.receives_one = true, .message = handler, .close = unary_on_close                                     \
	}

int volume_service_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		METHOD(Create, create_message, volume_create_request),
		METHOD(Get, get_message, volume_get_request),
		METHOD(List, list_message, volume_list_request),
		{ .path = "/capsule.v1.VolumeService/Delete",
		  .receives = &capsule__v1__volume_delete_request__descriptor,
		  .receives_one = true,
		  .message = delete_message,
		  .close = delete_close },
		METHOD(Resize, resize_message, volume_resize_request),
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
