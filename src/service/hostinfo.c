/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "service/hostinfo.h"

#include "base/fs.h"
#include "base/timeutil.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

#define PROC_FILE_MAX (1u << 20)
#define SHORT_ID_LEN 8
#define SECTOR 512 /* the unit of "size" in /sys/block, whatever the device's own */

static int copy(const char *text, char **ret, struct error *err)
{
	*ret = strdup(text);
	return *ret ? 0 : error_errno(err, ENOMEM, "cannot describe the host");
}

static int fill_system(Capsule__V1__GetInfoResponse *info, struct error *err)
{
	struct utsname names;

	if (uname(&names) < 0)
		return error_errno(err, errno, "cannot describe the host");
	if (copy(names.nodename, &info->hostname, err) < 0 || copy(names.release, &info->kernel_release, err) < 0 ||
	    copy(names.version, &info->kernel_version, err) < 0 || copy(names.machine, &info->architecture, err) < 0 ||
	    copy(CAPSULE_VERSION, &info->capsule_version, err) < 0)
		return -1;
	info->uptime_seconds = (uint64_t)(time_boottime_ns() / NSEC_PER_SEC);
	info->local_time_unix = time_realtime_ns() / NSEC_PER_SEC;
	return 0;
}

/* The value behind "key:" at the beginning of a line; NULL without one. */
static const char *value_of(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, len))
			continue;
		line += len + strspn(line + len, " \t");
		if (*line == ':')
			return line + 1 + strspn(line + 1, " \t");
	}
	return NULL;
}

static uint64_t memory_bytes(const char *meminfo, const char *key)
{
	const char *value = value_of(meminfo, key);

	return value ? strtoull(value, NULL, 10) << 10 : 0;
}

static int fill_memory(Capsule__V1__GetInfoResponse *info, struct error *err)
{
	_cleanup_free_ char *text = NULL;

	if (fs_read(AT_FDCWD, "/proc/meminfo", PROC_FILE_MAX, &text, NULL, err) < 0)
		return -1;
	info->memory_total_bytes = memory_bytes(text, "MemTotal");
	info->memory_available_bytes = memory_bytes(text, "MemAvailable");
	return 0;
}

/* Not every architecture names its processors. */
static int fill_processor(Capsule__V1__GetInfoResponse *info, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	const char *model;

	info->cpu_cores = cores > 0 ? (uint32_t)cores : 0;
	if (fs_read(AT_FDCWD, "/proc/cpuinfo", PROC_FILE_MAX, &text, NULL, err) < 0)
		return -1;
	model = value_of(text, "model name");
	if (!model)
		return 0;
	info->cpu_model = strndup(model, strcspn(model, "\n"));
	return info->cpu_model ? 0 : error_errno(err, ENOMEM, "cannot describe the host");
}

static int fill_state_root(Capsule__V1__GetInfoResponse *info, const char *state_root, struct error *err)
{
	struct statvfs vfs;

	if (statvfs(state_root, &vfs) < 0)
		return error_errno(err, errno, "cannot look at the state root %s", state_root);
	info->perm_total_bytes = (uint64_t)vfs.f_blocks * vfs.f_frsize;
	info->perm_used_bytes = (uint64_t)(vfs.f_blocks - vfs.f_bfree) * vfs.f_frsize;
	return 0;
}

/* The disk that holds the root file system: of a partition, the whole disk. A root that is on no block device (an
 * overlay, a network) has none. */
static int fill_disk(Capsule__V1__GetInfoResponse *info, struct error *err)
{
	_cleanup_free_ char *link = NULL, *device = NULL, *partition = NULL, *size_path = NULL, *size = NULL;
	struct stat st;
	char *slash;

	if (stat("/", &st) < 0)
		return error_errno(err, errno, "cannot look at the root file system");
	link = fs_path("/sys/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev));
	device = link ? realpath(link, NULL) : NULL;
	if (!device)
		return 0;
	partition = fs_path("%s/partition", device);
	slash = strrchr(device, '/');
	if (partition && slash && access(partition, F_OK) == 0) {
		*slash = '\0';
		slash = strrchr(device, '/');
	}
	size_path = fs_path("%s/size", device);
	if (!slash || !size_path || fs_read(AT_FDCWD, size_path, 64, &size, NULL, NULL) < 0)
		return 0;
	info->disk_total_bytes = strtoull(size, NULL, 10) * SECTOR;
	info->boot_disk = fs_path("/dev/%s", slash + 1);
	return info->boot_disk ? 0 : error_errno(err, ENOMEM, "cannot describe the host");
}

int hostinfo_id(struct store *store, char **ret, struct error *err)
{
	uint64_t random[2];
	char fresh[33];

	if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		return error_errno(err, errno, "cannot make an id for this host");
	snprintf(fresh, sizeof fresh, "%016" PRIx64 "%016" PRIx64, random[0], random[1]);
	return store_meta_default(store, "id", fresh, ret, err);
}

int hostinfo_fill(struct store *store, const char *state_root, Capsule__V1__GetInfoResponse *info, struct error *err)
{
	_cleanup_free_ char *id = NULL;

	if (fill_system(info, err) < 0 || fill_memory(info, err) < 0 || fill_processor(info, err) < 0 ||
	    fill_state_root(info, state_root, err) < 0 || fill_disk(info, err) < 0 || hostinfo_id(store, &id, err) < 0)
		return -1;
	info->short_id = strndup(id, SHORT_ID_LEN);
	return info->short_id ? 0 : error_errno(err, ENOMEM, "cannot describe the host");
}
