/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * ext4 file systems in files or on devices that nothing has mounted: made, looked at, checked and grown with e2fsprogs.
 *
 * All functions block: task threads only. `what` names the file system in messages ("volume data").
 *
 * The tools outlive a daemon that is killed, and go on. `lock_fd` is what the next daemon can wait for: an open file
 * that the caller holds under flock(2); the tool inherits it, so the lock lasts as long as the tool works.
 */
#ifndef CAPSULE_VOLUME_EXT4_H
#define CAPSULE_VOLUME_EXT4_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* How a volume is mounted for writing. Deleted data gives its blocks back to the storage. Data that could not be written
 * (the storage is full) ends in a file system that is read-only, not in a file that silently lacks it. A time that is all
 * that changed of a file is written with the next thing that has to be, or by fsync: blocks written in place cost no journal. */
#define EXT4_MOUNT_OPTIONS "discard,data_err=abort,lazytime"

/* What the superblock tells (include/uapi and Documentation/filesystems/ext4/super.rst of Linux). */
struct ext4_state {
	uint64_t size_bytes; /* of the file system, which may be smaller than what holds it */
	bool has_errors;     /* the kernel or a tool met an inconsistency and it has not been repaired */
	bool needs_recovery; /* its journal holds what was not written yet: it was not unmounted */
	uint64_t tail_bytes; /* what is behind it on its device is of no use to it as long as it is less than this */
};

/* Waits for the tool that may still work on the open file or device because the daemon that started it was killed, and
 * keeps others out until the descriptor and its copies are closed. -1 with errno. */
int ext4_lock(int fd);

/* Opens for writing and locks. Within one daemon nobody waits here: volume_lock() (locks.h) came first. */
int ext4_open_locked(const char *what, const char *path, int *ret_fd, struct error *err);

/* DATA_LOSS if there is no ext4. */
int ext4_read_state(const char *what, const char *path, struct ext4_state *ret, struct error *err);

/* Whether the file system takes all of a device of that size that it can: a last group of blocks that would hold little more
 * than its own tables is left out (mke2fs(8) and resize2fs(8) do so). */
bool ext4_fills(const struct ext4_state *state, uint64_t device_bytes);

/* Whether it says of itself that errors were met, or cannot be read at all. */
bool ext4_has_errors(const char *path);

/* Makes a file system over the whole of a file that reads as zeros. Its tables are left as holes, so it takes a few
 * milliseconds and few blocks, whatever the size. RESOURCE_EXHAUSTED when the disk is full. */
int ext4_make(const char *what, const char *path, int lock_fd, struct error *err);

/* Repairs what can be repaired without a decision; `thorough` also when nothing seems wrong. DATA_LOSS, with what to
 * do, if something is left. */
int ext4_check(const char *what, const char *path, int lock_fd, bool thorough, struct error *err);

/* Grows the file system to fill its file. It must have been checked thoroughly. */
int ext4_grow(const char *what, const char *path, int lock_fd, struct error *err);

#endif
