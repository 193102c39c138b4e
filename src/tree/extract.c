/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * libarchive parses; its own extraction is unfit (it follows or refuses symbolic links at the wrong moments), so
 * everything here is written through directory descriptors.
 *
 * Entries of one directory follow each other, so the last parent stays open (struct parent) and most entries cost no
 * path walk. In a layer, whose entries may come in any order, changing a directory's entries must not change its
 * time: instead of a list of directories and times, which would grow with the stream, the parent's time is read when
 * it is opened and put back when it is left. Elsewhere the time of a directory that was there changes as it always
 * does.
 */
#include "tree/extract.h"

#include "base/fs.h"
#include "tree/attributes.h"
#include "tree/name.h"
#include "tree/unfinished.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/sysmacros.h>

/* The disk begins to write a file of this size at once, so that the sync at the end finds less to do. */
#define WRITEBACK_MIN ((int64_t)1 << 20)

struct parent {
	int fd; /* -1: none is open */
	char *path;
	struct timespec mtime;
};

struct extract {
	const struct extract_options *options;
	const struct extract_source *source;
	struct archive *archive;
	uint64_t bytes, entries;
	char *top; /* rename: what all names of the stream begin with; NULL: no entry was read yet */
	struct parent parent;
	struct unfinished *unfinished;
	struct error source_error; /* what read() failed with: libarchive carries no error objects */
};

/* An entry of the stream, its name taken apart. */
struct item {
	struct archive_entry *entry;
	const char *path; /* below the root, without a '/' at either end; "" for the root itself */
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

int extract_is_tar(const uint8_t *first, size_t len)
{
	/* An empty layer is an archive of nothing but its end: zeros. */
	return (len >= 262 && !memcmp(first + 257, "ustar", 5)) || (len >= 512 && is_zero(first, 512));
}

/* ---- names ---- */

/* What the entry's name is without the name of the one top-level entry; NULL: it does not lie in that. */
static const char *below_top(struct extract *x, const char *name)
{
	size_t len;

	if (!x->top)
		x->top = strndup(name, strcspn(name, "/"));
	len = x->top ? strlen(x->top) : 0;
	if (!x->top || strncmp(name, x->top, len) != 0)
		return NULL;
	if (!len || !name[len])
		return name + len;
	return name[len] == '/' ? name + len + 1 : NULL;
}

/* From a name in the stream to a path below the root. To be freed. NULL with the error. */
static char *place_of(struct extract *x, const char *name, struct error *err)
{
	_cleanup_free_ char *clean = strdup(name);
	const char *below = clean;
	char *path;

	if (clean && name_clean(clean, err) < 0)
		return NULL;
	if (clean && x->options->rename)
		below = below_top(x, clean);
	if (clean && !below && x->top) {
		error_set(err, ERR_INVALID_ARGUMENT,
			  "the %s has several entries at its top, so it needs a directory to go to",
			  x->options->what);
		return NULL;
	}
	path = below ? name_join(x->options->prefix, below) : NULL;
	if (!path)
		error_errno(err, ENOMEM, "cannot extract");
	return path;
}

/* ---- parents ---- */

static void parent_leave(struct extract *x)
{
	struct parent *p = &x->parent;
	struct timespec times[2] = { p->mtime, p->mtime };

	if (p->fd < 0)
		return;
	if (x->options->layering)
		futimens(p->fd, times);
	close(steal_fd(&p->fd));
	free(steal_ptr(&p->path));
}

static bool is_absent(const struct extract *x, const struct stat *st)
{
	return x->options->layering && x->options->layering->is_absent(st);
}

/*
 * Makes name a directory in dirfd and opens it. An existing directory is kept; anything else is replaced in a layer,
 * also a symbolic link: the caller has already followed the ones that stand for directories.
 */
static int make_dir(struct extract *x, int dirfd, const char *name, mode_t mode, struct error *err)
{
	_cleanup_close_ int fd = -1;
	bool absent = false;
	struct stat st;

	if (mkdirat(dirfd, name, mode) < 0) {
		if (errno != EEXIST || fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return error_errno(err, errno, "cannot make a directory");
		if (!S_ISDIR(st.st_mode)) {
			if (!x->options->layering)
				return error_set(err, ERR_FAILED_PRECONDITION,
						 "what is there already is not a directory");
			absent = is_absent(x, &st);
			if (unlinkat(dirfd, name, 0) < 0 || mkdirat(dirfd, name, mode) < 0)
				return error_errno(err, errno, "cannot make a directory");
		}
	}
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "cannot open a directory");
	if (absent && x->options->layering->replaced_absent(fd, err) < 0)
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

static int open_dir_in(const struct extract *x, const char *path)
{
	const int flags = O_RDONLY | O_DIRECTORY;

	if (!*path)
		path = ".";
	return x->options->straight ? fs_open_straight(x->options->root, path, flags)
				    : fs_open_in(x->options->root, path, flags, 0);
}

/* Makes the missing directories of a path, from the top; a symbolic link on the way leads where it leads in the
 * tree. */
static int make_parents(struct extract *x, const char *path, struct error *err)
{
	_cleanup_free_ char *prefix = strdup(path);
	_cleanup_close_ int dir = open_dir_in(x, "");
	char *at = prefix;

	if (!prefix || dir < 0)
		return error_errno(err, prefix ? -dir : ENOMEM, "cannot open the root of the tree");
	for (;;) {
		char *end = strchrnul(at, '/'), c = *end;
		struct stat st;
		int next;

		*end = '\0';
		next = open_dir_in(x, prefix);
		if (next == -ENOENT || next == -ENOTDIR) {
			if (fstatat(dir, at, &st, AT_SYMLINK_NOFOLLOW) == 0 && !is_absent(x, &st))
				return error_set(err, ERR_INVALID_ARGUMENT, "its parent %s is not a directory", prefix);
			next = make_dir(x, dir, at, 0755, err);
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

static int parent_enter(struct extract *x, const char *path, struct error *err)
{
	struct stat st;
	int fd;

	if (x->parent.fd >= 0 && !strcmp(x->parent.path, path))
		return 0;
	parent_leave(x);
	fd = open_dir_in(x, path);
	if (fd == -ENOENT || fd == -ENOTDIR) {
		if (make_parents(x, path, err) < 0)
			return -1;
		fd = open_dir_in(x, path);
	}
	if (fd < 0)
		return parent_failed(fd, path, err);
	x->parent.path = strdup(path);
	if (!x->parent.path || fstat(fd, &st) < 0) {
		close(fd);
		free(steal_ptr(&x->parent.path));
		return error_errno(err, errno, "cannot open its parent directory");
	}
	x->parent.fd = fd;
	x->parent.mtime = st.st_mtim;
	return 0;
}

/* Takes away what stands in an entry's place. */
static int make_room(struct extract *x, const char *name, struct error *err)
{
	if (unlinkat(x->parent.fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (x->options->layering)
		return fs_remove_tree(x->parent.fd, name, err);
	if (errno == EISDIR)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "a directory is there already, and only a directory can join it");
	if (errno == EBUSY)
		return error_set(err, ERR_FAILED_PRECONDITION, "it cannot be replaced: something is mounted there");
	return error_errno(err, errno, "cannot replace it");
}

/* ---- entries ---- */

static int source_failed(struct extract *x, struct error *err)
{
	if (x->source_error.code != ERR_OK)
		return error_move(err, &x->source_error);
	return error_set(err, ERR_INVALID_ARGUMENT, "the tar stream is damaged: %s",
			 archive_error_string(x->archive) ? archive_error_string(x->archive) : "no reason given");
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

static int write_content(struct extract *x, int fd, struct archive_entry *entry, struct error *err)
{
	int64_t size = archive_entry_size(entry), end = 0, offset;
	const void *data;
	size_t len;
	int r;

	while ((r = archive_read_data_block(x->archive, &data, &len, &offset)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
		x->bytes += len;
		if (x->bytes > x->options->limits.bytes_max)
			return error_set(err, ERR_RESOURCE_EXHAUSTED,
					 "the %s unpacks to more than the limit of %llu bytes",
					 x->options->what, (unsigned long long)x->options->limits.bytes_max);
		if (offset < 0 || write_at(fd, data, len, offset) < 0)
			return error_errno(err, offset < 0 ? EINVAL : errno, "cannot write it");
		if (offset + (int64_t)len > end)
			end = offset + (int64_t)len;
	}
	if (r != ARCHIVE_EOF)
		return source_failed(x, err);
	if (end < size && ftruncate(fd, size) < 0) /* a hole at the end */
		return error_errno(err, errno, "cannot write it");
	if (end >= WRITEBACK_MIN)
		sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	return 0;
}

static int extract_file(struct extract *x, const struct item *item, struct error *err)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	mode_t mode = attributes_first_mode(item->entry);
	_cleanup_close_ int fd = openat(x->parent.fd, item->name, flags, mode);

	if (fd < 0 && errno == EEXIST) {
		if (make_room(x, item->name, err) < 0)
			return -1;
		fd = openat(x->parent.fd, item->name, flags, mode);
	}
	if (fd < 0)
		return error_errno(err, errno, "cannot make it");
	if (write_content(x, fd, item->entry, err) < 0)
		return -1;
	return attributes_set(fd, item->entry, x->options->plain, err);
}

/* A directory of a layer. The root's own time is put back from here on like any other parent's. */
static int extract_layer_dir(struct extract *x, const struct item *item, struct error *err)
{
	_cleanup_close_ int fd = -1;

	if (!*item->path) {
		parent_leave(x);
		return attributes_set(x->options->root, item->entry, x->options->plain, err);
	}
	fd = make_dir(x, x->parent.fd, item->name, 0700, err);
	return fd < 0 ? -1 : attributes_set(fd, item->entry, x->options->plain, err);
}

/* A directory of a tree in use. What is there stays as it is, also a link to a directory. */
static int extract_dir(struct extract *x, const struct item *item, struct error *err)
{
	_cleanup_close_ int there = open_dir_in(x, item->path), fd = -1;
	bool plain = x->options->plain;
	struct timespec times[2];
	struct stat st;

	if (there >= 0)
		return 0;
	fd = make_dir(x, x->parent.fd, item->name, 0700, err);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "cannot look at the directory");
	if (attributes_set_owner(fd, item->entry, plain, err) < 0 ||
	    attributes_set_xattrs(fd, item->entry, plain, err) < 0)
		return -1;
	attributes_times(item->entry, times);
	return unfinished_add(&x->unfinished, item->path, &st, attributes_mode(item->entry, plain), times, err);
}

static int extract_symlink(struct extract *x, const struct item *item, struct error *err)
{
	const char *target = archive_entry_symlink(item->entry);

	if (!target || !*target || strlen(target) >= PATH_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the symbolic link has no valid target");
	if (make_room(x, item->name, err) < 0)
		return -1;
	if (symlinkat(target, x->parent.fd, item->name) < 0)
		return error_errno(err, errno, "cannot make a symbolic link");
	return attributes_set_at(x->parent.fd, item->name, item->entry, x->options->plain, err);
}

static int extract_special(struct extract *x, const struct item *item, mode_t type, struct error *err)
{
	mode_t mode = attributes_mode(item->entry, x->options->plain);
	dev_t device = type == S_IFIFO ? 0 :
					 makedev((unsigned)archive_entry_rdevmajor(item->entry),
						 (unsigned)archive_entry_rdevminor(item->entry));

	/* Somewhere in a tree it is left out; asked for by name it is not. */
	if (x->options->plain && type != S_IFIFO)
		return x->entries > 1 ? 0 : error_set(err, ERR_FAILED_PRECONDITION, "it is a device");
	if (make_room(x, item->name, err) < 0)
		return -1;
	if (mknodat(x->parent.fd, item->name, type | mode, device) < 0)
		return error_errno(err, errno, "cannot make a special file");
	/* chmod() by name would follow what others may have put there; in a layer there are no others. */
	if (x->options->layering && fchmodat(x->parent.fd, item->name, mode, 0) < 0)
		return error_errno(err, errno, "cannot set its mode");
	return attributes_set_at(x->parent.fd, item->name, item->entry, x->options->plain, err);
}

static int extract_hardlink(struct extract *x, const struct item *item, const char *link, struct error *err)
{
	_cleanup_free_ char *target = place_of(x, link, err), *dir = NULL;
	_cleanup_close_ int fd = -1;
	struct stat from, to;
	const char *name;

	if (!target)
		return error_wrap(err, "hard link to \"%.256s\"", link);
	dir = name_split(target, &name);
	if (!dir)
		return error_errno(err, ENOMEM, "cannot make a hard link");
	fd = open_dir_in(x, dir);
	if (fd < 0 || !*name || fstatat(fd, name, &from, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(from.st_mode))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "hard link to \"%.256s\": the %s has no such file before it", link,
				 x->options->what);
	if (fstatat(x->parent.fd, item->name, &to, AT_SYMLINK_NOFOLLOW) == 0) {
		if (from.st_dev == to.st_dev && from.st_ino == to.st_ino)
			return 0;
		if (make_room(x, item->name, err) < 0)
			return -1;
	}
	if (linkat(fd, name, x->parent.fd, item->name, 0) < 0)
		return error_errno(err, errno, "cannot make a hard link to \"%.256s\"", link);
	return 0;
}

static int extract_by_type(struct extract *x, const struct item *item, struct error *err)
{
	const char *link = archive_entry_hardlink(item->entry);
	mode_t type = archive_entry_filetype(item->entry);

	if (link)
		return extract_hardlink(x, item, link, err);
	switch (type) {
	case S_IFREG:
		return extract_file(x, item, err);
	case S_IFDIR:
		return x->options->layering ? extract_layer_dir(x, item, err) : extract_dir(x, item, err);
	case S_IFLNK:
		return extract_symlink(x, item, err);
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
		return extract_special(x, item, type, err);
	case S_IFSOCK: /* means nothing without its listener */
		return 0;
	default:
		return error_set(err, ERR_INVALID_ARGUMENT, "its type is unknown");
	}
}

static int extract_entry(struct extract *x, struct archive_entry *entry, const char *path, struct error *err)
{
	const struct extract_layering *layering = x->options->layering;
	_cleanup_free_ char *dir = NULL;
	struct item item = { .entry = entry, .path = path };
	int r;

	item.dir = dir = name_split(path, &item.name);
	if (!dir)
		return error_errno(err, ENOMEM, "cannot extract");
	if (!*path && archive_entry_filetype(entry) != S_IFDIR)
		return error_set(err, ERR_INVALID_ARGUMENT, "the %s's root is not a directory", x->options->what);
	if (attributes_check(entry, x->options->plain, err) < 0 || parent_enter(x, item.dir, err) < 0)
		return -1;
	r = layering ? layering->intercept(x->parent.fd, item.name, err) : 0;
	if (r != 0)
		return r < 0 ? -1 : 0;
	return extract_by_type(x, &item, err);
}

/* ---- the stream ---- */

static la_ssize_t on_read(struct archive *archive, void *arg, const void **ret_data)
{
	struct extract *x = arg;
	ssize_t n = x->source->read(x->source->arg, ret_data, &x->source_error);

	if (n < 0)
		archive_set_error(archive, EIO, "cannot read");
	return n < 0 ? -1 : n;
}

static int extract_next(struct extract *x, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	struct archive_entry *entry;
	const char *name;
	int r = archive_read_next_header(x->archive, &entry);

	if (r == ARCHIVE_EOF)
		return 0;
	if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
		return source_failed(x, err);
	name = archive_entry_pathname(entry);
	if (!name)
		return error_set(err, ERR_INVALID_ARGUMENT, "an entry has no valid name");
	if (++x->entries > x->options->limits.entries_max)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the %s has more than the limit of %llu entries",
				 x->options->what, (unsigned long long)x->options->limits.entries_max);
	path = place_of(x, name, err);
	if (path)
		unfinished_leave(&x->unfinished, x->options->root, x->options->straight, path);
	if (!path || extract_entry(x, entry, path, err) < 0)
		return error_wrap(err, "entry \"%.256s\"", name);
	return 1;
}

int extract_tree(const struct extract_options *options, const struct extract_source *source, struct error *err)
{
	struct extract x = { .options = options, .source = source, .parent.fd = -1, .source_error = ERROR_INIT };
	int r;

	x.archive = archive_read_new();
	if (!x.archive || archive_read_support_format_tar(x.archive) != ARCHIVE_OK ||
	    archive_read_support_format_empty(x.archive) != ARCHIVE_OK ||
	    archive_read_open(x.archive, &x, NULL, on_read, NULL) != ARCHIVE_OK) {
		r = x.archive ? source_failed(&x, err) : error_errno(err, ENOMEM, "cannot extract");
	} else {
		do {
			r = extract_next(&x, err);
		} while (r > 0);
	}
	parent_leave(&x);
	if (r == 0)
		unfinished_leave(&x.unfinished, options->root, options->straight, NULL);
	unfinished_release(&x.unfinished);
	archive_read_free(x.archive);
	error_release(&x.source_error);
	free(x.top);
	return r;
}
