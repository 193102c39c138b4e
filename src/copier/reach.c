/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "copier/reach.h"

#include "base/confine.h"
#include "base/fs.h"
#include "base/overlay.h"
#include "copier/protocol.h"
#include "volume/ext4.h"

#include <errno.h>
#include <fcntl.h>
#include <iconv.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>

/* Owners, any file's access, modes and times, set-group-ID bits, devices, file capabilities. */
static const uint64_t CAPABILITIES = CONFINE_KEEP(CAP_CHOWN) | CONFINE_KEEP(CAP_DAC_OVERRIDE) |
				     CONFINE_KEEP(CAP_FOWNER) | CONFINE_KEEP(CAP_FSETID) | CONFINE_KEEP(CAP_MKNOD) |
				     CONFINE_KEEP(CAP_SETFCAP);

static int mount_volume(int root, const struct reach_volume *v, struct error *err)
{
	_cleanup_close_ int fd = fs_open_in(root, v->path, O_PATH | O_DIRECTORY, 0);
	char target[64];

	if (fd < 0)
		return error_errno(err, -fd, "cannot mount a volume on %s", v->path);
	snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
	if (mount(v->device, target, "ext4", v->read_only ? MS_RDONLY : 0, v->read_only ? NULL : EXT4_MOUNT_OPTIONS) < 0)
		return error_errno(err, errno, "cannot mount the volume of %s (%s)", v->path, v->device);
	return 0;
}

/* What is mounted on /data comes before what is mounted on /data/cache. */
static int by_path(const void *a, const void *b)
{
	const struct reach_volume *x = a, *y = b;

	return strcmp(x->path, y->path);
}

/* The root comes to lie on the workload's own directory, which nobody needs to see through this namespace. */
static int mount_root(struct reach *r, struct error *err)
{
	_cleanup_close_ int root = -1;

	if (overlay_own_namespace(err) < 0 ||
	    overlay_mount(r->layers, r->n_layers, r->state_dir, r->state_dir, err) < 0)
		return -1;
	root = open(r->state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return error_errno(err, errno, "cannot open %s", r->state_dir);
	qsort(r->volumes, r->n_volumes, sizeof *r->volumes, by_path);
	for (size_t i = 0; i < r->n_volumes; i++)
		if (mount_volume(root, &r->volumes[i], err) < 0)
			return -1;
	return fchdir(root) < 0 ? error_errno(err, errno, "cannot enter %s", r->state_dir) : 0;
}

/* libarchive asks for these conversions. glibc reads its list of conversions once, and it must not be the
 * workload's. */
static void load_conversions(void)
{
	static const char *const pairs[][2] = { { "UTF-8", "ANSI_X3.4-1968" }, { "ANSI_X3.4-1968", "UTF-8" } };

	for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
		iconv_t conversion = iconv_open(pairs[i][0], pairs[i][1]);

		if (conversion != (iconv_t)-1)
			iconv_close(conversion);
	}
}

/* In the namespace, and not only at its root: there the kernel refuses to unlink what something is mounted on. And in a copy of
 * it, whose mounts can be changed for this process alone. */
static int enter_running(struct error *err)
{
	if (setns(COPIER_FD_PROCESS, CLONE_NEWNS) < 0)
		return errno == ESRCH ? error_set(err, ERR_FAILED_PRECONDITION, "it has just ended; try again")
				      : error_errno(err, errno, "cannot enter its mount namespace");
	close(COPIER_FD_PROCESS);
	if (unshare(CLONE_NEWNS) < 0)
		return error_errno(err, errno, "cannot make a mount namespace");
	return 0;
}

/* Devices of the workload are made and told of, but never opened: this process is not bound by what the workload's device cgroup
 * allows, and what was a file when it was looked at may be a device when it is opened. Private, because a mount that came in
 * later would open them again. */
static int close_devices(struct error *err)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_NODEV, .propagation = MS_PRIVATE };

	if (mount_setattr(AT_FDCWD, ".", AT_RECURSIVE, &attr, sizeof attr) < 0)
		return error_errno(err, errno, "cannot shut out the devices of the workload");
	return 0;
}

int reach_root(struct reach *reach, struct error *err)
{
	load_conversions();
	if ((reach->running ? enter_running(err) : mount_root(reach, err)) < 0 || close_devices(err) < 0)
		return -1;
	return confine(".", CAPABILITIES, err);
}
