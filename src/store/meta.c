/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "store/db.h"

int store_meta_get(struct store *store, const char *key, char **ret, struct error *err)
{
	_cleanup_free_ char *value = NULL;

	if (db_begin(store, err) < 0)
		return -1;
	if (db_end(store, db_text(store, &value, err, "SELECT value FROM meta WHERE key = ?", "t", key), err) < 0)
		return -1;
	*ret = steal_ptr(&value);
	return 0;
}

int store_meta_set(struct store *store, const char *key, const char *value, struct error *err)
{
	int r;

	if (db_begin(store, err) < 0)
		return -1;
	r = db_run(store, err,
		   "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2", "tt",
		   key, value);
	return db_end(store, r, err);
}

static int set_default(struct store *store, const char *key, const char *value, char **ret, struct error *err)
{
	if (db_run(store, err, "INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", "tt", key, value) < 0)
		return -1;
	return db_text(store, ret, err, "SELECT value FROM meta WHERE key = ?", "t", key);
}

int store_meta_default(struct store *store, const char *key, const char *value, char **ret, struct error *err)
{
	_cleanup_free_ char *standing = NULL;

	if (db_begin(store, err) < 0)
		return -1;
	if (db_end(store, set_default(store, key, value, &standing, err), err) < 0)
		return -1;
	*ret = steal_ptr(&standing);
	return 0;
}
