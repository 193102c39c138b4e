/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/error_watch.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <sys/fanotify.h>

#ifndef FAN_FS_ERROR
#define FAN_FS_ERROR 0x00008000 /* of linux/fanotify.h; glibc's may be older */
#endif

int error_watch_open(const char *path)
{
	_cleanup_close_ int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID | FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY);

	if (fd < 0 || fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_FS_ERROR, AT_FDCWD, path) < 0)
		return -1;
	return steal_fd(&fd);
}
