/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/shim.h"

#include "base/buf.h"
#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

/* mount(2) copies one page of options. */
#define MOUNT_OPTIONS_MAX 4095

static int own_namespace(const struct shim_options *options, struct error *err)
{
	if (unshare(CLONE_NEWNS) < 0)
		return error_errno(err, errno, "cannot make a mount namespace");
	/* Slave, not private: an unmount on the host reaches this namespace too, so a workload pins none of the host's
	 * file systems; nothing goes the other way. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return error_errno(err, errno, "cannot separate the mount namespace from the host's");
	/* crun takes a host for hybrid by the type of this file system. A fresh one, and not just an unmount, because crun
	 * writes there nevertheless: into what lies below the mount, which would be the host's. */
	if (options->hide_unified && mount("capsule", "/sys/fs/cgroup/unified", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
					   "mode=0700,size=64k") < 0)
		return error_errno(err, errno, "cannot hide /sys/fs/cgroup/unified");
	return 0;
}

/* Layers are named by descriptor: their real paths would not fit into one page of options. */
static int mount_overlay(const struct shim_options *options, struct error *err)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MOUNT_OPTIONS_MAX);
	_cleanup_free_ char *target = fs_path("%s/rootfs", options->run_dir);
	int fds[SHIM_LAYERS_MAX], r = 0;
	size_t opened;

	for (opened = 0; opened < options->n_layers; opened++) {
		fds[opened] = open(options->layers[opened], O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fds[opened] < 0) {
			r = error_errno(err, errno, "cannot open the layer %s", options->layers[opened]);
			break;
		}
	}
	if (r == 0) {
		buf_adds(&data, "lowerdir=");
		for (size_t i = opened; i-- > 0;)
			buf_addf(&data, "/proc/self/fd/%d%s", fds[i], i ? ":" : "");
		buf_addf(&data, ",upperdir=%s/upper,workdir=%s/work", options->state_dir, options->state_dir);
		if (data.failed || !target)
			r = error_set(err, ERR_RESOURCE_EXHAUSTED, "the image has too many layers (%zu) to be mounted", opened);
		else if (mount("overlay", target, "overlay", 0, buf_str(&data)) < 0)
			r = error_errno(err, errno, "cannot mount the root file system on %s", target);
	}
	while (opened > 0)
		close(fds[--opened]);
	return r;
}

static int mount_volume(const struct shim_options *options, const struct shim_volume *volume, struct error *err)
{
	_cleanup_free_ char *target = fs_path("%s/volumes/%s", options->run_dir, volume->name);

	if (!target)
		return error_errno(err, ENOMEM, "cannot mount volume %s", volume->name);
	if (mount(volume->device, target, "ext4", volume->read_only ? MS_RDONLY : 0, NULL) < 0)
		return error_errno(err, errno, "cannot mount volume %s (%s)", volume->name, volume->device);
	return 0;
}

int mounts_setup(const struct shim_options *options, struct error *err)
{
	if (own_namespace(options, err) < 0 || mount_overlay(options, err) < 0)
		return -1;
	for (size_t i = 0; i < options->n_volumes; i++)
		if (mount_volume(options, &options->volumes[i], err) < 0) {
			mounts_release(options);
			return -1;
		}
	return 0;
}

static void release(const char *target)
{
	if (target && umount2(target, UMOUNT_NOFOLLOW) < 0 && errno == EBUSY)
		umount2(target, UMOUNT_NOFOLLOW | MNT_DETACH);
}

void mounts_release(const struct shim_options *options)
{
	_cleanup_free_ char *rootfs = fs_path("%s/rootfs", options->run_dir);

	for (size_t i = 0; i < options->n_volumes; i++) {
		_cleanup_free_ char *target = fs_path("%s/volumes/%s", options->run_dir, options->volumes[i].name);

		release(target);
	}
	release(rootfs);
}
