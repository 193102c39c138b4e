/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* VolumeService: making, reading, growing, deleting. */
#include "service/volume.h"

#include "manifest/manifest.h"
#include "reconcile/volumes.h"

#include <string.h>
#include <utlist.h>

#define MIB (1ull << 20)

/* ---- one at a time: names that were checked ---- */

struct busy {
	char name[64];
	struct busy *prev, *next;
};

static struct busy *busy_volumes; /* the loop's thread */

int volume_busy_begin(const char *name, struct error *err)
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

void volume_busy_end(const char *name)
{
	struct busy *b, *next;

	DL_FOREACH_SAFE(busy_volumes, b, next)
		if (!strcmp(b->name, name)) {
			DL_DELETE(busy_volumes, b);
			free(b);
		}
}

int volume_busy_begin_both(const char *name, const char *other, struct error *err)
{
	if (volume_busy_begin(name, err) < 0)
		return -1;
	if (!*other || volume_busy_begin(other, err) == 0)
		return 0;
	volume_busy_end(name);
	return -1;
}

int volume_check(const Capsule__V1__VolumeCreateRequest *wanted, struct error *err)
{
	struct manifest_mistakes mistakes = { 0 };
	int result = manifest_check_volume(wanted, &mistakes);

	if (result < 0)
		manifest_mistakes_error(&mistakes, err);
	manifest_mistakes_release(&mistakes);
	return result;
}

/* ---- the message ---- */

static Capsule__V1__Volume *message_of(struct service_host *host, const struct store_volume *v)
{
	struct volume_backend *backend = volume_backend_find(host->volumes, v->backend, NULL);
	Capsule__V1__Volume *m = malloc(sizeof *m);

	if (!m)
		abort();
	capsule__v1__volume__init(m);
	m->name = strdup(v->name);
	m->size_bytes = v->size_bytes;
	m->host_path = backend ? backend->ops->host_path(backend, v->name) : strdup("");
	m->created_at_unix = v->created_at_ns / 1000000000;
	m->backend = strdup(v->backend);
	m->has_errors = backend && v->ready && backend->ops->has_errors(backend, v->name);
	if (v->claimed_by) {
		m->mounted_by = malloc(sizeof *m->mounted_by);
		if (!m->mounted_by)
			abort();
		m->mounted_by[0] = strdup(v->claimed_by);
		m->n_mounted_by = 1;
	}
	return m;
}

static int expect_ready(const struct store_volume *v, struct error *err)
{
	return v->ready ? 0 : error_set(err, ERR_FAILED_PRECONDITION, "volume %s is being made or deleted", v->name);
}

Capsule__V1__Volume *volume_get_message(struct service_host *host, const char *name, struct error *err)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };

	if (store_volume_get(host->store, name, &v, err) < 0 || expect_ready(&v, err) < 0)
		return NULL;
	return message_of(host, &v);
}

int volume_load(struct unary *u, const char *name)
{
	Capsule__V1__Volume *m = volume_get_message(u->host, name, &u->err);

	if (!m)
		return -1;
	u->reply = &m->base;
	return 0;
}

/* ---- making ---- */

struct volume_backend *volume_find(struct service_host *host, const char *name, struct store_volume *ret,
				   struct error *err)
{
	struct volume_backend *backend;

	if (store_volume_get(host->store, name, ret, err) < 0)
		return NULL;
	if (expect_ready(ret, err) < 0)
		return NULL;
	backend = volume_backend_find(host->volumes, ret->backend, err);
	if (!backend)
		error_wrap(err, "volume %s", name);
	return backend;
}

int volume_refuse_stranger(struct volume_backend *backend, const char *key, struct error *err)
{
	_cleanup_free_ char *path = backend->ops->host_path(backend, key), *what = volume_text(key);
	int exists = backend->ops->exists(backend, key, err);

	if (exists <= 0)
		return exists;
	return error_set(err, ERR_ALREADY_EXISTS,
			 "%s cannot be made: %s exists and belongs to no volume; move it away or choose another name",
			 what ? what : key, path ? path : key);
}

struct volume_backend *volume_begin(struct service_host *host, const char *name, const char *backend_name,
				    uint64_t size_bytes, struct error *err)
{
	struct volume_backend *backend = volume_backend_find(host->volumes, backend_name, err);
	_cleanup_store_volume_ struct store_volume known = { 0 };

	if (!backend ||
	    (store_volume_get(host->store, name, &known, NULL) < 0 && volume_refuse_stranger(backend, name, err) < 0) ||
	    store_volume_create(host->store, name, backend->ops->name, size_bytes, err) < 0)
		return NULL;
	return backend;
}

int volume_complete(struct service_host *host, const char *name, struct error *err)
{
	return store_volume_set_ready(host->store, name, true, err);
}

void volume_undo(struct service_host *host, struct volume_backend *backend, const char *name)
{
	if (backend->ops->remove(backend, name, NULL) == 0)
		(void)store_volume_remove(host->store, name, NULL);
}

/* ---- Create ---- */

/* "VOLUME/SNAPSHOT", which was checked, taken apart in place; "": two empty texts. */
static struct volume_source source_of(char text[128], const char *from_snapshot)
{
	char *slash;

	snprintf(text, 128, "%s", from_snapshot);
	slash = strchr(text, '/');
	if (!slash)
		return (struct volume_source){ "", "" };
	*slash = '\0';
	return (struct volume_source){ text, slash + 1 };
}

static int create_empty(struct unary *u, const Capsule__V1__VolumeCreateRequest *request)
{
	uint64_t size = request->size_mib ? request->size_mib * MIB : VOLUME_SIZE_DEFAULT;
	struct volume_backend *backend = volume_begin(u->host, request->name, request->backend, size, &u->err);

	if (!backend)
		return -1;
	if (backend->ops->create(backend, request->name, size, &u->err) == 0 &&
	    volume_complete(u->host, request->name, &u->err) == 0)
		return 0;
	volume_undo(u->host, backend, request->name);
	return -1;
}

static void create_work(struct unary *u)
{
	const Capsule__V1__VolumeCreateRequest *request = (const void *)u->request;
	char text[128];
	struct volume_source source = source_of(text, request->from_snapshot);
	int r;

	if (*source.volume)
		r = volume_make_copy(u->host, &source, request->name, request->backend, request->size_mib * MIB, &u->err);
	else
		r = create_empty(u, request);
	if (r == 0)
		(void)volume_load(u, request->name);
}

static void create_done(struct unary *u)
{
	const Capsule__V1__VolumeCreateRequest *request = (const void *)u->request;
	char text[128];

	volume_busy_end(request->name);
	volume_busy_end(source_of(text, request->from_snapshot).volume);
	unary_answer(u);
}

static int refuse_itself(const Capsule__V1__VolumeCreateRequest *request, struct error *err)
{
	char text[128];

	if (strcmp(request->name, source_of(text, request->from_snapshot).volume) != 0)
		return 0;
	return error_set(err, ERR_ALREADY_EXISTS,
			 "volume %s cannot be made from a snapshot of itself; choose another name, or restore the snapshot",
			 request->name);
}

static void create_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__VolumeCreateRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;
	char text[128];

	if (volume_check(request, &err) < 0 || refuse_itself(request, &err) < 0 ||
	    volume_busy_begin_both(request->name, source_of(text, request->from_snapshot).volume, &err) < 0)
		rpc_call_fail(call, &err);
	else
		unary_start(call, message, create_work, create_done);
}

/* ---- Get, List ---- */

static void get_work(struct unary *u)
{
	(void)volume_load(u, ((const Capsule__V1__VolumeGetRequest *)(const void *)u->request)->name);
}

static void get_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	if (call_name_valid(call, VOLUME_NAME, ((const Capsule__V1__VolumeGetRequest *)(const void *)message)->name))
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
	_cleanup_store_volume_ struct store_volume v = { 0 };
	struct volume_backend *backend = volume_find(u->host, request->name, &v, &u->err);
	uint64_t size = request->new_size_mib * MIB;

	if (!backend || check_growth(&v, size, &u->err) < 0)
		return;
	if (size > v.size_bytes && store_volume_set_size(u->host->store, request->name, size, &u->err) < 0)
		return;
	/* Also when the size is the recorded one: a resize that was cut off is completed by the next one. */
	if (backend->ops->grow(backend, request->name, size, &u->err) < 0) {
		if (u->err.code != ERR_UNAVAILABLE)
			(void)store_volume_undo_size(u->host->store, request->name, v.size_bytes, NULL);
		return;
	}
	(void)volume_load(u, request->name);
}

static void resize_done(struct unary *u)
{
	volume_busy_end(((const Capsule__V1__VolumeResizeRequest *)(const void *)u->request)->name);
	unary_answer(u);
}

static void resize_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__VolumeResizeRequest *request = (const void *)message;
	Capsule__V1__VolumeCreateRequest wanted = CAPSULE__V1__VOLUME_CREATE_REQUEST__INIT;
	_cleanup_error_ struct error err = ERROR_INIT;

	wanted.name = request->name;
	wanted.size_mib = request->new_size_mib;
	if (volume_check(&wanted, &err) < 0 || volume_busy_begin(request->name, &err) < 0)
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

/* What is not where it was made is not deleted: it may be in another volume group, or on a disk that is not mounted. */
static int refuse_missing(struct volume_backend *backend, const struct store_volume *v, struct error *err)
{
	_cleanup_free_ char *path = backend->ops->host_path(backend, v->name);
	int exists = v->ready ? backend->ops->exists(backend, v->name, err) : 1;

	if (exists != 0)
		return exists < 0 ? -1 : 0;
	return error_set(err, ERR_FAILED_PRECONDITION,
			 "volume %s is not at %s any more; bring its storage back, or delete the volume by force to forget it",
			 v->name, path ? path : "its place");
}

static void remove_work(struct unary *u)
{
	const Capsule__V1__VolumeDeleteRequest *request = (const void *)u->request;
	_cleanup_store_volume_ struct store_volume v = { 0 };
	struct volume_backend *backend;

	if (store_volume_get(u->host->store, request->name, &v, &u->err) < 0)
		return;
	backend = volume_backend_find(u->host->volumes, v.backend, &u->err);
	if (!backend || (!request->force && refuse_missing(backend, &v, &u->err) < 0) ||
	    store_volume_begin_delete(u->host->store, request->name, request->force, &u->err) < 0)
		return;
	if (volumes_remove(u->host->store, backend, request->name, &u->err) == 0)
		(void)store_volume_remove(u->host->store, request->name, &u->err);
}

static void remove_done(struct unary *u)
{
	Capsule__V1__VolumeDeleteResponse reply = CAPSULE__V1__VOLUME_DELETE_RESPONSE__INIT;

	volume_busy_end(delete_name(u));
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
		volume_busy_end(delete_name(u));
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

	if (!call_name_valid(call, VOLUME_NAME, request->name))
		return;
	if (volume_busy_begin(request->name, &err) < 0)
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
		volume_busy_end(delete_name(u));
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

	if (volume_snapshot_register(server, host) < 0 || volume_transfer_register(server, host) < 0)
		return -1;
	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
