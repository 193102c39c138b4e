/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What a microVM boots from, whether KVM is what it seems, what is durable of its writable layer. That the result boots is
 * shown by tests/integration. */
#include "base/buf.h"
#include "base/fs.h"
#include "base/timeutil.h"
#include "runtime/microvm/boot.h"
#include "runtime/microvm/cloud.h"
#include "runtime/microvm/disk.h"
#include "runtime/microvm/kernel.h"
#include "runtime/microvm/kvm.h"
#include "runtime/origin.h"
#include "volume/ext4.h"

#include "runner.h"

#include <archive.h>
#include <archive_entry.h>
#include <check.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static char dir[64];

/* What was synced, in order. This one is called instead of the C library's. */
static char synced[8][256];
static unsigned n_synced;

int fsync(int fd)
{
	char link[32];
	ssize_t n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, synced[n_synced % 8], sizeof synced[0] - 1);
	synced[n_synced++ % 8][n > 0 ? n : 0] = '\0';
	return (int)syscall(SYS_fsync, fd);
}

static void setup(void)
{
	snprintf(dir, sizeof dir, "/tmp/capsule-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
	ck_assert_int_eq(fs_remove_tree(AT_FDCWD, dir, NULL), 0);
}

static char *in_dir(const char *name)
{
	static char paths[8][256];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof paths[0], "%s/%s", dir, name);
	return path;
}

static void write_file(const char *name, const void *data, size_t len)
{
	char *path = in_dir(name), *slash = strrchr(path, '/');

	*slash = '\0';
	ck_assert_int_eq(fs_mkdir_all(AT_FDCWD, path, 0755, NULL), 0);
	*slash = '/';
	ck_assert_int_eq(fs_write_replace(AT_FDCWD, path, data, len, 0644, NULL), 0);
}

static void write_text(const char *name, const char *text)
{
	write_file(name, text, strlen(text));
}

/* ---- kernels ---- */

struct elf_file {
	Elf64_Ehdr header;
	Elf64_Phdr segment;
	struct {
		Elf64_Nhdr header;
		char name[4];
		uint32_t entry;
	} notes[2];
};

static struct elf_file pvh_kernel(void)
{
	struct elf_file f = {
		.header = {
			.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_phoff = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1,
		},
		.segment = { .p_type = PT_NOTE, .p_offset = offsetof(struct elf_file, notes), .p_filesz = sizeof f.notes },
		.notes = { { { 4, 4, 1 }, "GNU", 0 }, { { 4, 4, 18 }, "Xen", 0x1000000 } },
	};

	return f;
}

static void write_bzimage(const char *name, uint8_t version, uint8_t loadflags)
{
	uint8_t image[1024] = { 0 };

	memcpy(image + 0x1fe, "\x55\xaa", 2);
	memcpy(image + 0x202, "HdrS", 4);
	image[0x206] = version;
	image[0x207] = 2;
	image[0x211] = loadflags;
	write_file(name, image, sizeof image);
}

START_TEST(kernels_are_recognised)
{
	struct elf_file elf = pvh_kernel();
	enum kernel_format format = KERNEL_BZIMAGE;

	write_file("vmlinux", &elf, sizeof elf);
	ck_assert_int_eq(kernel_check(in_dir("vmlinux"), &format, NULL), 0);
	ck_assert_int_eq(format, KERNEL_ELF);
	write_bzimage("bzImage", 0x0f, 1);
	ck_assert_int_eq(kernel_check(in_dir("bzImage"), &format, NULL), 0);
	ck_assert_int_eq(format, KERNEL_BZIMAGE);
}
END_TEST

static void refused(const char *name, const char *why)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	enum kernel_format format;

	ck_assert_int_lt(kernel_check(in_dir(name), &format, &err), 0);
	ck_assert_msg(strstr(error_message(&err), in_dir(name)) && strstr(error_message(&err), why), "%s: %s", name,
		      error_message(&err));
}

START_TEST(other_files_are_refused)
{
	write_text("empty", "");
	write_text("text", "#!/bin/sh\necho no kernel\n");
	write_text("gzip", "\x1f\x8b\x08 and so on");
	write_bzimage("old", 0x05, 1);
	write_bzimage("zimage", 0x0f, 0);
	ck_assert_int_eq(mkfifo(in_dir("fifo"), 0600), 0);
	refused("missing", "No such file");
	refused("fifo", "is not a file");
	refused("empty", "neither a bzImage nor an ELF file");
	refused("text", "neither a bzImage nor an ELF file");
	refused("gzip", "is compressed");
	refused("old", "neither a bzImage");
	refused("zimage", "neither a bzImage");
}
END_TEST

/* Each has one thing wrong, and no number in it leads out of the file. */
START_TEST(elf_files_without_the_entry_are_refused)
{
	struct elf_file elf = pvh_kernel();

	elf.header.e_machine = EM_AARCH64;
	write_file("other-processor", &elf, sizeof elf);
	refused("other-processor", "for another processor");
	elf = pvh_kernel();
	write_file("short", &elf, sizeof elf.header / 2);
	refused("short", "for another processor");
	elf.notes[1].header.n_type = 17;
	write_file("no-pvh", &elf, sizeof elf);
	refused("no-pvh", "CONFIG_PVH");
	elf = pvh_kernel();
	elf.notes[0].header.n_namesz = UINT32_MAX;
	write_file("long-note", &elf, sizeof elf);
	refused("long-note", "CONFIG_PVH");
	elf = pvh_kernel();
	elf.segment.p_filesz = UINT64_MAX;
	write_file("long-segment", &elf, sizeof elf);
	refused("long-segment", "CONFIG_PVH");
	elf = pvh_kernel();
	elf.segment.p_offset = UINT64_MAX - 1;
	write_file("far-segment", &elf, sizeof elf);
	refused("far-segment", "CONFIG_PVH");
	elf = pvh_kernel();
	elf.header.e_phoff = UINT64_MAX - 8;
	write_file("far-headers", &elf, sizeof elf);
	refused("far-headers", "CONFIG_PVH");
	elf = pvh_kernel();
	elf.header.e_phnum = UINT16_MAX;
	write_file("many-headers", &elf, sizeof elf);
	refused("many-headers", "CONFIG_PVH");
}
END_TEST

/* ---- Debian's cloud kernel ---- */

#define MODULES "lib/modules/6.1.0-10-cloud-amd64/"

/* As depmod writes them: what a module needs, what is needed most last. */
static const char dependencies[] =
	"kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko\n"
	"kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko\n"
	"kernel/drivers/virtio/virtio_ring.ko:\n"
	"kernel/drivers/virtio/virtio_balloon.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko\n"
	"kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko\n"
	"kernel/drivers/scsi/virtio_scsi.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko\n"
	"kernel/drivers/scsi/scsi_mod.ko: kernel/drivers/scsi/scsi_common.ko\n"
	"kernel/drivers/scsi/scsi_common.ko:\n"
	"kernel/net/core/failover.ko:\n"
	"kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\n"
	"kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n"
	"kernel/drivers/net/tun.ko:\n"
	"kernel/fs/overlayfs/overlay.ko:\n"
	"kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko\n"
	"kernel/lib/libcrc32c.ko:\n";
static const char builtin[] = "kernel/fs/ext4/ext4.ko\nkernel/fs/fuse/fuse.ko\nkernel/drivers/char/virtio_console.ko\n"
			      "kernel/drivers/char/hw_random/virtio-rng.ko\nkernel/drivers/scsi/sd_mod.ko\n"
			      "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko\n";

static void write_cloud_kernel(void)
{
	char path[256], line[512];
	FILE *lines = fmemopen((char *)(uintptr_t)dependencies, strlen(dependencies), "r");

	write_bzimage("boot/vmlinuz-6.1.0-9-cloud-amd64", 0x0f, 1);
	write_bzimage("boot/vmlinuz-6.1.0-10-cloud-amd64", 0x0f, 1);
	write_bzimage("boot/vmlinuz-6.1.0-11-cloud-amd64", 0x0f, 1); /* without modules: half removed */
	write_bzimage("boot/vmlinuz-6.1.0-12-amd64", 0x0f, 1);
	write_text("lib/modules/6.1.0-9-cloud-amd64/modules.dep", "");
	write_text(MODULES "modules.dep", dependencies);
	write_text(MODULES "modules.builtin", builtin);
	while (fgets(line, sizeof line, lines)) {
		snprintf(path, sizeof path, MODULES "%.*s", (int)strcspn(line, ":"), line);
		write_text(path, strrchr(path, '/') + 1);
	}
	fclose(lines);
}

/* The base is not looked into: this is none, and its length is no multiple of 4. */
#define BASE "the base."
#define BASE_PADDED 12

/* What libarchive reads behind the base: "path=content\n" of every file. Caller frees. */
static char *list_archive(const char *path)
{
	_cleanup_buf_ struct buf list = BUF_INIT(1 << 16);
	_cleanup_free_ char *data = NULL;
	struct archive *a = archive_read_new();
	struct archive_entry *entry;
	char content[4096];
	size_t len;

	ck_assert_int_eq(fs_read(AT_FDCWD, path, 1 << 20, &data, &len, NULL), 0);
	ck_assert_mem_eq(data, BASE "\0\0\0", BASE_PADDED);
	archive_read_support_format_cpio(a);
	ck_assert_int_eq(archive_read_open_memory(a, data + BASE_PADDED, len - BASE_PADDED), ARCHIVE_OK);
	while (archive_read_next_header(a, &entry) == ARCHIVE_OK) {
		ssize_t n = archive_read_data(a, content, sizeof content);

		if (archive_entry_filetype(entry) == AE_IFREG)
			buf_addf(&list, "%s=%.*s\n", archive_entry_pathname(entry), (int)n, content);
	}
	archive_read_free(a);
	return buf_steal(&list);
}

static void find_kernel(struct cloud_kernel *kernel)
{
	write_cloud_kernel();
	write_text("base", BASE);
	ck_assert_int_eq(cloud_kernel_find(dir, kernel, NULL), 1);
}

START_TEST(the_newest_cloud_kernel_with_modules_is_found)
{
	_cleanup_cloud_kernel_ struct cloud_kernel kernel = { 0 };

	ck_assert_int_eq(cloud_kernel_find(in_dir("nowhere"), &kernel, NULL), 0);
	find_kernel(&kernel);
	ck_assert_str_eq(kernel.release, "6.1.0-10-cloud-amd64");
	ck_assert_str_eq(kernel.image, in_dir("boot/vmlinuz-6.1.0-10-cloud-amd64"));
	ck_assert_str_eq(kernel.modules, in_dir("lib/modules/6.1.0-10-cloud-amd64"));
}
END_TEST

START_TEST(the_initramfs_has_modules_in_their_order)
{
	_cleanup_cloud_kernel_ struct cloud_kernel kernel = { 0 };
	_cleanup_free_ char *path = NULL, *list = NULL;

	find_kernel(&kernel);
	ck_assert_int_eq(cloud_initramfs_ensure(&kernel, in_dir("base"), in_dir("cache"), &path, NULL), 0);
	list = list_archive(path);
	ck_assert_ptr_nonnull(strstr(list, "modules/virtio_mmio.ko=virtio_mmio.ko\n"));
	ck_assert_ptr_nonnull(strstr(list, "modules/order="
					   "/modules/virtio_ring.ko\n/modules/virtio.ko\n/modules/virtio_mmio.ko\n"
					   "/modules/virtio_blk.ko\n/modules/failover.ko\n/modules/net_failover.ko\n"
					   "/modules/virtio_net.ko\n/modules/virtio_balloon.ko\n/modules/scsi_common.ko\n"
					   "/modules/scsi_mod.ko\n/modules/virtio_scsi.ko\n/modules/libcrc32c.ko\n"
					   "/modules/erofs.ko\n/modules/overlay.ko\n/modules/tun.ko\n"));
}
END_TEST

static ino_t inode_of(const char *path)
{
	struct stat st;

	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0644);
	return st.st_ino;
}

START_TEST(the_initramfs_is_made_once_for_a_kernel_and_a_base)
{
	_cleanup_cloud_kernel_ struct cloud_kernel kernel = { 0 };
	_cleanup_free_ char *first = NULL, *again = NULL, *other = NULL;
	ino_t inode;

	find_kernel(&kernel);
	write_text("cache/.tmp-left", "by a crash");
	ck_assert_int_eq(cloud_initramfs_ensure(&kernel, in_dir("base"), in_dir("cache"), &first, NULL), 0);
	ck_assert_int_ne(access(in_dir("cache/.tmp-left"), F_OK), 0);
	inode = inode_of(first);
	ck_assert_int_eq(cloud_initramfs_ensure(&kernel, in_dir("base"), in_dir("cache"), &again, NULL), 0);
	ck_assert_str_eq(first, again);
	ck_assert_uint_eq(inode_of(again), inode);
	write_text("base", BASE);
	ck_assert_int_eq(cloud_initramfs_ensure(&kernel, in_dir("base"), in_dir("cache"), &other, NULL), 0);
	ck_assert_str_ne(first, other);
	ck_assert_int_ne(access(first, F_OK), 0);
	ck_assert_int_eq(access(other, R_OK), 0);
}
END_TEST

START_TEST(a_missing_module_is_named)
{
	_cleanup_cloud_kernel_ struct cloud_kernel kernel = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *path = NULL;

	find_kernel(&kernel);
	write_text(MODULES "modules.builtin", "kernel/fs/not_ext4.ko\n");
	ck_assert_int_lt(cloud_initramfs_ensure(&kernel, in_dir("base"), in_dir("cache"), &path, &err), 0);
	ck_assert_str_eq(error_message(&err), "modules of the kernel 6.1.0-10-cloud-amd64: there is no virtio_console.ko");
	ck_assert_ptr_null(path);
}
END_TEST

/* ---- the choice ---- */

static void write_program(const char *name)
{
	write_text(name, "#!/bin/sh\n");
	ck_assert_int_eq(chmod(in_dir(name), 0755), 0);
}

/* PATH with a QEMU and, where asked for, a Firecracker. */
static void make_monitors(bool firecracker)
{
	write_program("bin/qemu-system-x86_64");
	if (firecracker)
		write_program("bin/firecracker");
	setenv("PATH", in_dir("bin"), 1);
}

/* A host in dir, whose KVM works or not, as the test will have it. */
static void make_host(struct boot_options *o, const char *accel, bool kvm_works)
{
	struct driver_options options = {
		.root = in_dir("root"), .guest_dir = in_dir("guest"), .vm_monitor = "auto", .vm_accel = accel,
		.vm_jailer = true,
	};

	ck_assert_int_eq(boot_options_init(o, &options, NULL), 0);
	free(o->host_dir);
	o->host_dir = strdup(dir);
	o->kvm.runs = kvm_works;
	o->kvm.device = in_dir("no-kvm");
	write_text("guest/initramfs.cpio", BASE);
}

static Capsule__V1__MicroVMSpec micro_vm(void)
{
	Capsule__V1__MicroVMSpec spec = CAPSULE__V1__MICRO_VMSPEC__INIT;

	return spec;
}

START_TEST(our_kernel_comes_first_then_debians)
{
	Capsule__V1__MicroVMSpec spec = micro_vm();
	struct boot_options o;
	struct boot own = { 0 }, cloud = { 0 }, none;
	struct elf_file elf = pvh_kernel();
	_cleanup_error_ struct error err = ERROR_INIT;

	make_monitors(false);
	make_host(&o, "auto", false);
	ck_assert_int_lt(boot_choose(&o, &spec, &none, &err), 0);
	ck_assert_ptr_nonnull(strstr(error_message(&err), "apt install linux-image-cloud-amd64"));
	write_cloud_kernel();
	ck_assert_int_eq(boot_choose(&o, &spec, &cloud, NULL), 0);
	ck_assert_str_eq(cloud.kernel, in_dir("boot/vmlinuz-6.1.0-10-cloud-amd64"));
	ck_assert_int_eq(strncmp(cloud.initramfs, in_dir("root/guest/initramfs-6.1.0-10-cloud-amd64-"),
				 strlen(in_dir("root/guest/initramfs-6.1.0-10-cloud-amd64-"))), 0);
	write_file("guest/vmlinux", &elf, sizeof elf);
	ck_assert_int_eq(boot_choose(&o, &spec, &own, NULL), 0);
	ck_assert_str_eq(own.kernel, in_dir("guest/vmlinux"));
	ck_assert_str_eq(own.initramfs, in_dir("guest/initramfs.cpio"));
	ck_assert_str_eq(own.monitor, "qemu");
	ck_assert_str_eq(own.monitor_program, in_dir("bin/qemu-system-x86_64"));
	ck_assert(own.emulated);
	boot_release(&cloud);
	boot_release(&own);
	boot_options_release(&o);
}
END_TEST

START_TEST(a_kernel_of_the_users_own_is_checked)
{
	Capsule__V1__MicroVMSpec spec = micro_vm();
	struct boot_options o;
	struct boot boot = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;

	make_monitors(false);
	make_host(&o, "auto", false);
	write_text("mine", "no kernel");
	spec.kernel_path = in_dir("mine");
	ck_assert_int_lt(boot_choose(&o, &spec, &boot, &err), 0);
	ck_assert_ptr_nonnull(strstr(error_message(&err), "neither a bzImage nor an ELF file"));
	write_bzimage("mine", 0x0f, 1);
	ck_assert_int_eq(boot_choose(&o, &spec, &boot, NULL), 0);
	ck_assert_str_eq(boot.kernel, spec.kernel_path);
	ck_assert_ptr_null(boot.initramfs);
	boot_release(&boot);
	boot_options_release(&o);
}
END_TEST

static const struct choice {
	const char *accel;
	bool kvm_works, firecracker, bzimage;
	Capsule__V1__MicroVMBackend backend;
	const char *monitor; /* NULL: refused */
	const char *says;    /* the monitor's acceleration, or a part of the error */
} choices[] = {
#define BACKEND(b) CAPSULE__V1__MICRO_VMBACKEND__MICRO_VM_BACKEND_##b
	{ "auto", true, true, false, BACKEND(UNSPECIFIED), "firecracker", "kvm" },
	{ "auto", true, true, false, BACKEND(QEMU), "qemu", "kvm" },
	{ "auto", true, false, false, BACKEND(UNSPECIFIED), "qemu", "kvm" },
	{ "auto", true, true, true, BACKEND(UNSPECIFIED), "qemu", "kvm" },
	{ "auto", false, true, false, BACKEND(UNSPECIFIED), "qemu", "emulated" },
	{ "emulated", true, true, false, BACKEND(UNSPECIFIED), "qemu", "emulated" },
	{ "kvm", false, true, false, BACKEND(UNSPECIFIED), NULL, "no-kvm cannot be opened" },
	{ "auto", false, true, false, BACKEND(FIRECRACKER), NULL, "it needs KVM" },
	{ "auto", true, false, false, BACKEND(FIRECRACKER), NULL, "firecracker is not installed" },
	{ "auto", true, true, true, BACKEND(FIRECRACKER), NULL, "it boots no bzImage" },
};

START_TEST(the_monitor_is_chosen)
{
	const struct choice *c = &choices[_i];
	Capsule__V1__MicroVMSpec spec = micro_vm();
	struct boot_options o;
	struct boot boot = { 0 };
	struct elf_file elf = pvh_kernel();
	_cleanup_error_ struct error err = ERROR_INIT;

	make_monitors(c->firecracker);
	make_host(&o, c->accel, c->kvm_works);
	write_file("guest/vmlinux", &elf, sizeof elf);
	if (c->bzimage)
		write_bzimage("guest/vmlinux", 0x0f, 1);
	spec.backend = c->backend;
	if (c->monitor) {
		ck_assert_msg(boot_choose(&o, &spec, &boot, &err) == 0, "%s", error_message(&err));
		ck_assert_str_eq(boot.monitor, c->monitor);
		ck_assert_str_eq(boot.emulated ? "emulated" : "kvm", c->says);
	} else {
		ck_assert_int_lt(boot_choose(&o, &spec, &boot, &err), 0);
		ck_assert_msg(strstr(error_message(&err), c->says) != NULL, "%s", error_message(&err));
	}
	boot_release(&boot);
	boot_options_release(&o);
}
END_TEST

static void expect_jailer(const char *jailer)
{
	Capsule__V1__MicroVMSpec spec = micro_vm();
	struct boot_options o;
	struct boot boot = { 0 };

	make_host(&o, "auto", true);
	ck_assert_int_eq(boot_choose(&o, &spec, &boot, NULL), 0);
	if (jailer)
		ck_assert_str_eq(boot.jailer, jailer);
	else
		ck_assert_ptr_null(boot.jailer);
	boot_release(&boot);
	o.jailer = false;
	ck_assert_int_eq(boot_choose(&o, &spec, &boot, NULL), 0);
	ck_assert_ptr_null(boot.jailer);
	boot_release(&boot);
	spec.backend = BACKEND(QEMU);
	o.jailer = true;
	ck_assert_int_eq(boot_choose(&o, &spec, &boot, NULL), 0);
	ck_assert_ptr_null(boot.jailer);
	boot_release(&boot);
	boot_options_release(&o);
}

START_TEST(the_jailer_is_found_beside_firecracker_then_in_path)
{
	struct elf_file elf = pvh_kernel();
	char path[256];

	write_file("guest/vmlinux", &elf, sizeof elf);
	make_monitors(true);
	expect_jailer(NULL);
	write_text("bin/jailer", "not to be executed");
	expect_jailer(NULL);
	write_program("other/jailer");
	snprintf(path, sizeof path, "%s:%s", in_dir("bin"), in_dir("other"));
	setenv("PATH", path, 1);
	expect_jailer(in_dir("other/jailer"));
	write_program("bin/jailer");
	expect_jailer(in_dir("bin/jailer"));
	/* The link to a release's program leads to its jailer. */
	write_program("release/firecracker-v1.16.1-x86_64");
	write_program("release/jailer-v1.16.1-x86_64");
	ck_assert_int_eq(unlink(in_dir("bin/firecracker")), 0);
	ck_assert_int_eq(symlink(in_dir("release/firecracker-v1.16.1-x86_64"), in_dir("bin/firecracker")), 0);
	expect_jailer(in_dir("release/jailer-v1.16.1-x86_64"));
	ck_assert_int_eq(unlink(in_dir("release/jailer-v1.16.1-x86_64")), 0);
	expect_jailer(in_dir("bin/jailer"));
}
END_TEST

/* ---- KVM ---- */

static void no_kvm(struct kvm *kvm, const char *reason)
{
	char why_not[KVM_REASON_MAX] = "";

	ck_assert(!kvm_runs(kvm, why_not));
	ck_assert_msg(strstr(why_not, kvm->device) && strstr(why_not, reason), "%s", why_not);
}

START_TEST(what_is_no_kvm_says_so)
{
	struct kvm kvm = KVM_INIT(in_dir("device"));

	no_kvm(&kvm, "cannot be opened: No such file");
	write_text("device", "");
	no_kvm(&kvm, "is not KVM");
}
END_TEST

/* As it is for a daemon that starts before the module is loaded and udev has seen to the node. */
START_TEST(a_node_that_failed_is_tried_again_when_it_is_another)
{
	struct kvm kvm = KVM_INIT(in_dir("device"));

	write_text("device", "");
	no_kvm(&kvm, "is not KVM");
	snprintf(kvm.why_not, sizeof kvm.why_not, "%s was not tried again", kvm.device);
	no_kvm(&kvm, "was not tried again");
	write_text("device", "");
	no_kvm(&kvm, "is not KVM");
}
END_TEST

/* A processor with SVM or VMX runs guests; where it has neither a /dev/kvm is of no use. */
static bool has_virtualisation(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/cpuinfo", "re");
	bool found = false;
	char line[8192];

	while (f && fgets(line, sizeof line, f))
		found = found || (!strncmp(line, "flags", 5) && (strstr(line, " svm") || strstr(line, " vmx")));
	return found;
}

START_TEST(kvm_runs_guests_where_the_processor_does)
{
	struct kvm kvm = KVM_INIT(KVM_DEVICE);
	char why_not[KVM_REASON_MAX] = "";
	bool runs = kvm_runs(&kvm, why_not);

	ck_assert_msg(runs == (access(KVM_DEVICE, R_OK | W_OK) == 0 && has_virtualisation()), "%d %s", runs, why_not);
	ck_assert_int_eq(kvm_runs(&kvm, why_not), runs);
}
END_TEST

START_TEST(a_guest_that_does_not_end_is_killed)
{
	static const uint8_t forever[] = { 0xeb, 0xfe }; /* jmp to itself */
	static const uint8_t halt[] = { 0xf4 };
	_cleanup_close_ int fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
	int64_t began = time_monotonic_ns();

	if (fd < 0)
		return; /* nothing to run it on */
	ck_assert_int_eq(kvm_try(fd, forever, sizeof forever, 200), KVM_STUCK);
	ck_assert_int_ge(time_monotonic_ns() - began, 100 * 1000000ll); /* ticks are coarse */
	ck_assert_int_eq(kvm_try(fd, halt, sizeof halt, 10000), KVM_LOST);
}
END_TEST

/* ---- what decides about the writable layer is there after a power cut ---- */

START_TEST(the_record_of_the_origin_is_synced_when_it_changes)
{
	char *const layers[] = { (char *)"/payload" };
	struct origin origin = { .generation = 7, .image = "sha256:1", .layers = layers, .n_layers = 1 };
	struct stat first, second;

	ck_assert_int_eq(origin_write(dir, &origin, NULL), 0);
	ck_assert_uint_eq(n_synced, 2);
	ck_assert_ptr_nonnull(strstr(synced[0], "/" FS_TMP_PREFIX));
	ck_assert_str_eq(synced[1], dir);
	ck_assert_int_eq(stat(in_dir("origin.json"), &first), 0);
	/* A further start of the same writes nothing. */
	ck_assert_int_eq(origin_write(dir, &origin, NULL), 0);
	ck_assert_int_eq(stat(in_dir("origin.json"), &second), 0);
	ck_assert_uint_eq(n_synced, 2);
	ck_assert_uint_eq(first.st_ino, second.st_ino);
	/* One without KVM does. */
	origin.emulated = true;
	ck_assert_int_eq(origin_write(dir, &origin, NULL), 0);
	ck_assert_uint_eq(n_synced, 4);
	ck_assert(origin_matches(dir, &origin));
	/* And so does one that finds what an earlier power cut left. */
	write_text("origin.json", "");
	ck_assert(!origin_matches(dir, &origin));
	ck_assert_int_eq(origin_write(dir, &origin, NULL), 0);
	ck_assert(origin_matches(dir, &origin));
}
END_TEST

START_TEST(a_disk_is_synced_before_it_has_its_name)
{
	char *path = in_dir("disk.img");
	struct ext4_state state;
	struct stat first, second;

	ck_assert_int_eq(disk_ensure(path, 100 << 20, NULL), 0);
	ck_assert_uint_eq(n_synced, 2);
	ck_assert_str_eq(synced[0], in_dir("disk.img.new"));
	ck_assert_str_eq(synced[1], dir);
	ck_assert_int_eq(ext4_read_state("disk", path, &state, NULL), 0);
	ck_assert_uint_eq(state.size_bytes, 100 << 20);
	ck_assert_int_eq(stat(path, &first), 0);
	ck_assert_int_eq(disk_ensure(path, 100 << 20, NULL), 0);
	ck_assert_int_eq(stat(path, &second), 0);
	ck_assert_uint_eq(n_synced, 2);
	ck_assert_uint_eq(first.st_ino, second.st_ino);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("microvm");
	TCase *kernels = tcase_create("kernels"), *choice = tcase_create("choice"), *kvm = tcase_create("kvm");
	TCase *layer = tcase_create("layer");

	tcase_add_checked_fixture(kernels, setup, teardown);
	tcase_add_test(kernels, kernels_are_recognised);
	tcase_add_test(kernels, other_files_are_refused);
	tcase_add_test(kernels, elf_files_without_the_entry_are_refused);
	tcase_add_test(kernels, the_newest_cloud_kernel_with_modules_is_found);
	tcase_add_test(kernels, the_initramfs_has_modules_in_their_order);
	tcase_add_test(kernels, the_initramfs_is_made_once_for_a_kernel_and_a_base);
	tcase_add_test(kernels, a_missing_module_is_named);
	suite_add_tcase(s, kernels);
	tcase_add_checked_fixture(choice, setup, teardown);
	tcase_add_test(choice, our_kernel_comes_first_then_debians);
	tcase_add_test(choice, a_kernel_of_the_users_own_is_checked);
	tcase_add_loop_test(choice, the_monitor_is_chosen, 0, sizeof choices / sizeof choices[0]);
	tcase_add_test(choice, the_jailer_is_found_beside_firecracker_then_in_path);
	suite_add_tcase(s, choice);
	tcase_add_checked_fixture(kvm, setup, teardown);
	tcase_set_timeout(kvm, 30);
	tcase_add_test(kvm, what_is_no_kvm_says_so);
	tcase_add_test(kvm, a_node_that_failed_is_tried_again_when_it_is_another);
	tcase_add_test(kvm, kvm_runs_guests_where_the_processor_does);
	tcase_add_test(kvm, a_guest_that_does_not_end_is_killed);
	suite_add_tcase(s, kvm);
	tcase_add_checked_fixture(layer, setup, teardown);
	tcase_add_test(layer, the_record_of_the_origin_is_synced_when_it_changes);
	tcase_add_test(layer, a_disk_is_synced_before_it_has_its_name);
	suite_add_tcase(s, layer);
	return run_suite(s);
}
