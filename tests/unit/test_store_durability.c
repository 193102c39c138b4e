/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The store under threads, kills, damage and full disks. */
#include "store_fixture.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- threads ---- */

#define THREADS 6
#define ROUNDS 20

static void *apply_many(void *arg)
{
	int me = (int)(intptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		_cleanup_store_workload_ struct store_workload w = { 0 }, got = { 0 };
		_cleanup_error_ struct error e = ERROR_INIT;
		char name[32];
		struct spec s;
		int won;

		snprintf(name, sizeof name, "w-%d-%d", me, i);
		spec_init(&s, name);
		spec_port(&s, 1000 + (unsigned)i, "tcp"); /* every thread wants the same port: one gets it */
		won = apply_one(&s.workload, &subnet, false, &w, NULL, &e);
		if (won < 0 && e.code != ERR_FAILED_PRECONDITION)
			return strdup(error_message(&e));
		if ((store_get(store, name, &got, NULL) == 0) != (won == 0))
			return strdup("what was refused is there, or what was accepted is not");
	}
	return NULL;
}

START_TEST(threads_share_the_store)
{
	pthread_t threads[THREADS];
	struct store_workload *all;
	bool used[256] = { false };
	size_t n;

	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, apply_many, (void *)(intptr_t)i), 0);
	for (int i = 0; i < THREADS; i++) {
		void *failure;

		pthread_join(threads[i], &failure);
		ck_assert_msg(!failure, "%s", (char *)failure);
	}
	ok(store_list(store, &all, &n, &err));
	ck_assert_uint_eq(n, ROUNDS); /* one winner a port */
	for (size_t i = 0; i < n; i++) {
		ck_assert(!used[all[i].address & 0xff]);
		used[all[i].address & 0xff] = true;
		store_workload_release(&all[i]);
	}
	free(all);
}
END_TEST

/* ---- crashes and damage ---- */

#define KILL_AFTER 25

/* A child applies and reports each name after the call has returned; it is killed in the midst of it. Whatever was
 * reported must be there, whole. */
START_TEST(killed_writer_loses_nothing_that_was_reported)
{
	struct store_workload *all;
	int fds[2], last = -1, number;
	size_t n;
	pid_t pid;

	store_close(store);
	store = NULL;
	ck_assert_int_eq(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		close(fds[0]);
		if (store_open(path, &store, &err) < 0)
			_exit(1);
		for (number = 0; number < 250; number++) {
			char name[32];

			snprintf(name, sizeof name, "w-%03d", number);
			if (apply_plain(name) < 0 || write(fds[1], &number, sizeof number) != sizeof number)
				_exit(1);
		}
		_exit(0);
	}
	close(fds[1]);
	while (last < KILL_AFTER && read(fds[0], &number, sizeof number) == sizeof number)
		last = number;
	kill(pid, SIGKILL);
	while (read(fds[0], &number, sizeof number) == sizeof number)
		last = number;
	waitpid(pid, NULL, 0);
	close(fds[0]);
	ck_assert_int_ge(last, KILL_AFTER);
	ok(store_open(path, &store, &err));
	ok(store_list(store, &all, &n, &err));
	ck_assert_int_ge((int)n, last + 1);
	ck_assert_int_le((int)n, last + 2); /* one more may have been recorded and not reported */
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_eq(all[i].address, FIRST + i);
		store_workload_release(&all[i]);
	}
	free(all);
}
END_TEST

static void run_sql(const char *sql)
{
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

START_TEST(newer_schema_is_refused)
{
	store_close(store);
	store = NULL;
	run_sql("PRAGMA user_version = 9999");
	refused(store_open(path, &store, &err), ERR_FAILED_PRECONDITION, "newer version of capsuled (schema 9999");
}
END_TEST

START_TEST(former_schema_is_brought_up)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 };
	_cleanup_free_ char *holder = NULL;
	struct spec s, other;

	spec_init(&s, "web");
	spec_port(&s, 8080, "tcp");
	s.workload.desired_state = STOPPED;
	ok(apply(&s, &a));
	store_close(store);
	store = NULL;
	run_sql("ALTER TABLE workload DROP COLUMN holds; ALTER TABLE workload DROP COLUMN former_spec;"
		"ALTER TABLE lease DROP COLUMN former;"
		"CREATE TABLE old (protocol TEXT NOT NULL, host_port INTEGER NOT NULL, workload TEXT NOT NULL "
		"REFERENCES workload (name) ON DELETE CASCADE, PRIMARY KEY (protocol, host_port)) STRICT, WITHOUT ROWID;"
		"INSERT INTO old SELECT protocol, host_port, workload FROM port; DROP TABLE port;"
		"ALTER TABLE old RENAME TO port; CREATE INDEX port_workload ON port (workload); PRAGMA user_version = 2");
	reopen();
	holder = port_holder("tcp", 8080);
	ck_assert_str_eq(holder, "web");
	ck_assert_uint_eq(address_of("web"), a.address);
	/* Whether it still runs is not known until the daemon has looked. */
	s.ports[0].host_port = 8081;
	ok(apply(&s, &b));
	spec_init(&other, "other");
	spec_port(&other, 8080, "tcp");
	ok(apply(&other, &c));
	refused(store_begin_run(store, "other", c.generation, &err), ERR_ABORTED, "former run of workload web");
	ok(store_release_claims(store, "web", false, b.revision, NULL, &err));
	ok(store_begin_run(store, "other", c.generation, &err));
}
END_TEST

START_TEST(foreign_database_is_refused)
{
	store_close(store);
	store = NULL;
	ck_assert_int_eq(unlink(path), 0);
	run_sql("CREATE TABLE recipes (name TEXT)");
	refused(store_open(path, &store, &err), ERR_FAILED_PRECONDITION, "another program");
}
END_TEST

START_TEST(damage_is_told)
{
	static const char garbage[4096] = "this is no database, and it is long enough to be looked at";
	int fd;

	for (int i = 0; i < 100; i++) {
		char name[16];

		snprintf(name, sizeof name, "w-%d", i);
		ok(apply_plain(name));
	}
	store_close(store);
	store = NULL;
	fd = open(path, O_RDWR);
	ck_assert_int_ge(fd, 0);
	for (off_t at = 4 * 4096; at < 9 * 4096; at += 4096) /* pages of tables */
		ck_assert_int_eq(pwrite(fd, garbage, sizeof garbage, at), sizeof garbage);
	refused(store_open(path, &store, &err), ERR_DATA_LOSS, "is damaged");
	ck_assert_int_eq(pwrite(fd, garbage, sizeof garbage, 0), sizeof garbage);
	close(fd);
	refused(store_open(path, &store, &err), ERR_DATA_LOSS, "put back a copy");
}
END_TEST

START_TEST(database_is_private)
{
	struct stat st;

	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
}
END_TEST

/* A file system of our own in a mount namespace of our own: it goes with this process. */
static void mount_small(const char *options)
{
	store_close(store);
	store = NULL;
	ck_assert_msg(unshare(CLONE_NEWNS) == 0, "needs root: %s", strerror(errno));
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	ck_assert_int_eq(mount("small", dir, "tmpfs", 0, options), 0);
	ok(store_open(path, &store, &err));
}

START_TEST(full_disk_is_told_and_survived)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };
	static char filler[4096];
	char file[96];
	int fd, n = 0;

	mount_small("size=4m");
	ok(apply_plain("before"));
	snprintf(file, sizeof file, "%s/filler", dir);
	fd = open(file, O_WRONLY | O_CREAT, 0600);
	while (write(fd, filler, sizeof filler) > 0)
		;
	close(fd);
	for (; n < 200; n++) {
		char name[16];

		snprintf(name, sizeof name, "w-%d", n);
		if (apply_plain(name) < 0)
			break;
	}
	ck_assert_int_lt(n, 200);
	ck_assert_msg(err.code == ERR_RESOURCE_EXHAUSTED, "%s", error_message(&err));
	ck_assert_ptr_nonnull(strstr(error_message(&err), "the disk is full; free some space"));
	error_release(&err);
	ok(store_get(store, "before", &w, &err)); /* reading goes on */
	for (int i = 0; i < 40; i++) { /* and what makes room, or may */
		_cleanup_store_workload_ struct store_workload changed = { 0 };

		ok(store_set_desired(store, "before", i % 2 ? RUNNING : STOPPED, &changed, &err));
	}
	ck_assert_int_eq(unlink(file), 0);
	for (int i = 0; i <= n; i++) {
		_cleanup_store_workload_ struct store_workload got = { 0 };
		char name[16];

		snprintf(name, sizeof name, "w-%d", i);
		ck_assert_int_eq(store_get(store, name, &got, NULL) == 0, i < n); /* the failed one left nothing */
	}
	ok(apply_plain("after"));
	reopen();
	ck_assert_uint_ne(address_of("after"), 0);
	store_close(store);
	store = NULL;
	umount2(dir, MNT_DETACH);
}
END_TEST

START_TEST(read_only_file_system_is_told)
{
	mount_small("size=4m");
	ok(apply_plain("before"));
	store_close(store);
	store = NULL;
	ck_assert_int_eq(mount("small", dir, "tmpfs", MS_REMOUNT | MS_RDONLY, "size=4m"), 0);
	refused(store_open(path, &store, &err), ERR_FAILED_PRECONDITION, "Read-only file system); make");
	umount2(dir, MNT_DETACH);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		threads_share_the_store, killed_writer_loses_nothing_that_was_reported, newer_schema_is_refused,
		former_schema_is_brought_up, foreign_database_is_refused, damage_is_told, database_is_private, full_disk_is_told_and_survived,
		read_only_file_system_is_told,
	};

	return run_store_tests("store_durability", tests, sizeof tests / sizeof tests[0]);
}
