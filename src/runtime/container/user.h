/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Who a container runs as: the image's User ("", "name", "uid", each with ":group" or ":gid"; image-spec/config.md) looked
 * up in the image's own /etc/passwd and /etc/group, as far as it is not numeric.
 *
 * The files are looked for in the layers as overlayfs would find them, because the root file system is mounted only later
 * and only in the shim's namespace. Threads: any; reads the disk.
 */
#ifndef CAPSULE_RUNTIME_CONTAINER_USER_H
#define CAPSULE_RUNTIME_CONTAINER_USER_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define USER_GROUPS_MAX 64

struct user {
	uint32_t uid, gid;
	uint32_t groups[USER_GROUPS_MAX]; /* supplementary */
	size_t n_groups;
	char *home; /* owned; never NULL on success */
};

void user_release(struct user *u);
#define _cleanup_user_ _cleanup_(user_release)

/* roots: directories of the overlay, uppermost first; one that is missing is passed over. spec may be NULL. */
int user_resolve(const char *const *roots, size_t n_roots, const char *spec, struct user *ret, struct error *err);

/* The content of a file as overlayfs over these directories would show it; NULL if there is none (or more than 1 MiB, or no plain
 * file). Caller frees. path is relative and has one parent directory: "etc/passwd". */
char *user_overlay_read(const char *const *roots, size_t n_roots, const char *path);

#endif
