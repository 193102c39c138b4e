/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/still.h"

#include "base/fs.h"

#include <errno.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

void still_ignore_signals(void)
{
	static const int ignored[] = { SIGPIPE, SIGHUP, SIGINT, SIGTERM };
	const struct sigaction ignore = { .sa_handler = SIG_IGN };

	for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
		sigaction(ignored[i], &ignore, NULL);
}

/* 1: the time is up; 0: the other end is closed. */
static int wait_for_end(int fd, int seconds)
{
	struct pollfd input = { .fd = fd, .events = POLLIN };
	int r;

	do {
		r = poll(&input, 1, seconds * 1000);
	} while (r < 0 && errno == EINTR);
	return r == 0;
}

int still_hold(int root, int report_fd, int release_fd, int seconds, bool *ret_late, struct error *err)
{
	static const char frozen[] = STILL_FROZEN "\n";

	if (ioctl(root, FIFREEZE, 0) < 0)
		return errno == EBUSY ? error_set(err, ERR_UNAVAILABLE, "it is held still already; try again")
				      : error_errno(err, errno, "cannot freeze the file system");
	(void)fs_write_all(report_fd, frozen, strlen(frozen));
	*ret_late = wait_for_end(release_fd, seconds) != 0;
	return still_thaw(root, err);
}

int still_thaw(int root, struct error *err)
{
	if (ioctl(root, FITHAW, 0) < 0 && errno != EINVAL)
		return error_errno(err, errno, "cannot thaw the file system");
	return 0;
}
