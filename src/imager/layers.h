/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What unpacked layers show together, as overlayfs would: of a name the uppermost entry, of directories all entries
 * unless an opaque one hides what is below (kernel: filesystems/overlayfs.rst; the marks are unpack.c's). Nothing is
 * mounted.
 *
 * The layers stay as they are and open for as long as the tree does. CAP_SYS_ADMIN is needed to see which directories
 * are opaque. Memory: about 150 bytes a file, and its name. Threads: one, whose working directory changes meanwhile;
 * blocks on the disk.
 */
#ifndef CAPSULE_IMAGER_LAYERS_H
#define CAPSULE_IMAGER_LAYERS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct layers_xattr {
	struct layers_xattr *next;
	size_t size;
	const char *value;
	char name[];
};

struct layers_node {
	const struct layers_node *parent; /* the root's is itself */
	size_t first_child, n_children;   /* a directory's, among all nodes: in the order of strcmp() */
	size_t link;                      /* the first node of the same file: its own index but for further hard links */
	struct layers_xattr *xattrs;
	uint64_t size;                    /* of a file or a symbolic link's target, in bytes */
	struct timespec mtime;
	dev_t rdev;
	ino_t ino;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	uint32_t nlink;                   /* within the tree */
	uint16_t layer;                   /* where its entry is */
	bool sparse;                      /* a file that may have holes */
	bool closed;                      /* a directory through which nothing more shows */
	uint16_t n_shown;
	uint16_t *shown;                  /* a directory's: the layers whose entries it has, uppermost first */
	char name[];
};

struct layers {
	struct layers_node **nodes; /* a directory's children are one behind the other; the root is the first */
	size_t n_nodes;
	int *fds;                   /* of the layers, lowest first */
	size_t n_fds;
};

#define LAYERS_INIT { NULL, 0, NULL, 0 }

/* paths: the layers' directories, lowest first; 1 to OVERLAY_LAYERS_MAX. */
int layers_open(char *const *paths, size_t n, struct layers *ret, struct error *err);
/* Reads the tree. INVALID_ARGUMENT: a path in it is longer than PATH_MAX. */
int layers_read(struct layers *l, struct error *err);
void layers_release(struct layers *l);
#define _cleanup_layers_ _cleanup_(layers_release)

/* Below its layer's directory, "." for the root. To be freed; NULL when it is too long, with err set. */
char *layers_path(const struct layers_node *node, struct error *err);
/* A descriptor of a regular file, for reading. */
int layers_open_file(const struct layers *l, const struct layers_node *node, struct error *err);
/* Puts size bytes of a symbolic link's target into text, without an end. */
int layers_read_link(const struct layers *l, const struct layers_node *node, char *text, struct error *err);

#endif
