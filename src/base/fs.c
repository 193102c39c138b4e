/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/fs.h"

#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

char *fs_path(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return s;
}

int fs_write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int fs_read(int dirfd, const char *path, size_t max, char **ret_data, size_t *ret_len, struct error *err)
{
	_cleanup_buf_ struct buf content = BUF_INIT(max);
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	size_t len;
	char *data;

	if (fd < 0)
		return error_errno(err, errno, "cannot open %s", path);
	for (;;) {
		char chunk[16384];
		ssize_t n = read(fd, chunk, sizeof chunk);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return error_errno(err, errno, "cannot read %s", path);
		}
		if (n == 0)
			break;
		if (buf_add(&content, chunk, (size_t)n) < 0)
			return error_set(err, ERR_RESOURCE_EXHAUSTED, "%s is larger than the limit of %zu bytes", path, max);
	}
	len = content.len;
	data = buf_steal(&content);
	if (!data)
		return error_errno(err, ENOMEM, "cannot read %s", path);
	*ret_data = data;
	if (ret_len)
		*ret_len = len;
	return 0;
}

/* Splits off the directory part: *ret_dir is "." for a bare name. Returns the last component, inside path. */
static const char *split_path(const char *path, char **ret_dir)
{
	const char *slash = strrchr(path, '/');

	if (!slash) {
		*ret_dir = strdup(".");
		return path;
	}
	*ret_dir = slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
	return slash + 1;
}

static int write_renamed(int dirfd, const char *path, const void *data, size_t len, mode_t mode, bool sync,
			 struct error *err)
{
	static atomic_uint serial;
	_cleanup_free_ char *dir = NULL;
	_cleanup_close_ int parent = -1, fd = -1;
	const char *name = split_path(path, &dir);
	char tmp[64];
	int r;

	if (!dir)
		return error_errno(err, ENOMEM, "cannot write %s", path);
	parent = openat(dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent < 0)
		return error_errno(err, errno, "cannot open the directory of %s", path);
	snprintf(tmp, sizeof tmp, FS_TMP_PREFIX "%d-%u", (int)getpid(), atomic_fetch_add(&serial, 1));
	fd = openat(parent, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0)
		return error_errno(err, errno, "cannot create a file beside %s", path);
	r = fs_write_all(fd, data, len);
	if (r == 0 && fchmod(fd, mode) < 0)
		r = -errno;
	if (r == 0 && sync && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(parent, tmp, parent, name) < 0)
		r = -errno;
	if (r < 0) {
		unlinkat(parent, tmp, 0);
		return error_errno(err, -r, "cannot write %s", path);
	}
	if (sync && fsync(parent) < 0)
		return error_errno(err, errno, "cannot sync the directory of %s", path);
	return 0;
}

int fs_write_atomic(int dirfd, const char *path, const void *data, size_t len, mode_t mode, struct error *err)
{
	return write_renamed(dirfd, path, data, len, mode, true, err);
}

int fs_write_replace(int dirfd, const char *path, const void *data, size_t len, mode_t mode, struct error *err)
{
	return write_renamed(dirfd, path, data, len, mode, false, err);
}

int fs_mkdir_all(int dirfd, const char *path, mode_t mode, struct error *err)
{
	_cleanup_free_ char *copy = strdup(path);
	struct stat st;
	char *p;

	if (!copy)
		return error_errno(err, ENOMEM, "cannot make the directory %s", path);
	for (p = copy + 1; *copy; p++) {
		char c = *p;

		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (mkdirat(dirfd, copy, mode) < 0 && errno != EEXIST)
			return error_errno(err, errno, "cannot make the directory %s", copy);
		*p = c;
		if (c == '\0')
			break;
	}
	if (fstatat(dirfd, path, &st, 0) < 0)
		return error_errno(err, errno, "cannot make the directory %s", path);
	if (!S_ISDIR(st.st_mode))
		return error_errno(err, ENOTDIR, "cannot make the directory %s", path);
	return 0;
}

/*
 * Removal goes down at most this many directories. What lies deeper, as a hostile archive may bring it, is moved to the
 * top of the tree and removed from there, so that neither the stack nor the number of descriptors grows with the depth.
 */
#define REMOVE_DEPTH_MAX 32

struct removal {
	int top;         /* the tree's first directory; -1 before it is open */
	dev_t dev;
	uint64_t *freed; /* NULL: not counted */
	unsigned depth, moved;
};

static int remove_at(struct removal *rm, int dirfd, const char *name);

static int remove_entries(struct removal *rm, int fd)
{
	_cleanup_closedir_ DIR *dir = NULL;
	struct dirent *entry;
	int first = 0;

	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	while ((errno = 0, entry = readdir(dir))) {
		int r;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		r = remove_at(rm, fd, entry->d_name);
		if (r < 0 && first == 0)
			first = r;
	}
	return first;
}

static int move_up(struct removal *rm, int dirfd, const char *name)
{
	char to[64];

	do {
		snprintf(to, sizeof to, FS_TMP_PREFIX "deep-%u", rm->moved++);
		if (renameat2(dirfd, name, rm->top, to, RENAME_NOREPLACE) == 0)
			return 0;
	} while (errno == EEXIST);
	return -errno;
}

static int remove_dir(struct removal *rm, int dirfd, const char *name)
{
	unsigned moved;
	struct stat st;
	int fd, r;

	if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return -errno;
	if (rm->depth == REMOVE_DEPTH_MAX)
		return move_up(rm, dirfd, name);
	do {
		fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return errno == ENOENT ? 0 : -errno;
		if (fstat(fd, &st) < 0 || st.st_dev != rm->dev) {
			close(fd);
			return -EXDEV;
		}
		if (rm->depth == 0)
			rm->top = fd;
		moved = rm->moved;
		rm->depth++;
		r = remove_entries(rm, fd);
		rm->depth--;
	} while (r == 0 && rm->depth == 0 && rm->moved != moved);
	if (r < 0)
		return r;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return -errno;
	return 0;
}

static int remove_at(struct removal *rm, int dirfd, const char *name)
{
	struct stat st;

	if (rm->freed && fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (S_ISDIR(st.st_mode) || st.st_nlink == 1))
		*rm->freed += (uint64_t)st.st_blocks * 512;
	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	return remove_dir(rm, dirfd, name);
}

int fs_remove_tree_counted(int dirfd, const char *path, uint64_t *ret_freed, struct error *err)
{
	struct removal rm = { .top = -1, .freed = ret_freed };
	struct stat st;
	int r;

	if (ret_freed)
		*ret_freed = 0;
	if (fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == ENOENT)
			return 0;
		return error_errno(err, errno, "cannot remove %s", path);
	}
	rm.dev = st.st_dev;
	r = remove_at(&rm, dirfd, path);
	return r < 0 ? error_errno(err, -r, "cannot remove %s", path) : 0;
}

int fs_remove_tree(int dirfd, const char *path, struct error *err)
{
	return fs_remove_tree_counted(dirfd, path, NULL, err);
}

static int open_in(int rootfd, const char *path, int flags, mode_t mode, uint64_t resolve)
{
	struct open_how how = {
		.flags = (uint64_t)(flags | O_CLOEXEC),
		.mode = flags & (O_CREAT | O_TMPFILE) ? mode : 0,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve,
	};
	long fd;

	/* EAGAIN: a rename raced with the lookup and the kernel could not prove that ".." stayed inside. */
	do {
		fd = syscall(SYS_openat2, rootfd, path, &how, sizeof how);
	} while (fd < 0 && (errno == EAGAIN || errno == EINTR));
	return fd < 0 ? -errno : (int)fd;
}

int fs_open_in(int rootfd, const char *path, int flags, mode_t mode)
{
	return open_in(rootfd, path, flags, mode, 0);
}

int fs_open_straight(int rootfd, const char *path, int flags)
{
	return open_in(rootfd, path, flags, 0, RESOLVE_NO_SYMLINKS);
}

int fs_sync_dir(int dirfd, const char *path)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

void fs_remove_numbered(int dirfd, const char *name, unsigned first)
{
	char path[PATH_MAX];

	for (unsigned i = first, vacant = 0; vacant < 2; i++) {
		snprintf(path, sizeof path, "%s.%u", name, i);
		vacant = unlinkat(dirfd, path, 0) < 0 ? vacant + 1 : 0;
	}
}

int fs_sweep_tmp(int dirfd, const char *path, struct error *err)
{
	_cleanup_closedir_ DIR *dir = NULL;
	int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *entry;

	if (fd < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "cannot open %s", path);
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return error_errno(err, ENOMEM, "cannot read %s", path);
	}
	while ((entry = readdir(dir)))
		if (!strncmp(entry->d_name, FS_TMP_PREFIX, strlen(FS_TMP_PREFIX)) &&
		    fs_remove_tree(fd, entry->d_name, err) < 0)
			return error_wrap(err, "cannot sweep %s", path);
	return 0;
}
