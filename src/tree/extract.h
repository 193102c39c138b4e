/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A tar stream into a directory tree.
 *
 * Exact: owners by number, modes with set-user-ID and sticky bits, times, hard and symbolic links, devices, fifos,
 * holes of sparse files, extended attributes with file capabilities, names up to PATH_MAX.
 *
 * Safe: the stream is not trusted, nor is whoever else writes in the tree. Every path is resolved by the kernel below
 * the tree's root (openat2, RESOLVE_IN_ROOT), the last component is never followed, and hard link targets obey the
 * same rules. A name that is absolute or contains ".." is refused, not repaired. The stream cannot set overlayfs's
 * own attributes. Bytes, entries, name lengths and (in libarchive, 1 MiB) pax headers are limited. Memory does not
 * depend on the stream.
 *
 * Errors: INVALID_ARGUMENT for a bad stream, FAILED_PRECONDITION for what is in the way, RESOURCE_EXHAUSTED for a
 * limit or a full disk. What was made until then is the caller's to remove or to leave. One call a thread; blocks on
 * the disk.
 *
 * The process must stay in the "C" locale it starts in: under a UTF-8 one, libarchive composes the characters of pax
 * names (Unicode NFC), so that a name would not be the one that was packed, and two could become one. In "C" it finds
 * that it cannot convert them and hands out the bytes as they are, with a warning, which is what is wanted.
 */
#ifndef CAPSULE_TREE_EXTRACT_H
#define CAPSULE_TREE_EXTRACT_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct extract_limits {
	uint64_t bytes_max;   /* of file content */
	uint64_t entries_max;
};

/* Where the stream comes from. read() points *ret_data at the next bytes, valid until the next call, and returns
 * their number, 0 at the end, or -1 with err set. */
struct extract_source {
	ssize_t (*read)(void *arg, const void **ret_data, struct error *err);
	void *arg;
};

/* What a tree is that has a meaning of its own for some entries. See imager/unpack.c. */
struct extract_layering {
	/* An entry may be an order and no file. 1: it was and is carried out; 0: it is a file; -1: error. */
	int (*intercept)(int dirfd, const char *name, struct error *err);
	/* Whether what is there stands for nothing. */
	bool (*is_absent)(const struct stat *st);
	/* A directory has been made in the place of such a thing. */
	int (*replaced_absent)(int dirfd, struct error *err);
};

struct extract_options {
	const char *what;     /* "layer": for messages */
	int root;             /* directory that is "/" to every path */
	/* Where below root the stream goes; "": to the root. With rename, it is what becomes of the stream's one
	 * top-level entry. */
	const char *prefix;
	bool rename;
	/* What is at prefix comes from the stream alone: no entry goes through a symbolic link. Where root holds more than
	 * what becomes of the stream, one could lead there. */
	bool straight;
	/* Set: the tree is a layer that nobody else sees. An entry replaces what is in its place, and an existing
	 * directory takes over its attributes. NULL: the stream is added to a tree in use. Directories that were
	 * there stay as they are, and no directory is replaced by something else or the other way round. */
	const struct extract_layering *layering;
	/* What is made belongs to the caller and has no special rights: owners, set-ID bits and capabilities in
	 * the stream do not count, and devices are left out; a stream of nothing but a device is refused. */
	bool plain;
	struct extract_limits limits;
};

#define EXTRACT_UNLIMITED { UINT64_MAX, UINT64_MAX }

int extract_tree(const struct extract_options *options, const struct extract_source *source, struct error *err);

/* Whether the bytes at the beginning of a stream (512 of them, or all there are) are those of a tar archive. */
int extract_is_tar(const uint8_t *first, size_t len);

#endif
