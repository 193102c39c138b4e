/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Debian's cloud kernel, for hosts without a guest kernel of our own. What a microVM needs of it are modules, so the
 * initramfs gets them in a second archive behind the base one: the modules, and /modules/order, their paths in the order
 * in which they need each other, one a line. capsule-guest loads them.
 *
 * That initramfs is made once for a kernel and a base and kept. Functions block on the disk; threads: any.
 */
#ifndef CAPSULE_RUNTIME_MICROVM_CLOUD_H
#define CAPSULE_RUNTIME_MICROVM_CLOUD_H

#include "base/error.h"

/* Owned strings. */
struct cloud_kernel {
	char *image;   /* DIR/boot/vmlinuz-RELEASE */
	char *modules; /* DIR/lib/modules/RELEASE, or DIR/usr/lib/modules/RELEASE */
	char *release; /* "6.1.0-50-cloud-amd64" */
};

void cloud_kernel_release(struct cloud_kernel *kernel);
#define _cleanup_cloud_kernel_ _cleanup_(cloud_kernel_release)

/* The newest one installed below dir that has its modules. 1: found, 0: there is none. */
int cloud_kernel_find(const char *dir, struct cloud_kernel *ret, struct error *err);

/* The initramfs for it, in the directory cache, which is made: *ret_path is owned by the caller. Its name tells kernel and
 * base apart; those of others are removed. Several callers at a time wait for one another. */
int cloud_initramfs_ensure(const struct cloud_kernel *kernel, const char *base, const char *cache, char **ret_path,
			   struct error *err);

#endif
