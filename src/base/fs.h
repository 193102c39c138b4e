/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Files and directories.
 *
 * Two rules are built in here so that nobody has to remember them. A file that matters is written under a temporary
 * name in its own directory, synced, renamed over the old one, and the directory is synced (fs_write_atomic). A path
 * that comes from an image, an archive or a workload is resolved below a directory by the kernel (fs_open_in), never
 * by joining strings.
 *
 * All functions are thread-safe and may block on the disk: keep them off the event loop.
 * A `dirfd` may be AT_FDCWD. Temporary names begin with FS_TMP_PREFIX; a sweep at start removes what a crash left.
 */
#ifndef CAPSULE_BASE_FS_H
#define CAPSULE_BASE_FS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FS_TMP_PREFIX ".tmp-"

/* Allocates the formatted string; NULL without memory. Caller frees. */
char *fs_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Writes all of it, through EINTR and short writes. 0, or -errno. */
int fs_write_all(int fd, const void *data, size_t len);

/* Reads a whole file of at most max bytes. *ret_data is NUL-terminated (the NUL is not counted in *ret_len, which may
 * be NULL) and owned by the caller. A larger file is an error (RESOURCE_EXHAUSTED), a missing one NOT_FOUND. */
int fs_read(int dirfd, const char *path, size_t max, char **ret_data, size_t *ret_len, struct error *err);

/* Replaces the file's content so that after a crash it holds either the old or the new content. */
int fs_write_atomic(int dirfd, const char *path, const void *data, size_t len, mode_t mode, struct error *err);

/* As fs_write_atomic without the syncs: atomic against readers, not against a power cut. For the run root. */
int fs_write_replace(int dirfd, const char *path, const void *data, size_t len, mode_t mode, struct error *err);

/* Makes the directory and its missing parents. An existing directory is success. */
int fs_mkdir_all(int dirfd, const char *path, mode_t mode, struct error *err);

/* Removes a file or a whole tree without following links and without crossing into another file system. A missing
 * path is success. */
int fs_remove_tree(int dirfd, const char *path, struct error *err);

/* As fs_remove_tree; *ret_freed (may be NULL) counts the bytes of disk that became free, also when it fails. */
int fs_remove_tree_counted(int dirfd, const char *path, uint64_t *ret_freed, struct error *err);

/* Opens path below rootfd as if rootfd were "/": symbolic links and ".." cannot lead out
 * (openat2(2), RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS). Returns an fd (always O_CLOEXEC) or -errno. */
int fs_open_in(int rootfd, const char *path, int flags, mode_t mode);

/* The same for what is there already, and a symbolic link anywhere in the path is -ELOOP. */
int fs_open_straight(int rootfd, const char *path, int flags);

/* Syncs the directory itself (its entries). 0, or -errno. */
int fs_sync_dir(int dirfd, const char *path);

/* Removes NAME.first, the number after it and so on: files of a rotated log beyond a limit that was lowered, which no rotation would
 * reach. One number may be vacant, where a rotation was cut off; two are the end. */
void fs_remove_numbered(int dirfd, const char *name, unsigned first);

/* Removes the entries of a directory whose name begins with FS_TMP_PREFIX. Missing directory: success. */
int fs_sweep_tmp(int dirfd, const char *path, struct error *err);

#endif
