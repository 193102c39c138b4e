/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/timeutil.h"
#include "store/db.h"
#include "store/schema.h"

#include <errno.h>

#define COLUMNS "volume, name, size_bytes, ready, created_at_ns"

void store_snapshot_release(struct store_snapshot *s)
{
	free(s->volume);
	free(s->name);
	*s = (struct store_snapshot){ 0 };
}

static int row_read(sqlite3_stmt *stmt, struct store_snapshot *ret, struct error *err)
{
	*ret = (struct store_snapshot){
		.volume = db_column_text(stmt, 0),
		.name = db_column_text(stmt, 1),
		.size_bytes = (uint64_t)sqlite3_column_int64(stmt, 2),
		.ready = sqlite3_column_int(stmt, 3) != 0,
		.created_at_ns = sqlite3_column_int64(stmt, 4),
	};
	if (ret->volume && ret->name)
		return 0;
	store_snapshot_release(ret);
	return error_errno(err, ENOMEM, "cannot read the entry of a snapshot");
}

/* ret->name is NULL if there is no such snapshot. */
static int row_find(struct store *store, const char *volume, const char *name, struct store_snapshot *ret,
		    struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int r;

	stmt = db_query(store, err, "SELECT " COLUMNS " FROM snapshot WHERE volume = ? AND name = ?", "tt", volume, name);
	r = stmt ? db_step(store, stmt, err) : -1;
	if (r > 0)
		return row_read(stmt, ret, err);
	if (r == 0)
		*ret = (struct store_snapshot){ 0 };
	return r;
}

static int row_get(struct store *store, const char *volume, const char *name, struct store_snapshot *ret,
		   struct error *err)
{
	if (row_find(store, volume, name, ret, err) < 0)
		return -1;
	return ret->name ? 0 : error_set(err, ERR_NOT_FOUND, "volume %s has no snapshot %s", volume, name);
}

/* ---- one ---- */

static int create(struct store *store, const char *volume, const char *name, struct error *err)
{
	_cleanup_store_snapshot_ struct store_snapshot s = { 0 };
	int64_t state = -1, count = 0;

	if (db_integer(store, -1, &state, err, "SELECT state FROM volume WHERE name = ?", "t", volume) < 0 ||
	    row_find(store, volume, name, &s, err) < 0 ||
	    db_integer(store, 0, &count, err, "SELECT count(*) FROM snapshot WHERE volume = ?", "t", volume) < 0)
		return -1;
	if (state < 0)
		return error_set(err, ERR_NOT_FOUND, "there is no volume %s", volume);
	if (state != VOLUME_READY)
		return error_set(err, ERR_FAILED_PRECONDITION, "volume %s is being made or deleted", volume);
	if (s.name)
		return error_set(err, ERR_ALREADY_EXISTS,
				 "volume %s has a snapshot %s already; delete it or choose another name", volume, name);
	if (count >= STORE_SNAPSHOTS_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "volume %s has %d snapshots already; delete one first", volume,
				 STORE_SNAPSHOTS_MAX);
	if (db_check_room(store, err) < 0)
		return -1;
	return db_run(store, err,
		      "INSERT INTO snapshot (volume, name, size_bytes, ready, created_at_ns) "
		      "SELECT name, ?, size_bytes, 0, ? FROM volume WHERE name = ?",
		      "tit", name, time_realtime_ns(), volume);
}

int store_snapshot_create(struct store *store, const char *volume, const char *name, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, create(store, volume, name, err), err);
}

static int set_ready(struct store *store, const char *volume, const char *name, bool ready, struct error *err)
{
	_cleanup_store_snapshot_ struct store_snapshot s = { 0 };

	if (row_get(store, volume, name, &s, err) < 0)
		return -1;
	return db_run(store, err, "UPDATE snapshot SET ready = ? WHERE volume = ? AND name = ?", "itt", (int64_t)ready,
		      volume, name);
}

int store_snapshot_set_ready(struct store *store, const char *volume, const char *name, bool ready, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, set_ready(store, volume, name, ready, err), err);
}

int store_snapshot_remove(struct store *store, const char *volume, const char *name, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store,
		      db_run(store, err, "DELETE FROM snapshot WHERE volume = ? AND name = ? AND ready = 0", "tt", volume,
			     name),
		      err);
}

int store_snapshot_get(struct store *store, const char *volume, const char *name, struct store_snapshot *ret,
		       struct error *err)
{
	_cleanup_store_snapshot_ struct store_snapshot s = { 0 };

	if (db_begin(store, err) < 0)
		return -1;
	if (db_end(store, row_get(store, volume, name, &s, err), err) < 0)
		return -1;
	*ret = s;
	s = (struct store_snapshot){ 0 };
	return 0;
}

/* ---- all ---- */

static int list(struct store *store, const char *volume, struct store_snapshot *items, size_t n, struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int r;

	stmt = db_query(store, err,
			"SELECT " COLUMNS " FROM snapshot WHERE ?1 = '' OR volume = ?1 ORDER BY volume, created_at_ns, name",
			"t", volume);
	if (!stmt)
		return -1;
	for (size_t i = 0; (r = db_step(store, stmt, err)) > 0 && i < n; i++)
		if (row_read(stmt, &items[i], err) < 0)
			return -1;
	return r;
}

void store_snapshots_free(struct store_snapshot *items, size_t n)
{
	for (size_t i = 0; items && i < n; i++)
		store_snapshot_release(&items[i]);
	free(items);
}

int store_snapshot_list(struct store *store, const char *volume, struct store_snapshot **ret, size_t *ret_n,
			struct error *err)
{
	struct store_snapshot *items = NULL;
	int64_t n = 0;
	int r;

	if (db_begin(store, err) < 0)
		return -1;
	r = db_integer(store, 0, &n, err, "SELECT count(*) FROM snapshot WHERE ?1 = '' OR volume = ?1", "t",
		       volume ? volume : "");
	if (r == 0 && !(items = calloc((size_t)n + 1, sizeof *items)))
		r = error_errno(err, ENOMEM, "cannot list the snapshots");
	if (r == 0)
		r = list(store, volume ? volume : "", items, (size_t)n, err);
	if (db_end(store, r, err) < 0) {
		store_snapshots_free(items, (size_t)n);
		return -1;
	}
	*ret = items;
	*ret_n = (size_t)n;
	return 0;
}
