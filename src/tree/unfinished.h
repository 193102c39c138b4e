/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Directories that were made and are being filled. Mode and time come when that is over: the mode may forbid to write
 * there, and every entry changes the time. A stream holds a tree in order, so those that are open at a time lie
 * within each other, and there are never more than a path has components. One that the stream comes back to later is
 * an ordinary directory by then.
 */
#ifndef CAPSULE_TREE_UNFINISHED_H
#define CAPSULE_TREE_UNFINISHED_H

#include "base/error.h"

#include <stdbool.h>
#include <sys/stat.h>

struct unfinished; /* the innermost directory; NULL: there is none */

/* Remembers a directory. made is what fstat() says of it: another one that has taken its place is left alone. */
int unfinished_add(struct unfinished **list, const char *path, const struct stat *made, mode_t mode,
		   const struct timespec mtime[2], struct error *err);

/* Finishes those that path does not lie in; NULL: all. root: what the paths are below; straight: no path goes through a
 * symbolic link. */
void unfinished_leave(struct unfinished **list, int root, bool straight, const char *path);

/* Forgets them. */
void unfinished_release(struct unfinished **list);

#endif
