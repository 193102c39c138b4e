/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The microVM driver: one capsule-vm, which holds one monitor with one guest, a microVM. */
#include "runtime/driver.h"

#include "base/fs.h"
#include "image/payload.h"
#include "runtime/container/bundle.h"
#include "runtime/holder.h"
#include "runtime/microvm/boot.h"
#include "runtime/microvm/disk.h"
#include "runtime/origin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

/* Longer than capsule-vm gives its two attempts to boot. */
#define START_TIMEOUT_MS 300000

/* The monitor's user and group, from the machine's address, which no other machine has: a range that systemd and Debian leave
 * alone (systemd's UIDS-GIDS.md). */
#define UID_FIRST 0x70000000u
#define UID_MASK 0x00ffffffu

/* Where the guest keeps them (docs/microvm.md). */
#define GUEST_BUNDLE "/run/capsule/bundle"
#define GUEST_VOLUMES "/run/capsule/volumes"
#define GUEST_CGROUP "/payload"

struct microvm_driver {
	struct driver_common common;
	struct boot_options boot;
	struct payloads *payloads;
	char *holder;
};

static struct microvm_driver *microvm_of(struct driver *d)
{
	return (struct microvm_driver *)d;
}

/* A kernel and a root file system of the user's own: no payload, no guest of ours. */
static bool is_own_system(const Capsule__V1__MicroVMSpec *spec)
{
	return *spec->kernel_path != '\0';
}

/* ---- start ---- */

static int make_disks(struct microvm_driver *d, const struct places *p, const struct driver_plan *plan,
		      const struct boot *boot, char **ret_payload, struct error *err)
{
	struct origin origin = { .generation = plan->generation, .image = plan->image->digest, .emulated = boot->emulated };

	if (is_own_system(plan->spec->micro_vm))
		return places_make_state(p, &origin, err);
	if (payload_ensure(d->payloads, plan->image, ret_payload, err) < 0)
		return -1;
	origin.layers = ret_payload;
	origin.n_layers = 1;
	if (places_make_state(p, &origin, err) < 0)
		return -1;
	return disk_ensure(p->disk, plan->spec->micro_vm->disk_size, err);
}

static void add_disk(struct holder_command *c, const char *serial, bool read_only, const char *path)
{
	holder_add_made(c, "--disk", fs_path("%s:%s:%s", serial, read_only ? "ro" : "rw", path));
}

static void add_volumes(struct holder_command *c, const struct driver_plan *plan)
{
	for (size_t i = 0; i < plan->n_volumes; i++) {
		const struct driver_volume *v = &plan->volumes[i];
		char serial[32];

		snprintf(serial, sizeof serial, "volume-%zu", i);
		add_disk(c, serial, v->read_only, v->device);
		holder_add_made(c, "--volume", fs_path("%s:%s", v->name, v->read_only ? "ro" : "rw"));
	}
}

static void add_network(struct holder_command *c, const struct driver_plan *plan)
{
	struct in_addr address = { 0 };

	inet_pton(AF_INET, plan->address, &address);
	holder_add_made(c, "--uid", fs_path("%u", UID_FIRST | (ntohl(address.s_addr) & UID_MASK)));
	holder_add_made(c, "--address", fs_path("%s/%u", plan->address, plan->prefix));
	holder_add_option(c, "--gateway", plan->gateway);
	holder_add_flag(c, "--tap");
}

static void build_command(struct holder_command *c, const struct microvm_driver *d, const struct places *p,
			  const struct driver_plan *plan, const struct boot *boot, const char *payload)
{
	const Capsule__V1__MicroVMSpec *spec = plan->spec->micro_vm;

	holder_command_begin(c, d->holder, &d->common, p, plan);
	holder_add_option(c, "--monitor", boot->monitor);
	holder_add_option(c, "--monitor-program", boot->monitor_program);
	if (boot->jailer)
		holder_add_option(c, "--jailer", boot->jailer);
	holder_add_option(c, "--accel", boot->emulated ? "emulated" : "kvm");
	holder_add_option(c, "--kernel", boot->kernel);
	if (boot->initramfs)
		holder_add_option(c, "--initramfs", boot->initramfs);
	if (*spec->kernel_cmdline_extra)
		holder_add_option(c, "--cmdline", spec->kernel_cmdline_extra);
	holder_add_made(c, "--vcpus", fs_path("%u", spec->vcpus));
	holder_add_made(c, "--memory", fs_path("%u", spec->memory_mib));
	if (payload) {
		add_disk(c, "payload", true, payload);
		add_disk(c, "disk", false, p->disk);
	} else {
		holder_add_flag(c, "--no-agent");
		add_disk(c, "rootfs", false, spec->rootfs_path);
	}
	add_volumes(c, plan);
	add_network(c, plan);
	holder_command_end(c, plan->spec->name);
}

static int write_bundle(const void *bundle, struct error *err)
{
	return bundle_write(bundle, err);
}

static int run_holder(const struct microvm_driver *d, const struct holder_command *command, const struct places *p,
		      const struct driver_plan *plan, struct driver_instance *ret, struct error *err)
{
	static const struct oci_runtime guest_runtime = { .program = "crun", .is_crun = true, .sealed_fd = -1 };
	const struct bundle_payload payload = bundle_of_micro_vm(plan->spec->micro_vm);
	const struct bundle bundle = {
		.plan = plan, .payload = &payload, .runtime = &guest_runtime, .run_dir = p->run_dir,
		.files_dir = GUEST_BUNDLE, .volumes_dir = GUEST_VOLUMES, .cgroup_path = GUEST_CGROUP, .cgroup_namespace = true,
	};
	const struct process_fd tap = { *plan->tap_fd, SHIM_FD_TAP };
	_cleanup_close_ int dirfd = open(p->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct holder_start start = {
		.driver = &d->common, .command = command, .dirfd = dirfd, .fds = &tap, .n_fds = 1, .handed_over = plan->tap_fd,
		.prepare = is_own_system(plan->spec->micro_vm) ? NULL : write_bundle, .arg = &bundle,
		.timeout_ms = START_TIMEOUT_MS,
	};

	if (dirfd < 0)
		return error_errno(err, errno, "cannot open %s", p->run_dir);
	return holder_run(&start, ret, err);
}

static int prepare_and_run(struct microvm_driver *d, const struct places *p, const struct driver_plan *plan,
			   struct driver_instance *ret, struct error *err)
{
	_cleanup_holder_command_ struct holder_command command = { .n = 0 };
	_cleanup_boot_ struct boot boot = { 0 };
	_cleanup_free_ char *payload = NULL;

	/* First, as it tells that the machine is starting (microvm_hold()). */
	if (fs_mkdir_all(AT_FDCWD, p->run_dir, 0711, err) < 0 || boot_choose(&d->boot, plan->spec->micro_vm, &boot, err) < 0 ||
	    make_disks(d, p, plan, &boot, &payload, err) < 0)
		return -1;
	build_command(&command, d, p, plan, &boot, payload);
	return run_holder(d, &command, p, plan, ret, err);
}

static int microvm_start(struct driver *driver, const struct driver_plan *plan, struct driver_instance *ret,
			 struct error *err)
{
	_cleanup_places_ struct places p = { 0 };
	const char *name = plan->spec->name;

	if (plan->spec->kind != CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_MICRO_VM || !plan->spec->micro_vm || !plan->address)
		return error_set(err, ERR_INVALID_ARGUMENT, "workload %s is not a microVM on the bridge", name);
	if (places_prepare(&p, driver, plan, err) < 0)
		return -1;
	if (prepare_and_run(microvm_of(driver), &p, plan, ret, err) < 0) {
		if (err->code != ERR_CANCELLED)
			(void)places_cleanup(driver, name, NULL);
		oci_runtime_clarify(err);
		return error_wrap(err, "cannot start %s", name);
	}
	origin_read(p.state_dir, ret);
	return 0;
}

/* ---- recover ---- */

/* The holder has done it, unless it is of an older version. */
static void note_begun(const struct places *p)
{
	_cleanup_close_ int dirfd = open(p->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dirfd >= 0)
		(void)shim_note_begun(dirfd, NULL);
}

static int microvm_recover(struct driver *driver, const char *name, bool patient, struct driver_instance *ret,
			     struct error *err)
{
	_cleanup_free_ char *begun = NULL;
	_cleanup_places_ struct places p = { 0 };

	if (places_init(&p, driver, name, err) < 0)
		return -1;
	begun = fs_path("%s/" SHIM_BEGUN_FILE, p.run_dir);
	if (!begun)
		return error_errno(err, ENOMEM, "cannot take up %s", name);
	if (holder_find(driver, &p, name, begun, patient, ret, err) < 0)
		return -1;
	if (ret->pid)
		note_begun(&p);
	if (ret->pid || ret->ended)
		origin_read(p.state_dir, ret);
	return 0;
}

/* ---- the guest: files and further processes ---- */

/* A connection to the holder of a running machine that has a guest of ours in it. */
static int open_run(struct driver *driver, const char *name, int *ret_dirfd, struct error *err)
{
	_cleanup_close_ int dirfd = -1;
	_cleanup_places_ struct places p = { 0 };

	if (places_init(&p, driver, name, err) < 0)
		return -1;
	dirfd = open(p.run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return error_set(err, ERR_FAILED_PRECONDITION, "it is not running");
	if (faccessat(dirfd, "config.json", F_OK, 0) < 0)
		return error_set(err, ERR_FAILED_PRECONDITION, "it runs a kernel and a root file system of its own, in which "
				 "Capsule has no process; use its network, or: capsulectl workload logs %s", name);
	*ret_dirfd = steal_fd(&dirfd);
	return 0;
}

static int root_of_guest(struct driver *driver, const char *name, struct driver_root *ret, struct error *err)
{
	_cleanup_close_ int dirfd = -1;

	if (open_run(driver, name, &dirfd, err) < 0)
		return -1;
	*ret = DRIVER_ROOT_NONE;
	ret->guest_fd = holder_connect(dirfd);
	return ret->guest_fd < 0 ? error_set(err, ERR_FAILED_PRECONDITION, "it has just ended; try again") : 0;
}

static int microvm_root(struct driver *driver, const char *name, pid_t pid, uint64_t generation, struct driver_root *ret,
			struct error *err)
{
	int r;

	if (pid)
		r = root_of_guest(driver, name, ret, err);
	else
		r = error_set(err, ERR_FAILED_PRECONDITION, "the files of a microVM are reached through its guest, which does "
			      "not run; start it first (the host mounts no file system that a guest has written)");
	return r < 0 ? error_wrap(err, "workload %s", name) : 0;
}

/* The request, for the guest. */
static int pack_config(const Capsule__V1__WorkloadExecConfig *config, struct error *err)
{
	size_t len = capsule__v1__workload_exec_config__get_packed_size(config);
	_cleanup_free_ uint8_t *bytes = malloc(len + 1);
	_cleanup_close_ int fd = memfd_create("capsule-exec", MFD_CLOEXEC);
	int r;

	if (!bytes || fd < 0)
		return error_errno(err, bytes ? errno : ENOMEM, "cannot describe the process");
	capsule__v1__workload_exec_config__pack(config, bytes);
	r = fs_write_all(fd, bytes, len);
	return r < 0 ? error_errno(err, -r, "cannot describe the process") : steal_fd(&fd);
}

static int prepare_exec(struct driver *driver, const struct driver_exec *exec, struct driver_process *ret,
			struct error *err)
{
	_cleanup_close_ int dirfd = -1;

	ret->terminal = exec->config->tty;
	ret->in_guest = true;
	if (open_run(driver, exec->config->name, &dirfd, err) < 0)
		return -1;
	ret->theirs[0] = pack_config(exec->config, err);
	if (ret->theirs[0] < 0 || driver_process_make_streams(ret, err) < 0)
		return -1;
	return holder_connect_process(dirfd, ret, err);
}

static int microvm_exec(struct driver *driver, const struct driver_exec *exec, struct driver_process *ret,
			struct error *err)
{
	*ret = DRIVER_PROCESS_NONE;
	if (prepare_exec(driver, exec, ret, err) == 0)
		return 0;
	driver_process_release(ret);
	return -1;
}

static int microvm_hold(struct driver *driver, const char *name, const char *volume, const char *what, int *ret_hold,
			struct error *err)
{
	_cleanup_places_ struct places p = { 0 };
	_cleanup_close_ int dirfd = -1;

	*ret_hold = -1;
	if (places_init(&p, driver, name, err) < 0)
		return -1;
	dirfd = open(p.run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "cannot open %s", p.run_dir);
	/* A start writes it while the machine boots. */
	if (faccessat(dirfd, "config.json", F_OK, 0) < 0)
		return error_set(err, ERR_UNAVAILABLE, "cannot hold %s still: its machine is starting; try again", what);
	return holder_hold(dirfd, volume, what, ret_hold, err);
}

/* ---- what there is ---- */

void microvm_driver_support(struct driver *driver, struct microvm_support *ret)
{
	const Capsule__V1__MicroVMSpec any = CAPSULE__V1__MICRO_VMSPEC__INIT;
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_boot_ struct boot boot = { 0 };

	*ret = (struct microvm_support){ 0 };
	if (boot_choose(&microvm_of(driver)->boot, &any, &boot, &err) < 0) {
		ret->obstacle = strdup(error_message(&err));
		return;
	}
	ret->monitor = strdup(boot.monitor);
	ret->emulated = boot.emulated;
	ret->jailed = boot.jailer;
}

/* ---- the table ---- */

static void microvm_driver_free(struct driver *driver)
{
	struct microvm_driver *d = microvm_of(driver);

	payloads_free(d->payloads);
	boot_options_release(&d->boot);
	free(d->holder);
	driver_common_release(&d->common);
	free(d);
}

static const struct driver_ops microvm_ops = {
	.name = "microVM",
	.start = microvm_start,
	.cleanup = places_cleanup,
	.remove = places_remove,
	.recover = microvm_recover,
	.root = microvm_root,
	.exec = microvm_exec,
	.leave = driver_common_leave,
	.hold = microvm_hold,
	.free = microvm_driver_free,
};

int microvm_driver_new(const struct driver_options *o, struct driver **ret, struct error *err)
{
	struct microvm_driver *d = calloc(1, sizeof *d);

	if (!d)
		return error_errno(err, ENOMEM, "cannot make the microVM driver");
	if (driver_common_init(&d->common, &microvm_ops, o, err) < 0) {
		microvm_driver_free(&d->common.base);
		return -1;
	}
	d->holder = strdup(o->vm_holder);
	if (!d->holder)
		error_errno(err, ENOMEM, "cannot make the microVM driver");
	if (!d->holder || boot_options_init(&d->boot, o, err) < 0 || payloads_new(o->root, o->image_worker, &d->payloads, err) < 0) {
		microvm_driver_free(&d->common.base);
		return -1;
	}
	*ret = &d->common.base;
	return 0;
}
