/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/dm_events.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <sys/ioctl.h>

#define CONTROL "/dev/" DM_DIR "/" DM_CONTROL_NODE

int dm_events_arm(int fd, struct error *err)
{
	/* What the kernel has had since it knows this command (Linux 4.13). */
	struct dm_ioctl command = { .version = { 4, 37, 0 }, .data_size = sizeof command };

	return ioctl(fd, DM_DEV_ARM_POLL, &command) < 0
		       ? error_errno(err, errno, "cannot watch the events of the device mapper")
		       : 0;
}

int dm_events_open(struct error *err)
{
	_cleanup_close_ int fd = open(CONTROL, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "cannot open " CONTROL);
	return dm_events_arm(fd, err) < 0 ? -1 : steal_fd(&fd);
}
