/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/microvm/boot.h"

#include "base/fs.h"

#include <errno.h>
#include <string.h>

int boot_options_init(struct boot_options *o, const struct driver_options *options, struct error *err)
{
	o->guest_dir = strdup(options->guest_dir);
	o->kernel = options->guest_kernel ? strdup(options->guest_kernel) : fs_path("%s/vmlinux", options->guest_dir);
	o->monitor = strdup(options->vm_monitor);
	o->accel = strdup(options->vm_accel);
	if (!o->guest_dir || !o->kernel || !o->monitor || !o->accel)
		return error_errno(err, ENOMEM, "cannot make the microVM driver");
	return 0;
}

void boot_options_release(struct boot_options *o)
{
	free(o->guest_dir);
	free(o->kernel);
	free(o->monitor);
	free(o->accel);
}

int boot_choose(const struct boot_options *o, const Capsule__V1__MicroVMSpec *spec, struct boot *ret, struct error *err)
{
	bool own = *spec->kernel_path;

	ret->monitor = "qemu";
	ret->monitor_program = strdup("/usr/bin/qemu-system-x86_64");
	ret->kernel = strdup(own ? spec->kernel_path : o->kernel);
	ret->initramfs = own ? NULL : fs_path("%s/initramfs.cpio", o->guest_dir);
	ret->emulated = strcmp(o->accel, "kvm") != 0;
	return ret->monitor_program && ret->kernel && (own || ret->initramfs)
		       ? 0 : error_errno(err, ENOMEM, "cannot choose a kernel");
}

void boot_release(struct boot *b)
{
	free(b->monitor_program);
	free(b->kernel);
	free(b->initramfs);
}
