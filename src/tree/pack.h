/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A file or a directory tree into a tar stream (pax), with all that tree/extract.h can make of it again.
 *
 * Nothing on the way is followed but what RESOLVE_IN_ROOT leads to in the path itself. The tree may be in use: what
 * vanishes meanwhile is left out, a file that shrinks is filled up with zeros. Sockets are left out, and so is what
 * the kernel's own file systems (proc, sysfs, ...) show, unless the path leads into them.
 *
 * Memory: hard links are told from copies for the first PACK_LINKS_MAX files that have more than one name. One call a
 * thread; blocks on the disk. The process must stay in the "C" locale, as for tree/extract.h.
 */
#ifndef CAPSULE_TREE_PACK_H
#define CAPSULE_TREE_PACK_H

#include "base/error.h"

#include <stdbool.h>

#define PACK_LINKS_MAX 1000000

struct pack_options {
	int root;         /* directory that is "/" to the path; AT_FDCWD: path is one of the caller's own */
	const char *path; /* a link is followed if the path ends in '/' */
	const char *name; /* of the one top-level entry; NULL: the path's last component, "." if it has none */
	bool plain;       /* owner 0:0, no set-ID bits */
};

/* Writes the stream to fd. NOT_FOUND if there is no such file. */
int pack_tree(const struct pack_options *options, int fd, struct error *err);

#endif
