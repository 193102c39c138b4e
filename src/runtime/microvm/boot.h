/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a microVM boots from and what runs it (docs/microvm.md, Kernel). All of it is looked up at each start, so that
 * what was installed meanwhile counts; only whether KVM works is asked once. Threads: any; blocks.
 */
#ifndef CAPSULE_RUNTIME_MICROVM_BOOT_H
#define CAPSULE_RUNTIME_MICROVM_BOOT_H

#include "runtime/driver.h"
#include "runtime/microvm/kvm.h"

/* Files in the guest's directory. */
#define BOOT_KERNEL "vmlinux"
#define BOOT_INITRAMFS "initramfs.cpio"
#define BOOT_CLOUD "cloud" /* Debian's cloud kernel, unpacked from its package */

/* The daemon's settings. Owned copies. */
struct boot_options {
	char *guest_dir, *kernel; /* kernel: NULL if none is set */
	char *monitor, *accel;
	bool jailer;
	char *cache;              /* below the state root */
	char *host_dir;           /* where the host's own kernels are: its root */
	struct kvm kvm;
};

int boot_options_init(struct boot_options *o, const struct driver_options *options, struct error *err);
void boot_options_release(struct boot_options *o);

/* Owned strings, but for monitor. */
struct boot {
	const char *monitor; /* "qemu", "firecracker" */
	char *monitor_program, *kernel;
	char *jailer;        /* Firecracker's; NULL: none, or not to be used */
	char *initramfs;     /* NULL: none */
	bool emulated;
};

/* FAILED_PRECONDITION: something is missing on this host, and what to install. */
int boot_choose(struct boot_options *o, const Capsule__V1__MicroVMSpec *spec, struct boot *ret, struct error *err);
void boot_release(struct boot *b);
#define _cleanup_boot_ _cleanup_(boot_release)

#endif
