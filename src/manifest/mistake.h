/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Where a mistake is and what it says. A path lives on the stack, one link a level, and becomes text only when a
 * mistake is made:
 *
 *	struct path ports = path_field(&container, "ports");
 *	struct path port = path_index(&ports, 3);
 *	mistake_add(mistakes, &port, line, column, "must be a mapping");
 */
#ifndef CAPSULE_MANIFEST_MISTAKE_H
#define CAPSULE_MANIFEST_MISTAKE_H

#include "manifest/manifest.h"
#include "manifest/text.h"

struct path {
	const struct path *up; /* NULL: below the document */
	const char *name;      /* NULL: an index */
	size_t index;
};

static inline struct path path_field(const struct path *up, const char *name)
{
	return (struct path){ up, name, 0 };
}

static inline struct path path_index(const struct path *up, size_t index)
{
	return (struct path){ up, NULL, index };
}

/* "container.env.TZ", "container.ports[0]"; names that would be unclear stand as ["..."]. NULL prints nothing. */
void path_print(const struct path *path, struct buf *out);

/* The last link alone, with the '.' of a name that is not the first. */
void path_print_link(const struct path *link, struct buf *out);

/* A NULL path is the document; line 0: no place known. Always returns -1. The message is a format. */
int mistake_add(struct manifest_mistakes *m, const struct path *path, unsigned line, unsigned column, const char *fmt,
		...) __attribute__((format(printf, 5, 6)));

/* The same with the path as text. */
int mistake_add_at(struct manifest_mistakes *m, const char *path, unsigned line, unsigned column, const char *message);

/* Whether further ones would be dropped: reading on is of no use. */
static inline bool mistakes_full(const struct manifest_mistakes *m)
{
	return m->n > MANIFEST_MISTAKES_MAX;
}

/* In the order of the text; what has no place comes last. */
void mistakes_sort(struct manifest_mistakes *m);

/* A foreign word for use in a message: quoted, printable, cut to TEXT_EXCERPT_MAX bytes. Returns e->text. */
struct excerpt {
	char text[TEXT_EXCERPT_MAX * 6 + sizeof("\"\"...")];
};
const char *excerpt(struct excerpt *e, const char *s, size_t len);

#endif
