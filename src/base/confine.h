/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a program gives up before it reads the first foreign byte. To be called while the process has one thread.
 *
 * It ends with its parent, cannot gain rights by execve(2), and keeps of root's capabilities only those that it names.
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

#endif
