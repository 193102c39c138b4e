/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/buf.h"
#include "base/timeutil.h"
#include "store/resource.h"
#include "store/schema.h"

#include <errno.h>
#include <string.h>

#define VOLUME_COLUMNS "name, backend, size_bytes, state, created_at_ns, workload"
#define VOLUME_TABLES "volume LEFT JOIN claim ON claim.volume = volume.name"

/* An error that names every user of a volume is cut here. */
#define USERS_TEXT_MAX 1024

void store_volume_release(struct store_volume *v)
{
	free(v->name);
	free(v->backend);
	free(v->claimed_by);
	*v = (struct store_volume){ 0 };
}

static void volume_move(struct store_volume *to, struct store_volume *from)
{
	*to = *from;
	*from = (struct store_volume){ 0 };
}

/* ---- rows ---- */

static int row_read(sqlite3_stmt *stmt, struct store_volume *ret, struct error *err)
{
	bool claimed = sqlite3_column_type(stmt, 5) != SQLITE_NULL;
	int state = sqlite3_column_int(stmt, 3);

	*ret = (struct store_volume){
		.name = db_column_text(stmt, 0),
		.backend = db_column_text(stmt, 1),
		.size_bytes = (uint64_t)sqlite3_column_int64(stmt, 2),
		.ready = state == VOLUME_READY,
		.deleting = state == VOLUME_DELETING,
		.created_at_ns = sqlite3_column_int64(stmt, 4),
		.claimed_by = claimed ? db_column_text(stmt, 5) : NULL,
	};
	if (ret->name && ret->backend && (!claimed || ret->claimed_by))
		return 0;
	store_volume_release(ret);
	return error_errno(err, ENOMEM, "cannot read the entry of a volume");
}

/* ret->name is NULL if there is no such volume. */
static int row_find(struct store *store, const char *name, struct store_volume *ret, struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int r;

	stmt = db_query(store, err, "SELECT " VOLUME_COLUMNS " FROM " VOLUME_TABLES " WHERE name = ?", "t", name);
	r = stmt ? db_step(store, stmt, err) : -1;
	if (r > 0)
		return row_read(stmt, ret, err);
	if (r == 0)
		*ret = (struct store_volume){ 0 };
	return r;
}

static int row_get(struct store *store, const char *name, struct store_volume *ret, struct error *err)
{
	if (row_find(store, name, ret, err) < 0)
		return -1;
	return ret->name ? 0 : error_set(err, ERR_NOT_FOUND, "there is no volume %s", name);
}

static int set_state(struct store *store, const char *name, enum volume_state state, struct error *err)
{
	return db_run(store, err, "UPDATE volume SET state = ? WHERE name = ?", "it", (int64_t)state, name);
}

static int set_size(struct store *store, const char *name, uint64_t size_bytes, struct error *err)
{
	return db_run(store, err, "UPDATE volume SET size_bytes = ? WHERE name = ?", "it", (int64_t)size_bytes, name);
}

/* ---- making and growing ---- */

static int create(struct store *store, const char *name, const char *backend, uint64_t size_bytes, struct error *err)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };

	if (size_bytes > INT64_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "volume %s cannot be that large", name);
	if (row_find(store, name, &v, err) < 0)
		return -1;
	if (v.deleting)
		return error_set(err, ERR_ALREADY_EXISTS, "volume %s is being deleted; try again once it is gone",
				 name);
	if (v.name)
		return error_set(err, ERR_ALREADY_EXISTS, "volume %s exists already; resize it or choose another name",
				 name);
	if (db_check_room(store, err) < 0)
		return -1;
	return db_run(store, err,
		      "INSERT INTO volume (name, backend, size_bytes, state, created_at_ns) VALUES (?, ?, ?, ?, ?)",
		      "ttiii", name, backend, (int64_t)size_bytes, (int64_t)VOLUME_CREATING, time_realtime_ns());
}

int store_volume_create(struct store *store, const char *name, const char *backend, uint64_t size_bytes,
			struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, create(store, name, backend, size_bytes, err), err);
}

static int set_ready(struct store *store, const char *name, bool ready, struct error *err)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };

	if (row_get(store, name, &v, err) < 0)
		return -1;
	if (v.deleting)
		return error_set(err, ERR_FAILED_PRECONDITION, "volume %s is being deleted", name);
	if (!ready && v.claimed_by)
		return resource_in_use(name, v.claimed_by, err);
	return set_state(store, name, ready ? VOLUME_READY : VOLUME_CREATING, err);
}

int store_volume_set_ready(struct store *store, const char *name, bool ready, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, set_ready(store, name, ready, err), err);
}

static int grow(struct store *store, const char *name, uint64_t size_bytes, struct error *err)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };

	if (row_get(store, name, &v, err) < 0)
		return -1;
	if (!v.ready)
		return error_set(err, ERR_FAILED_PRECONDITION, "volume %s is being %s and cannot be resized now", name,
				 v.deleting ? "deleted" : "made");
	if (size_bytes < v.size_bytes)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "volume %s holds %llu MiB and cannot shrink to %llu MiB; make a smaller volume and "
				 "copy the data",
				 name, (unsigned long long)(v.size_bytes >> 20),
				 (unsigned long long)(size_bytes >> 20));
	if (size_bytes > INT64_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "volume %s cannot be that large", name);
	if (v.claimed_by)
		return resource_in_use(name, v.claimed_by, err);
	return size_bytes == v.size_bytes ? 0 : set_size(store, name, size_bytes, err);
}

int store_volume_set_size(struct store *store, const char *name, uint64_t size_bytes, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, grow(store, name, size_bytes, err), err);
}

static int undo_size(struct store *store, const char *name, uint64_t size_bytes, struct error *err)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };

	if (row_get(store, name, &v, err) < 0)
		return -1;
	return set_size(store, name, size_bytes, err);
}

int store_volume_undo_size(struct store *store, const char *name, uint64_t size_bytes, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, undo_size(store, name, size_bytes, err), err);
}

/* ---- reading ---- */

int store_volume_get(struct store *store, const char *name, struct store_volume *ret, struct error *err)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };

	if (db_begin(store, err) < 0)
		return -1;
	if (db_end(store, row_get(store, name, &v, err), err) < 0)
		return -1;
	volume_move(ret, &v);
	return 0;
}

static int list(struct store *store, struct store_volume *items, size_t n, struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int r;

	stmt = db_query(store, err, "SELECT " VOLUME_COLUMNS " FROM " VOLUME_TABLES " ORDER BY name", "");
	if (!stmt)
		return -1;
	for (size_t i = 0; (r = db_step(store, stmt, err)) > 0 && i < n; i++)
		if (row_read(stmt, &items[i], err) < 0)
			return -1;
	return r;
}

int store_volume_list(struct store *store, struct store_volume **ret, size_t *ret_n, struct error *err)
{
	struct store_volume *items = NULL;
	int64_t n = 0;
	int r;

	if (db_begin(store, err) < 0)
		return -1;
	r = db_integer(store, 0, &n, err, "SELECT count(*) FROM volume", "");
	if (r == 0 && !(items = calloc((size_t)n + 1, sizeof *items)))
		r = error_errno(err, ENOMEM, "cannot list the volumes");
	if (r == 0)
		r = list(store, items, (size_t)n, err);
	if (db_end(store, r, err) < 0) {
		for (int64_t i = 0; items && i < n; i++)
			store_volume_release(&items[i]);
		free(items);
		return -1;
	}
	*ret = items;
	*ret_n = (size_t)n;
	return 0;
}

struct names {
	char **items; /* owned */
	size_t n;
};

static void names_release(struct names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free(names->items[i]);
	free(names->items);
}
#define _cleanup_names_ _cleanup_(names_release)

static int users(struct store *store, const char *volume, struct names *ret, struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int64_t n = 0;
	int r;

	if (db_integer(store, 0, &n, err, "SELECT count(*) FROM mount WHERE volume = ?", "t", volume) < 0)
		return -1;
	stmt = db_query(store, err, "SELECT workload FROM mount WHERE volume = ? ORDER BY workload", "t", volume);
	if (!stmt)
		return -1;
	ret->items = calloc((size_t)n + 1, sizeof *ret->items);
	if (!ret->items)
		return error_errno(err, ENOMEM, "cannot list the users of volume %s", volume);
	while ((r = db_step(store, stmt, err)) > 0 && ret->n < (size_t)n) {
		ret->items[ret->n] = db_column_text(stmt, 0);
		if (!ret->items[ret->n++])
			return error_errno(err, ENOMEM, "cannot list the users of volume %s", volume);
	}
	return r;
}

/* ---- deleting ---- */

static int refuse_named(const char *volume, const struct names *names, struct error *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(USERS_TEXT_MAX);

	for (size_t i = 0; i < names->n; i++)
		(void)buf_addf(&text, "%s%s", i ? ", " : "", names->items[i]);
	return error_set(err, ERR_FAILED_PRECONDITION,
			 "volume %s is named by workload%s %s%s; delete %s first, or delete the "
			 "volume by force", volume, names->n == 1 ? "" : "s", buf_str(&text),
			 text.failed ? " and others" : "",
			 names->n == 1 ? "it" : "them");
}

static int begin_delete(struct store *store, const char *name, bool force, struct error *err)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };
	_cleanup_names_ struct names names = { 0 };
	int64_t snapshots = 0;

	if (row_get(store, name, &v, err) < 0 ||
	    db_integer(store, 0, &snapshots, err, "SELECT count(*) FROM snapshot WHERE volume = ?", "t", name) < 0)
		return -1;
	if (v.deleting)
		return 0;
	if (!force && users(store, name, &names, err) < 0)
		return -1;
	if (names.n)
		return refuse_named(name, &names, err);
	if (v.claimed_by)
		return resource_in_use(name, v.claimed_by, err);
	if (snapshots && !force)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "volume %s has %lld snapshot%s; delete them first, or delete the volume by force", name,
				 (long long)snapshots, snapshots == 1 ? "" : "s");
	return set_state(store, name, VOLUME_DELETING, err);
}

int store_volume_begin_delete(struct store *store, const char *name, bool force, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, begin_delete(store, name, force, err), err);
}

static int forget(struct store *store, const char *name, struct error *err)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };

	if (row_find(store, name, &v, err) < 0)
		return -1;
	if (v.ready)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "volume %s holds data and cannot be forgotten; delete it", name);
	if (db_run(store, err, "DELETE FROM snapshot WHERE volume = ?", "t", name) < 0)
		return -1;
	return db_run(store, err, "DELETE FROM volume WHERE name = ?", "t", name);
}

int store_volume_remove(struct store *store, const char *name, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, forget(store, name, err), err);
}
