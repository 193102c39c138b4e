/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a kernel's file is, by its header. Of foreign files only the headers are read, with limits, and nothing is believed
 * that does not lie within the file. Functions block on the disk; threads: any.
 */
#ifndef CAPSULE_RUNTIME_MICROVM_KERNEL_H
#define CAPSULE_RUNTIME_MICROVM_KERNEL_H

#include "base/error.h"

enum kernel_format {
	KERNEL_ELF,     /* a vmlinux for x86-64 with a PVH entry (Xen: misc/pvh.pandoc) */
	KERNEL_BZIMAGE, /* of boot protocol 2.06 or newer (Linux: Documentation/x86/boot.rst) */
};

/* One of these, or FAILED_PRECONDITION: what it is instead and what to do. */
int kernel_check(const char *path, enum kernel_format *ret, struct error *err);

#endif
