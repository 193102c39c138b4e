/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/progress.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define TASKS_MAX 1024 /* that are looked at; QEMU has up to 64 for its disks */
#define STAT_READ_SIZE 512

static bool is_later(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* What writes to a device through its node changes the node's time too. */
static bool has_written(const struct vm_options *o, struct timespec *last_write)
{
	bool written = false;
	struct stat st;

	for (size_t i = 0; i < o->n_disks; i++) {
		if (o->disks[i].read_only || stat(o->disks[i].path, &st) < 0 || !is_later(&st.st_mtim, last_write))
			continue;
		*last_write = st.st_mtim;
		written = true;
	}
	return written;
}

/* proc(5): the state comes behind the name, which may hold anything. D is what reads, writes and flushes of files wait in. */
static bool waits_for_disk(int tasks_fd, const char *tid)
{
	char path[32], text[STAT_READ_SIZE];
	_cleanup_close_ int fd = -1;
	const char *name_end;
	ssize_t n;

	snprintf(path, sizeof path, "%.10s/stat", tid);
	fd = openat(tasks_fd, path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
	text[n > 0 ? n : 0] = '\0';
	name_end = strrchr(text, ')');
	return name_end && !strncmp(name_end, ") D", 3);
}

static bool any_waits_for_disk(int tasks_fd)
{
	int fd = openat(tasks_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *tasks = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	bool waits = false;

	if (!tasks) {
		cleanup_closep(&fd);
		return false;
	}
	for (unsigned n = 0; n < TASKS_MAX && !waits && (entry = readdir(tasks)); n++)
		waits = *entry->d_name != '.' && waits_for_disk(tasks_fd, entry->d_name);
	closedir(tasks);
	return waits;
}

bool progress_seen(const struct monitor *m, struct timespec *last_write)
{
	bool written = has_written(m->options, last_write);

	return written || (m->tasks_fd >= 0 && any_waits_for_disk(m->tasks_fd));
}
