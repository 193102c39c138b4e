/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A mounted file system that this process holds still: what is written to it waits, what was written is on its device as after
 * a clean unmount. For a process that does nothing else: capsule-volume on the host, a child of capsule-guest in a guest.
 *
 * `root` is any directory of the file system. Needs CAP_SYS_ADMIN.
 */
#ifndef CAPSULE_VOLUME_STILL_H
#define CAPSULE_VOLUME_STILL_H

#include "base/error.h"

#include <stdbool.h>

/* The line that tells of it. */
#define STILL_FROZEN "frozen"

/* Nothing but its own end, or the machine's, may come between freezing and thawing: not somebody who is gone before he reads
 * the answer, not a terminal or a service manager that ends everything at once. */
void still_ignore_signals(void);

/* Freezes, writes STILL_FROZEN as a line to report_fd, waits until release_fd is at its end or the seconds have passed, which
 * *ret_late tells, and thaws. On failure nothing is frozen; UNAVAILABLE: it is
 * frozen already. */
int still_hold(int root, int report_fd, int release_fd, int seconds, bool *ret_late, struct error *err);

/* Undoes what a process left that was killed; nothing to undo is no error. */
int still_thaw(int root, struct error *err);

#endif
