/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What a container is made from: users, the sealed OCI runtime, bundles, the seccomp filter; and the shim's client. */
#include "runtime_fixture.h"

#include "base/buf.h"
#include "base/fs.h"
#include "runtime/container/bundle.h"
#include "runtime/container/oci_runtime.h"
#include "runtime/container/seccomp.h"
#include "runtime/container/user.h"
#include "runtime/driver.h"
#include "runtime/holder.h"
#include "runtime/shim_client.h"
#include "shim/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

/* ---- users ---- */

static const char *user_text(const char *const *roots, size_t n, const char *spec)
{
	static char text[256];
	struct error err = ERROR_INIT;
	struct user u = { 0 };
	int len;

	if (user_resolve(roots, n, spec, &u, &err) < 0) {
		snprintf(text, sizeof text, "%s", error_message(&err));
		error_release(&err);
		return text;
	}
	len = snprintf(text, sizeof text, "%u:%u %s", u.uid, u.gid, u.home);
	for (size_t i = 0; i < u.n_groups; i++)
		len += snprintf(text + len, sizeof text - (size_t)len, " %u", u.groups[i]);
	user_release(&u);
	return text;
}

START_TEST(users_are_looked_up_in_the_layers)
{
	const char *roots[] = { in_dir("upper"), in_dir("top"), in_dir("base") };

	ck_assert_str_eq(user_text(roots, 3, NULL), "0:0 / 0");
	ck_assert_str_eq(user_text(roots, 3, "1000:50"), "1000:50 / 50");
	ck_assert_str_eq(user_text(roots, 3, "web"), "user web is not in the image's /etc/passwd");
	ck_assert_str_eq(user_text(roots, 3, "4294967295"), "user 4294967295 is not in the image's /etc/passwd");
	write_text("base/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/srv:/bin/sh\n");
	write_text("base/etc/group", "root:x:0:\nlogs:x:44:a,web,b\nother:x:45:webber\nweb:x:34:web");
	ck_assert_str_eq(user_text(roots, 3, ""), "0:0 /root 0");
	ck_assert_str_eq(user_text(roots, 3, "web"), "33:34 /srv 34 44");
	ck_assert_str_eq(user_text(roots, 3, "33"), "33:34 /srv 34 44");
	ck_assert_str_eq(user_text(roots, 3, "web:logs"), "33:44 /srv 44");
	ck_assert_str_eq(user_text(roots, 3, "web:7"), "33:7 /srv 7");
	ck_assert_str_eq(user_text(roots, 3, "web:nope"), "group nope is not in the image's /etc/group");
	/* An upper layer's file hides the lower one's. */
	write_text("top/etc/passwd", "web:x:99:99::/new:/bin/sh\n");
	ck_assert_str_eq(user_text(roots, 3, "web"), "99:99 /new 99 44 34");
	/* A link out of the layer stays inside. */
	ck_assert_int_eq(unlink(in_dir("top/etc/passwd")), 0);
	ck_assert_int_eq(symlink("../../../../../../../etc/passwd-not-here", in_dir("top/etc/passwd")), 0);
	ck_assert_str_eq(user_text(roots, 3, "web"), "33:34 /srv 34 44");
}
END_TEST

START_TEST(users_and_whiteouts)
{
	const char *roots[] = { in_dir("top"), in_dir("base") };

	if (geteuid() != 0)
		return;
	write_text("base/etc/passwd", "web:x:33:34::/srv:/bin/sh\n");
	write_text("top/etc/other", "");
	ck_assert_str_eq(user_text(roots, 2, "web"), "33:34 /srv 34");
	ck_assert_int_eq(mknod(in_dir("top/etc/passwd"), S_IFCHR, makedev(0, 0)), 0);
	ck_assert_str_eq(user_text(roots, 2, "web"), "user web is not in the image's /etc/passwd");
	ck_assert_int_eq(unlink(in_dir("top/etc/passwd")), 0);
	ck_assert_int_eq(setxattr(in_dir("top/etc"), "trusted.overlay.opaque", "y", 1, 0), 0);
	ck_assert_str_eq(user_text(roots, 2, "web"), "user web is not in the image's /etc/passwd");
	/* A FIFO must not hold the caller. */
	ck_assert_int_eq(mkfifo(in_dir("top/etc/passwd"), 0644), 0);
	ck_assert_str_eq(user_text(roots, 2, "web"), "user web is not in the image's /etc/passwd");
}
END_TEST

/* Whether the lookup of a user opens what is in the place of passwd. */
static bool lookup_opens(const char *const *roots)
{
	_cleanup_close_ int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	char events[4096];

	ck_assert_int_ge(inotify_add_watch(watch, in_dir("top/etc/passwd"), IN_OPEN), 0);
	(void)user_text(roots, 1, "web");
	return read(watch, events, sizeof events) > 0;
}

START_TEST(users_are_not_looked_up_in_devices)
{
	const char *roots[] = { in_dir("top") };

	write_text("top/etc/passwd", "web:x:33:34::/srv:/bin/sh\n");
	ck_assert(lookup_opens(roots));
	ck_assert_int_eq(unlink(in_dir("top/etc/passwd")), 0);
	ck_assert_int_eq(mkfifo(in_dir("top/etc/passwd"), 0644), 0);
	ck_assert(!lookup_opens(roots));
	if (geteuid() != 0)
		return;
	ck_assert_int_eq(unlink(in_dir("top/etc/passwd")), 0);
	ck_assert_int_eq(mknod(in_dir("top/etc/passwd"), S_IFCHR | 0644, makedev(1, 3)), 0);
	ck_assert(!lookup_opens(roots));
	ck_assert_str_eq(user_text(roots, 1, "web"), "user web is not in the image's /etc/passwd");
}
END_TEST

START_TEST(users_are_not_looked_up_in_proc)
{
	const char *roots[] = { "/" };
	_cleanup_free_ char *there = user_overlay_read(roots, 1, "etc/passwd"), *none = user_overlay_read(roots, 1, "proc/version");

	ck_assert_ptr_nonnull(there);
	ck_assert_ptr_null(none);
}
END_TEST

/* ---- the OCI runtime ---- */

static void write_runtime(const char *version)
{
	char text[128];

	snprintf(text, sizeof text, "#!/bin/sh\necho 'crun version %s'\n", version);
	write_text("bin/crun", text);
	ck_assert_int_eq(chmod(in_dir("bin/crun"), 0755), 0);
}

static void expect_sealed_copy(const char *version)
{
	_cleanup_oci_runtime_ struct oci_runtime found = { .sealed_fd = -1 };
	char text[128] = "";

	ck_assert_int_eq(oci_runtime_find(in_dir("bin/crun"), &found, NULL), 0);
	ck_assert(found.is_crun);
	/* What crun and runc compare with: these seals and no others. */
	ck_assert_int_eq(fcntl(found.sealed_fd, F_GET_SEALS), F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	ck_assert_int_lt(pwrite(found.sealed_fd, "x", 1, 0), 0);
	ck_assert_int_gt(pread(found.sealed_fd, text, sizeof text - 1, 0), 0);
	ck_assert_msg(strstr(text, version) != NULL, "%s", text);
}

START_TEST(runtime_is_sealed_and_renewed)
{
	write_runtime("1.8");
	expect_sealed_copy("1.8");
	expect_sealed_copy("1.8");
	write_runtime("1.9");
	expect_sealed_copy("1.9");
}
END_TEST

/* ---- the bundle ---- */

struct plan_fixture {
	Capsule__V1__Workload workload;
	Capsule__V1__ContainerSpec container;
	struct image image;
	char *layers[1];
	char *entrypoint[3], *cmd[3], *env[4];
	struct driver_plan plan;
	struct oci_runtime runtime;
	struct bundle_payload payload;
	struct bundle bundle;
};

static void plan_init(struct plan_fixture *p)
{
	memset(p, 0, sizeof *p);
	capsule__v1__workload__init(&p->workload);
	capsule__v1__container_spec__init(&p->container);
	p->workload.name = (char *)"web";
	p->workload.container = &p->container;
	p->layers[0] = in_dir("base");
	p->image = (struct image){ .reference = (char *)"test", .layers = p->layers, .n_layers = 1 };
	p->image.config.entrypoint = p->entrypoint;
	p->image.config.cmd = p->cmd;
	p->image.config.env = p->env;
	p->plan = (struct driver_plan){ .spec = &p->workload, .image = &p->image, .netns_fd = -1 };
	p->runtime = (struct oci_runtime){ .program = "/usr/bin/crun", .is_crun = true };
	p->bundle = (struct bundle){ .plan = &p->plan, .runtime = &p->runtime, .payload = &p->payload, .run_dir = "/run/x",
				     .files_dir = "/run/x", .volumes_dir = "/run/x/volumes", .upper_dir = "/nope",
				     .cgroup_path = "/capsule/web" };
}

/* Of the container as it is now. */
static json_t *make_config(struct plan_fixture *p, struct error *err)
{
	p->payload = bundle_of_container(&p->container);
	return bundle_config(&p->bundle, err);
}

static json_t *config(struct plan_fixture *p)
{
	struct error err = ERROR_INIT;
	json_t *c = make_config(p, &err);

	ck_assert_msg(c != NULL, "%s", error_message(&err));
	return c;
}

static void assert_args(struct plan_fixture *p, const char *expected)
{
	json_t *c = config(p);
	char *text = json_dumps(json_object_get(json_object_get(c, "process"), "args"), JSON_COMPACT);

	ck_assert_str_eq(text, expected);
	free(text);
	json_decref(c);
}

START_TEST(command_and_args_as_in_kubernetes)
{
	struct error err = ERROR_INIT;
	struct plan_fixture p;
	char *command[] = { (char *)"/c" }, *args[] = { (char *)"x", (char *)"y" };

	plan_init(&p);
	ck_assert_ptr_null(make_config(&p, &err));
	ck_assert_str_eq(error_message(&err), "the image test names no program to run; set container.command");
	error_release(&err);
	p.entrypoint[0] = (char *)"/e";
	p.cmd[0] = (char *)"d";
	assert_args(&p, "[\"/e\",\"d\"]");
	p.container.args = args;
	p.container.n_args = 2;
	assert_args(&p, "[\"/e\",\"x\",\"y\"]");
	p.container.command = command;
	p.container.n_command = 1;
	assert_args(&p, "[\"/c\",\"x\",\"y\"]");
	p.container.n_args = 0;
	assert_args(&p, "[\"/c\"]");
	command[0] = (char *)"\xff";
	ck_assert_ptr_null(make_config(&p, &err));
	ck_assert_str_eq(error_message(&err), "container.command is not valid UTF-8");
	error_release(&err);
}
END_TEST

static bool has_env(json_t *c, const char *entry)
{
	json_t *list = json_object_get(json_object_get(c, "process"), "env"), *value;
	size_t i;

	json_array_foreach(list, i, value)
		if (!strcmp(json_string_value(value), entry))
			return true;
	return false;
}

START_TEST(environment_is_layered)
{
	Capsule__V1__ContainerSpec__EnvEntry entry = CAPSULE__V1__CONTAINER_SPEC__ENV_ENTRY__INIT, *entries[] = { &entry };
	struct plan_fixture p;
	json_t *c;

	plan_init(&p);
	p.entrypoint[0] = (char *)"/e";
	p.env[0] = (char *)"A=image";
	p.env[1] = (char *)"B=x=y";
	p.env[2] = (char *)"HOME=/h";
	entry.key = (char *)"A";
	entry.value = (char *)"manifest";
	p.container.env = entries;
	p.container.n_env = 1;
	c = config(&p);
	ck_assert(has_env(c, "A=manifest") && !has_env(c, "A=image") && has_env(c, "B=x=y") && has_env(c, "HOME=/h"));
	ck_assert(has_env(c, "HOSTNAME=web"));
	json_decref(c);
}
END_TEST

static const char *mount_source(json_t *c, const char *destination)
{
	json_t *value;
	size_t i;

	json_array_foreach(json_object_get(c, "mounts"), i, value)
		if (!strcmp(json_string_value(json_object_get(value, "destination")), destination))
			return json_string_value(json_object_get(value, "source"));
	return NULL;
}

static size_t mount_index(json_t *c, const char *destination)
{
	json_t *value;
	size_t i;

	json_array_foreach(json_object_get(c, "mounts"), i, value)
		if (!strcmp(json_string_value(json_object_get(value, "destination")), destination))
			return i;
	ck_abort_msg("no mount on %s", destination);
	return 0;
}

START_TEST(a_micro_vm_has_the_same_bundle_in_other_places)
{
	struct driver_volume volumes[] = { { .name = "data", .device = "/dev/y", .mount_path = "/data", .read_only = true } };
	Capsule__V1__MicroVMSpec__EnvEntry entry = CAPSULE__V1__MICRO_VMSPEC__ENV_ENTRY__INIT, *entries[] = { &entry };
	Capsule__V1__MicroVMSpec vm = CAPSULE__V1__MICRO_VMSPEC__INIT;
	struct error err = ERROR_INIT;
	struct plan_fixture p;
	char *text;
	json_t *c;

	plan_init(&p);
	p.workload.container = NULL;
	p.workload.micro_vm = &vm;
	p.payload = bundle_of_micro_vm(&vm);
	p.bundle.files_dir = "/run/capsule/bundle";
	p.bundle.volumes_dir = "/run/capsule/volumes";
	p.bundle.upper_dir = NULL;
	p.bundle.cgroup_namespace = true;
	ck_assert_ptr_null(bundle_config(&p.bundle, &err));
	ck_assert_str_eq(error_message(&err), "the image test names no program to run; set microVm.command");
	error_release(&err);
	p.entrypoint[0] = (char *)"/e";
	entry.key = (char *)"A";
	entry.value = (char *)"manifest";
	vm.env = entries;
	vm.n_env = 1;
	p.payload = bundle_of_micro_vm(&vm);
	p.plan.volumes = volumes;
	p.plan.n_volumes = 1;
	c = bundle_config(&p.bundle, &err);
	ck_assert_msg(c != NULL, "%s", error_message(&err));
	ck_assert(has_env(c, "A=manifest"));
	ck_assert_str_eq(mount_source(c, "/data"), "/run/capsule/volumes/data");
	ck_assert_str_eq(mount_source(c, "/etc/hosts"), "/run/capsule/bundle/hosts");
	text = json_dumps(json_object_get(json_object_get(c, "linux"), "namespaces"), JSON_COMPACT);
	ck_assert_ptr_nonnull(strstr(text, "\"cgroup\""));
	free(text);
	json_decref(c);
}
END_TEST

START_TEST(mounts_come_in_order)
{
	struct driver_volume volumes[] = {
		{ .name = "cache", .device = "/dev/x", .mount_path = "/data/cache", .read_only = true },
		{ .name = "data", .device = "/dev/y", .mount_path = "/data" },
		{ .name = "own", .device = "/dev/z", .mount_path = "/etc/hosts" },
	};
	char *binds[] = { (char *)"/tmp:/host-tmp:ro" };
	struct error err = ERROR_INIT;
	struct plan_fixture p;
	json_t *c;

	plan_init(&p);
	p.entrypoint[0] = (char *)"/e";
	p.plan.volumes = volumes;
	p.plan.n_volumes = 3;
	p.container.host_bind_paths = binds;
	p.container.n_host_bind_paths = 1;
	c = config(&p);
	ck_assert_uint_lt(mount_index(c, "/data"), mount_index(c, "/data/cache"));
	ck_assert_str_eq(mount_source(c, "/data/cache"), "/run/x/volumes/cache");
	ck_assert_str_eq(mount_source(c, "/etc/hosts"), "/run/x/volumes/own");
	ck_assert_str_eq(mount_source(c, "/etc/resolv.conf"), "/run/x/resolv.conf");
	ck_assert_str_eq(mount_source(c, "/host-tmp"), "/tmp");
	json_decref(c);
	binds[0] = (char *)"/tmp:relative";
	ck_assert_ptr_null(make_config(&p, &err));
	error_release(&err);
	binds[0] = (char *)"/nowhere/at/all";
	ck_assert_ptr_null(make_config(&p, &err));
	ck_assert_str_eq(error_message(&err), "the host path /nowhere/at/all cannot be mounted: No such file or directory");
	error_release(&err);
}
END_TEST

static bool has_namespace(json_t *c, const char *type)
{
	json_t *value;
	size_t i;

	json_array_foreach(json_object_get(json_object_get(c, "linux"), "namespaces"), i, value)
		if (!strcmp(json_string_value(json_object_get(value, "type")), type))
			return true;
	return false;
}

/* Whether a profile as a list allows socket() of a family. */
static bool list_allows_socket(const json_t *profile, uint64_t family)
{
	const json_t *rule, *arg;
	bool allowed = false;
	size_t i;

	json_array_foreach(json_object_get(profile, "syscalls"), i, rule) {
		if (strcmp(json_string_value(json_array_get(json_object_get(rule, "names"), 0)), "socket") != 0)
			continue;
		arg = json_array_get(json_object_get(rule, "args"), 0);
		ck_assert_str_eq(json_string_value(json_object_get(arg, "op")), "SCMP_CMP_MASKED_EQ");
		allowed |= (family & (uint64_t)json_integer_value(json_object_get(arg, "value"))) ==
			   (uint64_t)json_integer_value(json_object_get(arg, "valueTwo"));
	}
	return allowed;
}

START_TEST(profiles)
{
	struct plan_fixture p;
	json_t *c, *part;

	plan_init(&p);
	p.entrypoint[0] = (char *)"/e";
	c = config(&p);
	part = json_object_get(c, "linux");
	ck_assert(json_is_true(json_object_get(json_object_get(c, "process"), "noNewPrivileges")));
	ck_assert_ptr_nonnull(json_object_get(json_object_get(c, "annotations"), "run.oci.seccomp_bpf_data"));
	ck_assert_ptr_nonnull(json_object_get(part, "maskedPaths"));
	ck_assert(has_namespace(c, "pid") && has_namespace(c, "ipc") && !has_namespace(c, "network"));
	json_decref(c);
	p.runtime.is_crun = false;
	c = config(&p);
	ck_assert_ptr_null(json_object_get(c, "annotations"));
	part = json_object_get(json_object_get(c, "linux"), "seccomp");
	ck_assert_ptr_nonnull(part);
	for (uint64_t family = 0; family < AF_MAX; family++)
		ck_assert_int_eq(list_allows_socket(part, family), family != AF_VSOCK);
	ck_assert(!list_allows_socket(part, 1ULL << 32 | AF_VSOCK));
	json_decref(c);
	p.container.privileged = p.container.host_pid = p.container.host_ipc = true;
	c = config(&p);
	part = json_object_get(c, "linux");
	ck_assert_ptr_null(json_object_get(part, "seccomp"));
	ck_assert_ptr_null(json_object_get(part, "maskedPaths"));
	ck_assert(!has_namespace(c, "pid") && !has_namespace(c, "ipc") && has_namespace(c, "mount"));
	json_decref(c);
}
END_TEST

/* ---- seccomp ---- */

static int load_profile(void)
{
	struct sock_fprog program;
	const void *code;
	size_t len;

	if (seccomp_profile_bpf(&code, &len, NULL) < 0)
		return -1;
	program.len = (unsigned short)(len / sizeof(struct sock_filter));
	program.filter = (struct sock_filter *)(uintptr_t)code;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

/* To be seen where a register is compared as a whole. */
#define GARBAGE 0x5a5a5a5a00000000

#ifdef __x86_64__
#define I386_GETPID 20
#define I386_SOCKET 359

/* A call as 32-bit programs make it. */
static long syscall_32(long nr, long a, long b, long c)
{
	long r;

	__asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	if (r < 0 && r >= -4095) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

/* Not every kernel has them. */
static bool has_calls_of_32_bit(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		signal(SIGSEGV, SIG_DFL);
		_exit(syscall_32(I386_GETPID, 0, 0, 0) == getpid() ? 0 : 1);
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
#endif

#define EXPECT(call, number)                                                                                          \
	do {                                                                                                          \
		errno = 0;                                                                                            \
		(void)(call);                                                                                         \
		if (errno != (number))                                                                                \
			_exit(__LINE__ & 0x7f ? __LINE__ & 0x7f : 1);                                                 \
	} while (0)

START_TEST(seccomp_filter_allows_and_refuses)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		if (load_profile() < 0)
			_exit(127);
		EXPECT(syscall(SYS_getppid), 0);
		EXPECT(syscall(SYS_reboot, 0, 0, 0, 0), EPERM);
		EXPECT(syscall(SYS_bpf, 0, 0, 0), EPERM);
		EXPECT(syscall(SYS_mount, "x", "/nowhere", "tmpfs", 0, 0), EPERM);
		EXPECT(syscall(SYS_unshare, CLONE_NEWUSER), EPERM);
		EXPECT(syscall(SYS_keyctl, 0, 0), EPERM);
		EXPECT(syscall(SYS_io_uring_setup, 1, 0), EPERM);
		EXPECT(syscall(SYS_clone3, 0, 0), ENOSYS);
		EXPECT(syscall(SYS_clone, CLONE_NEWUSER, 0, 0, 0, 0), EPERM);
		EXPECT(syscall(SYS_personality, 0xffffffff), 0);
		EXPECT(syscall(SYS_personality, ADDR_NO_RANDOMIZE), EPERM);
		EXPECT(close((int)syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0)), 0);
		/* Of the families vsock only is refused. To the kernel the type is none, and it looks for no module. */
		for (int family = 0; family < AF_MAX; family++)
			EXPECT(syscall(SYS_socket, family, 0xf, 0), family == AF_VSOCK ? EPERM : EINVAL);
		/* The upper half of the register, which the kernel does not look at, changes nothing. */
		EXPECT(syscall(SYS_socket, GARBAGE | AF_VSOCK, SOCK_STREAM, 0), EPERM);
		EXPECT(close((int)syscall(SYS_socket, GARBAGE | AF_UNIX, SOCK_STREAM, 0)), 0);
		EXPECT(syscall(SYS_clone, GARBAGE | CLONE_NEWUSER, 0, 0, 0, 0), EPERM);
		EXPECT(syscall(SYS_personality, GARBAGE | ADDR_NO_RANDOMIZE), EPERM);
		EXPECT(syscall(SYS_personality, GARBAGE | 0xffffffff), 0);
#ifdef __x86_64__
		/* Nor is the way of 32-bit programs open. */
		if (has_calls_of_32_bit())
			EXPECT(syscall_32(I386_SOCKET, AF_VSOCK, SOCK_STREAM, 0), EPERM);
#endif
		/* An ordinary fork passes. */
		pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
		if (child == 0)
			_exit(0);
		EXPECT(waitpid(child, NULL, 0), 0);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
}
END_TEST

/* ---- the shim's client ---- */

struct heard {
	struct shim_client *client;
	struct shim_exit exit;
	int calls;
};

static void on_exit_of_shim(const struct shim_exit *exit, void *arg)
{
	struct heard *h = arg;

	h->exit = *exit;
	h->calls++;
	shim_client_free(h->client);
	h->client = NULL;
}

START_TEST(client_hears_the_end)
{
	struct shim_result result = { .exit_code = 3, .stopped = 1, .finished_at_ns = 99 };
	struct shim_message m;
	uv_loop_t loop;
	int pair[2];

	for (int vanishes = 0; vanishes < 2; vanishes++) {
		struct heard h = { 0 };

		ck_assert_int_eq(uv_loop_init(&loop), 0);
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
		h.client = shim_client_new(&loop, pair[0], on_exit_of_shim, &h);
		ck_assert_ptr_nonnull(h.client);
		ck_assert_int_eq(shim_client_stop(h.client, SIGTERM, 500, NULL), 0);
		ck_assert_int_eq(shim_receive(pair[1], &m), 1);
		ck_assert(m.type == SHIM_STOP && m.body.stop.signal == SIGTERM && m.body.stop.grace_ms == 500);
		/* A word from the future is passed over. */
		ck_assert_int_eq(shim_send(pair[1], (enum shim_type)99, "?", 1), 0);
		if (!vanishes)
			ck_assert_int_eq(shim_send(pair[1], SHIM_EXIT, &result, sizeof result), 0);
		close(pair[1]);
		uv_run(&loop, UV_RUN_DEFAULT);
		ck_assert_int_eq(h.calls, 1);
		ck_assert_int_eq(h.exit.known, !vanishes);
		ck_assert_int_eq(h.exit.exit_code, vanishes ? 255 : 3);
		ck_assert_int_eq(uv_loop_close(&loop), 0);
	}
}
END_TEST

/* ---- a start ---- */

static int fail_to_prepare(const void *why, struct error *err)
{
	return error_set(err, ERR_RESOURCE_EXHAUSTED, "%s", (const char *)why);
}

START_TEST(a_start_that_fails_waits_for_a_holder_that_is_on_its_way)
{
	/* It has forked and is slow. Until it finds that nobody is there it does what a holder does: its cgroup, a boot. */
	char *script = fs_path("(sleep 0.5; cat <&3 >'%s'; echo gone >'%s') & exit 0", in_dir("said"), in_dir("gone"));
	const struct holder_command command = { .argv = { "/bin/sh", "-c", script, NULL }, .n = 3 };
	_cleanup_close_ int dirfd = open(in_dir(""), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct driver_common driver = { .leaving = -1 };
	const struct holder_start start = {
		.driver = &driver, .command = &command, .dirfd = dirfd, .prepare = fail_to_prepare, .arg = "the disk is full",
		.timeout_ms = 10000,
	};
	_cleanup_error_ struct error err = ERROR_INIT;
	struct driver_instance i;
	struct stat said;

	ck_assert_int_lt(holder_run(&start, &i, &err), 0);
	ck_assert_str_eq(error_message(&err), "the disk is full");
	ck_assert_int_eq(access(in_dir("gone"), F_OK), 0);
	/* Nor was it told to start. */
	ck_assert(stat(in_dir("said"), &said) == 0 && said.st_size == 0);
	free(script);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		users_are_looked_up_in_the_layers, users_and_whiteouts, users_are_not_looked_up_in_devices, users_are_not_looked_up_in_proc,
		runtime_is_sealed_and_renewed,
		command_and_args_as_in_kubernetes, environment_is_layered, mounts_come_in_order,
		a_micro_vm_has_the_same_bundle_in_other_places, profiles, seccomp_filter_allows_and_refuses,
		client_hears_the_end, a_start_that_fails_waits_for_a_holder_that_is_on_its_way,
	};

	return run_runtime_tests("runtime", tests, sizeof tests / sizeof tests[0]);
}
