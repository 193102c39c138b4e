/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "store/db.h"

#include "store/schema.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

/* "CAPS": tells our databases from other programs' (PRAGMA application_id). */
#define APPLICATION_ID 0x43415053

/* The daemon is idle most of its life: a database of a few hundred rows needs no more than this. */
#define CACHE_KIB 256
#define HEAP_LIMIT (2 << 20)
#define LOOKASIDE_SLOT 256
#define LOOKASIDE_SLOTS 64

/* Blocks that the write-ahead log holds for bad times: on a full disk a wish to stop or delete something must be recorded
 * all the same. It is as long as SQLite lets the log get between two checkpoints, and twice as much to spare. */
#define WAL_RESERVE (1 << 20)

/* Somebody who looks at the database from outside may hold it for a moment. */
#define BUSY_TIMEOUT_MS 5000

/* More than there are literals in this folder. */
#define STATEMENTS_MAX 96

struct statement {
	const char *sql;
	sqlite3_stmt *stmt;
};

struct store {
	pthread_mutex_t lock;
	sqlite3 *db;
	char *path;
	struct statement statements[STATEMENTS_MAX];
	size_t n_statements;
};

const char *db_path(const struct store *store)
{
	return store->path;
}

/* ---- failures ---- */

static int fail_full(const char *path, struct error *err)
{
	return error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot write %s: the disk is full; free some space and try again", path);
}

static int fail_io(const char *path, sqlite3 *db, struct error *err)
{
	int errnum = sqlite3_system_errno(db);
	char reason[128];

	if (errnum == ENOSPC || errnum == EDQUOT)
		return fail_full(path, err);
	return error_set(err, ERR_INTERNAL, "cannot read or write %s: %s; check the disk and the kernel's log", path,
			 errnum ? strerror_r(errnum, reason, sizeof reason) : sqlite3_errmsg(db));
}

static int fail_damaged(const char *path, const char *reason, struct error *err)
{
	return error_set(err, ERR_DATA_LOSS,
			 "%s is damaged (%s); stop capsuled and put back a copy, or move the file away to begin empty",
			 path,
			 reason);
}

static int fail_not_writable(const char *path, const char *reason, struct error *err)
{
	return error_set(err, ERR_FAILED_PRECONDITION,
			 "cannot write %s (%s); make the file, its directory and its file system writable for capsuled",
			 path,
			 reason);
}

static int fail(const char *path, sqlite3 *db, struct error *err)
{
	switch (sqlite3_errcode(db) & 0xff) {
	case SQLITE_FULL:
		return fail_full(path, err);
	case SQLITE_IOERR:
		return fail_io(path, db, err);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return fail_damaged(path, sqlite3_errmsg(db), err);
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_CANTOPEN:
		return fail_not_writable(path, sqlite3_errmsg(db), err);
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return error_set(err, ERR_UNAVAILABLE,
				 "%s is locked by another program; end that program or try again later",
				 path);
	case SQLITE_NOMEM:
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory while using %s", path);
	default:
		return error_set(err, ERR_INTERNAL, "cannot use %s: %s", path, sqlite3_errmsg(db));
	}
}

/* ---- statements ---- */

static sqlite3_stmt *statement_find(struct store *store, const char *sql, struct error *err)
{
	struct statement *s;

	for (size_t i = 0; i < store->n_statements; i++)
		if (store->statements[i].sql == sql)
			return store->statements[i].stmt;
	if (store->n_statements == STATEMENTS_MAX) {
		error_set(err, ERR_INTERNAL, "cannot use %s: more than %d statements", store->path, STATEMENTS_MAX);
		return NULL;
	}
	s = &store->statements[store->n_statements];
	if (sqlite3_prepare_v3(store->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &s->stmt, NULL) != SQLITE_OK) {
		fail(store->path, store->db, err);
		return NULL;
	}
	s->sql = sql;
	store->n_statements++;
	return s->stmt;
}

static void statements_release(struct store *store)
{
	while (store->n_statements)
		sqlite3_finalize(store->statements[--store->n_statements].stmt);
}

static int bind(sqlite3_stmt *stmt, const char *types, va_list ap)
{
	int r = SQLITE_OK;

	for (int i = 1; *types && r == SQLITE_OK; i++, types++) {
		const void *data;

		switch (*types) {
		case 't':
			r = sqlite3_bind_text(stmt, i, va_arg(ap, const char *), -1, SQLITE_STATIC);
			break;
		case 'i':
			r = sqlite3_bind_int64(stmt, i, va_arg(ap, int64_t));
			break;
		case 'b':
			data = va_arg(ap, const void *);
			r = sqlite3_bind_blob64(stmt, i, data, va_arg(ap, size_t), SQLITE_STATIC);
			break;
		default:
			r = SQLITE_MISUSE;
		}
	}
	return r;
}

static sqlite3_stmt *queryv(struct store *store, struct error *err, const char *sql, const char *types, va_list ap)
{
	sqlite3_stmt *stmt = statement_find(store, sql, err);

	if (!stmt)
		return NULL;
	if (bind(stmt, types, ap) != SQLITE_OK) {
		fail(store->path, store->db, err);
		db_stmt_release(&stmt);
		return NULL;
	}
	return stmt;
}

sqlite3_stmt *db_query(struct store *store, struct error *err, const char *sql, const char *types, ...)
{
	sqlite3_stmt *stmt;
	va_list ap;

	va_start(ap, types);
	stmt = queryv(store, err, sql, types, ap);
	va_end(ap);
	return stmt;
}

int db_step(struct store *store, sqlite3_stmt *stmt, struct error *err)
{
	switch (sqlite3_step(stmt)) {
	case SQLITE_ROW:
		return 1;
	case SQLITE_DONE:
		return 0;
	default:
		return fail(store->path, store->db, err);
	}
}

int db_run(struct store *store, struct error *err, const char *sql, const char *types, ...)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	va_list ap;

	va_start(ap, types);
	stmt = queryv(store, err, sql, types, ap);
	va_end(ap);
	return stmt && db_step(store, stmt, err) >= 0 ? 0 : -1;
}

int db_integer(struct store *store, int64_t none, int64_t *ret, struct error *err, const char *sql, const char *types,
	       ...)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	va_list ap;
	int r;

	va_start(ap, types);
	stmt = queryv(store, err, sql, types, ap);
	va_end(ap);
	r = stmt ? db_step(store, stmt, err) : -1;
	if (r < 0)
		return -1;
	*ret = r ? sqlite3_column_int64(stmt, 0) : none;
	return 0;
}

int db_text(struct store *store, char **ret, struct error *err, const char *sql, const char *types, ...)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	char *text = NULL;
	va_list ap;
	int r;

	va_start(ap, types);
	stmt = queryv(store, err, sql, types, ap);
	va_end(ap);
	r = stmt ? db_step(store, stmt, err) : -1;
	if (r < 0)
		return -1;
	if (r > 0 && !(text = db_column_text(stmt, 0)))
		return error_errno(err, ENOMEM, "cannot read %s", store->path);
	*ret = text;
	return 0;
}

char *db_column_text(sqlite3_stmt *stmt, int column)
{
	const unsigned char *text = sqlite3_column_text(stmt, column);

	return text ? strdup((const char *)text) : NULL;
}

/* ---- transactions ---- */

int db_begin(struct store *store, struct error *err)
{
	pthread_mutex_lock(&store->lock);
	if (db_run(store, err, "BEGIN IMMEDIATE", "") == 0)
		return 0;
	pthread_mutex_unlock(&store->lock);
	return -1;
}

/* SQLite may have rolled back by itself, after a full disk for one. */
static void rollback(struct store *store)
{
	if (!sqlite3_get_autocommit(store->db))
		(void)db_run(store, NULL, "ROLLBACK", "");
}

int db_end(struct store *store, int r, struct error *err)
{
	if (r == 0)
		r = db_run(store, err, "COMMIT", "");
	if (r < 0)
		rollback(store);
	pthread_mutex_unlock(&store->lock);
	return r < 0 ? -1 : 0;
}

int db_end_trial(struct store *store, int r)
{
	rollback(store);
	pthread_mutex_unlock(&store->lock);
	return r;
}

/* ---- room ---- */

/* The blocks lie beyond the log's end, so SQLite sees nothing of them; it writes into them before it asks for others. On a
 * file system that cannot do this, or is full already, things are as they are. */
static void reserve_room(const struct store *store)
{
	_cleanup_free_ char *wal = NULL;
	_cleanup_close_ int fd = -1;

	if (asprintf(&wal, "%s-wal", store->path) < 0)
		return;
	fd = open(wal, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0)
		(void)fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, WAL_RESERVE);
}

int db_check_room(struct store *store, struct error *err)
{
	struct statvfs fs;

	if (statvfs(store->path, &fs) < 0 || (uint64_t)fs.f_bavail * fs.f_frsize >= WAL_RESERVE)
		return 0;
	return fail_full(store->path, err);
}

/* ---- opening ---- */

static int execute(struct store *store, const char *sql, struct error *err)
{
	return sqlite3_exec(store->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(store->path, store->db, err);
}

static int check_owner(struct store *store, struct error *err)
{
	int64_t id = 0, tables = 0;

	if (db_integer(store, 0, &id, err, "PRAGMA application_id", "") < 0 ||
	    db_integer(store, 0, &tables, err, "SELECT count(*) FROM sqlite_schema", "") < 0)
		return -1;
	if (id == APPLICATION_ID || (id == 0 && tables == 0))
		return 0;
	return error_set(err, ERR_FAILED_PRECONDITION,
			 "%s is the database of another program; move it away or choose another state root",
			 store->path);
}

static int check_content(struct store *store, struct error *err)
{
	_cleanup_free_ char *verdict = NULL;

	if (db_text(store, &verdict, err, "PRAGMA quick_check(1)", "") < 0)
		return -1;
	if (verdict && !strcmp(verdict, "ok"))
		return 0;
	return fail_damaged(store->path, verdict ? verdict : "no verdict", err);
}

/* One transaction a step: a crash between two leaves a schema that is one of the known ones. */
static int migrate_step(struct store *store, size_t to, struct error *err)
{
	char set_version[64];

	snprintf(set_version, sizeof set_version, "PRAGMA user_version = %zu", to);
	if (execute(store, schema_migrations[to - 1], err) < 0)
		return -1;
	return execute(store, set_version, err);
}

static int migrate(struct store *store, struct error *err)
{
	int64_t version = 0;

	if (db_integer(store, 0, &version, err, "PRAGMA user_version", "") < 0)
		return -1;
	if (version < 0 || (size_t)version > schema_version)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "%s was written by a newer version of capsuled (schema %lld, this one knows up to %zu); "
				 "install that version again or choose another state root",
				 store->path, (long long)version, schema_version);
	for (size_t to = (size_t)version + 1; to <= schema_version; to++) {
		if (db_begin(store, err) < 0)
			return -1;
		if (db_end(store, migrate_step(store, to, err), err) < 0)
			return error_wrap(err, "cannot bring the schema up to version %zu", to);
	}
	return 0;
}

static int configure(struct store *store, struct error *err)
{
	static const char settings[] = "PRAGMA foreign_keys = ON;"
				       "PRAGMA trusted_schema = OFF;"
				       "PRAGMA temp_store = MEMORY;"
				       "PRAGMA journal_size_limit = -1;" /* truncated, it would lose its reserve */
				       "PRAGMA wal_autocheckpoint = 128;"
				       "PRAGMA synchronous = FULL;";
	_cleanup_free_ char *mode = NULL;
	int persist = 1;
	char cache[48];

	sqlite3_db_config(store->db, SQLITE_DBCONFIG_LOOKASIDE, NULL, LOOKASIDE_SLOT, LOOKASIDE_SLOTS);
	sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_extended_result_codes(store->db, 1);
	sqlite3_busy_timeout(store->db, BUSY_TIMEOUT_MS);
	sqlite3_file_control(store->db, NULL, SQLITE_FCNTL_PERSIST_WAL, &persist);
	snprintf(cache, sizeof cache, "PRAGMA cache_size = -%d", CACHE_KIB);
	if (execute(store, settings, err) < 0 || execute(store, cache, err) < 0 || check_owner(store, err) < 0)
		return -1;
	if (db_text(store, &mode, err, "PRAGMA journal_mode = WAL", "") < 0)
		return -1;
	if (!mode || strcmp(mode, "wal"))
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "%s cannot be used with a write-ahead log; put the state root on a local file system",
				 store->path);
	return 0;
}

/* Specs hold environment variables, so secrets: the file is made private before SQLite writes to it; its log takes the
 * same mode. */
static int create_private(const char *path, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	char reason[128];

	if (fd < 0 && (errno == EROFS || errno == EACCES || errno == EPERM))
		return fail_not_writable(path, strerror_r(errno, reason, sizeof reason), err);
	if (fd < 0)
		return error_errno(err, errno, "cannot open the database %s", path);
	if (fchmod(fd, 0600) < 0)
		return error_errno(err, errno, "cannot make the database %s private", path);
	return 0;
}

int store_open(const char *path, struct store **ret, struct error *err)
{
	struct store *store = calloc(1, sizeof *store);

	if (!store || !(store->path = strdup(path))) {
		free(store);
		return error_errno(err, ENOMEM, "cannot open the database %s", path);
	}
	pthread_mutex_init(&store->lock, NULL);
	if (create_private(path, err) < 0)
		goto failed;
	sqlite3_soft_heap_limit64(HEAP_LIMIT);
	/* The lock above is the only one needed. */
	if (sqlite3_open_v2(path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
		if (store->db)
			fail(path, store->db, err);
		else
			error_errno(err, ENOMEM, "cannot open the database %s", path);
		goto failed;
	}
	if (configure(store, err) < 0 || migrate(store, err) < 0 || check_content(store, err) < 0)
		goto failed;
	reserve_room(store);
	statements_release(store); /* what only opening needed */
	*ret = store;
	return 0;
failed:
	store_close(store);
	return -1;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	statements_release(store);
	sqlite3_close(store->db);
	pthread_mutex_destroy(&store->lock);
	free(store->path);
	free(store);
}
