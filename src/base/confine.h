/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a program gives up before it reads the first foreign byte. To be called while the process has one thread.
 *
 * It ends with its parent, cannot gain rights by execve(2), and keeps of root's capabilities only those that it names.
 *
 * Nor is it dumpable: its user is root and it keeps no more than a container has, so a container that sees the host's processes
 * (hostPid) could go to its root and its files by /proc/PID, or trace it. An execve(2) undoes that.
 */
#ifndef CAPSULE_BASE_CONFINE_H
#define CAPSULE_BASE_CONFINE_H

#include "base/error.h"

#include <linux/capability.h>
#include <stdint.h>

#define CONFINE_KEEP(cap) (UINT64_C(1) << (cap))

/* root: the directory that becomes "/", or NULL to keep the host's. kept: CONFINE_KEEP() bits. Without the rights
 * to do so (not root) it is an error. */
int confine(const char *root, uint64_t kept, struct error *err);

/*
 * Which files it can still reach by name: those below directories that are named here, each with what may be done there. No
 * others, also not by way of a directory that is open already; files that are open stay so. This is Landlock, which a kernel
 * may lack (Linux 5.13): then nothing changes.
 */
enum confine_use {
	CONFINE_SEARCH, /* read directories */
	CONFINE_READ,   /* and the files that there are */
	CONFINE_MODIFY, /* and write them */
	CONFINE_MANAGE, /* and make, rename and remove files */
};

/* A set of rules, to be closed; -1: the kernel has no such thing, and the others do nothing. */
int confine_files_begin(void);
int confine_files_allow(int rules, int dirfd, enum confine_use use, struct error *err);
/* For good, and for what the process starts. It cannot gain rights by execve(2) any more either. */
int confine_files_enforce(int rules, struct error *err);

#endif
