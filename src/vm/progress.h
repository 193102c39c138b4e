/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What the host sees itself of a machine's work on its disks, whatever guest and monitor say. They cannot pretend to work without
 * writing.
 */
#ifndef CAPSULE_VM_PROGRESS_H
#define CAPSULE_VM_PROGRESS_H

#include "vm/monitor.h"

#include <time.h>

/* Whether one of its disks was written to after *last_write, which moves on, or the monitor waits for a disk of the host at this
 * moment: reads, writes or flushes. The former is seen afterwards too, the latter only now. */
bool progress_seen(const struct monitor *m, struct timespec *last_write);

#endif
