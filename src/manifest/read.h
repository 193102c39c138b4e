/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A document's tree to a message. Reading goes on after a mistake, so that all of them are found; where a field's name
 * is misspelt beyond doubt it is read as what was meant. The rules that concern values (manifest/check.c) come after.
 */
#ifndef CAPSULE_MANIFEST_READ_H
#define CAPSULE_MANIFEST_READ_H

#include "manifest/manifest.h"
#include "manifest/tree.h"

/* Fills ret as far as the document allows and adds the mistakes. -1 when it holds no object at all, or without
 * memory. */
int read_object(struct documents *documents, struct node *root, struct manifest_object *ret,
		struct manifest_mistakes *mistakes);

/* The place of the node that a path (as in a mistake) leads to, or else of the nearest one above it. */
void read_locate(const struct node *root, const char *path, unsigned *ret_line, unsigned *ret_column);

/* Where to point at for a node: its value, or its key if the value is a collection or absent. */
void node_place(const struct node *node, unsigned *ret_line, unsigned *ret_column);

#endif
