/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What a microVM boots from and what runs it. Threads: any. */
#ifndef CAPSULE_RUNTIME_MICROVM_BOOT_H
#define CAPSULE_RUNTIME_MICROVM_BOOT_H

#include "runtime/driver.h"

/* The daemon's settings. Owned copies. */
struct boot_options {
	char *guest_dir, *kernel, *monitor, *accel;
};

int boot_options_init(struct boot_options *o, const struct driver_options *options, struct error *err);
void boot_options_release(struct boot_options *o);

/* Owned strings, but for monitor. */
struct boot {
	const char *monitor; /* "qemu", "firecracker" */
	char *monitor_program, *kernel;
	char *initramfs;     /* NULL: none */
	bool emulated;
};

int boot_choose(const struct boot_options *o, const Capsule__V1__MicroVMSpec *spec, struct boot *ret, struct error *err);
void boot_release(struct boot *b);
#define _cleanup_boot_ _cleanup_(boot_release)

#endif
