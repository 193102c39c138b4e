/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volumer/hold.h"

#include "base/fs.h"
#include "volume/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
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

/* 1: the time is up; 0: the other end is closed. */
static int wait_for_end(int seconds)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	int r;

	do {
		r = poll(&input, 1, seconds * 1000);
	} while (r < 0 && errno == EINTR);
	return r == 0;
}

/* Nothing but its own end, or the machine's, may come between freezing and thawing: not a daemon that is gone before it
 * reads the answer, not a terminal or a service manager that ends everything at once. */
static void ignore_signals(void)
{
	static const int ignored[] = { SIGPIPE, SIGHUP, SIGINT, SIGTERM };
	const struct sigaction ignore = { .sa_handler = SIG_IGN };

	for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
		sigaction(ignored[i], &ignore, NULL);
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
	static const char frozen[] = VOLUMER_FROZEN "\n";
	_cleanup_close_ int root = -1;

	ignore_signals();
	root = open_mounted(device, err);
	if (root < 0)
		return -1;
	if (ioctl(root, FIFREEZE, 0) < 0)
		return error_errno(err, errno, "cannot freeze the file system on %s", device);
	(void)fs_write_all(STDOUT_FILENO, frozen, strlen(frozen));
	*ret_late = wait_for_end(seconds) != 0;
	if (ioctl(root, FITHAW, 0) < 0 && errno != EINVAL)
		return error_errno(err, errno, "cannot thaw the file system on %s", device);
	return 0;
}

int thaw(const char *device, struct error *err)
{
	_cleanup_close_ int root = open_mounted(device, err);

	if (root < 0)
		return -1;
	if (ioctl(root, FITHAW, 0) < 0 && errno != EINVAL)
		return error_errno(err, errno, "cannot thaw the file system on %s", device);
	return 0;
}
