/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/write_behind.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP (1 << 20)

/* An event says that the file has changed; those that come while it waits for the disk are one. */
static _Noreturn void follow(int fd, int events_fd)
{
	char events[4096];
	off_t done = 0;
	struct stat st;

	for (;;) {
		ssize_t n = read(events_fd, events, sizeof events);

		if ((n < 0 && errno != EINTR) || fstat(fd, &st) < 0)
			_exit(1);
		if (st.st_size - done < STEP)
			continue;
		(void)sync_file_range(fd, done, st.st_size - done, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
		done = st.st_size;
	}
}

void write_behind_start(int fd)
{
	_cleanup_close_ int events = inotify_init1(IN_CLOEXEC);
	pid_t parent = getpid();
	char path[32];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (events < 0 || inotify_add_watch(events, path, IN_MODIFY) < 0 || fork() != 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	/* Nobody waits for the end of a pipe that it holds. */
	close_range(STDIN_FILENO, STDERR_FILENO, 0);
	follow(fd, events);
}
