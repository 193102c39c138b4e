/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volumer/hold.h"

#include "base/fs.h"
#include "volume/still.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>

/* What has mounted a device holds it exclusively. To be the first to mount it would ruin what a virtual machine does to
 * it. */
static int expect_mounted(const char *device, struct error *err)
{
	_cleanup_close_ int fd = open(device, O_RDONLY | O_EXCL | O_CLOEXEC);

	if (fd < 0 && errno == EBUSY)
		return 0;
	if (fd < 0)
		return error_errno(err, errno, "cannot open %s", device);
	return error_set(err, ERR_FAILED_PRECONDITION, "%s is in use, but not mounted here; stop the workload that uses it",
			 device);
}

/* 0, 1: it is mounted the other way, -1. */
static int mount_once_more(const char *device, bool read_only, int *ret_fd, struct error *err)
{
	_cleanup_close_ int fs = fsopen("ext4", FSOPEN_CLOEXEC), mounted = -1;

	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "source", device, 0) < 0 ||
	    (read_only && fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0))
		return error_errno(err, errno, "cannot prepare a mount of %s", device);
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return errno == EBUSY && !read_only ? 1 : error_errno(err, errno, "cannot mount %s", device);
	mounted = fsmount(fs, FSMOUNT_CLOEXEC, read_only ? MOUNT_ATTR_RDONLY : 0);
	if (mounted < 0)
		return error_errno(err, errno, "cannot mount %s", device);
	*ret_fd = openat(mounted, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *ret_fd < 0 ? error_errno(err, errno, "cannot open the root of %s", device) : 0;
}

/* A directory of the file system that is mounted from the device; -1. */
static int open_mounted(const char *device, struct error *err)
{
	int root, r;

	if (expect_mounted(device, err) < 0)
		return -1;
	r = mount_once_more(device, false, &root, err);
	if (r == 1)
		r = mount_once_more(device, true, &root, err);
	return r < 0 ? -1 : root;
}

int hold(const char *device, int seconds, bool *ret_late, struct error *err)
{
	_cleanup_close_ int root = -1;

	still_ignore_signals();
	root = open_mounted(device, err);
	if (root < 0)
		return -1;
	if (still_hold(root, STDOUT_FILENO, STDIN_FILENO, seconds, ret_late, err) < 0)
		return error_wrap(err, "%s", device);
	return 0;
}

int thaw(const char *device, struct error *err)
{
	_cleanup_close_ int root = open_mounted(device, err);

	if (root < 0)
		return -1;
	return still_thaw(root, err) < 0 ? error_wrap(err, "%s", device) : 0;
}
