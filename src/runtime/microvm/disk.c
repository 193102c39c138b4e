/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/microvm/disk.h"

#include "base/fs.h"
#include "volume/ext4.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define WHAT "the machine's disk"

/* Synced: what has its name is taken for a file system at every further start. */
static int make(const char *tmp, uint64_t size, struct error *err)
{
	_cleanup_close_ int fd = open(tmp, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, (off_t)((size + MIB - 1) / MIB * MIB)) < 0)
		return error_errno(err, errno, "cannot make " WHAT " %s", tmp);
	if (ext4_make(WHAT, tmp, fd, err) < 0)
		return -1;
	return fsync(fd) < 0 ? error_errno(err, errno, "cannot write " WHAT " %s", tmp) : 0;
}

/* And so that what the guest syncs in it is there after a power cut: its name, too. */
static int keep(const char *tmp, const char *path, struct error *err)
{
	_cleanup_free_ char *dir = strndup(path, (size_t)(strrchr(path, '/') - path));
	int r;

	if (!dir)
		return error_errno(err, ENOMEM, "cannot make " WHAT " %s", path);
	if (rename(tmp, path) < 0)
		return error_errno(err, errno, "cannot make " WHAT " %s", path);
	r = fs_sync_dir(AT_FDCWD, dir);
	return r < 0 ? error_errno(err, -r, "cannot sync the directory of %s", path) : 0;
}

int disk_ensure(const char *path, uint64_t size, struct error *err)
{
	_cleanup_free_ char *tmp = fs_path("%s.new", path);

	if (!tmp)
		return error_errno(err, ENOMEM, "cannot make " WHAT);
	if (access(path, F_OK) == 0)
		return 0;
	if (make(tmp, size, err) < 0) {
		(void)unlink(tmp);
		return -1;
	}
	return keep(tmp, path, err);
}
