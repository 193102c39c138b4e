/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/ext4.h"

#include "base/process.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/file.h>

#define MAKE_TIMEOUT_MS (2 * 60 * 1000)
/* A large volume on a slow disk is read from end to end. */
#define CHECK_TIMEOUT_MS (4ll * 60 * 60 * 1000)

/* Where the superblock is and which of its fields are looked at. */
#define SUPERBLOCK_OFFSET 1024
#define SUPERBLOCK_SIZE 1024
#define OFFSET_BLOCKS_LOW 0x4
#define OFFSET_LOG_BLOCK_SIZE 0x18
#define OFFSET_BLOCKS_PER_GROUP 0x20
#define OFFSET_INODES_PER_GROUP 0x28
#define OFFSET_MAGIC 0x38
#define OFFSET_STATE 0x3a
#define OFFSET_INODE_SIZE 0x58
#define OFFSET_FEATURE_INCOMPAT 0x60
#define OFFSET_RESERVED_GDT_BLOCKS 0xce
#define OFFSET_DESC_SIZE 0xfe
#define OFFSET_BLOCKS_HIGH 0x150
#define MAGIC 0xef53
#define STATE_ERRORS 0x2
#define INCOMPAT_RECOVER 0x4
#define INCOMPAT_64BIT 0x80
#define LOG_BLOCK_SIZE_MAX 6

/* e2fsck(8), EXIT CODE: a sum of these. */
#define E2FSCK_REPAIRED 1
#define E2FSCK_REPAIRED_REBOOT 2

int ext4_lock(int fd)
{
	while (flock(fd, LOCK_EX) < 0)
		if (errno != EINTR)
			return -1;
	return 0;
}

int ext4_open_locked(const char *what, const char *path, int *ret_fd, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "cannot open %s at %s", what, path);
	if (ext4_lock(fd) < 0)
		return error_errno(err, errno, "cannot lock %s", path);
	*ret_fd = steal_fd(&fd);
	return 0;
}

static uint16_t le16_at(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof v);
	return le16toh(v);
}

static uint32_t le32_at(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof v);
	return le32toh(v);
}

/* As ext2fs_initialize() of e2fsprogs counts: the tables of a group, those of a backup of the superblock, and fifty blocks. */
#define GROUP_BITMAPS 2
#define GROUP_LEAST_DATA 50

static uint64_t least_group(const uint8_t *sb, uint64_t blocks, uint64_t block_size, bool is_64bit)
{
	uint64_t per_group = le32_at(sb + OFFSET_BLOCKS_PER_GROUP);
	uint64_t inode_bytes = (uint64_t)le32_at(sb + OFFSET_INODES_PER_GROUP) * le16_at(sb + OFFSET_INODE_SIZE);
	uint64_t groups = per_group ? (blocks + per_group - 1) / per_group + 1 : 1;
	uint64_t desc_bytes = groups * (is_64bit ? le16_at(sb + OFFSET_DESC_SIZE) : 32);

	return GROUP_BITMAPS + (inode_bytes + block_size - 1) / block_size + 1 + (desc_bytes + block_size - 1) / block_size +
	       le16_at(sb + OFFSET_RESERVED_GDT_BLOCKS) + GROUP_LEAST_DATA;
}

/* Only behind a whole group a new one would begin. */
static uint64_t tail_of(const uint8_t *sb, uint64_t blocks, uint64_t block_size, bool is_64bit)
{
	uint32_t per_group = le32_at(sb + OFFSET_BLOCKS_PER_GROUP);

	return per_group && blocks % per_group == 0 ? least_group(sb, blocks, block_size, is_64bit) * block_size : block_size;
}

bool ext4_fills(const struct ext4_state *state, uint64_t device_bytes)
{
	return device_bytes >= state->size_bytes && device_bytes - state->size_bytes < state->tail_bytes;
}

int ext4_read_state(const char *what, const char *path, struct ext4_state *ret, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t sb[SUPERBLOCK_SIZE];
	uint32_t incompat, log_size;
	uint64_t blocks;
	ssize_t n;

	if (fd < 0)
		return error_errno(err, errno, "cannot open %s at %s", what, path);
	n = pread(fd, sb, sizeof sb, SUPERBLOCK_OFFSET);
	if (n < 0)
		return error_errno(err, errno, "cannot read %s at %s", what, path);
	log_size = n == (ssize_t)sizeof sb ? le32_at(sb + OFFSET_LOG_BLOCK_SIZE) : 0;
	if (n != (ssize_t)sizeof sb || le16_at(sb + OFFSET_MAGIC) != MAGIC || log_size > LOG_BLOCK_SIZE_MAX)
		return error_set(err, ERR_DATA_LOSS,
				 "%s has no readable ext4 file system in %s; repair it with e2fsck, or delete the volume", what, path);
	incompat = le32_at(sb + OFFSET_FEATURE_INCOMPAT);
	blocks = le32_at(sb + OFFSET_BLOCKS_LOW);
	if (incompat & INCOMPAT_64BIT)
		blocks |= (uint64_t)le32_at(sb + OFFSET_BLOCKS_HIGH) << 32;
	ret->size_bytes = blocks << (10 + log_size);
	ret->tail_bytes = tail_of(sb, blocks, 1024ull << log_size, incompat & INCOMPAT_64BIT);
	ret->has_errors = (le16_at(sb + OFFSET_STATE) & STATE_ERRORS) != 0;
	ret->needs_recovery = (incompat & INCOMPAT_RECOVER) != 0;
	return 0;
}

bool ext4_has_errors(const char *path)
{
	struct ext4_state state;

	return ext4_read_state("volume", path, &state, NULL) < 0 || state.has_errors;
}

/* ---- e2fsprogs ---- */

/* Messages are looked at, so they come in one language. */
static const char *const tool_env[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL };

static int run_tool(const char *const *argv, int lock_fd, int64_t timeout_ms, struct process_result *ret,
		    struct error *err)
{
	const struct process_fd inherited = { .fd = lock_fd, .target = STDERR_FILENO + 1 };
	struct process_run run = {
		.spawn = { .argv = argv, .env = tool_env, .fds = &inherited, .n_fds = 1 },
		.timeout_ms = timeout_ms,
	};

	if (process_run(&run, ret, err) == 0)
		return 0;
	if (err && err->code == ERR_NOT_FOUND)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "%s is not in the daemon's PATH; install the package e2fsprogs or add /usr/sbin to PATH", argv[0]);
	return -1;
}

/* What a tool met: its first line, before the advice that follows. e2fsck may put one before it that only says that it
 * will look closely. Edits the text. */
static const char *finding(struct process_result *result)
{
	char *line = result->output, *end = line + strcspn(line, "\r\n");

	if (*end && memmem(line, (size_t)(end - line), "check forced", strlen("check forced"))) {
		line = end + strspn(end, "\r\n");
		end = line + strcspn(line, "\r\n");
	}
	while (end > line && end[-1] == ' ')
		end--;
	*end = '\0';
	return line;
}

static int tool_failed(const char *tool, struct process_result *result, struct error *err)
{
	if (strstr(result->output, strerrordesc_np(ENOSPC)))
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "%s found the disk full; free some space and try again",
				 tool);
	return error_set(err, ERR_INTERNAL, "%s failed with exit code %d: %s", tool, result->exit_code,
			 finding(result));
}

int ext4_make(const char *what, const char *path, int lock_fd, struct error *err)
{
	/* Not mke2fs's choices for small devices (1 KiB blocks): volumes grow. No reserved blocks: nobody but the
	 * workload writes here. After an error no more is written, so that little is lost. */
	const char *const argv[] = { "mke2fs", "-q", "-F", "-t", "ext4", "-T", "default", "-b", "4096", "-m", "0", "-e",
				     "remount-ro", "-E",
				     "lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1,"
				     "nodiscard,root_owner=0:0",
				     path, NULL };
	_cleanup_process_result_ struct process_result result = { 0 };

	if (run_tool(argv, lock_fd, MAKE_TIMEOUT_MS, &result, err) < 0)
		return error_wrap(err, "cannot make the file system of %s", what);
	if (result.exit_code != 0) {
		tool_failed("mke2fs", &result, err);
		return error_wrap(err, "cannot make the file system of %s", what);
	}
	return 0;
}

int ext4_check(const char *what, const char *path, int lock_fd, bool thorough, struct error *err)
{
	const char *const argv[] = { "e2fsck", "-p", path, thorough ? "-f" : NULL, NULL };
	_cleanup_process_result_ struct process_result result = { 0 };

	if (run_tool(argv, lock_fd, CHECK_TIMEOUT_MS, &result, err) < 0)
		return error_wrap(err, "cannot check the file system of %s", what);
	if ((result.exit_code & ~(E2FSCK_REPAIRED | E2FSCK_REPAIRED_REBOOT)) == 0)
		return 0;
	return error_set(err, ERR_DATA_LOSS,
			 "the file system of %s is damaged and needs your decisions (%s); copy %s to a safe place, "
			 "then run e2fsck %s",
			 what, finding(&result), path, path);
}

/* The device is larger by now: what fails is to be led on, not to be taken back. */
static int not_grown(const char *what, struct error *err)
{
	if (err)
		err->code = ERR_UNAVAILABLE;
	return error_wrap(err, "cannot grow the file system of %s", what);
}

int ext4_grow(const char *what, const char *path, int lock_fd, struct error *err)
{
	const char *const argv[] = { "resize2fs", path, NULL };
	_cleanup_process_result_ struct process_result result = { 0 };

	if (run_tool(argv, lock_fd, CHECK_TIMEOUT_MS, &result, err) < 0)
		return not_grown(what, err);
	if (result.exit_code == 0)
		return 0;
	tool_failed("resize2fs", &result, err);
	return not_grown(what, err);
}
