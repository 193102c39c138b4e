/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The documents of a YAML stream as trees of nodes that know their place. JSON is read by the same path.
 *
 * The tree does not judge what a manifest may hold: anchors, aliases, tags and keys that are not words are marked as
 * refused, so that the reader can report them with their path. Only what stops the parser is a mistake here:
 * characters that are not UTF-8 or not printable, syntax, and what is beyond the limits.
 */
#ifndef CAPSULE_MANIFEST_TREE_H
#define CAPSULE_MANIFEST_TREE_H

#include "manifest/manifest.h"

#define TREE_DEPTH_MAX 32
#define TREE_NODES_MAX 200000 /* in one document */

enum node_type { NODE_SCALAR, NODE_LIST, NODE_MAP };

struct node {
	enum node_type type;
	unsigned line, column; /* from 1; columns are characters */
	const char *refused;   /* why it cannot stand in a manifest; NULL: it can */
	struct node *next;     /* of the same parent */

	/* NODE_SCALAR */
	bool plain;       /* written without quotes: may be something else than a string */
	const char *text; /* followed by a NUL, and may hold others */
	size_t len;

	/* NODE_LIST, NODE_MAP */
	struct node *first;
	size_t n;

	/* A child of a NODE_MAP */
	struct node *key;
	bool duplicate; /* the same key came before; set by the reader */
};

struct documents;

/* The text must outlive the stream. NULL with a mistake. */
struct documents *documents_open(const char *text, size_t len, struct manifest_mistakes *mistakes);
void documents_close(struct documents *d);
DEFINE_CLEANUP(struct documents *, documents_close)
#define _cleanup_documents_ _cleanup_(documents_closep)

/* 1 with the next document, 0 at the end, -1 with a mistake, after which there is no more. A tree lives until the next
 * call. */
int documents_next(struct documents *d, struct node **ret_root, struct manifest_mistakes *mistakes);

/* A copy of the text that lives as long as the present tree; "" without memory. */
const char *documents_keep(struct documents *d, const char *text);

#endif
