/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The store's entries of snapshots, and a database of the time before them. */
#include "store_fixture.h"

#include "store/schema.h"

#include <sqlite3.h>

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

	make_volume("data");
	make_snapshot("data", "before");
	ok(store_volume_set_size(store, "data", 2 * VOLUME_SIZE, &err));
	reopen();
	ok(store_snapshot_get(store, "data", "before", &s, &err));
	ck_assert_uint_eq(s.size_bytes, VOLUME_SIZE);
	ck_assert(s.ready && s.created_at_ns > 0);
}
END_TEST

START_TEST(snapshots_belong_to_one_volume)
{
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

	snprintf(path, sizeof path, "%s/old.db", dir);
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
	reopen();
	ok(store_volume_get(store, "data", &v, &err));
	ck_assert_uint_eq(v.size_bytes, 64u << 20);
	ck_assert_str_eq(v.backend, "file");
	make_snapshot("data", "a");
	reopen();
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

	return run_store_tests("snapshots", tests, sizeof tests / sizeof tests[0]);
}
