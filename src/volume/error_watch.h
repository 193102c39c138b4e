/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The kernel's word that a mounted file system has met an error (FAN_FS_ERROR of fanotify(7)): damage, or data that could not
 * be written. A volume is read-only from then on (ext4_make(), EXT4_MOUNT_OPTIONS).
 *
 * Linux has this for ext4 since 5.16, and lets a user have fs.fanotify.max_user_groups of them, 128 by default. Where there
 * are no more, nothing tells.
 */
#ifndef CAPSULE_VOLUME_ERROR_WATCH_H
#define CAPSULE_VOLUME_ERROR_WATCH_H

/* A descriptor, the caller's, that is readable from the first error on; it keeps the file system from nothing, its unmount
 * included. path: any in it. -1: nothing will tell. Needs CAP_SYS_ADMIN. */
int error_watch_open(const char *path);

#endif
