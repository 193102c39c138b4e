/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The store's entries of snapshots, and a database of the time before them. */
#include "base/fs.h"
#include "store/schema.h"
#include "store/store.h"

#include "runner.h"

#include <check.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>

#define MIB (1ull << 20)

static char dir[64], path[96];
static struct store *store;
static struct error err;

#define ok(call) ck_assert_msg((call) == 0, "%s", error_message(&err))
#define refused(call, expected, text)                                                                                 \
	do {                                                                                                          \
		ck_assert_int_lt((call), 0);                                                                          \
		ck_assert_msg(err.code == (expected), "%s: %s", error_code_name(err.code), error_message(&err));      \
		ck_assert_msg(strstr(error_message(&err), text) != NULL, "\"%s\" lacks \"%s\"",                      \
			      error_message(&err), text);                                                             \
		error_release(&err);                                                                                  \
	} while (0)

static void open_store(void)
{
	ok(store_open(path, &store, &err));
}

static void set_up(void)
{
	snprintf(dir, sizeof dir, "/tmp/test-snapshots-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/state.db", dir);
}

static void tear_down(void)
{
	store_close(store);
	store = NULL;
	error_release(&err);
	fs_remove_tree(AT_FDCWD, dir, NULL);
}

static void make_volume(const char *name)
{
	ok(store_volume_create(store, name, "file", 64 * MIB, &err));
	ok(store_volume_set_ready(store, name, true, &err));
}

static void make_snapshot(const char *volume, const char *name)
{
	ok(store_snapshot_create(store, volume, name, &err));
	ok(store_snapshot_set_ready(store, volume, name, true, &err));
}

static void expect_snapshots(const char *volume, const char *names)
{
	struct store_snapshot *snapshots;
	char text[256] = "";
	size_t n;

	ok(store_snapshot_list(store, volume, &snapshots, &n, &err));
	for (size_t i = 0; i < n; i++)
		snprintf(text + strlen(text), sizeof text - strlen(text), "%s/%s ", snapshots[i].volume, snapshots[i].name);
	store_snapshots_free(snapshots, n);
	ck_assert_str_eq(text, names);
}

START_TEST(a_snapshot_has_the_size_of_its_volume_then)
{
	_cleanup_store_snapshot_ struct store_snapshot s = { 0 };

	open_store();
	make_volume("data");
	make_snapshot("data", "before");
	ok(store_volume_set_size(store, "data", 128 * MIB, &err));
	store_close(store);
	open_store();
	ok(store_snapshot_get(store, "data", "before", &s, &err));
	ck_assert_uint_eq(s.size_bytes, 64 * MIB);
	ck_assert(s.ready && s.created_at_ns > 0);
}
END_TEST

START_TEST(snapshots_belong_to_one_volume)
{
	open_store();
	make_volume("data");
	make_volume("other");
	make_snapshot("data", "a");
	make_snapshot("other", "a");
	make_snapshot("data", "b");
	expect_snapshots("data", "data/a data/b ");
	expect_snapshots(NULL, "data/a data/b other/a ");
	refused(store_snapshot_create(store, "data", "a", &err), ERR_ALREADY_EXISTS, "has a snapshot a already");
	refused(store_snapshot_create(store, "none", "a", &err), ERR_NOT_FOUND, "no volume none");
	refused(store_snapshot_set_ready(store, "data", "c", false, &err), ERR_NOT_FOUND, "has no snapshot c");
}
END_TEST

START_TEST(a_snapshot_is_forgotten_only_when_it_is_being_removed)
{
	open_store();
	make_volume("data");
	make_snapshot("data", "a");
	ok(store_snapshot_remove(store, "data", "a", &err));
	expect_snapshots("data", "data/a ");
	ok(store_snapshot_set_ready(store, "data", "a", false, &err));
	ok(store_snapshot_remove(store, "data", "a", &err));
	ok(store_snapshot_remove(store, "data", "a", &err));
	expect_snapshots("data", "");
}
END_TEST

START_TEST(snapshots_keep_their_volume_unless_forced)
{
	open_store();
	make_volume("data");
	make_snapshot("data", "a");
	refused(store_volume_begin_delete(store, "data", false, &err), ERR_FAILED_PRECONDITION, "has 1 snapshot;");
	make_snapshot("data", "b");
	refused(store_volume_begin_delete(store, "data", false, &err), ERR_FAILED_PRECONDITION, "has 2 snapshots;");
	ok(store_volume_begin_delete(store, "data", true, &err));
	refused(store_snapshot_create(store, "data", "c", &err), ERR_FAILED_PRECONDITION, "made or deleted");
	ok(store_volume_remove(store, "data", &err));
	expect_snapshots(NULL, "");
}
END_TEST

START_TEST(there_is_a_limit)
{
	char name[32];

	open_store();
	make_volume("data");
	for (int i = 0; i < STORE_SNAPSHOTS_MAX; i++) {
		snprintf(name, sizeof name, "s%d", i);
		ok(store_snapshot_create(store, "data", name, &err));
	}
	refused(store_snapshot_create(store, "data", "more", &err), ERR_RESOURCE_EXHAUSTED, "256 snapshots");
}
END_TEST

/* As the version before snapshots left it. */
static void make_old_database(void)
{
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, schema_migrations[0], NULL, NULL, NULL), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db,
				      "PRAGMA user_version = 1;"
				      "INSERT INTO volume VALUES ('data', 'file', 67108864, 1, 1700000000000000000)",
				      NULL, NULL, NULL),
			 SQLITE_OK);
	sqlite3_close(db);
}

START_TEST(an_older_database_is_brought_up_to_date)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };

	make_old_database();
	open_store();
	ok(store_volume_get(store, "data", &v, &err));
	ck_assert_uint_eq(v.size_bytes, 64 * MIB);
	ck_assert_str_eq(v.backend, "file");
	make_snapshot("data", "a");
	store_close(store);
	open_store();
	expect_snapshots("data", "data/a ");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_snapshot_has_the_size_of_its_volume_then, snapshots_belong_to_one_volume,
		a_snapshot_is_forgotten_only_when_it_is_being_removed, snapshots_keep_their_volume_unless_forced,
		there_is_a_limit, an_older_database_is_brought_up_to_date,
	};
	Suite *suite = suite_create("snapshots");
	TCase *tc = tcase_create("snapshots");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 60);
	for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
		tcase_add_test(tc, tests[i]);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
