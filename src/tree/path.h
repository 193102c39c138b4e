/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What the form of a path says about a copy from it or to it: docs/copy.md has the rules. Pure. */
#ifndef CAPSULE_TREE_PATH_H
#define CAPSULE_TREE_PATH_H

#include <stdbool.h>

/* Whether the path can only mean a directory: it ends in '/', "." or "..", or is empty. */
bool path_wants_directory(const char *path);

/* Whether it means what is in a directory rather than the directory: its last component is "." or "..", or it is
 * "/". */
bool path_wants_contents(const char *path);

/* The path without slashes and "." at its end; "/" for the root, "." where nothing else is left. To be freed, NULL
 * without memory. */
char *path_trim(const char *path);

/* Takes a trimmed path apart. *ret_dir ("/", "." or what stands before the last slash) and *ret_name (NULL if the
 * path is a root, "." or "..") are to be freed. -1 without memory. */
int path_split(const char *path, char **ret_dir, char **ret_name);

#endif
