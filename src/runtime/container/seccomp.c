/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/container/seccomp.h"

#include "base/base64.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <malloc.h>
#include <pthread.h>
#include <seccomp.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* By subject. A name that libseccomp does not know (older than the kernel's list) is left out. */
static const char *const allowed[] = {
	/* files and directories */
	"access", "chdir", "chmod", "chown", "chown32", "close", "close_range", "copy_file_range", "creat", "dup", "dup2",
	"dup3", "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fchdir", "fchmod", "fchmodat",
	"fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "flock", "fstat", "fstat64",
	"fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futimesat", "getcwd", "getdents",
	"getdents64", "ioctl", "lchown", "lchown32", "link", "linkat", "lseek", "_llseek", "lstat", "lstat64", "mkdir",
	"mkdirat", "mknod", "mknodat", "newfstatat", "open", "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64",
	"pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "rename", "renameat", "renameat2",
	"rmdir", "sendfile", "sendfile64", "splice", "stat", "stat64", "statfs", "statfs64", "statx", "symlink", "symlinkat",
	"sync", "sync_file_range", "syncfs", "tee", "truncate", "truncate64", "umask", "unlink", "unlinkat", "utime",
	"utimensat", "utimensat_time64", "utimes", "vmsplice", "write", "writev", "name_to_handle_at", "chroot",
	/* extended attributes */
	"fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "lgetxattr", "listxattr", "llistxattr",
	"lremovexattr", "lsetxattr", "removexattr", "setxattr",
	/* watching */
	"epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
	"epoll_wait_old", "eventfd", "eventfd2", "fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1",
	"inotify_rm_watch", "poll", "ppoll", "ppoll_time64", "pselect6", "pselect6_time64", "select", "_newselect", "signalfd",
	"signalfd4", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
	/* asynchronous input and output of the old kind */
	"io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup", "io_submit",
	/* memory */
	"brk", "cachestat", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mlock",
	"mlock2", "mlockall", "mmap", "mmap2", "mprotect", "mremap", "msync", "munlock", "munlockall", "munmap",
	"pkey_alloc", "pkey_free", "pkey_mprotect", "process_mrelease", "remap_file_pages",
	/* processes and threads */
	"arch_prctl", "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_requeue",
	"futex_time64", "futex_wait", "futex_waitv", "futex_wake", "get_robust_list", "get_thread_area", "getcpu", "getpgid",
	"getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getrlimit", "getrusage", "getsid", "gettid",
	"ioprio_get", "ioprio_set", "kill", "modify_ldt", "pause", "pidfd_getfd", "pidfd_open", "pidfd_send_signal", "prctl",
	"prlimit64", "process_vm_readv", "process_vm_writev", "ptrace", "rseq", "seccomp", "set_robust_list",
	"set_thread_area", "set_tid_address", "setpgid", "setpriority", "setrlimit", "setsid", "sysinfo", "tgkill", "times",
	"tkill", "ugetrlimit", "uname", "vfork", "wait4", "waitid", "waitpid", "landlock_add_rule",
	"landlock_create_ruleset", "landlock_restrict_self",
	/* scheduling */
	"sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
	"sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr",
	"sched_setparam", "sched_setscheduler", "sched_yield",
	/* users and groups */
	"getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getresgid",
	"getresgid32", "getresuid", "getresuid32", "getuid", "getuid32", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32",
	"setgid", "setgid32", "setgroups", "setgroups32", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid",
	"setresuid32", "setreuid", "setreuid32", "setuid", "setuid32",
	/* signals */
	"restart_syscall", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
	"rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sigaltstack", "sigprocmask",
	"sigreturn",
	/* time */
	"adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime",
	"clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "getitimer", "gettimeofday", "nanosleep", "setitimer",
	"time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime",
	"timer_settime64",
	/* pipes, queues, System V */
	"ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend",
	"mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "pipe", "pipe2", "semctl", "semget",
	"semop", "semtimedop", "semtimedop_time64", "shmat", "shmctl", "shmdt", "shmget",
	/* sockets; socket() itself has a condition */
	"accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recv", "recvfrom",
	"recvmmsg", "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
	"socketcall", "socketpair",
};

/* Allows the call when these bits of an argument have this value. Never a whole register is compared: where the kernel takes an
 * int it does not look at the upper half, in which anything may be. */
struct conditional {
	const char *name;
	unsigned arg;
	uint64_t mask, value;
};

#define NEW_NAMESPACES                                                                                                \
	(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP)
#define INT_MASK 0xffffffff
/* One bit of the family is not AF_VSOCK's. There is no comparison for "these bits are not"; of the families that the kernel has
 * (AF_MAX is below 64) the lowest six bits tell each from all others. */
#define OTHER_THAN_VSOCK(bit) { "socket", 0, bit, ~AF_VSOCK & (bit) }

/* Each line allows the call. */
static const struct conditional conditional[] = {
	{ "clone", 0, NEW_NAMESPACES, 0 },
	/* Ordinary Linux, 32-bit uname, both, and the query; the others change the memory layout to what exploits like. */
	{ "personality", 0, INT_MASK, PER_LINUX },
	{ "personality", 0, INT_MASK, PER_LINUX32 },
	{ "personality", 0, INT_MASK, UNAME26 },
	{ "personality", 0, INT_MASK, PER_LINUX32 | UNAME26 },
	{ "personality", 0, INT_MASK, 0xffffffff },
	/* vsock speaks to the hypervisor, past every network namespace. */
	OTHER_THAN_VSOCK(0x01),
	OTHER_THAN_VSOCK(0x02),
	OTHER_THAN_VSOCK(0x04),
	OTHER_THAN_VSOCK(0x08),
	OTHER_THAN_VSOCK(0x10),
	OTHER_THAN_VSOCK(0x20),
};

/* Looks like an old kernel, so that a C library falls back. */
static const char *const no_such_call[] = { "clone3" };

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static struct {
	pthread_mutex_t lock;
	void *code;
	size_t len;
	char *base64;
} cache = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int add_rules(scmp_filter_ctx ctx)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < COUNT(allowed); i++) {
		int nr = seccomp_syscall_resolve_name(allowed[i]);

		if (nr != __NR_SCMP_ERROR)
			r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);
	}
	for (size_t i = 0; r == 0 && i < COUNT(conditional); i++) {
		const struct conditional *c = &conditional[i];
		struct scmp_arg_cmp cmp = { c->arg, SCMP_CMP_MASKED_EQ, c->mask, c->value };

		r = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, seccomp_syscall_resolve_name(c->name), 1, &cmp);
	}
	for (size_t i = 0; r == 0 && i < COUNT(no_such_call); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), seccomp_syscall_resolve_name(no_such_call[i]), 0);
	return r;
}

static int add_architectures(scmp_filter_ctx ctx)
{
#if defined(__x86_64__)
	/* 32-bit programs run in containers too, and must not be a way around the filter. */
	int r = seccomp_arch_add(ctx, SCMP_ARCH_X86);

	return r < 0 && r != -EEXIST ? r : seccomp_arch_add(ctx, SCMP_ARCH_X32);
#else
	return 0;
#endif
}

static int export_code(scmp_filter_ctx ctx)
{
	_cleanup_close_ int fd = memfd_create("seccomp", MFD_CLOEXEC);
	struct stat st;
	void *code;
	int r;

	if (fd < 0)
		return -errno;
	r = seccomp_export_bpf(ctx, fd);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	code = malloc((size_t)st.st_size);
	if (!code || pread(fd, code, (size_t)st.st_size, 0) != st.st_size) {
		free(code);
		return -ENOMEM;
	}
	cache.code = code;
	cache.len = (size_t)st.st_size;
	return 0;
}

static int compile(void)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int r;

	if (!ctx)
		return -ENOMEM;
	r = add_architectures(ctx);
	/* A binary tree by number: the kernel walks some ten instructions a call instead of hundreds. */
	if (r == 0)
		(void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (r == 0)
		r = add_rules(ctx);
	if (r == 0)
		r = export_code(ctx);
	seccomp_release(ctx);
	/* The compiler's trees were a megabyte in small pieces, needed once in the life of the daemon. */
	malloc_trim(0);
	if (r == 0) {
		cache.base64 = base64_encode(cache.code, cache.len);
		if (!cache.base64) {
			free(steal_ptr(&cache.code));
			r = -ENOMEM;
		}
	}
	return r;
}

static int ensure(struct error *err)
{
	int r = 0;

	pthread_mutex_lock(&cache.lock);
	if (!cache.code)
		r = compile();
	pthread_mutex_unlock(&cache.lock);
	return r < 0 ? error_errno(err, -r, "cannot compile the seccomp profile") : 0;
}

int seccomp_profile_bpf(const void **ret_code, size_t *ret_len, struct error *err)
{
	if (ensure(err) < 0)
		return -1;
	*ret_code = cache.code;
	*ret_len = cache.len;
	return 0;
}

int seccomp_profile_base64(const char **ret_text, struct error *err)
{
	if (ensure(err) < 0)
		return -1;
	*ret_text = cache.base64;
	return 0;
}

static json_t *json_conditional(const struct conditional *c)
{
	return json_pack("{s:[s], s:s, s:[{s:i, s:I, s:I, s:s}]}", "names", c->name, "action", "SCMP_ACT_ALLOW", "args",
			 "index", (int)c->arg, "value", (json_int_t)c->mask, "valueTwo", (json_int_t)c->value, "op",
			 "SCMP_CMP_MASKED_EQ");
}

json_t *seccomp_profile_json(void)
{
	json_t *names = json_array(), *rules = json_array();
	bool failed = !names || !rules;

	for (size_t i = 0; i < COUNT(allowed); i++)
		failed |= json_array_append_new(names, json_string(allowed[i])) < 0;
	failed |= json_array_append_new(rules, json_pack("{s:o, s:s}", "names", names, "action", "SCMP_ACT_ALLOW")) < 0;
	for (size_t i = 0; i < COUNT(conditional); i++)
		failed |= json_array_append_new(rules, json_conditional(&conditional[i])) < 0;
	for (size_t i = 0; i < COUNT(no_such_call); i++)
		failed |= json_array_append_new(rules, json_pack("{s:[s], s:s, s:i}", "names", no_such_call[i], "action",
								 "SCMP_ACT_ERRNO", "errnoRet", ENOSYS)) < 0;
	if (failed) {
		json_decref(rules);
		return NULL;
	}
	return json_pack("{s:s, s:i, s:[sss], s:o}", "defaultAction", "SCMP_ACT_ERRNO", "defaultErrnoRet", EPERM,
			 "architectures", "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "syscalls", rules);
}
