/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/erofs.h"

#include "base/fs.h"
#include "imager/erofs_format.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define META_BUFFER (1u << 20)
#define COPY_BUFFER (256u << 10)
#define WRITE_BEHIND (8u << 20)
#define XATTRS_MAX (sizeof(struct erofs_xattrs) + (UINT16_MAX - 1) * 4)

/* Where an inode is. */
struct place {
	uint64_t offset;     /* in the file system */
	uint64_t size;       /* of its content */
	uint32_t block;      /* its content's first; EROFS_NO_BLOCK if it has none */
	uint32_t xattr_size;
	bool is_inline;
};

struct writer {
	const struct layers *layers;
	struct place *places; /* by the index of the node */
	int fd;
	uint64_t meta_end, end; /* of the inodes, of all */
	uint64_t inodes;
	/* Inodes are written in a row: what is not in the file yet begins at meta_offset. */
	uint8_t *meta;
	size_t meta_len;
	uint64_t meta_offset;
	uint64_t data_sent;   /* to the disk, so far */
	uint8_t *copy;        /* COPY_BUFFER bytes */
};

static uint64_t round_up(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) / unit * unit;
}

static bool is_first_link(const struct writer *w, size_t i)
{
	return w->layers->nodes[i]->link == i;
}

/* ---- directories ---- */

struct entry {
	const char *name;
	size_t len, node;
};

/* With "." and "..", sorted. To be freed; NULL without memory. */
static struct entry *list_entries(const struct layers *l, size_t dir, size_t *ret_n)
{
	const struct layers_node *node = l->nodes[dir];
	const struct entry own[] = { { ".", 1, dir }, { "..", 2, node->parent->link } };
	struct entry *entries = malloc((node->n_children + 2) * sizeof *entries);
	size_t n = 0, i = 0;

	if (!entries)
		return NULL;
	for (size_t c = node->first_child; c < node->first_child + node->n_children; c++) {
		while (i < 2 && strcmp(own[i].name, l->nodes[c]->name) < 0)
			entries[n++] = own[i++];
		entries[n++] = (struct entry){ l->nodes[c]->name, strlen(l->nodes[c]->name), l->nodes[c]->link };
	}
	while (i < 2)
		entries[n++] = own[i++];
	*ret_n = n;
	return entries;
}

/* How many of n > 0 entries fit into a block, and the bytes that they take. */
static size_t fill_block(const struct entry *entries, size_t n, size_t *ret_size)
{
	size_t i, size = 0;

	for (i = 0; i < n && size + sizeof(struct erofs_entry) + entries[i].len <= EROFS_BLOCK; i++)
		size += sizeof(struct erofs_entry) + entries[i].len;
	*ret_size = size;
	return i;
}

static int directory_size(const struct layers *l, size_t dir, uint64_t *ret_size)
{
	_cleanup_free_ struct entry *entries = NULL;
	uint64_t blocks = 0;
	size_t n, used = 0;

	entries = list_entries(l, dir, &n);
	if (!entries)
		return -1;
	for (size_t i = 0; i < n; blocks++)
		i += fill_block(entries + i, n - i, &used);
	*ret_size = (blocks - 1) * EROFS_BLOCK + used;
	return 0;
}

static uint8_t entry_type(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return EROFS_TYPE_FILE;
	case S_IFDIR:
		return EROFS_TYPE_DIRECTORY;
	case S_IFCHR:
		return EROFS_TYPE_CHARACTER_DEVICE;
	case S_IFBLK:
		return EROFS_TYPE_BLOCK_DEVICE;
	case S_IFIFO:
		return EROFS_TYPE_FIFO;
	case S_IFSOCK:
		return EROFS_TYPE_SOCKET;
	default:
		return EROFS_TYPE_SYMLINK;
	}
}

/* Writes n entries, which fit, into a block. */
static void make_block(const struct writer *w, const struct entry *entries, size_t n, uint8_t *block)
{
	size_t name_offset = n * sizeof(struct erofs_entry);

	for (size_t i = 0; i < n; i++) {
		const struct erofs_entry entry = {
			.nid = htole64(w->places[entries[i].node].offset >> EROFS_NID_BITS),
			.name_offset = htole16((uint16_t)name_offset),
			.type = entry_type(w->layers->nodes[entries[i].node]->mode),
		};

		memcpy(block + i * sizeof entry, &entry, sizeof entry);
		memcpy(block + name_offset, entries[i].name, entries[i].len);
		name_offset += entries[i].len;
	}
}

/* ---- extended attributes ---- */

static const struct {
	const char *name;
	uint8_t number;
} xattr_prefixes[] = {
	{ "user.", EROFS_XATTR_USER },
	{ "security.", EROFS_XATTR_SECURITY },
	{ "system.posix_acl_access", EROFS_XATTR_ACL_ACCESS },
	{ "system.posix_acl_default", EROFS_XATTR_ACL_DEFAULT },
};

/* The head of its entry, and where the rest of its name begins. False: it has none here. */
static bool xattr_entry(const struct layers_xattr *x, struct erofs_xattr *ret, const char **ret_name)
{
	for (size_t i = 0; i < sizeof xattr_prefixes / sizeof xattr_prefixes[0]; i++) {
		size_t len = strlen(xattr_prefixes[i].name);

		if (strncmp(x->name, xattr_prefixes[i].name, len) != 0 || x->size > UINT16_MAX)
			continue;
		*ret_name = x->name + len;
		*ret = (struct erofs_xattr){ .name_len = (uint8_t)strlen(*ret_name), .prefix = xattr_prefixes[i].number,
					     .value_size = htole16((uint16_t)x->size) };
		return true;
	}
	return false;
}

static int xattrs_size(const struct layers_node *node, uint32_t *ret_size, struct error *err)
{
	size_t size = node->xattrs ? sizeof(struct erofs_xattrs) : 0;
	struct erofs_xattr entry;
	const char *name;

	for (const struct layers_xattr *x = node->xattrs; x; x = x->next) {
		if (!xattr_entry(x, &entry, &name))
			return error_set(err, ERR_INVALID_ARGUMENT, "the attribute %s of %s cannot be kept", x->name, node->name);
		size += round_up(sizeof entry + entry.name_len + x->size, 4);
	}
	if (size > XATTRS_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the attributes of %s are larger than %zu bytes", node->name, XATTRS_MAX);
	*ret_size = (uint32_t)size;
	return 0;
}

/* ---- where everything goes ---- */

static int content_size(const struct layers *l, size_t i, uint64_t *ret)
{
	mode_t mode = l->nodes[i]->mode;

	if (S_ISDIR(mode))
		return directory_size(l, i, ret);
	*ret = S_ISREG(mode) || S_ISLNK(mode) ? l->nodes[i]->size : 0;
	return 0;
}

/* The rest of a last block: inline, if that wastes no more than a block of its own. */
static void place_inode(struct writer *w, struct place *p)
{
	uint64_t head = sizeof(struct erofs_inode) + p->xattr_size, rest = p->size % EROFS_BLOCK, room;

	p->offset = round_up(w->meta_end, 1u << EROFS_NID_BITS);
	room = EROFS_BLOCK - p->offset % EROFS_BLOCK;
	p->is_inline = rest > 0 && head + rest <= EROFS_BLOCK && (head + rest <= room || room + rest <= EROFS_BLOCK);
	if (p->is_inline)
		head += rest;
	if (head > room && head <= EROFS_BLOCK)
		p->offset += room;
	w->meta_end = p->offset + head;
}

static int place_content(struct writer *w, struct place *p, struct error *err)
{
	uint64_t blocks = p->is_inline ? p->size / EROFS_BLOCK : round_up(p->size, EROFS_BLOCK) / EROFS_BLOCK;

	p->block = EROFS_NO_BLOCK;
	if (blocks == 0)
		return 0;
	if (blocks >= EROFS_NO_BLOCK - w->end / EROFS_BLOCK)
		return error_set(err, ERR_INVALID_ARGUMENT, "the image is too large for one file system");
	p->block = (uint32_t)(w->end / EROFS_BLOCK);
	w->end += blocks * EROFS_BLOCK;
	return 0;
}

static int place_all(struct writer *w, struct error *err)
{
	const struct layers *l = w->layers;

	w->meta_end = EROFS_SUPER_OFFSET + sizeof(struct erofs_super);
	for (size_t i = 0; i < l->n_nodes; i++) {
		if (!is_first_link(w, i))
			continue;
		if (content_size(l, i, &w->places[i].size) < 0)
			return error_errno(err, ENOMEM, "cannot write the file system");
		if (xattrs_size(l->nodes[i], &w->places[i].xattr_size, err) < 0)
			return -1;
		place_inode(w, &w->places[i]);
		w->inodes++;
	}
	w->end = w->data_sent = round_up(w->meta_end, EROFS_BLOCK);
	for (size_t i = 0; i < l->n_nodes; i++)
		if (is_first_link(w, i) && place_content(w, &w->places[i], err) < 0)
			return -1;
	return 0;
}

/* ---- writing ---- */

static int cannot_write(struct error *err)
{
	return error_errno(err, errno, "cannot write the file system");
}

static int write_at(const struct writer *w, const void *data, size_t len, uint64_t offset, struct error *err)
{
	for (const uint8_t *p = data; len > 0;) {
		ssize_t n = pwrite(w->fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return cannot_write(err);
		p += n;
		len -= (size_t)n;
		offset += (size_t)n;
	}
	return 0;
}

static int meta_flush(struct writer *w, struct error *err)
{
	if (write_at(w, w->meta, w->meta_len, w->meta_offset, err) < 0)
		return -1;
	(void)sync_file_range(w->fd, (off_t)w->meta_offset, (off_t)w->meta_len, SYNC_FILE_RANGE_WRITE);
	w->meta_offset += w->meta_len;
	w->meta_len = 0;
	return 0;
}

/* Where the next len <= META_BUFFER bytes of the inodes are to be put. They are zero. NULL with err set. */
static uint8_t *meta_take(struct writer *w, size_t len, struct error *err)
{
	uint8_t *taken;

	if (len > META_BUFFER - w->meta_len && meta_flush(w, err) < 0)
		return NULL;
	taken = w->meta + w->meta_len;
	memset(taken, 0, len);
	w->meta_len += len;
	return taken;
}

static int meta_add(struct writer *w, const void *data, size_t len, struct error *err)
{
	uint8_t *to = meta_take(w, len, err);

	if (!to)
		return -1;
	memcpy(to, data, len);
	return 0;
}

static int meta_go_to(struct writer *w, uint64_t offset, struct error *err)
{
	return meta_take(w, offset - w->meta_offset - w->meta_len, err) ? 0 : -1;
}

/* Its blocks up to here are written. What the disk does not know yet begins its way there. */
static void write_behind(struct writer *w, uint64_t end)
{
	if (end < w->data_sent + WRITE_BEHIND)
		return;
	(void)sync_file_range(w->fd, (off_t)w->data_sent, (off_t)(end - w->data_sent), SYNC_FILE_RANGE_WRITE);
	w->data_sent = end;
}

/* ---- content ---- */

static int changed(const char *name, struct error *err)
{
	return error_set(err, ERR_ABORTED, "%s has changed while it was read", name);
}

static int read_at(int fd, void *data, size_t len, uint64_t offset, const char *name, struct error *err)
{
	for (uint8_t *p = data; len > 0;) {
		ssize_t n = pread(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(err, errno, "cannot read %s", name);
		if (n == 0)
			return changed(name, err);
		p += n;
		len -= (size_t)n;
		offset += (size_t)n;
	}
	return 0;
}

static bool is_not_for_these_files(int errnum)
{
	return errnum == EXDEV || errnum == EINVAL || errnum == ENOSYS || errnum == EOPNOTSUPP;
}

/* From one offset of a file to another one of the file system. */
static int copy_range(const struct writer *w, int fd, uint64_t from, uint64_t to, uint64_t len, const char *name,
		      struct error *err)
{
	for (size_t step; len > 0; from += step, to += step, len -= step) {
		loff_t in = (loff_t)from, out = (loff_t)to;
		ssize_t n = copy_file_range(fd, &in, w->fd, &out, len, 0);

		if (n == 0)
			return changed(name, err);
		if (n < 0 && !is_not_for_these_files(errno))
			return error_errno(err, errno, "cannot copy %s", name);
		step = n > 0 ? (size_t)n : len < COPY_BUFFER ? len : COPY_BUFFER;
		if (n < 0 && (read_at(fd, w->copy, step, from, name, err) < 0 || write_at(w, w->copy, step, to, err) < 0))
			return -1;
	}
	return 0;
}

/* The next data of a file from an offset on: false when there is none before len. */
static bool next_data(int fd, bool sparse, uint64_t len, uint64_t *from, uint64_t *ret_end)
{
	off_t data, hole;

	*ret_end = len;
	if (!sparse || *from >= len)
		return *from < len;
	data = lseek(fd, (off_t)*from, SEEK_DATA);
	if (data < 0)
		return errno != ENXIO;
	hole = lseek(fd, data, SEEK_HOLE);
	*from = (uint64_t)data;
	if (hole > data && (uint64_t)hole < len)
		*ret_end = (uint64_t)hole;
	return *from < len;
}

static int write_file(struct writer *w, const struct layers_node *node, const struct place *p, struct error *err)
{
	size_t rest = p->is_inline ? p->size % EROFS_BLOCK : 0;
	uint64_t len = p->size - rest, begin = (uint64_t)p->block * EROFS_BLOCK;
	_cleanup_close_ int fd = layers_open_file(w->layers, node, err);
	uint8_t *last = rest && fd >= 0 ? meta_take(w, rest, err) : NULL;

	if (fd < 0 || (rest && !last) || (rest && read_at(fd, last, rest, len, node->name, err) < 0))
		return -1;
	for (uint64_t from = 0, end; next_data(fd, node->sparse, len, &from, &end); from = end)
		if (copy_range(w, fd, from, begin + from, end - from, node->name, err) < 0)
			return -1;
	if (len)
		write_behind(w, begin + len);
	return 0;
}

static int write_link(struct writer *w, const struct layers_node *node, const struct place *p, struct error *err)
{
	char target[PATH_MAX];

	if (p->size > sizeof target)
		return changed(node->name, err);
	if (layers_read_link(w->layers, node, target, err) < 0)
		return -1;
	return p->is_inline ? meta_add(w, target, p->size, err) :
	       write_at(w, target, p->size, (uint64_t)p->block * EROFS_BLOCK, err);
}

static int write_directory(struct writer *w, size_t dir, const struct place *p, struct error *err)
{
	_cleanup_free_ struct entry *entries = NULL;
	uint64_t to = (uint64_t)p->block * EROFS_BLOCK;
	size_t n;

	entries = list_entries(w->layers, dir, &n);
	if (!entries)
		return error_errno(err, ENOMEM, "cannot write the file system");
	for (size_t i = 0, fitting, used; i < n; i += fitting, to += EROFS_BLOCK) {
		uint8_t block[EROFS_BLOCK] = { 0 };

		fitting = fill_block(entries + i, n - i, &used);
		make_block(w, entries + i, fitting, block);
		if (p->is_inline && i + fitting == n)
			return meta_add(w, block, used, err);
		if (write_at(w, block, sizeof block, to, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- inodes ---- */

static uint32_t device_number(dev_t dev)
{
	return (minor(dev) & 0xff) | major(dev) << 8 | (minor(dev) & ~0xffu) << 12;
}

static int write_inode(struct writer *w, size_t i, struct error *err)
{
	const struct layers_node *node = w->layers->nodes[i];
	const struct place *p = &w->places[i];
	bool is_device = S_ISCHR(node->mode) || S_ISBLK(node->mode);
	const struct erofs_inode inode = {
		.format = htole16(EROFS_FORMAT_EXTENDED | (p->is_inline ? EROFS_FORMAT_INLINE : 0)),
		.xattr_count = htole16(p->xattr_size ? (uint16_t)(1 + (p->xattr_size - sizeof(struct erofs_xattrs)) / 4) : 0),
		.mode = htole16((uint16_t)node->mode),
		.size = htole64(p->size),
		.block_or_device = htole32(is_device ? device_number(node->rdev) : p->block),
		.ino = htole32((uint32_t)i + 1),
		.uid = htole32(node->uid),
		.gid = htole32(node->gid),
		.mtime = htole64((uint64_t)node->mtime.tv_sec),
		.mtime_nsec = htole32((uint32_t)node->mtime.tv_nsec),
		.nlink = htole32(node->nlink),
	};

	return meta_go_to(w, p->offset, err) < 0 ? -1 : meta_add(w, &inode, sizeof inode, err);
}

static int write_xattrs(struct writer *w, const struct layers_node *node, const struct place *p, struct error *err)
{
	uint8_t *to = meta_take(w, p->xattr_size, err);
	struct erofs_xattr entry;
	const char *name;

	if (!to)
		return -1;
	to += sizeof(struct erofs_xattrs); /* nothing is shared */
	for (const struct layers_xattr *x = node->xattrs; x && xattr_entry(x, &entry, &name); x = x->next) {
		memcpy(to, &entry, sizeof entry);
		memcpy(to + sizeof entry, name, entry.name_len);
		memcpy(to + sizeof entry + entry.name_len, x->value, x->size);
		to += round_up(sizeof entry + entry.name_len + x->size, 4);
	}
	return 0;
}

static int write_node(struct writer *w, size_t i, struct error *err)
{
	const struct layers_node *node = w->layers->nodes[i];
	const struct place *p = &w->places[i];

	if (write_inode(w, i, err) < 0 || (node->xattrs && write_xattrs(w, node, p, err) < 0))
		return -1;
	if (S_ISDIR(node->mode))
		return write_directory(w, i, p, err);
	if (S_ISLNK(node->mode))
		return write_link(w, node, p, err);
	return S_ISREG(node->mode) && p->size ? write_file(w, node, p, err) : 0;
}

static int write_super(struct writer *w, struct error *err)
{
	const struct erofs_super super = {
		.magic = htole32(EROFS_MAGIC),
		.feature_compat = htole32(EROFS_COMPAT_MTIME),
		.block_bits = EROFS_BLOCK_BITS,
		.root_nid = htole16((uint16_t)(w->places[0].offset >> EROFS_NID_BITS)),
		.inodes = htole64(w->inodes),
		.blocks = htole32((uint32_t)(w->end / EROFS_BLOCK)),
	};

	return meta_go_to(w, EROFS_SUPER_OFFSET, err) < 0 ? -1 : meta_add(w, &super, sizeof super, err);
}

static int write_all(struct writer *w, struct error *err)
{
	if (place_all(w, err) < 0 || write_super(w, err) < 0)
		return -1;
	for (size_t i = 0; i < w->layers->n_nodes; i++)
		if (is_first_link(w, i) && write_node(w, i, err) < 0)
			return -1;
	if (meta_flush(w, err) < 0)
		return -1;
	return ftruncate(w->fd, (off_t)w->end) < 0 ? cannot_write(err) : 0;
}

int erofs_write(int fd, const struct layers *l, struct error *err)
{
	_cleanup_free_ struct place *places = calloc(l->n_nodes, sizeof *places);
	_cleanup_free_ uint8_t *meta = malloc(META_BUFFER), *copy = malloc(COPY_BUFFER);
	struct writer w = { .layers = l, .places = places, .fd = fd, .meta = meta, .copy = copy };

	if (!places || !meta || !copy)
		return error_errno(err, ENOMEM, "cannot write the file system");
	return write_all(&w, err);
}
