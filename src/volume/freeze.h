/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A mounted ext4 that is held still: what is written waits, what was written is on the device, journal and all, so that a
 * copy of the device is a file system as after a clean unmount.
 *
 * A process of its own (capsule-volume hold) freezes and thaws, so that the file system is thawed whatever becomes of the
 * daemon: at the latest after FREEZE_SECONDS_MAX. It needs neither path nor namespace of whoever mounted the device: the
 * device is mounted once more, nowhere, and that is the same file system to the kernel. What nothing has mounted, such as a
 * device that a virtual machine uses, is refused, never mounted: there the guest freezes (runtime/holder.h), for as long.
 *
 * Blocks: task threads only.
 */
#ifndef CAPSULE_VOLUME_FREEZE_H
#define CAPSULE_VOLUME_FREEZE_H

#include "base/error.h"

#include <sys/types.h>

#define FREEZE_SECONDS_MAX 60

struct freeze {
	const char *worker, *device; /* borrowed */
	pid_t pid;                   /* 0: nothing is frozen */
	int release;                 /* closed: it thaws */
};

#define FREEZE_INIT { NULL, NULL, 0, -1 }

/* worker: the program capsule-volume; it and the device stay valid until freeze_end(). `what` names the volume in
 * messages. FAILED_PRECONDITION if nothing has mounted the device. */
int freeze_begin(const char *worker, const char *what, const char *device, struct freeze *ret, struct error *err);

/* Thaws, also where the process was killed: ABORTED. DEADLINE_EXCEEDED if it was thawed before. After either what was
 * copied meanwhile is worth nothing. */
int freeze_end(struct freeze *freeze, const char *what, struct error *err);

/* The error of a copy that took longer: -1. */
int freeze_too_late(const char *what, struct error *err);

#endif
