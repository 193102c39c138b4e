/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/copy.h"

#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int copy_range(int from, int to, off_t begin, off_t end)
{
	loff_t in = begin, out = begin;

	while (in < end) {
		ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - in), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
	}
	return 0;
}

static int copy_data(int from, int to, off_t size)
{
	off_t begin = 0, end;
	int r = 0;

	while (r == 0 && (begin = lseek(from, begin, SEEK_DATA)) >= 0) {
		end = lseek(from, begin, SEEK_HOLE);
		if (end < 0)
			return -errno;
		r = copy_range(from, to, begin, end);
		begin = end;
	}
	if (r < 0)
		return r;
	if (begin < 0 && errno != ENXIO)
		return -errno;
	return ftruncate(to, size) < 0 ? -errno : 0;
}

int copy_content(const char *what, int from, int to, struct error *err)
{
	struct stat st;
	int r;

	if (ioctl(to, FICLONE, from) == 0)
		return 0;
	if (fstat(from, &st) < 0)
		return error_errno(err, errno, "cannot look at the file of %s", what);
	r = copy_data(from, to, st.st_size);
	return r < 0 ? error_errno(err, -r, "cannot copy the file of %s", what) : 0;
}
