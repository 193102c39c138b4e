/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/container/security.h"

#include "base/cleanup.h"
#include "runtime/container/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define DEVICES_MAX 4096
#define DEVICES_DEPTH 4

static const char *const capability_names[] = {
	[CAP_CHOWN] = "CAP_CHOWN", [CAP_DAC_OVERRIDE] = "CAP_DAC_OVERRIDE", [CAP_DAC_READ_SEARCH] = "CAP_DAC_READ_SEARCH",
	[CAP_FOWNER] = "CAP_FOWNER", [CAP_FSETID] = "CAP_FSETID", [CAP_KILL] = "CAP_KILL", [CAP_SETGID] = "CAP_SETGID",
	[CAP_SETUID] = "CAP_SETUID", [CAP_SETPCAP] = "CAP_SETPCAP", [CAP_LINUX_IMMUTABLE] = "CAP_LINUX_IMMUTABLE",
	[CAP_NET_BIND_SERVICE] = "CAP_NET_BIND_SERVICE", [CAP_NET_BROADCAST] = "CAP_NET_BROADCAST",
	[CAP_NET_ADMIN] = "CAP_NET_ADMIN", [CAP_NET_RAW] = "CAP_NET_RAW", [CAP_IPC_LOCK] = "CAP_IPC_LOCK",
	[CAP_IPC_OWNER] = "CAP_IPC_OWNER", [CAP_SYS_MODULE] = "CAP_SYS_MODULE", [CAP_SYS_RAWIO] = "CAP_SYS_RAWIO",
	[CAP_SYS_CHROOT] = "CAP_SYS_CHROOT", [CAP_SYS_PTRACE] = "CAP_SYS_PTRACE", [CAP_SYS_PACCT] = "CAP_SYS_PACCT",
	[CAP_SYS_ADMIN] = "CAP_SYS_ADMIN", [CAP_SYS_BOOT] = "CAP_SYS_BOOT", [CAP_SYS_NICE] = "CAP_SYS_NICE",
	[CAP_SYS_RESOURCE] = "CAP_SYS_RESOURCE", [CAP_SYS_TIME] = "CAP_SYS_TIME",
	[CAP_SYS_TTY_CONFIG] = "CAP_SYS_TTY_CONFIG", [CAP_MKNOD] = "CAP_MKNOD", [CAP_LEASE] = "CAP_LEASE",
	[CAP_AUDIT_WRITE] = "CAP_AUDIT_WRITE", [CAP_AUDIT_CONTROL] = "CAP_AUDIT_CONTROL", [CAP_SETFCAP] = "CAP_SETFCAP",
	[CAP_MAC_OVERRIDE] = "CAP_MAC_OVERRIDE", [CAP_MAC_ADMIN] = "CAP_MAC_ADMIN", [CAP_SYSLOG] = "CAP_SYSLOG",
	[CAP_WAKE_ALARM] = "CAP_WAKE_ALARM", [CAP_BLOCK_SUSPEND] = "CAP_BLOCK_SUSPEND", [CAP_AUDIT_READ] = "CAP_AUDIT_READ",
	[CAP_PERFMON] = "CAP_PERFMON", [CAP_BPF] = "CAP_BPF", [CAP_CHECKPOINT_RESTORE] = "CAP_CHECKPOINT_RESTORE",
};

#define BIT(cap) (UINT64_C(1) << (cap))
#define DEFAULT_CAPABILITIES                                                                                          \
	(BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FSETID) | BIT(CAP_FOWNER) | BIT(CAP_MKNOD) | BIT(CAP_NET_RAW) | \
	 BIT(CAP_SETGID) | BIT(CAP_SETUID) | BIT(CAP_SETFCAP) | BIT(CAP_SETPCAP) | BIT(CAP_NET_BIND_SERVICE) |        \
	 BIT(CAP_SYS_CHROOT) | BIT(CAP_KILL) | BIT(CAP_AUDIT_WRITE))

static uint64_t own_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (syscall(SYS_capget, &header, data) < 0)
		return 0;
	return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

json_t *security_capabilities(bool privileged)
{
	uint64_t set = own_capabilities() & (privileged ? UINT64_MAX : DEFAULT_CAPABILITIES);
	json_t *names = json_array();

	for (size_t i = 0; i < COUNT(capability_names); i++)
		if (set & BIT(i))
			json_array_append_new(names, json_string(capability_names[i]));
	/* Not inheritable and not ambient: a program that runs as another user than root has none. */
	return json_pack("{s:O, s:O, s:o}", "bounding", names, "effective", names, "permitted", names);
}

uint64_t security_capability_bits(const json_t *names)
{
	uint64_t set = 0;
	json_t *name;
	size_t k;

	json_array_foreach(names, k, name)
		for (size_t i = 0; i < COUNT(capability_names); i++)
			if (json_is_string(name) && !strcmp(capability_names[i], json_string_value(name)))
				set |= BIT(i);
	return set;
}

static void allow_device(json_t *rules, const char *type, int major_no, int minor_no, const char *access)
{
	json_t *rule = json_pack("{s:b, s:s, s:s}", "allow", 1, "type", type, "access", access);

	if (major_no >= 0)
		json_object_set_new(rule, "major", json_integer(major_no));
	if (minor_no >= 0)
		json_object_set_new(rule, "minor", json_integer(minor_no));
	json_array_append_new(rules, rule);
}

json_t *security_device_rules(bool privileged)
{
	static const int nodes[][2] = {
		{ 1, 3 }, { 1, 5 }, { 1, 7 }, { 1, 8 }, { 1, 9 }, /* null, zero, full, random, urandom */
		{ 5, 0 }, { 5, 1 }, { 5, 2 }, { 136, -1 },        /* tty, console, ptmx, pts */
	};
	json_t *rules;

	if (privileged)
		return json_pack("[{s:b, s:s}]", "allow", 1, "access", "rwm");
	rules = json_pack("[{s:b, s:s}]", "allow", 0, "access", "rwm");
	/* Any node may be made; opening it is what is refused. */
	allow_device(rules, "c", -1, -1, "m");
	allow_device(rules, "b", -1, -1, "m");
	for (size_t i = 0; i < COUNT(nodes); i++)
		allow_device(rules, "c", nodes[i][0], nodes[i][1], "rwm");
	return rules;
}

/* ---- the host's devices ---- */

static void add_device(json_t *devices, const char *path, const struct stat *st)
{
	json_array_append_new(devices, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "path", path, "type",
						 S_ISCHR(st->st_mode) ? "c" : "b", "major", (json_int_t)major(st->st_rdev),
						 "minor", (json_int_t)minor(st->st_rdev), "fileMode",
						 (json_int_t)(st->st_mode & 0777), "uid", (json_int_t)st->st_uid, "gid",
						 (json_int_t)st->st_gid));
}

/* What is mounted there by the container itself. */
static bool is_special(const char *path)
{
	static const char *const special[] = { "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx",
					       "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty" };

	for (size_t i = 0; i < COUNT(special); i++)
		if (!strcmp(path, special[i]))
			return true;
	return false;
}

static void collect_devices(json_t *devices, int dirfd, const char *dir, unsigned depth)
{
	_cleanup_closedir_ DIR *d = fdopendir(dirfd);
	struct dirent *entry;

	if (!d)
		close(dirfd);
	while (d && (entry = readdir(d)) && json_array_size(devices) < DEVICES_MAX) {
		char path[PATH_MAX];
		struct stat st;
		int fd;

		snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
		if (entry->d_name[0] == '.' || is_special(path) ||
		    fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
			add_device(devices, path, &st);
		} else if (S_ISDIR(st.st_mode) && depth < DEVICES_DEPTH) {
			fd = openat(dirfd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (fd >= 0)
				collect_devices(devices, fd, path, depth + 1);
		}
	}
}

static json_t *host_devices(void)
{
	json_t *devices = json_array();
	int fd = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (devices && fd >= 0)
		collect_devices(devices, fd, "/dev", 0);
	else if (fd >= 0)
		close(fd);
	return devices;
}

/* ---- paths ---- */

/* Only those that this kernel has: the runtime looks each one up. */
static json_t *existing_paths(const char *const *paths, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		if (access(paths[i], F_OK) == 0)
			json_array_append_new(list, json_string(paths[i]));
	return list;
}

int security_confine(json_t *linux_part, bool privileged, bool seccomp_json, struct error *err)
{
	/* They show what concerns the whole machine, or other workloads. */
	static const char *const masked[] = {
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
		"/sys/firmware",
	};
	static const char *const read_only[] = {
		"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
	};
	int r;

	if (privileged) {
		r = json_object_set_new(linux_part, "devices", host_devices());
	} else {
		r = json_object_set_new(linux_part, "maskedPaths", existing_paths(masked, COUNT(masked)));
		if (r == 0)
			r = json_object_set_new(linux_part, "readonlyPaths", existing_paths(read_only, COUNT(read_only)));
		if (r == 0 && seccomp_json)
			r = json_object_set_new(linux_part, "seccomp", seccomp_profile_json());
	}
	return r < 0 ? error_errno(err, ENOMEM, "cannot write the container's security settings") : 0;
}
