/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The database under the store; private to this folder.
 *
 * What every query needs is written once here: the lock, transactions that end whole or not at all, prepared statements
 * that are kept, and the translation of SQLite's failures into sentences that say what to do.
 *
 * The way of a public function of the store:
 *
 *	if (db_begin(store, err) < 0)
 *		return -1;
 *	r = do_it(store, ...);
 *	return db_end(store, r, err);
 *
 * Between db_begin() and db_end() the calling thread holds the lock, and only there may the other functions be called.
 */
#ifndef CAPSULE_STORE_DB_H
#define CAPSULE_STORE_DB_H

#include "base/error.h"
#include "store/store.h"

#include <sqlite3.h>

/* Takes the lock and begins a transaction that may write. */
int db_begin(struct store *store, struct error *err);

/* Commits if r is 0, else (or if the commit fails) rolls everything back; gives up the lock. Returns 0 or -1. */
int db_end(struct store *store, int r, struct error *err);

/* Rolls back what was only a trial; gives up the lock. Returns r. */
int db_end_trial(struct store *store, int r);

/* Refuses what makes the database grow (RESOURCE_EXHAUSTED) when the disk is nearly full: the last blocks are for wishes
 * to stop and delete, which make room. 0, or -1. */
int db_check_room(struct store *store, struct error *err);

/* A statement with its parameters bound, kept prepared for the next time. `sql` must be a string literal: the literal's
 * address is what finds the prepared form again. `types` has one letter a parameter:
 *	t const char *, i int64_t, b const void * and size_t
 * What is bound must stay valid until the statement is released. The same SQL may not be in use twice at a time.
 * NULL on failure. Declare it as _cleanup_db_stmt_. */
sqlite3_stmt *db_query(struct store *store, struct error *err, const char *sql, const char *types, ...);

/* 1: a row is there; 0: no more; -1. */
int db_step(struct store *store, sqlite3_stmt *stmt, struct error *err);

/* Runs a statement that yields no rows. 0, or -1. */
int db_run(struct store *store, struct error *err, const char *sql, const char *types, ...);

/* The first column of the only row as an integer; `none` if there is no row. 0, or -1. */
int db_integer(struct store *store, int64_t none, int64_t *ret, struct error *err, const char *sql, const char *types,
	       ...);

/* The first column of the first row as a copy; NULL if there is no row. 0, or -1. */
int db_text(struct store *store, char **ret, struct error *err, const char *sql, const char *types, ...);

/* A copy of a text column; NULL without memory. */
char *db_column_text(sqlite3_stmt *stmt, int column);

static inline void db_stmt_release(sqlite3_stmt **stmt)
{
	if (*stmt) {
		sqlite3_reset(*stmt);
		sqlite3_clear_bindings(*stmt);
	}
}
#define _cleanup_db_stmt_ _cleanup_(db_stmt_release)

/* The file's path, for messages. */
const char *db_path(const struct store *store);

#endif
