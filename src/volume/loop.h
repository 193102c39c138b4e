/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Loop devices: a file as a block device (loop(4)).
 *
 * A device made here has LO_FLAGS_AUTOCLEAR: it goes when its last user, a mount or an open descriptor, is gone, so
 * nothing has to be torn down and nothing can be forgotten. (While another thread starts a command, the command has a
 * copy of the descriptor for the instant until its exec.) Two devices over one file would be two caches over one
 * file system: loop_find() is asked before loop_attach().
 *
 * Thread-safe; may block on the disk.
 */
#ifndef CAPSULE_VOLUME_LOOP_H
#define CAPSULE_VOLUME_LOOP_H

#include "base/error.h"

#include <stdbool.h>

struct loop {
	int fd;       /* keeps the device; owned */
	char *device; /* "/dev/loop7"; owned */
	bool read_only;
};

#define LOOP_INIT { -1, NULL, false }

void loop_release(struct loop *loop);
#define _cleanup_loop_ _cleanup_(loop_release)

/* The device over this file, whoever made it; ret->fd is -1 if there is none. Other files' devices are not opened: that
 * would keep them a moment longer than their users do. */
int loop_find(const char *path, struct loop *ret, struct error *err);

/* Makes a device over the file. `path` is what tools such as losetup show. Direct I/O where the file system has it, so
 * that the data is not cached twice. */
int loop_attach(const char *path, bool read_only, struct loop *ret, struct error *err);

#endif
