/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "guest/root.h"

#include "base/fs.h"
#include "base/overlay.h"
#include "guest/network.h"
#include "guest/protocol.h"
#include "shim/cgroup.h"
#include "shim/protocol.h"
#include "volume/ext4.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define PAYLOAD "/run/capsule/payload"
#define DISK "/run/capsule/disk"
#define ROOTFS GUEST_BUNDLE "/rootfs"
#define KILL_TIMEOUT_MS 10000
#define SCSI_PAGE_HEADER 4

typedef Capsule__Guest__V1__Disk Disk;
typedef Capsule__Guest__V1__Volume Volume;
typedef Capsule__Guest__V1__RunRequest RunRequest;

/* ---- disks ---- */

/* A virtio disk tells it in a line of text, a SCSI disk in a page: four bytes before it, spaces around it (SPC-4, 7.8.15). */
static bool has_serial(const char *device, const char *serial)
{
	bool scsi = !strncmp(device, "sd", 2);
	_cleanup_free_ char *path = fs_path(scsi ? "/sys/block/%s/device/vpd_pg80" : "/sys/block/%s/serial", device);
	_cleanup_free_ char *text = NULL;
	size_t skip = scsi ? SCSI_PAGE_HEADER : 0, len;

	if (!path || fs_read(AT_FDCWD, path, 256, &text, &len, NULL) < 0 || len < skip)
		return false;
	skip += strspn(text + skip, " ");
	text[skip + strcspn(text + skip, " \n")] = '\0';
	return !strcmp(text + skip, serial);
}

/* Its path, the caller's; NULL: no disk has this serial number. */
static char *find_by_serial(const char *serial)
{
	_cleanup_closedir_ DIR *dir = opendir("/sys/block");
	struct dirent *entry;

	while (dir && *serial && (entry = readdir(dir)))
		if ((!strncmp(entry->d_name, "vd", 2) || !strncmp(entry->d_name, "sd", 2)) && has_serial(entry->d_name, serial))
			return fs_path("/dev/%s", entry->d_name);
	return NULL;
}

static char *find_disk(const Disk *disk, const char *what, struct error *err)
{
	char *path = disk ? find_by_serial(disk->serial) : NULL;
	struct stat st;

	if (!disk) {
		error_set(err, ERR_INVALID_ARGUMENT, "the request names no disk for %s", what);
		return NULL;
	}
	if (!path && !strncmp(disk->device, "/dev/vd", 7) && stat(disk->device, &st) == 0 && S_ISBLK(st.st_mode))
		path = strdup(disk->device);
	if (!path)
		error_set(err, ERR_FAILED_PRECONDITION, "the disk of %s (serial \"%s\", %s) is not there", what,
			  disk->serial, disk->device);
	return path;
}

/* The device too: a file system that is mounted read-only may still write to it, its journal for one. */
static int protect(const char *device, struct error *err)
{
	_cleanup_close_ int fd = open(device, O_RDONLY | O_CLOEXEC);
	int on = 1;

	return fd < 0 || ioctl(fd, BLKROSET, &on) < 0 ? error_errno(err, errno, "cannot protect %s", device) : 0;
}

/* A volume whose last user lost its power holds a journal that only a writer may replay. Readers do without. */
static int mount_read_only(const char *device, const char *type, const char *target)
{
	if (mount(device, target, type, MS_RDONLY, NULL) == 0)
		return 0;
	return strcmp(type, "ext4") ? -1 : mount(device, target, type, MS_RDONLY, "noload");
}

/* As on the host; and the inode tables of a sparse file are zeros already: not to be written once more in the background. */
static int mount_writable(const char *device, const char *type, const char *target)
{
	return mount(device, target, type, 0, EXT4_MOUNT_OPTIONS ",noinit_itable");
}

static int mount_disk(const Disk *disk, const char *what, const char *type, const char *target, bool read_only,
		      struct error *err)
{
	_cleanup_free_ char *device = find_disk(disk, what, err);

	if (!device || (read_only && protect(device, err) < 0) || fs_mkdir_all(AT_FDCWD, target, 0755, err) < 0)
		return -1;
	if ((read_only ? mount_read_only : mount_writable)(device, type, target) < 0)
		return error_errno(err, errno, "cannot mount %s (%s, %s)", what, device, type);
	return 0;
}

static int mount_root(const RunRequest *request, struct error *err)
{
	const char *layers[] = { PAYLOAD };

	if (mount_disk(request->payload, "the image", "erofs", PAYLOAD, true, err) < 0 ||
	    mount_disk(request->disk, "the writable layer", "ext4", DISK, false, err) < 0 ||
	    fs_mkdir_all(AT_FDCWD, DISK "/upper", 0755, err) < 0 ||
	    fs_mkdir_all(AT_FDCWD, DISK "/work", 0755, err) < 0 || fs_mkdir_all(AT_FDCWD, ROOTFS, 0755, err) < 0)
		return -1;
	return overlay_mount(layers, 1, DISK, ROOTFS, err);
}

/* A name of a file: no way out of the directory that it is for. */
static bool is_file_name(const char *name)
{
	return *name && *name != '.' && !strchr(name, '/') && strlen(name) <= NAME_MAX;
}

static int mount_volume(const Volume *volume, struct error *err)
{
	_cleanup_free_ char *target = fs_path(GUEST_VOLUMES "/%s", volume->name);
	_cleanup_free_ char *what = fs_path("volume %s", volume->name);

	if (!target || !what)
		return error_errno(err, ENOMEM, "cannot mount a volume");
	if (!is_file_name(volume->name))
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is no name of a volume", volume->name);
	return mount_disk(volume->disk, what, "ext4", target, volume->read_only, err);
}

static int mount_volumes(const RunRequest *request, struct error *err)
{
	if (request->n_volumes > SHIM_VOLUMES_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "more than %d volumes", SHIM_VOLUMES_MAX);
	for (size_t i = 0; i < request->n_volumes; i++)
		if (mount_volume(request->volumes[i], err) < 0)
			return -1;
	return 0;
}

/* ---- bundle and network ---- */

static int write_bundle(const RunRequest *request, struct error *err)
{
	_cleanup_close_ int dirfd = open(GUEST_BUNDLE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dirfd < 0)
		return error_errno(err, errno, "cannot open " GUEST_BUNDLE);
	for (size_t i = 0; i < request->n_files; i++) {
		const Capsule__Guest__V1__File *file = request->files[i];

		if (!is_file_name(file->name))
			return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is no name of a file", file->name);
		if (fs_write_replace(dirfd, file->name, file->content.data, file->content.len, 0644, err) < 0)
			return -1;
	}
	return 0;
}

static int make_network(const RunRequest *request, struct error *err)
{
	const Capsule__Guest__V1__Link *link = request->link;
	int fd;

	if (sethostname(request->name, strlen(request->name)) < 0)
		return error_errno(err, errno, "cannot set the host name");
	if (network_up_loopback(err) < 0 ||
	    (link && *link->address && network_set_address(link->address, link->prefix, link->gateway, err) < 0))
		return -1;
	/* As in a container: any user may serve port 80 of a network that is one workload's own. */
	fd = open("/proc/sys/net/ipv4/ip_unprivileged_port_start", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		(void)fs_write_all(fd, "0", 1);
		close(fd);
	}
	return 0;
}

int root_make(const RunRequest *request, struct error *err)
{
	if (mount_root(request, err) < 0)
		return error_wrap(err, "the guest cannot make the root file system");
	if (mount_volumes(request, err) < 0)
		return error_wrap(err, "the guest cannot mount the volumes");
	if (write_bundle(request, err) < 0)
		return error_wrap(err, "the guest cannot write the bundle");
	if (make_network(request, err) < 0)
		return error_wrap(err, "the guest cannot set up the network");
	return 0;
}

/* ---- the end ---- */

/* What cannot be unmounted is at least clean on its disk. */
static int release(const char *target, struct error *err)
{
	if (umount2(target, UMOUNT_NOFOLLOW) == 0 || errno == EINVAL || errno == ENOENT)
		return 0;
	error_errno(err, errno, "cannot unmount %s", target);
	(void)mount(NULL, target, NULL, MS_REMOUNT | MS_RDONLY, NULL);
	return -1;
}

static int release_volumes(struct error *err)
{
	_cleanup_closedir_ DIR *dir = opendir(GUEST_VOLUMES);
	struct dirent *entry;
	int r = 0;

	while (dir && (entry = readdir(dir))) {
		_cleanup_free_ char *target = fs_path(GUEST_VOLUMES "/%s", entry->d_name);

		if (entry->d_name[0] != '.' && target && release(target, err) < 0)
			r = -1;
	}
	return r;
}

int root_release(const char *cgroup, struct error *err)
{
	int r = cgroup ? cgroup_kill(cgroup, KILL_TIMEOUT_MS, err) : 0;

	/* All of them, whatever fails. */
	r |= release(ROOTFS, err);
	r |= release_volumes(err);
	r |= release(DISK, err);
	r |= release(PAYLOAD, err);
	sync();
	return r;
}
