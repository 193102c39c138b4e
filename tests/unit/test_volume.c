/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The file backend with real file systems: mke2fs, loop devices, mounts. Every test has a mount namespace of its own,
 * so a mount that a failed test forgot goes with its process, and with the mount its loop device.
 */
#include "base/fs.h"
#include "base/process.h"
#include "base/timeutil.h"
#include "volume/backend.h"
#include "volume/ext4.h"
#include "volume/loop.h"

#include "runner.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (1ull << 20)

static char dir[64], images[96], mnt[96];
static struct volume_backend *backend;
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

static void set_up(void)
{
	ck_assert_msg(unshare(CLONE_NEWNS) == 0, "needs root: %s", strerror(errno));
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	snprintf(dir, sizeof dir, "/var/tmp/test-volume-XXXXXX"); /* not a tmpfs: direct I/O */
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(images, sizeof images, "%s/volumes", dir);
	snprintf(mnt, sizeof mnt, "%s/mnt", dir);
	ck_assert_int_eq(mkdir(mnt, 0700), 0);
	ok(volume_file_backend_new(images, getenv("CAPSULE_VOLUME"), &backend, &err));
}

static void tear_down(void)
{
	umount2(mnt, MNT_DETACH);
	backend->ops->free(backend);
	error_release(&err);
	umount2(images, MNT_DETACH);
	fs_remove_tree(AT_FDCWD, dir, NULL);
}

static struct stat stat_of(const char *path)
{
	struct stat st;

	ck_assert_msg(stat(path, &st) == 0, "%s: %s", path, strerror(errno));
	return st;
}

static char *image_path(const char *name)
{
	char *path = backend->ops->host_path(backend, name);

	ck_assert_ptr_nonnull(path);
	return path;
}

/* Attaches, mounts, and lets go of the descriptor as a driver does. */
static void mount_volume(const char *name, bool read_only, const char *where)
{
	_cleanup_free_ char *device = NULL;
	_cleanup_close_ int fd = -1;

	ok(backend->ops->attach(backend, name, read_only, &device, &fd, &err));
	ck_assert_msg(mount(device, where, "ext4", read_only ? MS_RDONLY : 0, NULL) == 0, "%s: %s", device,
		      strerror(errno));
}

static bool attached(const char *name)
{
	_cleanup_loop_ struct loop loop = LOOP_INIT;
	_cleanup_free_ char *path = image_path(name);

	ok(loop_find(path, &loop, &err));
	return loop.fd >= 0;
}

static void write_file(const char *name, const char *content)
{
	char path[160];

	snprintf(path, sizeof path, "%s/%s", mnt, name);
	ok(fs_write_atomic(AT_FDCWD, path, content, strlen(content), 0644, &err));
}

static void expect_file(const char *name, const char *content)
{
	_cleanup_free_ char *data = NULL;
	char path[160];

	snprintf(path, sizeof path, "%s/%s", mnt, name);
	ok(fs_read(AT_FDCWD, path, 1 << 20, &data, NULL, &err));
	ck_assert_str_eq(data, content);
}

static void patch(const char *name, off_t offset, const void *data, size_t len)
{
	_cleanup_free_ char *path = image_path(name);
	_cleanup_close_ int fd = open(path, O_WRONLY);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, data, len, offset), (ssize_t)len);
}

/* ---- making ---- */

START_TEST(create_is_sparse_and_quick)
{
	int64_t start = time_monotonic_ns(), took;
	_cleanup_free_ char *path = NULL;
	struct ext4_state state;
	struct stat st;

	ok(backend->ops->create(backend, "data", 1024 * MIB, &err));
	took = time_monotonic_ns() - start;
	path = image_path("data");
	st = stat_of(path);
	printf("# 1 GiB volume: %.1f ms, %lld KiB on disk\n", (double)took / 1e6, (long long)st.st_blocks / 2);
	ck_assert_uint_eq((uint64_t)st.st_size, 1024 * MIB);
	ck_assert_int_lt(st.st_blocks * 512, 2 * (int64_t)MIB);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	ok(ext4_read_state("volume data", path, &state, &err));
	ck_assert_uint_eq(state.size_bytes, 1024 * MIB);
	ck_assert(!state.has_errors && !state.needs_recovery);
	mount_volume("data", false, mnt);
	st = stat_of(mnt);
	ck_assert_uint_eq(st.st_uid, 0);
	ck_assert_uint_eq(st.st_gid, 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0755);
}
END_TEST

START_TEST(create_again_keeps_the_data)
{
	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	mount_volume("data", false, mnt);
	write_file("page", "hello");
	ck_assert_int_eq(umount(mnt), 0);
	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	mount_volume("data", false, mnt);
	expect_file("page", "hello");
	refused(backend->ops->create(backend, "data", 64 * MIB, &err), ERR_ALREADY_EXISTS, "another size");
}
END_TEST

START_TEST(bad_requests_are_refused)
{
	refused(backend->ops->create(backend, "data", MIB, &err), ERR_INVALID_ARGUMENT, "the least is 16 MiB");
	refused(backend->ops->create(backend, "../data", 32 * MIB, &err), ERR_INVALID_ARGUMENT, "no name for a volume");
	refused(backend->ops->create(backend, ".data", 32 * MIB, &err), ERR_INVALID_ARGUMENT, "no name for a volume");
	refused(backend->ops->grow(backend, "ghost", 32 * MIB, &err), ERR_NOT_FOUND, "volume ghost");
	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	refused(backend->ops->grow(backend, "data", 16 * MIB, &err), ERR_FAILED_PRECONDITION,
		"cannot shrink to 16 MiB");
}
END_TEST

/* ---- room ---- */

static void mount_small(const char *options)
{
	ck_assert_int_eq(mount("small", images, "tmpfs", 0, options), 0);
}

static size_t entries(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *entry;
	size_t n = 0;

	ck_assert_ptr_nonnull(d);
	while ((entry = readdir(d)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			n++;
	closedir(d);
	return n;
}

START_TEST(no_room_is_said_at_creation)
{
	mount_small("size=48m");
	refused(backend->ops->create(backend, "data", 64 * MIB, &err), ERR_RESOURCE_EXHAUSTED,
		"needs 64 MiB, and 48 MiB are free");
	ck_assert_uint_eq(entries(images), 0);
	ok(backend->ops->create(backend, "one", 32 * MIB, &err));
	/* 48 MiB are still free, nearly; but 32 of them are promised. */
	refused(backend->ops->create(backend, "two", 32 * MIB, &err), ERR_RESOURCE_EXHAUSTED,
		"for volume two: it needs 32 MiB");
	refused(backend->ops->grow(backend, "one", 64 * MIB, &err), ERR_RESOURCE_EXHAUSTED,
		"for volume one: it needs 32 MiB");
	ck_assert_uint_eq(entries(images), 1);
	mount_volume("one", false, mnt);
	write_file("page", "still whole");
	expect_file("page", "still whole");
}
END_TEST

/* The whole of a volume can be written where its creation was not refused. */
START_TEST(promised_room_is_there)
{
	static char block[1 << 16];
	_cleanup_close_ int fd = -1;
	struct ext4_state state;
	_cleanup_free_ char *path = NULL;
	char file[160];
	ssize_t n;

	mount_small("size=40m");
	ok(backend->ops->create(backend, "data", 36 * MIB, &err));
	mount_volume("data", false, mnt);
	memset(block, 'x', sizeof block);
	snprintf(file, sizeof file, "%s/big", mnt);
	fd = open(file, O_WRONLY | O_CREAT, 0600);
	ck_assert_int_ge(fd, 0);
	while ((n = write(fd, block, sizeof block)) > 0)
		;
	ck_assert_int_eq(errno, ENOSPC); /* the volume is full, not the disk below it */
	ck_assert_int_eq(fsync(fd), 0);
	close(steal_fd(&fd));
	ck_assert_int_eq(umount(mnt), 0);
	path = image_path("data");
	ok(ext4_read_state("volume data", path, &state, &err));
	ck_assert(!state.has_errors);
	fd = open(path, O_RDWR | O_CLOEXEC);
	ok(ext4_check("volume data", path, fd, true, &err));
}
END_TEST

START_TEST(full_disk_during_creation_leaves_nothing)
{
	/* Room for inodes runs out before that for blocks: the directory is all there is. */
	mount_small("size=64m,nr_inodes=1");
	refused(backend->ops->create(backend, "data", 32 * MIB, &err), ERR_RESOURCE_EXHAUSTED, "volume data");
	ck_assert_uint_eq(entries(images), 0);
}
END_TEST

/* ---- growing ---- */

START_TEST(grow_keeps_data)
{
	_cleanup_free_ char *path = NULL;
	struct ext4_state state;

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	mount_volume("data", false, mnt);
	write_file("page", "hello");
	refused(backend->ops->grow(backend, "data", 256 * MIB, &err), ERR_FAILED_PRECONDITION,
		"volume data is in use as /dev/loop");
	refused(backend->ops->remove(backend, "data", &err), ERR_FAILED_PRECONDITION, "in use as /dev/loop");
	ck_assert_int_eq(umount(mnt), 0);
	ok(backend->ops->grow(backend, "data", 256 * MIB, &err));
	path = image_path("data");
	ok(ext4_read_state("volume data", path, &state, &err));
	ck_assert_uint_eq(state.size_bytes, 256 * MIB);
	mount_volume("data", false, mnt);
	expect_file("page", "hello");
	ok(backend->ops->grow(backend, "data", 256 * MIB, &err)); /* nothing to do, so no matter that it is mounted */
}
END_TEST

START_TEST(interrupted_grow_is_completed)
{
	_cleanup_free_ char *path = NULL;
	struct ext4_state state;

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	mount_volume("data", false, mnt);
	write_file("page", "hello");
	ck_assert_int_eq(umount(mnt), 0);
	path = image_path("data");
	ck_assert_int_eq(truncate(path, 128 * MIB), 0); /* the crash came before resize2fs */
	mount_volume("data", false, mnt);
	expect_file("page", "hello");
	ck_assert_int_eq(umount(mnt), 0);
	ok(backend->ops->grow(backend, "data", 128 * MIB, &err));
	ok(ext4_read_state("volume data", path, &state, &err));
	ck_assert_uint_eq(state.size_bytes, 128 * MIB);
	mount_volume("data", false, mnt);
	expect_file("page", "hello");
}
END_TEST

/* 257 MiB are two groups of blocks and one MiB, too little for a third: mke2fs and resize2fs leave it out. */
START_TEST(a_tail_that_is_of_no_use_is_not_grown_into)
{
	_cleanup_free_ char *path = NULL;
	struct ext4_state state;

	ok(backend->ops->create(backend, "data", 257 * MIB, &err));
	path = image_path("data");
	ok(ext4_read_state("volume data", path, &state, &err));
	ck_assert_uint_eq(state.size_bytes, 256 * MIB);
	ck_assert(ext4_fills(&state, 257 * MIB));
	ck_assert(!ext4_fills(&state, 272 * MIB) && !ext4_fills(&state, 255 * MIB));
	mount_volume("data", false, mnt);
	ok(backend->ops->grow(backend, "data", 257 * MIB, &err)); /* nothing to do */
	ck_assert_int_eq(umount(mnt), 0);
	ok(backend->ops->grow(backend, "data", 300 * MIB, &err));
	ok(ext4_read_state("volume data", path, &state, &err));
	ck_assert_uint_eq(state.size_bytes, 300 * MIB);
	ck_assert(ext4_fills(&state, 300 * MIB) && !ext4_fills(&state, 301 * MIB));
}
END_TEST

/* ---- attaching ---- */

START_TEST(device_goes_with_its_last_user)
{
	_cleanup_free_ char *device = NULL;
	int fd = -1;

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	ok(backend->ops->attach(backend, "data", false, &device, &fd, &err));
	ck_assert(attached("data"));
	ck_assert_int_eq(mount(device, mnt, "ext4", 0, NULL), 0);
	close(fd);
	ck_assert(attached("data"));
	ck_assert_int_eq(umount(mnt), 0);
	ck_assert(!attached("data"));
}
END_TEST

START_TEST(one_device_a_file)
{
	_cleanup_free_ char *first = NULL, *second = NULL, *third = NULL;
	_cleanup_close_ int fd1 = -1, fd2 = -1, fd3 = -1;

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	ok(backend->ops->attach(backend, "data", false, &first, &fd1, &err));
	ok(backend->ops->attach(backend, "data", false, &second, &fd2, &err));
	ck_assert_str_eq(first, second);
	refused(backend->ops->attach(backend, "data", true, &third, &fd3, &err), ERR_UNAVAILABLE,
		"still attached for writing");
	close(steal_fd(&fd1));
	close(steal_fd(&fd2));
	ck_assert(!attached("data"));
	ok(backend->ops->attach(backend, "data", true, &third, &fd3, &err));
}
END_TEST

START_TEST(read_only_is_read_only)
{
	_cleanup_free_ char *device = NULL;
	_cleanup_close_ int fd = -1;
	char path[160];
	int raw;

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	mount_volume("data", false, mnt);
	write_file("page", "hello");
	ck_assert_int_eq(umount(mnt), 0);
	ok(backend->ops->attach(backend, "data", true, &device, &fd, &err));
	raw = open(device, O_WRONLY | O_CLOEXEC); /* not by the device either: at the open or at the write */
	ck_assert(raw < 0 || pwrite(raw, "x", 1, 0) < 0);
	if (raw >= 0)
		close(raw);
	ck_assert_int_lt(mount(device, mnt, "ext4", 0, NULL), 0);
	ck_assert_int_eq(mount(device, mnt, "ext4", MS_RDONLY, NULL), 0);
	expect_file("page", "hello");
	snprintf(path, sizeof path, "%s/new", mnt);
	ck_assert_int_lt(open(path, O_WRONLY | O_CREAT, 0600), 0);
	ck_assert_int_eq(errno, EROFS);
}
END_TEST

/* A host that went down under a mounted volume leaves a journal to replay. The copy of a mounted image is just that. */
START_TEST(unclean_volume_is_recovered)
{
	_cleanup_free_ char *path = NULL, *copy = NULL;
	struct ext4_state state;

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	mount_volume("data", false, mnt);
	write_file("page", "hello");
	path = image_path("data");
	copy = image_path("copy");
	ok(process_run_ok((const char *const[]){ "cp", "--sparse=always", path, copy, NULL }, 60000, &err));
	ck_assert_int_eq(umount(mnt), 0);
	ok(ext4_read_state("volume copy", copy, &state, &err));
	ck_assert(state.needs_recovery);
	mount_volume("copy", true, mnt); /* the mount could not replay through a read-only device */
	expect_file("page", "hello");
}
END_TEST

/* As the kernel does when it meets an inconsistency. */
static void mark_errors(const char *name)
{
	_cleanup_free_ char *path = image_path(name);

	ok(process_run_ok((const char *const[]){ "debugfs", "-w", "-R", "set_super_value state 3", path, NULL }, 60000,
			  &err));
}

START_TEST(errors_are_repaired_before_use)
{
	_cleanup_free_ char *path = NULL;
	struct ext4_state state;

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	mount_volume("data", false, mnt);
	write_file("page", "hello");
	ck_assert_int_eq(umount(mnt), 0);
	mark_errors("data");
	path = image_path("data");
	ok(ext4_read_state("volume data", path, &state, &err));
	ck_assert(state.has_errors);
	mount_volume("data", false, mnt);
	expect_file("page", "hello");
	ck_assert_int_eq(umount(mnt), 0);
	ok(ext4_read_state("volume data", path, &state, &err));
	ck_assert(!state.has_errors);
}
END_TEST

/* After a full disk an error may have reached the journal alone. */
START_TEST(errors_that_only_the_journal_tells_are_repaired_before_use)
{
	_cleanup_free_ char *path = NULL, *device = NULL, *trigger = NULL;
	struct ext4_state state;
	int fd = -1;

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	ok(backend->ops->attach(backend, "data", false, &device, &fd, &err));
	ck_assert_int_eq(mount(device, mnt, "ext4", 0, NULL), 0);
	close(fd);
	write_file("page", "hello");
	trigger = fs_path("/sys/fs/ext4/%s/trigger_fs_error", strrchr(device, '/') + 1);
	fd = open(trigger, O_WRONLY | O_CLOEXEC);
	ck_assert_msg(write(fd, "test", 4) == 4, "%s: %s", trigger, strerror(errno));
	close(fd);
	ck_assert_int_eq(umount(mnt), 0);
	path = image_path("data");
	ok(process_run_ok((const char *const[]){ "debugfs", "-w", "-R", "set_super_value state 1", path, NULL }, 60000, &err));
	ok(ext4_read_state("volume data", path, &state, &err));
	ck_assert(state.needs_recovery && !state.has_errors);
	mount_volume("data", false, mnt);
	expect_file("page", "hello");
	ok(ext4_read_state("volume data", path, &state, &err));
	ck_assert(!state.has_errors);
}
END_TEST

START_TEST(damage_is_told)
{
	static char garbage[64 * 1024];
	_cleanup_free_ char *device = NULL;
	int fd = -1;

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	mark_errors("data");
	memset(garbage, 0xa5, sizeof garbage);
	patch("data", 4096, garbage, sizeof garbage); /* group descriptors and what follows */
	refused(backend->ops->attach(backend, "data", false, &device, &fd, &err), ERR_DATA_LOSS, "then run e2fsck");
	ck_assert_int_lt(fd, 0);
	patch("data", 0, garbage, 4096);
	refused(backend->ops->attach(backend, "data", false, &device, &fd, &err), ERR_DATA_LOSS, "no readable ext4");
	refused(backend->ops->grow(backend, "data", 64 * MIB, &err), ERR_DATA_LOSS, "no readable ext4");
	refused(backend->ops->attach(backend, "ghost", false, &device, &fd, &err), ERR_NOT_FOUND, "volume ghost");
}
END_TEST

/* ---- leftovers ---- */

struct found {
	char names[8][32];
	size_t n;
};

static void note(const char *name, void *arg)
{
	struct found *found = arg;

	ck_assert_uint_lt(found->n, 8);
	snprintf(found->names[found->n++], sizeof found->names[0], "%s", name);
}

START_TEST(leftovers_of_a_crash_are_swept)
{
	struct found found = { 0 };
	char tmp[160];

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	snprintf(tmp, sizeof tmp, "%s/" FS_TMP_PREFIX "half.img", images);
	ok(fs_write_atomic(AT_FDCWD, tmp, "half", 4, 0600, &err));
	snprintf(tmp, sizeof tmp, "%s/notes.txt", images);
	ok(fs_write_atomic(AT_FDCWD, tmp, "mine", 4, 0600, &err));
	ok(backend->ops->enumerate(backend, note, &found, &err));
	ck_assert_uint_eq(found.n, 1);
	ck_assert_str_eq(found.names[0], "data");
	ck_assert_uint_eq(entries(images), 2); /* the volume, and what is not ours */
	snprintf(tmp, sizeof tmp, "%s/" FS_TMP_PREFIX "data2.img", images);
	ok(fs_write_atomic(AT_FDCWD, tmp, "half", 4, 0600, &err));
	ok(backend->ops->create(backend, "data2", 32 * MIB, &err)); /* its own leftover is no obstacle */
	ok(backend->ops->remove(backend, "data", &err));
	ok(backend->ops->remove(backend, "data", &err));
	ok(backend->ops->remove(backend, "data2", &err));
	ck_assert_uint_eq(entries(images), 1);
}
END_TEST

/* ---- kills ---- */

#define KILLS 16

static void make_and_grow(int ready)
{
	if (write(ready, "", 1) != 1 || backend->ops->create(backend, "data", 64 * MIB, &err) < 0 ||
	    backend->ops->grow(backend, "data", 2048 * MIB, &err) < 0)
		_exit(1);
	_exit(0);
}

/* The owner is killed a little later in each round; tools that it started go on without it. Whoever comes next gets a
 * whole volume by asking for the same again. */
START_TEST(killed_owner_leaves_no_damage)
{
	_cleanup_free_ char *path = image_path("data");
	int unfinished = 0;

	for (int i = 0; i < KILLS; i++) {
		_cleanup_close_ int fd = -1;
		struct found found = { 0 };
		int fds[2];
		char c;
		pid_t pid;

		ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
		pid = fork();
		if (pid == 0)
			make_and_grow(fds[1]);
		close(fds[1]);
		ck_assert_int_eq(read(fds[0], &c, 1), 1);
		(void)poll(&(struct pollfd){ .fd = fds[0], .events = POLLIN }, 1, 3 * i);
		kill(pid, SIGKILL);
		unfinished += process_wait(pid) != 0;
		close(fds[0]);
		ok(backend->ops->enumerate(backend, note, &found, &err));
		ck_assert_uint_le(found.n, 1);
		if (!found.n)
			ok(backend->ops->create(backend, "data", 64 * MIB, &err));
		ok(backend->ops->grow(backend, "data", 2048 * MIB, &err));
		ck_assert_uint_eq(entries(images), 1);
		fd = open(path, O_RDWR | O_CLOEXEC);
		ok(ext4_check("volume data", path, fd, true, &err));
		mount_volume("data", false, mnt);
		write_file("page", "hello");
		ck_assert_int_eq(umount(mnt), 0);
		ok(backend->ops->remove(backend, "data", &err));
	}
	printf("# %d of %d owners were killed before the end\n", unfinished, KILLS);
	ck_assert_int_gt(unfinished, 0);
}
END_TEST

/* What a tool inherits is what the next owner waits for. */
START_TEST(next_owner_waits_for_a_tool)
{
	_cleanup_free_ char *path = image_path("data");
	_cleanup_close_ int fd = -1, other = -1;

	ok(backend->ops->create(backend, "data", 32 * MIB, &err));
	fd = open(path, O_RDWR | O_CLOEXEC);
	other = open(path, O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(flock(fd, LOCK_EX), 0);
	{
		const char *const argv[] = { "cat", NULL }; /* a tool that works as long as we like */
		struct process_fd given[2];
		struct process_spawn spawn = { .argv = argv, .fds = given, .n_fds = 2 };
		int fds[2];
		pid_t pid;

		ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
		given[0] = (struct process_fd){ fds[0], STDIN_FILENO };
		given[1] = (struct process_fd){ fd, STDERR_FILENO + 1 };
		ok(process_spawn(&spawn, &pid, NULL, &err));
		close(steal_fd(&fd));
		ck_assert_int_lt(flock(other, LOCK_EX | LOCK_NB), 0);
		close(fds[1]);
		close(fds[0]);
		ok(backend->ops->grow(backend, "data", 64 * MIB, &err)); /* returns once the tool has ended */
		ck_assert_int_eq(process_wait(pid), 0);
	}
}
END_TEST

/* ---- threads ---- */

#define THREADS 6
#define ROUNDS 4

struct worker {
	pthread_t thread;
	char name[16];
	char *device;
	int fd;
	struct error err;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	for (int i = 0; i < ROUNDS; i++) {
		if (backend->ops->create(backend, w->name, 16 * MIB, &w->err) < 0 ||
		    backend->ops->grow(backend, w->name, 48 * MIB, &w->err) < 0)
			return NULL;
		if (i < ROUNDS - 1 && backend->ops->remove(backend, w->name, &w->err) < 0)
			return NULL;
	}
	backend->ops->attach(backend, w->name, false, &w->device, &w->fd, &w->err);
	return NULL;
}

START_TEST(volumes_do_not_disturb_each_other)
{
	struct worker workers[THREADS];

	for (int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .fd = -1 };
		snprintf(workers[i].name, sizeof workers[i].name, "v%d", i);
		ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	for (int i = 0; i < THREADS; i++) {
		ck_assert_msg(workers[i].fd >= 0, "%s", error_message(&workers[i].err));
		for (int k = 0; k < i; k++)
			ck_assert_str_ne(workers[i].device, workers[k].device);
	}
	for (int i = 0; i < THREADS; i++) {
		close(workers[i].fd);
		free(workers[i].device);
		ok(backend->ops->remove(backend, workers[i].name, &err));
	}
	ck_assert_uint_eq(entries(images), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		create_is_sparse_and_quick, create_again_keeps_the_data, bad_requests_are_refused,
		no_room_is_said_at_creation,
		promised_room_is_there, full_disk_during_creation_leaves_nothing, grow_keeps_data,
		interrupted_grow_is_completed, a_tail_that_is_of_no_use_is_not_grown_into,
		device_goes_with_its_last_user, one_device_a_file, read_only_is_read_only, unclean_volume_is_recovered,
		errors_are_repaired_before_use, errors_that_only_the_journal_tells_are_repaired_before_use, damage_is_told, leftovers_of_a_crash_are_swept,
		killed_owner_leaves_no_damage,
		next_owner_waits_for_a_tool, volumes_do_not_disturb_each_other,
	};
	Suite *suite = suite_create("volume");
	TCase *tc = tcase_create("volume");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 60);
	for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
		tcase_add_test(tc, tests[i]);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
