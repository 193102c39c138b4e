/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What capsule-vm gives up before it reads the first bytes of a guest that is one to keep: from then on it starts nothing,
 * connects to nothing and opens no files but its logs, its record of the end, the cgroup's and what the kernel tells of the
 * monitor's threads. It has the system calls for
 * that (a filter answers EPERM to all others), those files (where the kernel has Landlock) and two capabilities, to kill the
 * monitor and to write its logs. It is not dumpable: a container with the host's processes in sight has no way into it.
 */
#ifndef CAPSULE_VM_SECLUDE_H
#define CAPSULE_VM_SECLUDE_H

#include "vm/monitor.h"

/* For good. The workload's cgroup and directories are there. */
int seclude(const struct vm_options *options, const struct monitor *monitor, struct error *err);

#endif
