/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* VolumeService: snapshots, clones, and what volumes take of their storage. */
#include "service/volume.h"

#include "reconcile/spec.h"
#include "runtime/holder.h"

#include <string.h>

typedef Capsule__V1__VolumeSnapshotRequest SnapshotRequest;

static int out_of_memory(struct error *err)
{
	return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
}

/* ---- the message ---- */

static Capsule__V1__VolumeSnapshot *message_of(const struct store_snapshot *s)
{
	Capsule__V1__VolumeSnapshot *m = malloc(sizeof *m);

	if (!m)
		abort();
	capsule__v1__volume_snapshot__init(m);
	m->volume = strdup(s->volume);
	m->name = strdup(s->name);
	m->size_bytes = s->size_bytes;
	m->created_at_unix = s->created_at_ns / 1000000000;
	return m;
}

/* ---- copies ---- */

/* Where the host cannot hold the volume still, in a microVM that has mounted it. *ret_hold is -1 where nothing is to be done, or
 * nothing can be: in a system of the user's own. */
static int hold_in_guest(struct service_host *host, const struct store_volume *v, const char *what, int *ret_hold,
			 struct error *err)
{
	_cleanup_store_workload_ struct store_workload holder = { 0 };
	struct driver *driver = host->micro_vm;

	*ret_hold = -1;
	if (!v->claimed_by)
		return 0;
	if (store_get(host->store, v->claimed_by, &holder, err) < 0)
		return -1;
	if (spec_is_container(holder.spec) || spec_is_own_system(holder.spec))
		return 0;
	return driver->ops->hold(driver, v->claimed_by, v->name, what, ret_hold, err);
}

int volume_copy_present(struct service_host *host, struct volume_backend *backend, const struct store_volume *v,
			const char *to, struct error *err)
{
	_cleanup_free_ char *what = volume_text(v->name);
	int hold, r;

	if (!what)
		return out_of_memory(err);
	if (hold_in_guest(host, v, what, &hold, err) < 0)
		return -1;
	r = backend->ops->copy(backend, v->name, to, hold >= 0, err);
	if (hold >= 0 && holder_let_go(&hold, what, r < 0 ? NULL : err) < 0)
		r = -1;
	return r;
}

/* What a copy begins with. */
struct original {
	struct volume_backend *backend;
	struct store_volume volume;
	char *snapshot; /* its key; NULL: the volume as it is now */
	uint64_t size_bytes;
};

static void original_release(struct original *original)
{
	store_volume_release(&original->volume);
	free(original->snapshot);
}

static int find_original(struct service_host *host, const struct volume_source *source, struct original *ret,
			 struct error *err)
{
	_cleanup_store_snapshot_ struct store_snapshot s = { 0 };

	ret->backend = volume_find(host, source->volume, &ret->volume, err);
	if (!ret->backend)
		return -1;
	ret->size_bytes = ret->volume.size_bytes;
	if (!*source->snapshot)
		return 0;
	if (store_snapshot_get(host->store, source->volume, source->snapshot, &s, err) < 0)
		return -1;
	ret->size_bytes = s.size_bytes;
	ret->snapshot = volume_snapshot_key(source->volume, source->snapshot);
	return ret->snapshot ? 0 : out_of_memory(err);
}

static int copy_original(struct service_host *host, const struct original *original, const char *to, struct error *err)
{
	struct volume_backend *backend = original->backend;

	if (original->snapshot)
		return backend->ops->copy(backend, original->snapshot, to, false, err);
	return volume_copy_present(host, backend, &original->volume, to, err);
}

static int check_copy(const struct original *original, const struct volume_source *source, const char *backend,
		      uint64_t size_bytes, struct error *err)
{
	char least[MANIFEST_SIZE_TEXT];

	if (*backend && strcmp(backend, original->backend->ops->name) != 0)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "volume %s is in backend %s, and a copy of it cannot be made in backend %s; export and import it",
				 source->volume, original->backend->ops->name, backend);
	if (size_bytes && size_bytes < original->size_bytes)
		return error_set(err, ERR_FAILED_PRECONDITION, "a copy of volume %s cannot be smaller than that, %s",
				 source->volume, manifest_format_size(original->size_bytes, least));
	return 0;
}

int volume_make_copy(struct service_host *host, const struct volume_source *source, const char *name, const char *backend,
		     uint64_t size_bytes, struct error *err)
{
	_cleanup_(original_release) struct original original = { 0 };
	uint64_t size;

	if (find_original(host, source, &original, err) < 0 || check_copy(&original, source, backend, size_bytes, err) < 0)
		return -1;
	size = size_bytes ? size_bytes : original.size_bytes;
	if (!volume_begin(host, name, original.backend->ops->name, size, err))
		return -1;
	if (copy_original(host, &original, name, err) == 0 &&
	    (size == original.size_bytes || original.backend->ops->grow(original.backend, name, size, err) == 0) &&
	    volume_complete(host, name, err) == 0)
		return 0;
	volume_undo(host, original.backend, name);
	return -1;
}

static void clone_work(struct unary *u)
{
	const Capsule__V1__VolumeCloneRequest *request = (const void *)u->request;
	const struct volume_source source = { request->source, request->snapshot };

	if (volume_make_copy(u->host, &source, request->name, "", 0, &u->err) == 0)
		(void)volume_load(u, request->name);
}

static void clone_done(struct unary *u)
{
	const Capsule__V1__VolumeCloneRequest *request = (const void *)u->request;

	volume_busy_end(request->name);
	volume_busy_end(request->source);
	unary_answer(u);
}

static void clone_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__VolumeCloneRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (!call_name_valid(call, VOLUME_NAME, request->source) || !call_name_valid(call, VOLUME_NAME, request->name) ||
	    (*request->snapshot && !call_name_valid(call, SNAPSHOT_NAME, request->snapshot)))
		return;
	if (!strcmp(request->name, request->source))
		error_set(&err, ERR_ALREADY_EXISTS, "volume %s cannot be its own clone; choose another name", request->name);
	else if (volume_busy_begin_both(request->name, request->source, &err) == 0)
		unary_start(call, message, clone_work, clone_done);
	if (err.code != ERR_OK)
		rpc_call_fail(call, &err);
}

/* ---- one snapshot ---- */

static const SnapshotRequest *request_of(const struct unary *u)
{
	return (const void *)u->request;
}

static void snapshot_done(struct unary *u)
{
	volume_busy_end(request_of(u)->volume);
	unary_answer(u);
}

static void start(struct rpc_call *call, const ProtobufCMessage *message, unary_fn work)
{
	const SnapshotRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (!call_name_valid(call, VOLUME_NAME, request->volume) || !call_name_valid(call, SNAPSHOT_NAME, request->name))
		return;
	if (volume_busy_begin(request->volume, &err) < 0)
		rpc_call_fail(call, &err);
	else
		unary_start(call, message, work, snapshot_done);
}

static int remove_snapshot(struct service_host *host, struct volume_backend *backend, const char *key,
			   const SnapshotRequest *request, struct error *err)
{
	if (backend->ops->remove(backend, key, err) < 0)
		return -1;
	return store_snapshot_remove(host->store, request->volume, request->name, err);
}

static int create_snapshot(struct unary *u, struct volume_backend *backend, const struct store_volume *v, const char *key)
{
	const SnapshotRequest *request = request_of(u);
	_cleanup_store_snapshot_ struct store_snapshot known = { 0 };
	struct store *store = u->host->store;

	if (store_snapshot_get(store, request->volume, request->name, &known, NULL) < 0 &&
	    volume_refuse_stranger(backend, key, &u->err) < 0)
		return -1;
	if (store_snapshot_create(store, request->volume, request->name, &u->err) < 0)
		return -1;
	if (volume_copy_present(u->host, backend, v, key, &u->err) == 0 &&
	    store_snapshot_set_ready(store, request->volume, request->name, true, &u->err) == 0)
		return 0;
	(void)remove_snapshot(u->host, backend, key, request, NULL);
	return -1;
}

static void create_work(struct unary *u)
{
	_cleanup_free_ char *key = volume_snapshot_key(request_of(u)->volume, request_of(u)->name);
	_cleanup_store_volume_ struct store_volume v = { 0 };
	_cleanup_store_snapshot_ struct store_snapshot s = { 0 };
	struct volume_backend *backend = volume_find(u->host, request_of(u)->volume, &v, &u->err);

	if (!key)
		out_of_memory(&u->err);
	else if (backend && create_snapshot(u, backend, &v, key) == 0 &&
		 store_snapshot_get(u->host->store, request_of(u)->volume, request_of(u)->name, &s, &u->err) == 0)
		u->reply = &message_of(&s)->base;
}

static void create_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	start(call, message, create_work);
}

static void delete_work(struct unary *u)
{
	const SnapshotRequest *request = request_of(u);
	_cleanup_free_ char *key = volume_snapshot_key(request->volume, request->name);
	Capsule__V1__VolumeSnapshotDeleteResponse *reply = malloc(sizeof *reply);
	_cleanup_store_volume_ struct store_volume v = { 0 };
	struct volume_backend *backend = volume_find(u->host, request->volume, &v, &u->err);

	if (!key || !reply)
		abort();
	capsule__v1__volume_snapshot_delete_response__init(reply);
	u->reply = &reply->base;
	if (backend && store_snapshot_set_ready(u->host->store, request->volume, request->name, false, &u->err) == 0)
		(void)remove_snapshot(u->host, backend, key, request, &u->err);
}

static void delete_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	start(call, message, delete_work);
}

/* The volume keeps its size, which may be more than it was then. */
static void restore_work(struct unary *u)
{
	const SnapshotRequest *request = request_of(u);
	_cleanup_free_ char *key = volume_snapshot_key(request->volume, request->name);
	_cleanup_store_volume_ struct store_volume v = { 0 };
	_cleanup_store_snapshot_ struct store_snapshot s = { 0 };
	struct volume_backend *backend = volume_find(u->host, request->volume, &v, &u->err);

	if (!backend || store_snapshot_get(u->host->store, request->volume, request->name, &s, &u->err) < 0)
		return;
	if (!key)
		out_of_memory(&u->err);
	else if (v.claimed_by)
		error_set(&u->err, ERR_FAILED_PRECONDITION, "volume %s is in use by %s; stop it before restoring",
			  request->volume, v.claimed_by);
	else if (backend->ops->restore(backend, request->volume, key, v.size_bytes, &u->err) == 0)
		(void)volume_load(u, request->volume);
}

static void restore_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	start(call, message, restore_work);
}

/* ---- all snapshots ---- */

static void list_work(struct unary *u)
{
	const char *volume = ((const Capsule__V1__VolumeSnapshotListRequest *)(const void *)u->request)->volume;
	_cleanup_store_volume_ struct store_volume v = { 0 };
	Capsule__V1__VolumeSnapshotListResponse *reply;
	struct store_snapshot *snapshots;
	size_t n;

	if ((*volume && store_volume_get(u->host->store, volume, &v, &u->err) < 0) ||
	    store_snapshot_list(u->host->store, *volume ? volume : NULL, &snapshots, &n, &u->err) < 0)
		return;
	reply = malloc(sizeof *reply);
	if (!reply)
		abort();
	capsule__v1__volume_snapshot_list_response__init(reply);
	reply->snapshots = malloc((n + 1) * sizeof *reply->snapshots);
	if (!reply->snapshots)
		abort();
	for (size_t i = 0; i < n; i++)
		if (snapshots[i].ready)
			reply->snapshots[reply->n_snapshots++] = message_of(&snapshots[i]);
	store_snapshots_free(snapshots, n);
	u->reply = &reply->base;
}

static void list_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__VolumeSnapshotListRequest *request = (const void *)message;

	if (!*request->volume || call_name_valid(call, VOLUME_NAME, request->volume))
		unary_start(call, message, list_work, unary_answer);
}

/* ---- Usage ---- */

static int add_snapshots(struct service_host *host, struct volume_backend *backend, Capsule__V1__VolumeUsage *usage,
			 struct error *err)
{
	struct store_snapshot *snapshots;
	uint64_t bytes;
	size_t n;
	int r = 0;

	if (store_snapshot_list(host->store, usage->name, &snapshots, &n, err) < 0)
		return -1;
	for (size_t i = 0; r == 0 && i < n; i++) {
		_cleanup_free_ char *key = volume_snapshot_key(usage->name, snapshots[i].name);

		if (!snapshots[i].ready)
			continue;
		r = key ? backend->ops->usage(backend, key, &bytes, err) : out_of_memory(err);
		usage->snapshots_bytes += r == 0 ? bytes : 0;
		usage->snapshots++;
	}
	store_snapshots_free(snapshots, n);
	return r;
}

static Capsule__V1__VolumeUsage *usage_of(struct service_host *host, const struct store_volume *v, struct error *err)
{
	struct volume_backend *backend = volume_backend_find(host->volumes, v->backend, err);
	Capsule__V1__VolumeUsage *usage = malloc(sizeof *usage);

	if (!usage)
		abort();
	capsule__v1__volume_usage__init(usage);
	usage->name = strdup(v->name);
	usage->backend = strdup(v->backend);
	usage->size_bytes = v->size_bytes;
	if (backend && backend->ops->usage(backend, v->name, &usage->stored_bytes, err) == 0 &&
	    add_snapshots(host, backend, usage, err) == 0)
		return usage;
	protobuf_c_message_free_unpacked(&usage->base, NULL);
	return NULL;
}

static void usage_work(struct unary *u)
{
	const char *name = ((const Capsule__V1__VolumeUsageRequest *)(const void *)u->request)->name;
	_cleanup_store_volume_ struct store_volume wanted = { 0 };
	Capsule__V1__VolumeUsageResponse *reply;
	struct store_volume *volumes;
	size_t n;

	if ((*name && store_volume_get(u->host->store, name, &wanted, &u->err) < 0) ||
	    store_volume_list(u->host->store, &volumes, &n, &u->err) < 0)
		return;
	reply = malloc(sizeof *reply);
	if (!reply)
		abort();
	capsule__v1__volume_usage_response__init(reply);
	reply->volumes = malloc((n + 1) * sizeof *reply->volumes);
	if (!reply->volumes)
		abort();
	u->reply = &reply->base;
	for (size_t i = 0; i < n; i++) {
		_cleanup_error_ struct error why = ERROR_INIT;
		Capsule__V1__VolumeUsage *usage = NULL;

		if (volumes[i].ready && (!*name || !strcmp(name, volumes[i].name)))
			usage = usage_of(u->host, &volumes[i], &why);
		if (usage)
			reply->volumes[reply->n_volumes++] = usage;
		/* One that is out of reach hides no other. */
		else if (*name && why.code != ERR_OK)
			error_move(&u->err, &why);
		store_volume_release(&volumes[i]);
	}
	free(volumes);
}

static void usage_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__VolumeUsageRequest *request = (const void *)message;

	if (!*request->name || call_name_valid(call, VOLUME_NAME, request->name))
		unary_start(call, message, usage_work, unary_answer);
}

/* ---- the table ---- */

#define METHOD(verb, handler, request)                                                                                \
	{                                                                                                             \
		.path = "/capsule.v1.VolumeService/" #verb, .receives = &capsule__v1__##request##__descriptor,        \
		.receives_one = true, .message = handler, .close = unary_on_close                                     \
	}

int volume_snapshot_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		METHOD(CreateSnapshot, create_message, volume_snapshot_request),
		METHOD(ListSnapshots, list_message, volume_snapshot_list_request),
		METHOD(DeleteSnapshot, delete_message, volume_snapshot_request),
		METHOD(RestoreSnapshot, restore_message, volume_snapshot_request),
		METHOD(Clone, clone_message, volume_clone_request),
		METHOD(Usage, usage_message, volume_usage_request),
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
