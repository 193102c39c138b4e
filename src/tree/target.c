/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "tree/target.h"

#include "base/fs.h"
#include "tree/path.h"

#include <errno.h>
#include <fcntl.h>

void target_release(struct target *target)
{
	free(target->prefix);
}

int target_find(int root, const char *path, struct target *ret, struct error *err)
{
	bool directory = path_wants_directory(path);
	_cleanup_free_ char *prefix = path_trim(path);
	int fd = fs_open_in(root, *path ? path : "/", O_PATH | O_DIRECTORY, 0);

	if (!prefix)
		return error_errno(err, ENOMEM, "cannot look for %s", path);
	if (fd >= 0) {
		close(fd);
	} else if (fd == -ENOTDIR && directory) {
		return error_set(err, ERR_FAILED_PRECONDITION, "%s is not a directory", path);
	} else if (fd != -ENOENT && fd != -ENOTDIR) {
		return error_errno(err, -fd, "cannot look for %s", path);
	}
	*ret = (struct target){ .prefix = steal_ptr(&prefix), .rename = fd < 0 && !directory };
	return 0;
}
