/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "tree/unfinished.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

struct unfinished {
	struct unfinished *outer;
	dev_t device;
	ino_t inode;
	mode_t mode;
	struct timespec times[2];
	size_t len;
	char path[];
};

int unfinished_add(struct unfinished **list, const char *path, const struct stat *made, mode_t mode,
		   const struct timespec mtime[2], struct error *err)
{
	size_t len = strlen(path);
	struct unfinished *d = malloc(sizeof *d + len + 1);

	if (!d)
		return error_errno(err, ENOMEM, "cannot make a directory");
	*d = (struct unfinished){
		.outer = *list, .device = made->st_dev, .inode = made->st_ino, .mode = mode, .len = len,
		.times = { mtime[0], mtime[1] },
	};
	memcpy(d->path, path, len + 1);
	*list = d;
	return 0;
}

static bool holds(const struct unfinished *d, const char *path)
{
	return !strncmp(d->path, path, d->len) && path[d->len] == '/';
}

static void finish(const struct unfinished *d, int root, bool straight)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
	_cleanup_close_ int fd = straight ? fs_open_straight(root, d->path, flags) : fs_open_in(root, d->path, flags, 0);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || st.st_dev != d->device || st.st_ino != d->inode)
		return;
	/* The content is there. A mode or a time that cannot be set does not undo that. */
	(void)fchmod(fd, d->mode);
	(void)futimens(fd, d->times);
}

static void pop(struct unfinished **list)
{
	struct unfinished *d = *list;

	*list = d->outer;
	free(d);
}

void unfinished_leave(struct unfinished **list, int root, bool straight, const char *path)
{
	while (*list && !(path && holds(*list, path))) {
		finish(*list, root, straight);
		pop(list);
	}
}

void unfinished_release(struct unfinished **list)
{
	while (*list)
		pop(list);
}
