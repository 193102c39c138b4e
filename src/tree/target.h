/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Which end of a copy a path means. See docs/copy.md for the rules. */
#ifndef CAPSULE_TREE_TARGET_H
#define CAPSULE_TREE_TARGET_H

#include "base/error.h"

#include <stdbool.h>

/* Whether the path can only mean a directory: it ends in '/', "." or "..", or is empty. Pure. */
bool path_wants_directory(const char *path);

/* Whether it means what is in a directory rather than the directory: its last component is "." or "..", or it is "/". Pure. */
bool path_wants_contents(const char *path);

/* The path without slashes and "." at its end; "/" for the root, "." where nothing else is left. To be freed, NULL without
 * memory. Pure. */
char *path_trim(const char *path);

/* Takes a trimmed path apart. *ret_dir ("/", "." or what stands before the last slash) and *ret_name (NULL if the path is a
 * root, "." or "..") are to be freed. -1 without memory. Pure. */
int path_split(const char *path, char **ret_dir, char **ret_name);

/* Where a stream goes: see struct extract_options. */
struct target {
	char *prefix; /* owned */
	bool rename;
};

void target_release(struct target *target);
#define _cleanup_target_ _cleanup_(target_release)

/* Looks below root what the path is: a directory receives the stream's entries, anything else becomes its one top-level
 * entry. What is missing is not made yet. */
int target_find(int root, const char *path, struct target *ret, struct error *err);

#endif
