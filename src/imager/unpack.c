/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/unpack.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define WHITEOUT ".wh."
#define WHITEOUT_META WHITEOUT WHITEOUT /* ".wh..wh.": for AUFS, all but the opaque marker without meaning here */
#define WHITEOUT_OPAQUE WHITEOUT_META ".opq"
#define OVERLAY_OPAQUE "trusted.overlay.opaque"

static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

/* Also in the place of a whiteout: that lower layers' content is hidden, a directory says by being opaque. */
static int set_opaque(int fd, struct error *err)
{
	if (fsetxattr(fd, OVERLAY_OPAQUE, "y", 1, 0) < 0)
		return error_errno(err, errno, "cannot mark the directory as opaque");
	return 0;
}

static int unpack_whiteout(int dirfd, const char *name, struct error *err)
{
	const char *hidden = name + sizeof WHITEOUT - 1;
	struct stat st;

	if (strncmp(name, WHITEOUT, sizeof WHITEOUT - 1) != 0)
		return 0;
	if (!strcmp(name, WHITEOUT_OPAQUE))
		return set_opaque(dirfd, err) < 0 ? -1 : 1;
	if (!strncmp(name, WHITEOUT_META, sizeof WHITEOUT_META - 1))
		return 1;
	if (!*hidden || !strcmp(hidden, ".") || !strcmp(hidden, ".."))
		return error_set(err, ERR_INVALID_ARGUMENT, "the whiteout of nothing is refused");
	if (fstatat(dirfd, hidden, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		/* A whiteout hides what lower layers have; what this layer brings itself stays. */
		_cleanup_close_ int fd = -1;

		if (!S_ISDIR(st.st_mode))
			return 1;
		fd = openat(dirfd, hidden, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return error_errno(err, errno, "cannot open the directory that it hides");
		return set_opaque(fd, err) < 0 ? -1 : 1;
	}
	if (errno != ENOENT || mknodat(dirfd, hidden, S_IFCHR, makedev(0, 0)) < 0)
		return error_errno(err, errno, "cannot make a whiteout");
	return 1;
}

int unpack_layer(int dirfd, const struct extract_source *source, const struct extract_limits *limits,
		 struct error *err)
{
	static const struct extract_layering layering = { unpack_whiteout, is_whiteout, set_opaque };
	const struct extract_options options = {
		.what = "layer", .root = dirfd, .prefix = "", .layering = &layering, .limits = *limits,
	};

	return extract_tree(&options, source, err);
}
