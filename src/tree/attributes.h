/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Owner, mode, times and extended attributes: from an archive's entry to a file, and back. */
#ifndef CAPSULE_TREE_ATTRIBUTES_H
#define CAPSULE_TREE_ATTRIBUTES_H

#include "base/error.h"

#include <archive_entry.h>
#include <stdbool.h>
#include <sys/stat.h>

/* plain, here and below: see struct extract_options. */

/* Refuses an owner that no file can have. */
int attributes_check(struct archive_entry *entry, bool plain, struct error *err);

/* The mode that a file made from the entry gets. */
mode_t attributes_mode(struct archive_entry *entry, bool plain);

/* The mode to make the file with: no rights yet that its first owner, who is another one, would lend. */
mode_t attributes_first_mode(struct archive_entry *entry);

/* Modification time, twice: as futimens() takes it. */
void attributes_times(struct archive_entry *entry, struct timespec ret[2]);

/* Whether an extended attribute is a file's own. Not trusted.overlay.*: redirects and the like are orders to overlayfs. Not
 * security.selinux and others: they belong to the policy of the host. */
bool attributes_xattr_wanted(const char *name, bool plain);

int attributes_set_owner(int fd, struct archive_entry *entry, bool plain, struct error *err);
int attributes_set_xattrs(int fd, struct archive_entry *entry, bool plain, struct error *err);

/* All of them, on an open file. */
int attributes_set(int fd, struct archive_entry *entry, bool plain, struct error *err);

/* Owner and time of what cannot be opened: symbolic links, devices, fifos. */
int attributes_set_at(int dirfd, const char *name, struct archive_entry *entry, bool plain, struct error *err);

/* The extended attributes of an open file, into the entry. A file system without them has none. */
int attributes_get_xattrs(int fd, struct archive_entry *entry, struct error *err);

#endif
