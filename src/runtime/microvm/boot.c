/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/microvm/boot.h"

#include "base/fs.h"
#include "base/process.h"
#include "runtime/microvm/cloud.h"
#include "runtime/microvm/kernel.h"

#include <errno.h>
#include <string.h>

#define QEMU_PROGRAM "qemu-system-x86_64"
#define FIRECRACKER_PROGRAM "firecracker"
#define JAILER_PROGRAM "jailer"

int boot_options_init(struct boot_options *o, const struct driver_options *options, struct error *err)
{
	*o = (struct boot_options){
		.guest_dir = strdup(options->guest_dir),
		.kernel = options->guest_kernel ? strdup(options->guest_kernel) : NULL,
		.monitor = strdup(options->vm_monitor),
		.accel = strdup(options->vm_accel),
		.cache = fs_path("%s/guest", options->root),
		.host_dir = strdup(""),
		.kvm = KVM_INIT(KVM_DEVICE),
		.jailer = options->vm_jailer,
	};
	if (!o->guest_dir || (options->guest_kernel && !o->kernel) || !o->monitor || !o->accel || !o->cache || !o->host_dir)
		return error_errno(err, ENOMEM, "cannot make the microVM driver");
	return 0;
}

void boot_options_release(struct boot_options *o)
{
	free(o->guest_dir);
	free(o->kernel);
	free(o->monitor);
	free(o->accel);
	free(o->cache);
	free(o->host_dir);
}

/* ---- kernel and initramfs ---- */

static int find_cloud_kernel(const struct boot_options *o, struct cloud_kernel *ret, struct error *err)
{
	_cleanup_free_ char *unpacked = fs_path("%s/" BOOT_CLOUD, o->guest_dir);
	int r;

	if (!unpacked)
		return error_errno(err, ENOMEM, "cannot choose a kernel");
	r = cloud_kernel_find(unpacked, ret, err);
	if (r == 0)
		r = cloud_kernel_find(o->host_dir, ret, err);
	if (r == 0)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "there is no kernel for microVMs: neither %s/" BOOT_KERNEL " nor Debian's for clouds; install it "
				 "(apt install linux-image-cloud-amd64), or build ours (make guest-kernel)", o->guest_dir);
	return r < 0 ? -1 : 0;
}

static int choose_guest(const struct boot_options *o, struct boot *b, enum kernel_format *ret_format, struct error *err)
{
	_cleanup_cloud_kernel_ struct cloud_kernel cloud = { 0 };
	_cleanup_free_ char *base = fs_path("%s/" BOOT_INITRAMFS, o->guest_dir);

	b->kernel = o->kernel ? strdup(o->kernel) : fs_path("%s/" BOOT_KERNEL, o->guest_dir);
	if (!base || !b->kernel)
		return error_errno(err, ENOMEM, "cannot choose a kernel");
	if (access(base, R_OK) < 0)
		return error_errno(err, errno, "cannot open the guest's initramfs %s", base);
	if (o->kernel || access(b->kernel, F_OK) == 0) {
		b->initramfs = steal_ptr(&base);
		return kernel_check(b->kernel, ret_format, err);
	}
	if (find_cloud_kernel(o, &cloud, err) < 0)
		return -1;
	free(b->kernel);
	b->kernel = steal_ptr(&cloud.image);
	if (kernel_check(b->kernel, ret_format, err) < 0)
		return -1;
	return cloud_initramfs_ensure(&cloud, base, o->cache, &b->initramfs, err);
}

static int choose_own_system(const Capsule__V1__MicroVMSpec *spec, struct boot *b, enum kernel_format *ret_format,
			     struct error *err)
{
	b->kernel = strdup(spec->kernel_path);
	if (!b->kernel)
		return error_errno(err, ENOMEM, "cannot choose a kernel");
	return kernel_check(b->kernel, ret_format, err);
}

/* ---- monitor ---- */

static int use_qemu(struct boot *b, struct error *err)
{
	b->monitor = "qemu";
	b->monitor_program = process_find(QEMU_PROGRAM);
	if (b->monitor_program)
		return 0;
	return error_set(err, ERR_FAILED_PRECONDITION,
			 QEMU_PROGRAM " is not installed; install it (apt install qemu-system-x86)");
}

/* Releases have the version in both names: firecracker-v1.16.1-x86_64. */
static char *find_jailer_beside(const char *firecracker)
{
	const char *name = strrchr(firecracker, '/') + 1;
	_cleanup_free_ char *path = NULL;

	if (strncmp(name, FIRECRACKER_PROGRAM, strlen(FIRECRACKER_PROGRAM)) != 0)
		return NULL;
	path = fs_path("%.*s" JAILER_PROGRAM "%s", (int)(name - firecracker), firecracker, name + strlen(FIRECRACKER_PROGRAM));
	return path ? process_find(path) : NULL;
}

/* Beside the program, or beside the link under which it was found, or in PATH. NULL: there is none. */
static char *find_jailer(const char *firecracker)
{
	_cleanup_free_ char *program = realpath(firecracker, NULL);
	char *jailer = program ? find_jailer_beside(program) : NULL;

	if (!jailer)
		jailer = find_jailer_beside(firecracker);
	return jailer ? jailer : process_find(JAILER_PROGRAM);
}

/* *why_not: half a sentence. */
static bool use_firecracker(struct boot *b, enum kernel_format format, const char **why_not)
{
	if (b->emulated)
		*why_not = "it needs KVM, which does not work here or is not to be used";
	else if (format != KERNEL_ELF)
		*why_not = "it boots no bzImage";
	else if (!(b->monitor_program = process_find(FIRECRACKER_PROGRAM)))
		*why_not = FIRECRACKER_PROGRAM " is not installed";
	else
		b->monitor = "firecracker";
	return b->monitor != NULL;
}

static int choose_monitor(const struct boot_options *o, const Capsule__V1__MicroVMSpec *spec, enum kernel_format format,
			  struct boot *b, struct error *err)
{
	Capsule__V1__MicroVMBackend backend = spec->backend;
	const char *why_not = NULL;

	if (backend == CAPSULE__V1__MICRO_VMBACKEND__MICRO_VM_BACKEND_UNSPECIFIED && !strcmp(o->monitor, "firecracker"))
		backend = CAPSULE__V1__MICRO_VMBACKEND__MICRO_VM_BACKEND_FIRECRACKER;
	if (backend == CAPSULE__V1__MICRO_VMBACKEND__MICRO_VM_BACKEND_UNSPECIFIED && !strcmp(o->monitor, "qemu"))
		backend = CAPSULE__V1__MICRO_VMBACKEND__MICRO_VM_BACKEND_QEMU;
	if (backend != CAPSULE__V1__MICRO_VMBACKEND__MICRO_VM_BACKEND_QEMU && use_firecracker(b, format, &why_not)) {
		b->jailer = o->jailer ? find_jailer(b->monitor_program) : NULL;
		return 0;
	}
	if (backend == CAPSULE__V1__MICRO_VMBACKEND__MICRO_VM_BACKEND_FIRECRACKER)
		return error_set(err, ERR_FAILED_PRECONDITION, "Firecracker cannot run this microVM: %s", why_not);
	return use_qemu(b, err);
}

static int choose_accel(struct boot_options *o, struct boot *b, struct error *err)
{
	char why_not[KVM_REASON_MAX];

	b->emulated = !strcmp(o->accel, "emulated") || !kvm_runs(&o->kvm, why_not);
	if (b->emulated && !strcmp(o->accel, "kvm"))
		return error_set(err, ERR_FAILED_PRECONDITION, "microVMs are to run on KVM (--vm-accel), but %s", why_not);
	return 0;
}

int boot_choose(struct boot_options *o, const Capsule__V1__MicroVMSpec *spec, struct boot *ret, struct error *err)
{
	_cleanup_boot_ struct boot b = { 0 };
	enum kernel_format format;
	int r;

	r = *spec->kernel_path ? choose_own_system(spec, &b, &format, err) : choose_guest(o, &b, &format, err);
	if (r < 0 || choose_accel(o, &b, err) < 0 || choose_monitor(o, spec, format, &b, err) < 0)
		return -1;
	*ret = b;
	b = (struct boot){ 0 };
	return 0;
}

void boot_release(struct boot *b)
{
	free(b->monitor_program);
	free(b->jailer);
	free(b->kernel);
	free(b->initramfs);
}
