/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Names as archives hold them. Pure. */
#ifndef CAPSULE_TREE_NAME_H
#define CAPSULE_TREE_NAME_H

#include "base/error.h"

/* Removes "." and empty components in place. Refuses what could lead elsewhere: an absolute path and "..". */
int name_clean(char *path, struct error *err);

/* The directory part of a clean path, to be freed, NULL without memory; *ret_name points at the last component
 * inside path. */
char *name_split(const char *path, const char **ret_name);

/* "a" and "b": "a/b"; either may be empty. To be freed, NULL without memory. */
char *name_join(const char *a, const char *b);

#endif
