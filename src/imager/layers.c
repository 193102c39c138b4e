/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/layers.h"

#include "base/fs.h"
#include "base/overlay.h"
#include "tree/attributes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define OVERLAY_OPAQUE "trusted.overlay.opaque"
#define LIST_FIRST 64

/* Nodes that it owns. */
struct list {
	struct layers_node **items;
	size_t n, cap;
};

static int out_of_memory(struct error *err)
{
	return error_errno(err, ENOMEM, "cannot read the layers");
}

/* ---- nodes ---- */

static void node_free(struct layers_node *node)
{
	if (!node)
		return;
	for (struct layers_xattr *next, *x = node->xattrs; x; x = next) {
		next = x->next;
		free(x);
	}
	free(node->shown);
	free(node);
}

DEFINE_CLEANUP(struct layers_node *, node_free)
#define _cleanup_node_ _cleanup_(node_freep)

static void list_release(struct list *list)
{
	for (size_t i = 0; i < list->n; i++)
		node_free(list->items[i]);
	free(list->items);
}
#define _cleanup_list_ _cleanup_(list_release)

/* Takes the node. */
static int list_add(struct list *list, struct layers_node **node, struct error *err)
{
	if (list->n == list->cap) {
		size_t cap = list->cap ? list->cap * 2 : LIST_FIRST;
		struct layers_node **items = reallocarray(list->items, cap, sizeof *items);

		if (!items)
			return out_of_memory(err);
		list->items = items;
		list->cap = cap;
	}
	list->items[list->n++] = steal_ptr(node);
	return 0;
}

static struct layers_node *node_new(const struct layers_node *parent, const char *name, uint16_t layer,
				    const struct stat *st)
{
	size_t len = strlen(name) + 1;
	struct layers_node *node = calloc(1, sizeof *node + len);

	if (!node)
		return NULL;
	memcpy(node->name, name, len);
	node->parent = parent ? parent : node;
	node->layer = layer;
	node->size = (uint64_t)st->st_size;
	node->mtime = st->st_mtim;
	node->rdev = st->st_rdev;
	node->ino = st->st_ino;
	node->mode = st->st_mode;
	node->uid = st->st_uid;
	node->gid = st->st_gid;
	node->nlink = (uint32_t)st->st_nlink;
	node->sparse = st->st_blocks < st->st_size / 512;
	return node;
}

static bool is_whiteout(const struct layers_node *node)
{
	return S_ISCHR(node->mode) && node->rdev == makedev(0, 0);
}

/* ---- attributes, of a path from the working directory ---- */

static int add_xattr(struct layers_node *node, const char *path, const char *name, struct error *err)
{
	size_t len = strlen(name) + 1;
	ssize_t size = lgetxattr(path, name, NULL, 0);
	struct layers_xattr *x;

	if (size < 0)
		return error_errno(err, errno, "cannot read the attribute %s of %s", name, path);
	x = malloc(sizeof *x + len + (size_t)size);
	if (!x)
		return out_of_memory(err);
	memcpy(x->name, name, len);
	*x = (struct layers_xattr){ .next = node->xattrs, .size = (size_t)size, .value = x->name + len };
	node->xattrs = x;
	if (lgetxattr(path, name, x->name + len, x->size) != size)
		return error_set(err, ERR_ABORTED, "the attribute %s of %s has changed", name, path);
	return 0;
}

/* Others than files and directories have none that count. */
static int add_xattrs(struct layers_node *node, const char *path, struct error *err)
{
	static char names[XATTR_LIST_MAX];
	ssize_t n = S_ISREG(node->mode) || S_ISDIR(node->mode) ? llistxattr(path, names, sizeof names) : 0;

	if (n < 0 && errno != ENOTSUP)
		return error_errno(err, errno, "cannot read the attributes of %s", path);
	for (const char *name = names; name < names + n; name += strlen(name) + 1)
		if (attributes_xattr_wanted(name, false) && add_xattr(node, path, name, err) < 0)
			return -1;
	return 0;
}

static bool is_opaque(const char *path)
{
	char value;

	return lgetxattr(path, OVERLAY_OPAQUE, &value, sizeof value) == 1 && value == 'y';
}

/* n: the layers that may show through it, its own among them. */
static int begin_directory(struct layers_node *node, const char *path, size_t n, struct error *err)
{
	node->shown = malloc(n * sizeof *node->shown);
	if (!node->shown)
		return out_of_memory(err);
	node->shown[node->n_shown++] = node->layer;
	node->closed = n > 1 && is_opaque(path);
	return 0;
}

/* ---- one directory ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct layers_node *const *)a)->name, (*(struct layers_node *const *)b)->name);
}

static int read_entry(const struct layers_node *dir, const char *name, size_t i, struct list *found, struct error *err)
{
	_cleanup_node_ struct layers_node *node = NULL;
	struct stat st;

	if (lstat(name, &st) < 0)
		return error_errno(err, errno, "cannot look at %s", name);
	node = node_new(dir, name, dir->shown[i], &st);
	if (!node)
		return out_of_memory(err);
	if (S_ISDIR(node->mode) && begin_directory(node, name, (size_t)dir->n_shown - i, err) < 0)
		return -1;
	return add_xattrs(node, name, err) < 0 ? -1 : list_add(found, &node, err);
}

/* What the i-th of the layers that show through dir has in it, by name. */
static int read_entries(const struct layers *l, const struct layers_node *dir, size_t i, struct list *found,
			struct error *err)
{
	_cleanup_free_ char *path = layers_path(dir, err);
	_cleanup_closedir_ DIR *stream = NULL;
	int fd = path ? fs_open_straight(l->fds[dir->shown[i]], path, O_RDONLY | O_DIRECTORY) : -1;

	if (!path)
		return -1;
	if (fd < 0)
		return error_errno(err, -fd, "cannot open %s", path);
	stream = fdopendir(fd);
	if (!stream) {
		close(fd);
		return error_errno(err, errno, "cannot open %s", path);
	}
	if (fchdir(fd) < 0)
		return error_errno(err, errno, "cannot enter %s", path);
	for (struct dirent *entry; errno = 0, (entry = readdir(stream));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    read_entry(dir, entry->d_name, i, found, err) < 0)
			return error_wrap(err, "in %s", path);
	if (errno)
		return error_errno(err, errno, "cannot read %s", path);
	if (found->n)
		qsort(found->items, found->n, sizeof *found->items, by_name);
	return 0;
}

/* An entry that another one of a lower layer has the name of. */
static void show_through(struct layers_node *upper, const struct layers_node *lower)
{
	if (!S_ISDIR(upper->mode) || upper->closed)
		return;
	if (S_ISDIR(lower->mode))
		upper->shown[upper->n_shown++] = lower->layer;
	upper->closed = !S_ISDIR(lower->mode) || lower->closed;
}

/* Both are by name, and so is what becomes of upper. */
static int merge(struct list *upper, struct list *lower, struct error *err)
{
	_cleanup_list_ struct list both = { 0 };
	struct list former = *upper;

	for (size_t u = 0, w = 0; u < upper->n || w < lower->n;) {
		int order = u == upper->n ? 1 : w == lower->n ? -1 : by_name(&upper->items[u], &lower->items[w]);

		if (order == 0)
			show_through(upper->items[u], lower->items[w++]);
		if (list_add(&both, order <= 0 ? &upper->items[u++] : &lower->items[w++], err) < 0)
			return -1;
	}
	*upper = both;
	both = former;
	return 0;
}

/* Its children go behind all nodes that there are. */
static int read_directory(struct layers *l, struct list *nodes, struct layers_node *dir, struct error *err)
{
	_cleanup_list_ struct list children = { 0 };

	for (size_t i = 0; i < dir->n_shown; i++) {
		_cleanup_list_ struct list found = { 0 };

		if (read_entries(l, dir, i, &found, err) < 0 || merge(&children, &found, err) < 0)
			return -1;
	}
	dir->first_child = nodes->n;
	dir->nlink = 2;
	for (size_t i = 0; i < children.n; i++) {
		struct layers_node *child = children.items[i];

		if (is_whiteout(child))
			continue;
		child->link = nodes->n;
		dir->nlink += S_ISDIR(child->mode);
		if (list_add(nodes, &children.items[i], err) < 0)
			return -1;
	}
	dir->n_children = nodes->n - dir->first_child;
	return 0;
}

/* ---- hard links ---- */

static int by_file(const void *a, const void *b)
{
	const struct layers_node *x = *(struct layers_node *const *)a, *y = *(struct layers_node *const *)b;

	if (x->layer != y->layer)
		return x->layer < y->layer ? -1 : 1;
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return x->link < y->link ? -1 : x->link > y->link;
}

static bool is_same_file(const struct layers_node *a, const struct layers_node *b)
{
	return a->layer == b->layer && a->ino == b->ino;
}

/* A layer is one file system. */
static int find_links(const struct layers *l, struct error *err)
{
	_cleanup_free_ struct layers_node **linked = malloc(l->n_nodes * sizeof *linked);
	size_t n = 0;

	if (!linked)
		return out_of_memory(err);
	for (size_t i = 0; i < l->n_nodes; i++)
		if (!S_ISDIR(l->nodes[i]->mode) && l->nodes[i]->nlink > 1)
			linked[n++] = l->nodes[i];
	if (n)
		qsort(linked, n, sizeof *linked, by_file);
	for (size_t first = 0, end; first < n; first = end) {
		for (end = first + 1; end < n && is_same_file(linked[first], linked[end]); end++)
			linked[end]->link = linked[first]->link;
		linked[first]->nlink = (uint32_t)(end - first);
	}
	return 0;
}

/* ---- the tree ---- */

static int read_root(const struct layers *l, struct list *nodes, struct error *err)
{
	_cleanup_node_ struct layers_node *root = NULL;
	uint16_t top = (uint16_t)(l->n_fds - 1);
	struct stat st;

	if (fchdir(l->fds[top]) < 0 || lstat(".", &st) < 0)
		return error_errno(err, errno, "cannot enter the uppermost layer");
	root = node_new(NULL, "", top, &st);
	if (!root)
		return out_of_memory(err);
	if (begin_directory(root, ".", l->n_fds, err) < 0 || add_xattrs(root, ".", err) < 0)
		return -1;
	/* What hides a layer's root does so for all layers below it. */
	for (uint16_t layer = top; !root->closed && layer-- > 0;) {
		root->shown[root->n_shown++] = layer;
		if (fchdir(l->fds[layer]) < 0)
			return error_errno(err, errno, "cannot enter a layer");
		root->closed = is_opaque(".");
	}
	return list_add(nodes, &root, err);
}

int layers_read(struct layers *l, struct error *err)
{
	_cleanup_close_ int cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct list nodes = { 0 };
	int r = read_root(l, &nodes, err);

	for (size_t i = 0; r == 0 && i < nodes.n; i++)
		if (S_ISDIR(nodes.items[i]->mode))
			r = read_directory(l, &nodes, nodes.items[i], err);
	if (cwd >= 0)
		(void)!fchdir(cwd);
	l->nodes = nodes.items;
	l->n_nodes = nodes.n;
	return r < 0 ? -1 : find_links(l, err);
}

int layers_open(char *const *paths, size_t n, struct layers *ret, struct error *err)
{
	struct layers l = LAYERS_INIT;

	if (n > OVERLAY_LAYERS_MAX)
		return error_set(err, ERR_FAILED_PRECONDITION, "the image has more than %d layers", OVERLAY_LAYERS_MAX);
	l.fds = malloc(n * sizeof *l.fds);
	if (!l.fds)
		return out_of_memory(err);
	for (; l.n_fds < n; l.n_fds++) {
		l.fds[l.n_fds] = open(paths[l.n_fds], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (l.fds[l.n_fds] < 0) {
			error_errno(err, errno, "cannot open the layer %s", paths[l.n_fds]);
			layers_release(&l);
			return -1;
		}
	}
	*ret = l;
	return 0;
}

void layers_release(struct layers *l)
{
	for (size_t i = 0; i < l->n_nodes; i++)
		node_free(l->nodes[i]);
	for (size_t i = 0; i < l->n_fds; i++)
		close(l->fds[i]);
	free(l->nodes);
	free(l->fds);
	*l = (struct layers)LAYERS_INIT;
}

/* ---- files ---- */

char *layers_path(const struct layers_node *node, struct error *err)
{
	char path[PATH_MAX], *begin = path + sizeof path - 1;

	*begin = '\0';
	for (const struct layers_node *n = node; n->parent != n; n = n->parent) {
		size_t len = strlen(n->name), separator = *begin != '\0';

		if (len + separator > (size_t)(begin - path)) {
			error_set(err, ERR_INVALID_ARGUMENT, "a path in the image is longer than %d bytes", PATH_MAX - 1);
			return NULL;
		}
		if (separator)
			*--begin = '/';
		begin -= len;
		memcpy(begin, n->name, len);
	}
	begin = strdup(*begin ? begin : ".");
	if (!begin)
		out_of_memory(err);
	return begin;
}

int layers_open_file(const struct layers *l, const struct layers_node *node, struct error *err)
{
	_cleanup_free_ char *path = layers_path(node, err);
	int fd = path ? fs_open_straight(l->fds[node->layer], path, O_RDONLY | O_NOATIME) : -1;

	return fd >= 0 || !path ? fd : error_errno(err, -fd, "cannot open %s", path);
}

int layers_read_link(const struct layers *l, const struct layers_node *node, char *text, struct error *err)
{
	_cleanup_free_ char *path = layers_path(node, err);
	_cleanup_close_ int fd = path ? fs_open_straight(l->fds[node->layer], path, O_PATH | O_NOFOLLOW) : -1;

	if (!path)
		return -1;
	if (fd < 0)
		return error_errno(err, -fd, "cannot open %s", path);
	if (readlinkat(fd, "", text, node->size) != (ssize_t)node->size)
		return error_set(err, ERR_ABORTED, "the symbolic link %s has changed", path);
	return 0;
}
