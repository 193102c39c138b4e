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

#define FILE_FD 3
#define EVENTS_FD 4
#define STEP (1 << 20)

/* Nobody waits for its end, or for that of a pipe that it holds. */
static void keep_fds(int fd, int events)
{
	int high = fcntl(fd, F_DUPFD, EVENTS_FD + 1), other = fcntl(events, F_DUPFD, EVENTS_FD + 1);

	if (high < 0 || other < 0 || dup2(high, FILE_FD) < 0 || dup2(other, EVENTS_FD) < 0)
		_exit(1);
	close_range(0, FILE_FD - 1, 0);
	close_range(EVENTS_FD + 1, ~0u, 0);
}

/* An event says that the file has changed; those that come while it waits for the disk are one. */
static _Noreturn void follow(void)
{
	char events[4096];
	off_t done = 0;
	struct stat st;

	for (;;) {
		ssize_t n = read(EVENTS_FD, events, sizeof events);

		if ((n < 0 && errno != EINTR) || fstat(FILE_FD, &st) < 0)
			_exit(1);
		if (st.st_size - done < STEP)
			continue;
		(void)sync_file_range(FILE_FD, done, st.st_size - done, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
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
	keep_fds(fd, events);
	follow();
}
