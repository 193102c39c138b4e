/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What GetInfo tells, against what the kernel's own calls say. */
#include "base/fs.h"
#include "service/hostinfo.h"

#include "runner.h"

#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static char dir[64], path[96];
static struct store *store;
static struct error err;

#define ok(call) ck_assert_msg((call) == 0, "%s", error_message(&err))

static void set_up(void)
{
	snprintf(dir, sizeof dir, "/tmp/test-hostinfo-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/state.db", dir);
	ok(store_open(path, &store, &err));
}

static void tear_down(void)
{
	store_close(store);
	error_release(&err);
	fs_remove_tree(AT_FDCWD, dir, NULL);
}

static Capsule__V1__GetInfoResponse *fill(void)
{
	Capsule__V1__GetInfoResponse *info = malloc(sizeof *info);

	ck_assert_ptr_nonnull(info);
	capsule__v1__get_info_response__init(info);
	ok(hostinfo_fill(store, dir, info, &err));
	return info;
}

START_TEST(fields_agree_with_the_kernel)
{
	Capsule__V1__GetInfoResponse *info = fill();
	struct utsname names;
	struct sysinfo system;
	struct statvfs vfs;
	struct stat st;

	ck_assert_int_eq(uname(&names), 0);
	ck_assert_int_eq(sysinfo(&system), 0);
	ck_assert_int_eq(statvfs(dir, &vfs), 0);
	ck_assert_str_eq(info->hostname, names.nodename);
	ck_assert_str_eq(info->kernel_release, names.release);
	ck_assert_str_eq(info->architecture, names.machine);
	ck_assert_str_eq(info->capsule_version, CAPSULE_VERSION);
	ck_assert_int_le(labs((long)info->uptime_seconds - system.uptime), 2);
	ck_assert_int_le(labs((long)(info->local_time_unix - time(NULL))), 2);
	ck_assert_uint_eq(info->memory_total_bytes, (uint64_t)system.totalram * system.mem_unit);
	ck_assert_uint_gt(info->memory_available_bytes, 0);
	ck_assert_uint_le(info->memory_available_bytes, info->memory_total_bytes);
	ck_assert_uint_eq(info->cpu_cores, (uint32_t)get_nprocs());
	ck_assert_ptr_null(strchr(info->cpu_model, '\n'));
	ck_assert_uint_eq(info->perm_total_bytes, (uint64_t)vfs.f_blocks * vfs.f_frsize);
	ck_assert_uint_le(info->perm_used_bytes, info->perm_total_bytes);
	/* A root on a block device has a disk, and that is a node in /dev. */
	if (*info->boot_disk) {
		ck_assert_int_eq(stat(info->boot_disk, &st), 0);
		ck_assert(S_ISBLK(st.st_mode));
		ck_assert_uint_gt(info->disk_total_bytes, 0);
	} else {
		ck_assert_uint_eq(info->disk_total_bytes, 0);
	}
	ck_assert_uint_eq(info->thinpool_total_bytes, 0);
	capsule__v1__get_info_response__free_unpacked(info, NULL);
}
END_TEST

START_TEST(id_stays)
{
	_cleanup_free_ char *id = NULL;
	Capsule__V1__GetInfoResponse *first = fill(), *second;

	store_close(store);
	store = NULL;
	ok(store_open(path, &store, &err));
	second = fill();
	ok(hostinfo_id(store, &id, &err));
	ck_assert_uint_eq(strlen(id), 32);
	ck_assert_uint_eq(strlen(first->short_id), 8);
	ck_assert_str_eq(first->short_id, second->short_id);
	ck_assert_int_eq(strncmp(id, first->short_id, 8), 0);
	capsule__v1__get_info_response__free_unpacked(first, NULL);
	capsule__v1__get_info_response__free_unpacked(second, NULL);
}
END_TEST

START_TEST(missing_state_root_is_told)
{
	Capsule__V1__GetInfoResponse *info = malloc(sizeof *info);

	ck_assert_ptr_nonnull(info);
	capsule__v1__get_info_response__init(info);
	ck_assert_int_lt(hostinfo_fill(store, "/nowhere/at/all", info, &err), 0);
	ck_assert_int_eq(err.code, ERR_NOT_FOUND);
	ck_assert_ptr_nonnull(strstr(error_message(&err), "state root /nowhere/at/all"));
	capsule__v1__get_info_response__free_unpacked(info, NULL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("hostinfo");
	TCase *tc = tcase_create("hostinfo");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, fields_agree_with_the_kernel);
	tcase_add_test(tc, id_stays);
	tcase_add_test(tc, missing_state_root_is_told);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
