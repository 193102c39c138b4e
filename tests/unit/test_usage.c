/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Figures of a cgroup, from files as kernels write them. That they are those of a running workload is shown by
 * tests/integration/test_observe.py, for the hierarchy that this host has. */
#include "runtime/usage.h"

#include "base/fs.h"

#include "runner.h"

#include <check.h>
#include <fcntl.h>
#include <stdlib.h>

static char dir[] = "/tmp/capsule-usage-XXXXXX";
static int dirfd_ = -1;

static void set_up(void)
{
	strcpy(dir + sizeof dir - 7, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	dirfd_ = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(dirfd_, 0);
}

static void tear_down(void)
{
	close(dirfd_);
	fs_remove_tree(AT_FDCWD, dir, NULL);
}

static void file(const char *name, const char *text)
{
	ck_assert_int_eq(fs_write_replace(dirfd_, name, text, strlen(text), 0600, NULL), 0);
}

START_TEST(v2)
{
	struct usage u;

	file("cpu.stat", "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n");
	file("memory.current", "10485760\n");
	file("memory.stat", "anon 1\nfile 2\ninactive_file 4194304\nactive_file 7\n");
	file("memory.max", "max\n");
	file("io.stat", "8:0 rbytes=1000 wbytes=20 rios=3 wios=4 dbytes=0 dios=0\n"
			"7:1 rbytes=500 wbytes=7 rios=3 wios=4 dbytes=9 dios=0\n");
	file("pids.current", "5\n");
	file("pids.max", "100\n");
	usage_read_dirs(&(struct usage_dirs){ dirfd_, -1, -1, -1, -1 }, &u);
	ck_assert_uint_eq(u.cpu_time_ns, 1234567000);
	ck_assert_uint_eq(u.memory_bytes, 6291456);
	ck_assert_uint_eq(u.memory_limit_bytes, 0);
	ck_assert_uint_eq(u.block_read_bytes, 1500);
	ck_assert_uint_eq(u.block_written_bytes, 27);
	ck_assert_uint_eq(u.pids, 5);
	ck_assert_uint_eq(u.pids_limit, 100);
}
END_TEST

START_TEST(v1)
{
	struct usage u;

	file("cpuacct.usage", "99000000001\n");
	file("memory.usage_in_bytes", "8192\n");
	file("memory.stat", "inactive_file 1\ntotal_inactive_file 4096\n");
	file("memory.limit_in_bytes", "9223372036854771712\n");
	file("blkio.throttle.io_service_bytes_recursive",
	     "8:0 Read 4096\n8:0 Write 512\n8:0 Sync 1\n8:0 Async 2\n8:0 Total 4608\n8:16 Read 4\n8:16 Write 3\nTotal 9\n");
	file("pids.current", "1\n");
	file("pids.max", "max\n");
	usage_read_dirs(&(struct usage_dirs){ -1, dirfd_, dirfd_, dirfd_, dirfd_ }, &u);
	ck_assert_uint_eq(u.cpu_time_ns, 99000000001);
	ck_assert_uint_eq(u.memory_bytes, 4096);
	ck_assert_uint_eq(u.memory_limit_bytes, 0);
	ck_assert_uint_eq(u.block_read_bytes, 4100);
	ck_assert_uint_eq(u.block_written_bytes, 515);
	ck_assert_uint_eq(u.pids, 1);
	ck_assert_uint_eq(u.pids_limit, 0);
}
END_TEST

/* More cache than use: the two files are read one after the other. */
START_TEST(never_below_nothing)
{
	struct usage u;

	file("memory.current", "4096\n");
	file("memory.stat", "inactive_file 8192\n");
	usage_read_dirs(&(struct usage_dirs){ dirfd_, -1, -1, -1, -1 }, &u);
	ck_assert_uint_eq(u.memory_bytes, 0);
}
END_TEST

START_TEST(what_is_not_counted_is_0)
{
	struct usage u = { .pids = 7 };

	usage_read_dirs(&(struct usage_dirs){ -1, -1, -1, -1, -1 }, &u);
	ck_assert_uint_eq(u.pids, 0);
	ck_assert_uint_eq(u.block_read_bytes, 0);
}
END_TEST

START_TEST(no_such_cgroup)
{
	struct usage u;

	ck_assert_int_eq(usage_read("/capsule-test-none", "web", &u), -1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("usage");
	TCase *tc = tcase_create("usage");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, v2);
	tcase_add_test(tc, v1);
	tcase_add_test(tc, never_below_nothing);
	tcase_add_test(tc, what_is_not_counted_is_0);
	tcase_add_test(tc, no_such_cgroup);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
