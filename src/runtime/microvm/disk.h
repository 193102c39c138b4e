/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The writable disk of a microVM: a sparse ext4 image, which takes from the host's disk what the guest writes. It promises nothing:
 * when the host's disk is full, the guest's writes fail.
 *
 * Threads: any; blocks for the milliseconds that mke2fs and the sync of its few blocks take.
 */
#ifndef CAPSULE_RUNTIME_MICROVM_DISK_H
#define CAPSULE_RUNTIME_MICROVM_DISK_H

#include "base/error.h"

#include <stdint.h>

/* Makes it, whole and durable, unless it is there. path: with a slash. size: bytes, rounded up to whole MiB.
 * RESOURCE_EXHAUSTED when there is no room for an empty one. */
int disk_ensure(const char *path, uint64_t size, struct error *err);

#endif
