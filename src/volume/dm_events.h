/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The kernel's word that something has happened to a device of the device mapper: a thin pool that gets full, is full or has
 * room again, among others (the comment of DM_DEV_ARM_POLL in include/uapi/linux/dm-ioctl.h). Which one and what, it does
 * not say. Never blocks. */
#ifndef CAPSULE_VOLUME_DM_EVENTS_H
#define CAPSULE_VOLUME_DM_EVENTS_H

#include "base/error.h"

/* A descriptor, the caller's, that is readable (POLLIN) from the next event on. */
int dm_events_open(struct error *err);

/* From now on only further events make it readable. To be called before the look at what has happened. */
int dm_events_arm(int fd, struct error *err);

#endif
