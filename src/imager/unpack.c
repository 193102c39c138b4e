/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * libarchive parses; its own extraction is unfit for layers (it follows or refuses symbolic links at the wrong
 * moments), so everything here is written through directory descriptors.
 *
 * Entries of one directory follow each other, so the last parent stays open (struct parent) and most entries cost no
 * path walk. Changing a directory's entries changes its time; instead of a list of directories and times, which would
 * grow with the stream, the parent's time is read when it is opened and put back when it is left.
 */
#include "imager/unpack.h"

#include "base/fs.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define WHITEOUT ".wh."
#define WHITEOUT_META WHITEOUT WHITEOUT /* ".wh..wh.": for AUFS, all but the opaque marker without meaning here */
#define WHITEOUT_OPAQUE WHITEOUT_META ".opq"
#define OVERLAY_OPAQUE "trusted.overlay.opaque"
#define PERMISSIONS 07777

/* The disk begins to write a file of this size at once, so that the sync at the end finds less to do. */
#define WRITEBACK_MIN ((int64_t)1 << 20)

struct parent {
	int fd; /* -1: none is open */
	char *path;
	struct timespec mtime;
};

struct unpack {
	int root;
	struct archive *archive;
	const struct unpack_source *source;
	const struct unpack_limits *limits;
	uint64_t bytes, entries;
	struct parent parent;
	struct error source_error; /* what read() failed with: libarchive carries no error objects */
};

/* An entry of the stream, its name taken apart. */
struct item {
	struct archive_entry *entry;
	const char *path; /* relative, without ".", "..", or a '/' at either end; "" for the layer's root */
	char *dir;        /* path without its last component; "" for the root */
	const char *name; /* last component, inside path */
};

static int is_zero(const uint8_t *p, size_t len)
{
	while (len && *p == 0) {
		p++;
		len--;
	}
	return len == 0;
}

int unpack_is_tar(const uint8_t *first, size_t len)
{
	/* An empty layer is an archive of nothing but its end: zeros. */
	return (len >= 262 && !memcmp(first + 257, "ustar", 5)) || (len >= 512 && is_zero(first, 512));
}

/* ---- names ---- */

/* Removes "." and empty components in place. Refuses what could lead elsewhere. */
static int clean_path(char *path, struct error *err)
{
	char *to = path, *from = path;

	if (*path == '/')
		return error_set(err, ERR_INVALID_ARGUMENT, "the absolute path is refused");
	if (strlen(path) >= PATH_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the path is longer than %d bytes", PATH_MAX - 1);
	while (*from) {
		size_t len = strcspn(from, "/");

		if (len == 2 && from[0] == '.' && from[1] == '.')
			return error_set(err, ERR_INVALID_ARGUMENT, "the path with \"..\" is refused");
		if (len > NAME_MAX)
			return error_set(err, ERR_INVALID_ARGUMENT, "a name in the path is longer than %d bytes",
					 NAME_MAX);
		if (len && !(len == 1 && from[0] == '.')) {
			if (to != path)
				*to++ = '/';
			memmove(to, from, len);
			to += len;
		}
		from += len;
		while (*from == '/')
			from++;
	}
	*to = '\0';
	return 0;
}

/* The directory part, to be freed; *ret_name points at the last component inside path. */
static char *split(const char *path, const char **ret_name)
{
	const char *slash = strrchr(path, '/');

	*ret_name = slash ? slash + 1 : path;
	return slash ? strndup(path, (size_t)(slash - path)) : strdup("");
}

/* ---- parents ---- */

static void parent_leave(struct parent *p)
{
	struct timespec times[2] = { p->mtime, p->mtime };

	if (p->fd < 0)
		return;
	futimens(p->fd, times);
	close(steal_fd(&p->fd));
	free(steal_ptr(&p->path));
}

static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

static int set_opaque(int fd, struct error *err)
{
	if (fsetxattr(fd, OVERLAY_OPAQUE, "y", 1, 0) < 0)
		return error_errno(err, errno, "cannot mark the directory as opaque");
	return 0;
}

/*
 * Makes name a directory in dirfd and opens it. An existing directory is kept, anything else is replaced; a whiteout
 * says that lower layers' content is hidden, which a directory in its place says by being opaque. A symbolic link is
 * replaced too: the caller has already followed the ones that stand for directories.
 */
static int make_dir(int dirfd, const char *name, mode_t mode, struct error *err)
{
	_cleanup_close_ int fd = -1;
	bool opaque = false;
	struct stat st;

	if (mkdirat(dirfd, name, mode) < 0) {
		if (errno != EEXIST || fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return error_errno(err, errno, "cannot make a directory");
		if (!S_ISDIR(st.st_mode)) {
			opaque = is_whiteout(&st);
			if (unlinkat(dirfd, name, 0) < 0 || mkdirat(dirfd, name, mode) < 0)
				return error_errno(err, errno, "cannot make a directory");
		}
	}
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "cannot open a directory");
	if (opaque && set_opaque(fd, err) < 0)
		return -1;
	return steal_fd(&fd);
}

/* Links that go in circles or through too long names are the stream's fault, the rest is the disk's. */
static int parent_failed(int r, const char *path, struct error *err)
{
	if (r == -ELOOP || r == -ENAMETOOLONG)
		return error_set(err, ERR_INVALID_ARGUMENT, "its parent %s leads nowhere", path);
	return error_errno(err, -r, "cannot open its parent %s", path);
}

static int open_dir_in(int root, const char *path)
{
	return fs_open_in(root, *path ? path : ".", O_RDONLY | O_DIRECTORY, 0);
}

/* Makes the missing directories of a path, from the top; a symbolic link on the way leads where it leads in the
 * layer. */
static int make_parents(int root, const char *path, struct error *err)
{
	_cleanup_free_ char *prefix = strdup(path);
	_cleanup_close_ int dir = open_dir_in(root, "");
	char *at = prefix;

	if (!prefix || dir < 0)
		return error_errno(err, prefix ? -dir : ENOMEM, "cannot open the layer's directory");
	for (;;) {
		char *end = strchrnul(at, '/'), c = *end;
		struct stat st;
		int next;

		*end = '\0';
		next = open_dir_in(root, prefix);
		if (next == -ENOENT || next == -ENOTDIR) {
			if (fstatat(dir, at, &st, AT_SYMLINK_NOFOLLOW) == 0 && !is_whiteout(&st))
				return error_set(err, ERR_INVALID_ARGUMENT, "its parent %s is not a directory", prefix);
			next = make_dir(dir, at, 0755, err);
			if (next < 0)
				return -1;
		} else if (next < 0) {
			return parent_failed(next, prefix, err);
		}
		close(dir);
		dir = next;
		if (!c)
			return 0;
		*end = c;
		at = end + 1;
	}
}

static int parent_enter(struct unpack *u, const char *path, struct error *err)
{
	struct stat st;
	int fd;

	if (u->parent.fd >= 0 && !strcmp(u->parent.path, path))
		return 0;
	parent_leave(&u->parent);
	fd = open_dir_in(u->root, path);
	if (fd == -ENOENT || fd == -ENOTDIR) {
		if (make_parents(u->root, path, err) < 0)
			return -1;
		fd = open_dir_in(u->root, path);
	}
	if (fd < 0)
		return parent_failed(fd, path, err);
	u->parent.path = strdup(path);
	if (!u->parent.path || fstat(fd, &st) < 0) {
		close(fd);
		free(steal_ptr(&u->parent.path));
		return error_errno(err, errno, "cannot open its parent directory");
	}
	u->parent.fd = fd;
	u->parent.mtime = st.st_mtim;
	return 0;
}

/* Takes away what stands in an entry's place. */
static int make_room(int dirfd, const char *name, struct error *err)
{
	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	return fs_remove_tree(dirfd, name, err);
}

/* ---- attributes ---- */

static void entry_times(struct archive_entry *entry, struct timespec ret[2])
{
	ret[0].tv_sec = archive_entry_mtime(entry);
	ret[0].tv_nsec = archive_entry_mtime_nsec(entry);
	if (ret[0].tv_nsec < 0 || ret[0].tv_nsec >= 1000000000)
		ret[0].tv_nsec = 0;
	ret[1] = ret[0];
}

static bool xattr_wanted(const char *name)
{
	/* Not trusted.overlay.*: redirects and the like are orders to overlayfs. Not security.selinux and others:
	 * they belong to the policy of the host. */
	return !strcmp(name, "security.capability") || !strncmp(name, "user.", 5) ||
	       !strcmp(name, "system.posix_acl_access") || !strcmp(name, "system.posix_acl_default");
}

static int set_xattrs(int fd, struct archive_entry *entry, struct error *err)
{
	const char *name;
	const void *value;
	size_t size;

	if (archive_entry_xattr_reset(entry) == 0)
		return 0;
	while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK)
		/* A file system without ACLs, or one that finds the value too large, does not make the layer useless;
		 * one that cannot hold capabilities does. */
		if (name && xattr_wanted(name) && fsetxattr(fd, name, value, size, 0) < 0 &&
		    (!strncmp(name, "security.", 9) || (errno != ENOTSUP && errno != EOPNOTSUPP)))
			return error_errno(err, errno, "cannot set its attribute %s", name);
	return 0;
}

static int check_owner(struct archive_entry *entry, struct error *err)
{
	int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);

	/* 2^32 - 1 would mean "leave it" to chown(2). */
	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "its owner %lld:%lld is out of range", (long long)uid,
				 (long long)gid);
	return 0;
}

/* The owner first: changing it clears set-user-ID bits and capabilities. The time last. */
static int set_attributes_fd(int fd, struct archive_entry *entry, struct error *err)
{
	struct timespec times[2];

	entry_times(entry, times);
	if (fchown(fd, (uid_t)archive_entry_uid(entry), (gid_t)archive_entry_gid(entry)) < 0 ||
	    fchmod(fd, archive_entry_perm(entry) & PERMISSIONS) < 0)
		return error_errno(err, errno, "cannot set its owner and mode");
	if (set_xattrs(fd, entry, err) < 0)
		return -1;
	if (futimens(fd, times) < 0)
		return error_errno(err, errno, "cannot set its time");
	return 0;
}

/* For what must not be opened. name was just made in dirfd and nobody else writes there. */
static int set_attributes_at(int dirfd, const char *name, struct archive_entry *entry, bool is_link, struct error *err)
{
	struct timespec times[2];

	entry_times(entry, times);
	if (fchownat(dirfd, name, (uid_t)archive_entry_uid(entry), (gid_t)archive_entry_gid(entry),
		     AT_SYMLINK_NOFOLLOW) < 0 ||
	    (!is_link && fchmodat(dirfd, name, archive_entry_perm(entry) & PERMISSIONS, 0) < 0))
		return error_errno(err, errno, "cannot set its owner and mode");
	if (utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return error_errno(err, errno, "cannot set its time");
	return 0;
}

/* ---- whiteouts ---- */

/* 1: the entry was a whiteout or a marker and is dealt with; 0: it is an ordinary entry. */
static int unpack_whiteout(struct unpack *u, const struct item *item, struct error *err)
{
	const char *hidden = item->name + sizeof WHITEOUT - 1;
	struct stat st;

	if (strncmp(item->name, WHITEOUT, sizeof WHITEOUT - 1) != 0)
		return 0;
	if (!strcmp(item->name, WHITEOUT_OPAQUE))
		return set_opaque(u->parent.fd, err) < 0 ? -1 : 1;
	if (!strncmp(item->name, WHITEOUT_META, sizeof WHITEOUT_META - 1))
		return 1;
	if (!*hidden || !strcmp(hidden, ".") || !strcmp(hidden, ".."))
		return error_set(err, ERR_INVALID_ARGUMENT, "the whiteout of nothing is refused");
	if (fstatat(u->parent.fd, hidden, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		/* A whiteout hides what lower layers have; what this layer brings itself stays. */
		_cleanup_close_ int fd = -1;

		if (!S_ISDIR(st.st_mode))
			return 1;
		fd = openat(u->parent.fd, hidden, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return error_errno(err, errno, "cannot open the directory that it hides");
		return set_opaque(fd, err) < 0 ? -1 : 1;
	}
	if (errno != ENOENT || mknodat(u->parent.fd, hidden, S_IFCHR, makedev(0, 0)) < 0)
		return error_errno(err, errno, "cannot make a whiteout");
	return 1;
}

/* ---- entries ---- */

static int source_failed(struct unpack *u, struct error *err)
{
	if (u->source_error.code != ERR_OK)
		return error_move(err, &u->source_error);
	return error_set(err, ERR_INVALID_ARGUMENT, "the tar stream is damaged: %s",
			 archive_error_string(u->archive) ? archive_error_string(u->archive) : "no reason given");
}

static int write_at(int fd, const uint8_t *data, size_t len, off_t offset)
{
	while (len) {
		ssize_t n = pwrite(fd, data, len, offset);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -1;
		}
		data += n;
		len -= (size_t)n;
		offset += n;
	}
	return 0;
}

static int write_content(struct unpack *u, int fd, struct archive_entry *entry, struct error *err)
{
	int64_t size = archive_entry_size(entry), end = 0, offset;
	const void *data;
	size_t len;
	int r;

	while ((r = archive_read_data_block(u->archive, &data, &len, &offset)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
		u->bytes += len;
		if (u->bytes > u->limits->bytes_max)
			return error_set(err, ERR_RESOURCE_EXHAUSTED,
					 "the layer unpacks to more than the limit of %llu bytes",
					 (unsigned long long)u->limits->bytes_max);
		if (offset < 0 || write_at(fd, data, len, offset) < 0)
			return error_errno(err, offset < 0 ? EINVAL : errno, "cannot write it");
		if (offset + (int64_t)len > end)
			end = offset + (int64_t)len;
	}
	if (r != ARCHIVE_EOF)
		return source_failed(u, err);
	if (end < size && ftruncate(fd, size) < 0) /* a hole at the end */
		return error_errno(err, errno, "cannot write it");
	if (end >= WRITEBACK_MIN)
		sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	return 0;
}

static int unpack_file(struct unpack *u, const struct item *item, struct error *err)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	_cleanup_close_ int fd = openat(u->parent.fd, item->name, flags, 0600);

	if (fd < 0 && errno == EEXIST) {
		if (make_room(u->parent.fd, item->name, err) < 0)
			return -1;
		fd = openat(u->parent.fd, item->name, flags, 0600);
	}
	if (fd < 0)
		return error_errno(err, errno, "cannot make it");
	if (write_content(u, fd, item->entry, err) < 0)
		return -1;
	return set_attributes_fd(fd, item->entry, err);
}

static int unpack_dir(struct unpack *u, const struct item *item, struct error *err)
{
	_cleanup_close_ int fd = -1;

	if (!*item->path) {
		/* The root's own time is put back from here on like any other parent's. */
		parent_leave(&u->parent);
		return set_attributes_fd(u->root, item->entry, err);
	}
	fd = make_dir(u->parent.fd, item->name, 0700, err);
	return fd < 0 ? -1 : set_attributes_fd(fd, item->entry, err);
}

static int unpack_symlink(struct unpack *u, const struct item *item, struct error *err)
{
	const char *target = archive_entry_symlink(item->entry);

	if (!target || !*target || strlen(target) >= PATH_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the symbolic link has no valid target");
	if (make_room(u->parent.fd, item->name, err) < 0)
		return -1;
	if (symlinkat(target, u->parent.fd, item->name) < 0)
		return error_errno(err, errno, "cannot make a symbolic link");
	return set_attributes_at(u->parent.fd, item->name, item->entry, true, err);
}

static int unpack_special(struct unpack *u, const struct item *item, mode_t type, struct error *err)
{
	dev_t device = type == S_IFIFO ? 0 :
					 makedev((unsigned)archive_entry_rdevmajor(item->entry),
						 (unsigned)archive_entry_rdevminor(item->entry));

	if (make_room(u->parent.fd, item->name, err) < 0)
		return -1;
	if (mknodat(u->parent.fd, item->name, type | 0600, device) < 0)
		return error_errno(err, errno, "cannot make a special file");
	return set_attributes_at(u->parent.fd, item->name, item->entry, false, err);
}

static int unpack_hardlink(struct unpack *u, const struct item *item, const char *link, struct error *err)
{
	_cleanup_free_ char *target = strdup(link), *dir = NULL;
	_cleanup_close_ int fd = -1;
	struct stat from, to;
	const char *name;

	if (!target)
		return error_errno(err, ENOMEM, "cannot make a hard link");
	if (clean_path(target, err) < 0)
		return error_wrap(err, "hard link to \"%.256s\"", link);
	dir = split(target, &name);
	if (!dir)
		return error_errno(err, ENOMEM, "cannot make a hard link");
	fd = open_dir_in(u->root, dir);
	if (fd < 0 || !*name || fstatat(fd, name, &from, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(from.st_mode))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "hard link to \"%.256s\": the layer has no such file before it", link);
	if (fstatat(u->parent.fd, item->name, &to, AT_SYMLINK_NOFOLLOW) == 0) {
		if (from.st_dev == to.st_dev && from.st_ino == to.st_ino)
			return 0;
		if (make_room(u->parent.fd, item->name, err) < 0)
			return -1;
	}
	if (linkat(fd, name, u->parent.fd, item->name, 0) < 0)
		return error_errno(err, errno, "cannot make a hard link to \"%.256s\"", link);
	return 0;
}

static int unpack_by_type(struct unpack *u, const struct item *item, struct error *err)
{
	const char *link = archive_entry_hardlink(item->entry);
	mode_t type = archive_entry_filetype(item->entry);

	if (link)
		return unpack_hardlink(u, item, link, err);
	switch (type) {
	case S_IFREG:
		return unpack_file(u, item, err);
	case S_IFDIR:
		return unpack_dir(u, item, err);
	case S_IFLNK:
		return unpack_symlink(u, item, err);
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
		return unpack_special(u, item, type, err);
	case S_IFSOCK: /* means nothing without its listener */
		return 0;
	default:
		return error_set(err, ERR_INVALID_ARGUMENT, "its type is unknown");
	}
}

static int unpack_entry(struct unpack *u, struct archive_entry *entry, const char *path, struct error *err)
{
	_cleanup_free_ char *dir = NULL;
	struct item item = { .entry = entry, .path = path };
	int r;

	item.dir = dir = split(path, &item.name);
	if (!dir)
		return error_errno(err, ENOMEM, "cannot unpack");
	if (!*path && archive_entry_filetype(entry) != S_IFDIR)
		return error_set(err, ERR_INVALID_ARGUMENT, "the layer's root is not a directory");
	if (check_owner(entry, err) < 0 || parent_enter(u, item.dir, err) < 0)
		return -1;
	r = unpack_whiteout(u, &item, err);
	if (r != 0)
		return r < 0 ? -1 : 0;
	return unpack_by_type(u, &item, err);
}

/* ---- the stream ---- */

static la_ssize_t on_read(struct archive *archive, void *arg, const void **ret_data)
{
	struct unpack *u = arg;
	ssize_t n = u->source->read(u->source->arg, ret_data, &u->source_error);

	if (n < 0)
		archive_set_error(archive, EIO, "cannot read");
	return n < 0 ? -1 : n;
}

static int unpack_next(struct unpack *u, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	struct archive_entry *entry;
	const char *name;
	int r = archive_read_next_header(u->archive, &entry);

	if (r == ARCHIVE_EOF)
		return 0;
	if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
		return source_failed(u, err);
	name = archive_entry_pathname(entry);
	if (!name)
		return error_set(err, ERR_INVALID_ARGUMENT, "an entry has no valid name");
	if (++u->entries > u->limits->entries_max)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the layer has more than the limit of %llu entries",
				 (unsigned long long)u->limits->entries_max);
	path = strdup(name);
	if (!path)
		return error_errno(err, ENOMEM, "cannot unpack");
	if (clean_path(path, err) < 0 || unpack_entry(u, entry, path, err) < 0)
		return error_wrap(err, "entry \"%.256s\"", name);
	return 1;
}

int unpack_layer(int dirfd, const struct unpack_source *source, const struct unpack_limits *limits, struct error *err)
{
	struct unpack u = { .root = dirfd, .source = source, .limits = limits, .parent.fd = -1,
			   .source_error = ERROR_INIT };
	int r;

	u.archive = archive_read_new();
	if (!u.archive || archive_read_support_format_tar(u.archive) != ARCHIVE_OK ||
	    archive_read_support_format_empty(u.archive) != ARCHIVE_OK ||
	    archive_read_open(u.archive, &u, NULL, on_read, NULL) != ARCHIVE_OK) {
		r = u.archive ? source_failed(&u, err) : error_errno(err, ENOMEM, "cannot unpack");
	} else {
		do {
			r = unpack_next(&u, err);
		} while (r > 0);
	}
	parent_leave(&u.parent);
	archive_read_free(u.archive);
	error_release(&u.source_error);
	return r;
}
