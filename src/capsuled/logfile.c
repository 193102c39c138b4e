/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsuled/logfile.h"

#include "base/fs.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

static struct {
	char path[PATH_MAX - 16];
	int fd;
	uint64_t size, max_bytes;
	unsigned max_files;
} file = { .fd = -1 };

static int reopen(void)
{
	struct stat st;

	file.fd = open(file.path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	if (file.fd < 0)
		return -errno;
	file.size = fstat(file.fd, &st) == 0 ? (uint64_t)st.st_size : 0;
	return 0;
}

static void rotate(void)
{
	char from[PATH_MAX], to[PATH_MAX];

	for (unsigned i = file.max_files - 1; i > 0; i--) {
		if (i > 1)
			snprintf(from, sizeof from, "%s.%u", file.path, i - 1);
		else
			snprintf(from, sizeof from, "%s", file.path);
		snprintf(to, sizeof to, "%s.%u", file.path, i);
		(void)rename(from, to);
	}
	if (file.max_files == 1)
		(void)unlink(file.path);
	close(steal_fd(&file.fd));
	(void)reopen();
}

static void sink(const char *line, size_t len, void *arg)
{
	if (file.size + len > file.max_bytes && file.fd >= 0)
		rotate();
	if (file.fd < 0 && reopen() < 0)
		return;
	if (fs_write_all(file.fd, line, len) == 0)
		file.size += len;
}

int logfile_open(const char *path, uint64_t max_bytes, unsigned max_files, struct error *err)
{
	int r;

	snprintf(file.path, sizeof file.path, "%s", path);
	file.max_bytes = max_bytes;
	file.max_files = max_files;
	r = reopen();
	if (r < 0)
		return error_errno(err, -r, "cannot open the log %s", path);
	fs_remove_numbered(AT_FDCWD, path, file.max_files);
	log_set_sink(sink, NULL);
	return 0;
}

void logfile_close(void)
{
	log_set_sink(NULL, NULL);
	cleanup_closep(&file.fd);
	file.fd = -1;
}
