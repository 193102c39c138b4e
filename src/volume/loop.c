/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/loop.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define SYS_BLOCK "/sys/block"

/* How often another program may take the free device that the kernel named to us before we give up. */
#define ATTEMPTS_MAX 64

/* Our own threads ask for a free device and take it one after another, so they do not race each other. */
static pthread_mutex_t attach_lock = PTHREAD_MUTEX_INITIALIZER;

void loop_release(struct loop *loop)
{
	cleanup_closep(&loop->fd);
	free(loop->device);
	*loop = (struct loop)LOOP_INIT;
}

static void loop_move(struct loop *to, struct loop *from)
{
	*to = *from;
	*from = (struct loop)LOOP_INIT;
}

/* ---- device nodes ---- */

/* The numbers are asked of the kernel: minors depend on how many partitions the driver allows a device. */
static int make_node(const char *name, const char *node, struct error *err)
{
	_cleanup_free_ char *path = fs_path(SYS_BLOCK "/%s/dev", name);
	_cleanup_free_ char *text = NULL;
	unsigned major, minor;

	if (!path)
		return error_errno(err, ENOMEM, "cannot make %s", node);
	if (fs_read(AT_FDCWD, path, 64, &text, NULL, err) < 0)
		return -1;
	if (sscanf(text, "%u:%u", &major, &minor) != 2)
		return error_set(err, ERR_INTERNAL, "cannot make %s: %s holds no device number", node, path);
	if (mknod(node, S_IFBLK | 0600, makedev(major, minor)) < 0 && errno != EEXIST)
		return error_errno(err, errno, "cannot make %s", node);
	return 0;
}

/* An fd, -1 with errno, or -1 with err set and errno 0. */
static int open_node(const char *name, const char *node, bool read_only, struct error *err)
{
	int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
	int fd = open(node, flags);

	if (fd >= 0 || errno != ENOENT)
		return fd;
	/* /dev is not the kernel's own (devtmpfs): nobody made the node of a new device. */
	if (make_node(name, node, err) < 0) {
		errno = 0;
		return -1;
	}
	return open(node, flags);
}

/* ---- finding ---- */

/* Whether the device has a file of that name, by what sysfs tells without an open. A path through another mount
 * namespace may lead nowhere here; its last component tells all the same. Idle devices have no directory loop/. */
static bool may_match(int sysfs, const char *name, const char *file)
{
	_cleanup_free_ char *attribute = fs_path("%s/loop/backing_file", name);
	_cleanup_free_ char *path = NULL;
	const char *base;
	size_t len;

	if (!attribute || fs_read(sysfs, attribute, PATH_MAX + 64, &path, NULL, NULL) < 0)
		return false;
	path[strcspn(path, "\n")] = '\0';
	base = strrchr(path, '/');
	base = base ? base + 1 : path;
	len = strlen(file);
	return !strncmp(base, file, len) && (!base[len] || !strcmp(base + len, " (deleted)"));
}

/* 1 and *ret if `name` is a device over the file; 0 if not. A device that is just going away counts as none. */
static int match(const char *name, const struct stat *file, struct loop *ret, struct error *err)
{
	_cleanup_loop_ struct loop loop = LOOP_INIT;
	struct loop_info64 info;

	loop.device = fs_path("/dev/%s", name);
	if (!loop.device)
		return error_errno(err, ENOMEM, "cannot look at loop devices");
	loop.fd = open_node(name, loop.device, true, err);
	if (loop.fd < 0) {
		if (errno == ENXIO || errno == ENODEV || errno == ENOENT)
			return 0;
		return errno ? error_errno(err, errno, "cannot open %s", loop.device) : -1;
	}
	if (ioctl(loop.fd, LOOP_GET_STATUS64, &info) < 0)
		return errno == ENXIO ? 0 : error_errno(err, errno, "cannot look at %s", loop.device);
	if (info.lo_device != file->st_dev || info.lo_inode != file->st_ino)
		return 0;
	loop.read_only = (info.lo_flags & LO_FLAGS_READ_ONLY) != 0;
	loop_move(ret, &loop);
	return 1;
}

int loop_find(const char *path, struct loop *ret, struct error *err)
{
	_cleanup_closedir_ DIR *dir = opendir(SYS_BLOCK);
	_cleanup_loop_ struct loop found = LOOP_INIT;
	const char *base = strrchr(path, '/');
	struct dirent *entry;
	struct stat file;
	int r = 0;

	if (!dir)
		return error_errno(err, errno, "cannot open %s", SYS_BLOCK);
	if (stat(path, &file) < 0)
		return error_errno(err, errno, "cannot find %s", path);
	base = base ? base + 1 : path;
	while (r == 0 && (entry = readdir(dir)))
		if (!strncmp(entry->d_name, "loop", 4) && may_match(dirfd(dir), entry->d_name, base))
			r = match(entry->d_name, &file, &found, err);
	if (r < 0)
		return -1;
	loop_move(ret, &found);
	return 0;
}

/* ---- attaching ---- */

static int configure(int loop_fd, int file_fd, const char *path, bool read_only)
{
	struct loop_config config = {
		.fd = (uint32_t)file_fd,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO | (read_only ? LO_FLAGS_READ_ONLY : 0),
	};

	/* Cut where it is too long: for show only. */
	snprintf((char *)config.info.lo_file_name, sizeof config.info.lo_file_name, "%s", path);
	if (ioctl(loop_fd, LOOP_CONFIGURE, &config) == 0)
		return 0;
	/* Kernels differ in whether a file without direct I/O is an error here. */
	if (errno != EINVAL && errno != EOPNOTSUPP)
		return -errno;
	config.info.lo_flags &= ~(uint32_t)LO_FLAGS_DIRECT_IO;
	return ioctl(loop_fd, LOOP_CONFIGURE, &config) == 0 ? 0 : -errno;
}

/* One attempt with the device that the kernel says is free. 1: somebody else was faster. */
static int take_free(int control, int file_fd, const char *path, bool read_only, struct loop *ret, struct error *err)
{
	_cleanup_loop_ struct loop loop = LOOP_INIT;
	_cleanup_free_ char *name = NULL;
	int r = ioctl(control, LOOP_CTL_GET_FREE);

	if (r < 0)
		return error_errno(err, errno, "cannot get a loop device");
	name = fs_path("loop%d", r);
	loop.device = name ? fs_path("/dev/%s", name) : NULL;
	if (!loop.device)
		return error_errno(err, ENOMEM, "cannot get a loop device");
	loop.fd = open_node(name, loop.device, read_only, err);
	if (loop.fd < 0 && (errno == ENXIO || errno == EBUSY))
		return 1;
	if (loop.fd < 0)
		return errno ? error_errno(err, errno, "cannot open %s", loop.device) : -1;
	r = configure(loop.fd, file_fd, path, read_only);
	if (r == -EBUSY)
		return 1;
	if (r < 0)
		return error_errno(err, -r, "cannot attach %s to %s", path, loop.device);
	loop.read_only = read_only;
	loop_move(ret, &loop);
	return 0;
}

int loop_attach(const char *path, bool read_only, struct loop *ret, struct error *err)
{
	_cleanup_close_ int file = -1, control = -1;
	int r = 1;

	file = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (file < 0)
		return error_errno(err, errno, "cannot open %s", path);
	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return error_errno(err, errno, "cannot open /dev/loop-control (load the kernel module loop)");
	pthread_mutex_lock(&attach_lock);
	for (int i = 0; r == 1 && i < ATTEMPTS_MAX; i++)
		r = take_free(control, file, path, read_only, ret, err);
	pthread_mutex_unlock(&attach_lock);
	if (r == 1)
		return error_set(err, ERR_UNAVAILABLE,
				 "cannot attach %s: other programs took %d loop devices before us; try again", path,
				 ATTEMPTS_MAX);
	return r;
}
