/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What the destination of a copy means: docs/copy.md has the rules. */
#ifndef CAPSULE_TREE_TARGET_H
#define CAPSULE_TREE_TARGET_H

#include "base/error.h"

#include <stdbool.h>

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
