/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/shim.h"

#include "base/fs.h"
#include "base/overlay.h"
#include "volume/ext4.h"

#include <errno.h>
#include <sys/mount.h>

int mounts_own_namespace(const struct shim_options *options, struct error *err)
{
	if (overlay_own_namespace(err) < 0)
		return -1;
	/* crun takes a host for hybrid by the type of this file system. A fresh one, and not just an unmount, because crun
	 * writes there nevertheless: into what lies below the mount, which would be the host's. */
	if (options->hide_unified && mount("capsule", "/sys/fs/cgroup/unified", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
					   "mode=0700,size=64k") < 0)
		return error_errno(err, errno, "cannot hide /sys/fs/cgroup/unified");
	return 0;
}

static int mount_root(const struct shim_options *options, struct error *err)
{
	_cleanup_free_ char *target = fs_path("%s/rootfs", options->run_dir);

	if (!target)
		return error_errno(err, ENOMEM, "cannot mount the root file system");
	return overlay_mount(options->layers, options->n_layers, options->state_dir, target, err);
}

static int mount_volume(const struct shim_options *options, const struct shim_volume *volume, struct error *err)
{
	_cleanup_free_ char *target = fs_path("%s/volumes/%s", options->run_dir, volume->name);

	if (!target)
		return error_errno(err, ENOMEM, "cannot mount volume %s", volume->name);
	if (mount(volume->device, target, "ext4", volume->read_only ? MS_RDONLY : 0,
		  volume->read_only ? NULL : EXT4_MOUNT_OPTIONS) < 0)
		return error_errno(err, errno, "cannot mount volume %s (%s)", volume->name, volume->device);
	return 0;
}

int mounts_setup(const struct shim_options *options, struct error *err)
{
	if (mount_root(options, err) < 0)
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
