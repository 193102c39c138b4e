/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/confine.h"

#include "base/fs.h"

#include "runner.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Two directories side by side with a file each. Every test is a process of its own and confines itself. */
static char top[] = "/tmp/capsule-test-confine-XXXXXX";
static int own, other;

static int make_directory(int topfd, const char *name)
{
	int fd;

	mkdirat(topfd, name, 0700);
	fd = openat(topfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	close(openat(fd, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	return fd;
}

static void make_tree(void)
{
	_cleanup_close_ int topfd = open(mkdtemp(top), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	own = make_directory(topfd, "own");
	other = make_directory(topfd, "other");
}

static void remove_tree(void)
{
	close(own);
	close(other);
	fs_remove_tree(AT_FDCWD, top, NULL);
}

static void confine_to_own(enum confine_use use)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_close_ int rules = confine_files_begin();

	ck_assert_msg(rules >= 0, "this kernel has no Landlock");
	ck_assert_int_eq(confine_files_allow(rules, own, use, &err), 0);
	ck_assert_int_eq(confine_files_enforce(rules, &err), 0);
}

static int try_open(int dirfd, const char *path, int flags)
{
	_cleanup_close_ int fd = openat(dirfd, path, flags | O_CLOEXEC, 0600);

	return fd < 0 ? errno : 0;
}

START_TEST(others_are_out_of_reach)
{
	confine_to_own(CONFINE_MANAGE);
	ck_assert_int_eq(try_open(AT_FDCWD, "/etc/passwd", O_RDONLY), EACCES);
	ck_assert_int_eq(try_open(own, "../other/file", O_RDONLY), EACCES);
	ck_assert_int_eq(try_open(other, "file", O_RDWR), EACCES);
	ck_assert_int_eq(try_open(other, "new", O_WRONLY | O_CREAT), EACCES);
}
END_TEST

START_TEST(what_may_be_managed)
{
	confine_to_own(CONFINE_MANAGE);
	ck_assert_int_eq(try_open(own, "file", O_RDWR), 0);
	ck_assert_int_eq(try_open(own, "new", O_WRONLY | O_CREAT | O_EXCL), 0);
	ck_assert_int_eq(renameat(own, "new", own, "newer"), 0);
	ck_assert_int_eq(unlinkat(own, "newer", 0), 0);
	ck_assert_int_eq(mkdirat(own, "directory", 0700), -1);
}
END_TEST

START_TEST(what_may_be_modified)
{
	confine_to_own(CONFINE_MODIFY);
	ck_assert_int_eq(try_open(own, "file", O_RDWR), 0);
	ck_assert_int_eq(try_open(own, "new", O_WRONLY | O_CREAT), EACCES);
	ck_assert_int_eq(unlinkat(own, "file", 0), -1);
}
END_TEST

START_TEST(what_may_be_read)
{
	confine_to_own(CONFINE_READ);
	ck_assert_int_eq(try_open(own, ".", O_RDONLY | O_DIRECTORY), 0);
	ck_assert_int_eq(try_open(own, "file", O_RDONLY), 0);
	ck_assert_int_eq(try_open(own, "file", O_WRONLY), EACCES);
}
END_TEST

START_TEST(what_may_be_searched)
{
	confine_to_own(CONFINE_SEARCH);
	ck_assert_int_eq(try_open(own, ".", O_RDONLY | O_DIRECTORY), 0);
	ck_assert_int_eq(try_open(own, "file", O_RDONLY), EACCES);
}
END_TEST

/* ---- who may go to it ---- */

/* What a container's root has: docs/runtime.md. */
#define OF_A_CONTAINER                                                                                                \
	(CONFINE_KEEP(CAP_CHOWN) | CONFINE_KEEP(CAP_DAC_OVERRIDE) | CONFINE_KEEP(CAP_FSETID) | CONFINE_KEEP(CAP_FOWNER) | \
	 CONFINE_KEEP(CAP_MKNOD) | CONFINE_KEEP(CAP_NET_RAW) | CONFINE_KEEP(CAP_SETGID) | CONFINE_KEEP(CAP_SETUID) |      \
	 CONFINE_KEEP(CAP_SETFCAP) | CONFINE_KEEP(CAP_SETPCAP) | CONFINE_KEEP(CAP_NET_BIND_SERVICE) |                     \
	 CONFINE_KEEP(CAP_SYS_CHROOT) | CONFINE_KEEP(CAP_KILL) | CONFINE_KEEP(CAP_AUDIT_WRITE))

/* A process that has confined itself and waits. It ends with this one. */
static pid_t start_confined(uint64_t kept, int dumpable)
{
	int fds[2];
	char byte;
	pid_t pid;

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		if (confine(NULL, kept, NULL) < 0 || (dumpable && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0) ||
		    write(fds[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(fds[1]);
	ck_assert_int_eq(read(fds[0], &byte, 1), 1);
	close(fds[0]);
	return pid;
}

static int try_process(pid_t pid, const char *what)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
	return try_open(AT_FDCWD, path, O_RDONLY);
}

START_TEST(a_container_cannot_go_to_it)
{
	const uint64_t kept = CONFINE_KEEP(CAP_DAC_OVERRIDE);
	pid_t open_to_all = start_confined(kept, 1), confined = start_confined(kept, 0);
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_int_eq(confine(NULL, OF_A_CONTAINER, &err), 0);
	ck_assert_int_eq(try_process(open_to_all, "root"), 0);
	ck_assert_int_eq(try_process(confined, "root"), EACCES);
	ck_assert_int_eq(try_process(confined, "exe"), EACCES);
	ck_assert_int_eq(try_process(confined, "fd/0"), EACCES);
	ck_assert_int_eq(try_process(confined, "mem"), EACCES);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("confine");
	TCase *files = tcase_create("files"), *process = tcase_create("process");

	tcase_add_unchecked_fixture(files, make_tree, remove_tree);
	tcase_add_test(files, others_are_out_of_reach);
	tcase_add_test(files, what_may_be_managed);
	tcase_add_test(files, what_may_be_modified);
	tcase_add_test(files, what_may_be_read);
	tcase_add_test(files, what_may_be_searched);
	suite_add_tcase(suite, files);
	tcase_add_test(process, a_container_cannot_go_to_it);
	suite_add_tcase(suite, process);
	return run_suite(suite);
}
