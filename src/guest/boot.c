/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "guest/boot.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define ORDER_MAX (64u << 10)
#define CGROUP_ROOT "/sys/fs/cgroup"

/* An initramfs cannot be left with pivot_root(2), as the OCI runtime does it, unless it is mounted on itself. */
static int make_root_a_mount(struct error *err)
{
	if (mount("/", "/mnt", NULL, MS_BIND, NULL) < 0 || chdir("/mnt") < 0 ||
	    mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return error_errno(err, errno, "cannot mount the root on itself");
	return 0;
}

static int mount_all(struct error *err)
{
	static const struct {
		const char *type, *target, *options;
		unsigned long flags;
	} mounts[] = {
		{ "proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
		{ "sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
		{ "devtmpfs", "/dev", "mode=0755", MS_NOSUID },
		{ "devpts", "/dev/pts", "mode=0620,gid=5,ptmxmode=0666", MS_NOSUID | MS_NOEXEC },
		{ "tmpfs", "/run", "mode=0755", MS_NOSUID | MS_NODEV },
		{ "cgroup2", CGROUP_ROOT, NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
	};

	for (size_t i = 0; i < sizeof mounts / sizeof mounts[0]; i++) {
		if (mkdir(mounts[i].target, 0755) < 0 && errno != EEXIST)
			return error_errno(err, errno, "cannot make %s", mounts[i].target);
		if (mount(mounts[i].type, mounts[i].target, mounts[i].type, mounts[i].flags, mounts[i].options) < 0)
			return error_errno(err, errno, "cannot mount %s on %s", mounts[i].type, mounts[i].target);
	}
	return 0;
}

static int load_module(const char *path, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
		return error_errno(err, errno, "cannot load the module %s", path);
	return 0;
}

/* Of a kernel that has modules: they come with the initramfs, in the order in which they need each other. */
static int load_modules(struct error *err)
{
	_cleanup_free_ char *order = NULL;

	if (access("/modules/order", F_OK) < 0)
		return 0;
	if (fs_read(AT_FDCWD, "/modules/order", ORDER_MAX, &order, NULL, err) < 0)
		return -1;
	for (char *rest = order, *path; (path = strsep(&rest, "\n"));)
		if (*path && load_module(path, err) < 0)
			return -1;
	return 0;
}

/* Each by itself: one that this kernel cannot hand down must not keep back the others. */
static int enable_controllers(struct error *err)
{
	_cleanup_free_ char *names = NULL;
	_cleanup_close_ int fd = open(CGROUP_ROOT "/cgroup.subtree_control", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "cannot enable the controllers of cgroups");
	if (fs_read(AT_FDCWD, CGROUP_ROOT "/cgroup.controllers", 4096, &names, NULL, err) < 0)
		return -1;
	for (char *rest = names, *name; (name = strsep(&rest, " \n"));) {
		char text[64];
		int n = snprintf(text, sizeof text, "+%s", name);

		if (*name && (size_t)n < sizeof text)
			(void)fs_write_all(fd, text, (size_t)n);
	}
	return 0;
}

/* To what the service on a host has, and its containers with it. The kernel's usual 1024 are also too few for us to hold
 * 256 further processes. */
static int raise_limits(struct error *err)
{
	const struct rlimit files = { .rlim_cur = 1048576, .rlim_max = 1048576 };

	return setrlimit(RLIMIT_NOFILE, &files) < 0 ? error_errno(err, errno, "cannot raise the limit of open files") : 0;
}

int boot(struct error *err)
{
	if (raise_limits(err) < 0 || make_root_a_mount(err) < 0 || mount_all(err) < 0 || load_modules(err) < 0 ||
	    enable_controllers(err) < 0)
		return -1;
	/* From here on nothing is written but below /run: this program least of all, near which the payload comes. */
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) < 0)
		return error_errno(err, errno, "cannot make the root read-only");
	return 0;
}
