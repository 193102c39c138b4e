/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "tree/pack.h"

#include "base/buf.h"
#include "base/fs.h"
#include "tree/attributes.h"
#include "tree/path.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>
#include <uthash.h>

#define CHUNK ((size_t)256 << 10)
#define BLOCK ((int)(256 << 10))
#define EXTENTS_MAX 100000 /* of one sparse file; one with more is packed as if it had no holes */
#define MODE_PLAIN 01777
#define MODE_ALL 07777

/* A file with several names: the first one that was packed. */
struct link {
	struct {
		dev_t device;
		ino_t inode;
	} key;
	UT_hash_handle hh;
	char path[];
};

struct pack {
	const struct pack_options *options;
	struct archive *archive;
	struct archive_entry *entry; /* used again for every file */
	int fd;
	struct buf path;             /* of the file at hand, as the stream names it */
	struct link *links;
	char *chunk;
	bool muted;                  /* it failed: what libarchive still has to say is not written */
	struct error error;          /* of a write */
};

static const char zeros[CHUNK];

static int out_of_memory(struct error *err)
{
	return error_errno(err, ENOMEM, "cannot pack");
}

static int archive_failed(struct pack *p, struct error *err)
{
	if (p->error.code != ERR_OK)
		return error_move(err, &p->error);
	return error_set(err, ERR_INTERNAL, "cannot pack: %s", archive_error_string(p->archive) ?
			 archive_error_string(p->archive) : "no reason given");
}

static la_ssize_t on_write(struct archive *archive, void *arg, const void *data, size_t len)
{
	struct pack *p = arg;
	int r = p->muted ? 0 : fs_write_all(p->fd, data, len);

	/* Not told to libarchive, which releases its memory only where it could write to the end. */
	if (r < 0) {
		error_errno(&p->error, -r, "cannot write the archive");
		p->muted = true;
	}
	return (la_ssize_t)len;
}

/* ---- hard links ---- */

/* The name under which the file is in the stream already; NULL: this is the first one. */
static const char *link_to(struct pack *p, const struct stat *st)
{
	struct link *link, probe;
	size_t len = p->path.len;

	memset(&probe, 0, sizeof probe);
	probe.key.device = st->st_dev;
	probe.key.inode = st->st_ino;
	HASH_FIND(hh, p->links, &probe.key, sizeof probe.key, link);
	if (link)
		return link->path;
	if (HASH_COUNT(p->links) >= PACK_LINKS_MAX || !(link = calloc(1, sizeof *link + len + 1)))
		return NULL;
	link->key = probe.key;
	memcpy(link->path, buf_str(&p->path), len);
	HASH_ADD(hh, p->links, key, sizeof link->key, link);
	return NULL;
}

static void links_release(struct pack *p)
{
	struct link *link, *next;

	HASH_ITER(hh, p->links, link, next) {
		HASH_DEL(p->links, link);
		free(link);
	}
}

/* ---- entries ---- */

static void entry_begin(struct pack *p, const struct stat *st)
{
	bool plain = p->options->plain;

	archive_entry_clear(p->entry);
	archive_entry_copy_pathname(p->entry, buf_str(&p->path));
	archive_entry_set_mode(p->entry, st->st_mode & (S_IFMT | (plain ? MODE_PLAIN : MODE_ALL)));
	archive_entry_set_uid(p->entry, plain ? 0 : st->st_uid);
	archive_entry_set_gid(p->entry, plain ? 0 : st->st_gid);
	archive_entry_set_mtime(p->entry, st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	archive_entry_set_size(p->entry, 0);
}

static int entry_write(struct pack *p, struct error *err)
{
	int r = archive_write_header(p->archive, p->entry);

	return !p->muted && (r == ARCHIVE_OK || r == ARCHIVE_WARN) ? 0 : archive_failed(p, err);
}

static int write_data(struct pack *p, const char *data, size_t len, struct error *err)
{
	while (len) {
		la_ssize_t n = archive_write_data(p->archive, data, len);

		if (n <= 0 || p->muted)
			return archive_failed(p, err);
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* len bytes of a hole: the archive's writer leaves out what the entry's map of holes covers. */
static int write_zeros(struct pack *p, off_t len, struct error *err)
{
	for (; len > 0; len -= (off_t)CHUNK)
		if (write_data(p, zeros, len < (off_t)CHUNK ? (size_t)len : CHUNK, err) < 0)
			return -1;
	return 0;
}

/* The bytes from offset to end; zeros for those that the file has lost meanwhile. */
static int write_range(struct pack *p, int fd, off_t offset, off_t end, struct error *err)
{
	while (offset < end) {
		size_t len = end - offset < (off_t)CHUNK ? (size_t)(end - offset) : CHUNK;
		ssize_t n = pread(fd, p->chunk, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(err, errno, "cannot read it");
		if (n == 0)
			return write_zeros(p, end - offset, err);
		if (write_data(p, p->chunk, (size_t)n, err) < 0)
			return -1;
		offset += n;
	}
	return 0;
}

/* Notes where the file has data, if it has holes. */
static void map_holes(struct pack *p, int fd, const struct stat *st)
{
	off_t data = 0, hole = 0;

	if (st->st_blocks * 512 >= st->st_size)
		return;
	for (int n = 0; n < EXTENTS_MAX; n++) {
		data = lseek(fd, hole, SEEK_DATA);
		if (data < 0 || data >= st->st_size) {
			/* The map tells a file that is one hole by an extent without length. */
			if (errno == ENXIO || data >= st->st_size)
				archive_entry_sparse_add_entry(p->entry, st->st_size, 0);
			else
				archive_entry_sparse_clear(p->entry);
			return;
		}
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			break;
		if (hole > st->st_size)
			hole = st->st_size;
		archive_entry_sparse_add_entry(p->entry, data, hole - data);
		if (hole == st->st_size)
			return;
	}
	archive_entry_sparse_clear(p->entry);
}

static int write_content(struct pack *p, int fd, off_t size, struct error *err)
{
	int64_t offset, len;
	off_t at = 0;

	/* The header's writer has the map by now; this reads it a second time. */
	if (archive_entry_sparse_reset(p->entry) == 0)
		return write_range(p, fd, 0, size, err);
	while (archive_entry_sparse_next(p->entry, &offset, &len) == ARCHIVE_OK) {
		if (write_zeros(p, offset - at, err) < 0 || write_range(p, fd, offset, offset + len, err) < 0)
			return -1;
		at = offset + len;
	}
	return write_zeros(p, size - at, err);
}

/* Gone since its directory was read, or something else by now. */
static bool vanished(int errnum)
{
	return errnum == ENOENT || errnum == ENOTDIR || errnum == ELOOP || errnum == ENXIO || errnum == ESTALE;
}

/* A device in the place of a file, where devices are not to be opened. */
static bool became_other(int errnum, int dirfd, const char *name)
{
	struct stat st;

	return errnum == EACCES && fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode);
}

static int pack_file(struct pack *p, int dirfd, const char *name, struct error *err)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	const char *link = NULL;
	struct stat st;

	if (fd < 0) {
		int r = errno;

		return vanished(r) || became_other(r, dirfd, name) ? 0 : error_errno(err, r, "cannot open it");
	}
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	if (st.st_nlink > 1)
		link = link_to(p, &st);
	entry_begin(p, &st);
	if (link) {
		archive_entry_copy_hardlink(p->entry, link);
		return entry_write(p, err);
	}
	archive_entry_set_size(p->entry, st.st_size);
	if (attributes_get_xattrs(fd, p->entry, err) < 0)
		return -1;
	map_holes(p, fd, &st);
	if (entry_write(p, err) < 0)
		return -1;
	return write_content(p, fd, st.st_size, err);
}

static int pack_symlink(struct pack *p, int dirfd, const char *name, const struct stat *st, struct error *err)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dirfd, name, target, sizeof target - 1);

	if (n < 0)
		return vanished(errno) || errno == EINVAL ? 0 : error_errno(err, errno, "cannot read the link");
	target[n] = '\0';
	entry_begin(p, st);
	archive_entry_copy_symlink(p->entry, target);
	return entry_write(p, err);
}

static int pack_special(struct pack *p, const struct stat *st, struct error *err)
{
	entry_begin(p, st);
	archive_entry_set_rdev(p->entry, st->st_rdev);
	return entry_write(p, err);
}

/* ---- directories ---- */

static bool is_kernels(int fd)
{
	static const uint64_t types[] = {
		PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC,
		DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC, BPF_FS_MAGIC,
	};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false;
	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
		if ((uint64_t)fs.f_type == types[i])
			return true;
	return false;
}

static int pack_at(struct pack *p, int dirfd, const char *name, dev_t above, bool top, struct error *err);

static int pack_children(struct pack *p, DIR *dir, dev_t device, struct error *err)
{
	size_t len = p->path.len;
	struct dirent *d;

	while ((errno = 0, d = readdir(dir))) {
		int r;

		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			continue;
		buf_addf(&p->path, "/%s", d->d_name);
		if (p->path.failed)
			return error_set(err, ERR_INVALID_ARGUMENT, "its path is longer than %d bytes", PATH_MAX - 1);
		/* Most are files, of which an open tells the rest. */
		r = d->d_type == DT_REG ? pack_file(p, dirfd(dir), d->d_name, err) :
					  pack_at(p, dirfd(dir), d->d_name, device, false, err);
		if (r < 0)
			return -1; /* the path stays: it names what failed */
		p->path.len = len;
	}
	return errno ? error_errno(err, errno, "cannot read the directory") : 0;
}

/* Takes over the directory's fd. */
static int pack_dir(struct pack *p, int fd, const dev_t *above, struct error *err)
{
	_cleanup_closedir_ DIR *dir = fdopendir(fd);
	struct stat st;

	if (!dir) {
		close(fd);
		return out_of_memory(err);
	}
	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "cannot look at it");
	entry_begin(p, &st);
	if (attributes_get_xattrs(fd, p->entry, err) < 0 || entry_write(p, err) < 0)
		return -1;
	if (above && *above != st.st_dev && is_kernels(fd))
		return 0;
	return pack_children(p, dir, st.st_dev, err);
}

/* above: the device that the directory is on. */
static int pack_at(struct pack *p, int dirfd, const char *name, dev_t above, bool top, struct error *err)
{
	struct stat st;
	int fd;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return !top && vanished(errno) ? 0 : error_errno(err, errno, "cannot look at it");
	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
		return pack_file(p, dirfd, name, err);
	case S_IFLNK:
		return pack_symlink(p, dirfd, name, &st, err);
	case S_IFDIR:
		fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return vanished(errno) ? 0 : error_errno(err, errno, "cannot open the directory");
		return pack_dir(p, fd, top ? NULL : &above, err);
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
		return pack_special(p, &st, err);
	default:
		return 0;
	}
}

/* ---- the top ---- */

static int open_source(int root, const char *path, int flags)
{
	int fd;

	if (root != AT_FDCWD)
		return fs_open_in(root, path, flags, 0);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int source_failed(int r, const char *path, struct error *err)
{
	if (r == -ENOENT)
		return error_set(err, ERR_NOT_FOUND, "there is no %s", path);
	if (r == -ENOTDIR)
		return error_set(err, ERR_NOT_FOUND, "there is no %s: a part of it is not a directory", path);
	return error_errno(err, -r, "cannot open %s", path);
}

static int pack_source(struct pack *p, struct error *err)
{
	const struct pack_options *o = p->options;
	_cleanup_free_ char *path = path_trim(o->path), *dir = NULL, *name = NULL;
	_cleanup_close_ int parent = -1;
	struct stat st;
	int fd;

	if (!path || path_split(path, &dir, &name) < 0)
		return out_of_memory(err);
	buf_adds(&p->path, o->name ? o->name : name ? name : ".");
	if (!name || path_wants_directory(o->path)) {
		fd = open_source(o->root, o->path, O_RDONLY | O_DIRECTORY);
		return fd < 0 ? source_failed(fd, o->path, err) : pack_dir(p, fd, NULL, err);
	}
	parent = open_source(o->root, dir, O_RDONLY | O_DIRECTORY);
	if (parent < 0)
		return source_failed(parent, o->path, err);
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return source_failed(-errno, o->path, err);
	if (S_ISSOCK(st.st_mode))
		return error_set(err, ERR_INVALID_ARGUMENT, "%s is a socket, which cannot be copied", o->path);
	return pack_at(p, parent, name, 0, true, err);
}

static int open_archive(struct pack *p)
{
	p->archive = archive_write_new();
	p->entry = archive_entry_new();
	p->chunk = malloc(CHUNK);
	if (!p->archive || !p->entry || !p->chunk)
		return -1;
	if (archive_write_set_format_pax(p->archive) != ARCHIVE_OK ||
	    archive_write_set_bytes_per_block(p->archive, BLOCK) != ARCHIVE_OK ||
	    archive_write_set_bytes_in_last_block(p->archive, 1) != ARCHIVE_OK)
		return -1;
	return archive_write_open(p->archive, p, NULL, on_write, NULL) == ARCHIVE_OK ? 0 : -1;
}

int pack_tree(const struct pack_options *options, int fd, struct error *err)
{
	struct pack p = { .options = options, .fd = fd, .path = BUF_INIT(PATH_MAX - 1), .error = ERROR_INIT };
	int r = open_archive(&p);

	if (r < 0) {
		out_of_memory(err);
	} else {
		r = pack_source(&p, err);
		if (r < 0 && p.error.code == ERR_OK && p.path.len && err && err->code != ERR_NOT_FOUND)
			error_wrap(err, "%.1024s", buf_str(&p.path));
		/* What is not whole must not get an end that looks as if it were. */
		p.muted = p.muted || r < 0;
		if (archive_write_close(p.archive) != ARCHIVE_OK || p.error.code != ERR_OK)
			r = r < 0 ? r : archive_failed(&p, err);
	}
	archive_write_free(p.archive);
	archive_entry_free(p.entry);
	links_release(&p);
	buf_release(&p.path);
	error_release(&p.error);
	free(p.chunk);
	return r;
}
