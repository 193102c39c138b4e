/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/seclude.h"

#include "base/confine.h"
#include "shim/cgroup.h"
#include "shim/holder.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* ---- files ---- */

static int allow_directory(int rules, const char *path, enum confine_use use, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "cannot open %s", path);
	return confine_files_allow(rules, fd, use, err);
}

struct cgroup_rules {
	int rules;
	struct error *err;
};

static int allow_cgroup(int dirfd, void *arg)
{
	const struct cgroup_rules *c = arg;

	return confine_files_allow(c->rules, dirfd, CONFINE_MODIFY, c->err);
}

static int give_up_files(const struct vm_options *o, const struct monitor *m, struct error *err)
{
	_cleanup_close_ int rules = confine_files_begin();
	struct cgroup_rules cgroup = { rules, err };

	if (allow_directory(rules, o->run_dir, CONFINE_MANAGE, err) < 0 ||
	    allow_directory(rules, o->state_dir, CONFINE_MANAGE, err) < 0 ||
	    allow_directory(rules, CGROUP_ROOT, CONFINE_SEARCH, err) < 0 ||
	    cgroup_each_directory(o->cgroup, allow_cgroup, &cgroup) < 0 ||
	    (m->tasks_fd >= 0 && confine_files_allow(rules, m->tasks_fd, CONFINE_READ, err) < 0))
		return -1;
	return confine_files_enforce(rules, err);
}

/* ---- system calls ---- */

/* What the loop, the connections, the logs and the allocator do; first what is done all the time. */
static const uint32_t allowed_calls[] = {
	SYS_epoll_pwait, SYS_epoll_wait, SYS_read, SYS_write, SYS_recvmsg, SYS_sendmsg, SYS_recvfrom, SYS_sendto, SYS_epoll_ctl,
	SYS_clock_gettime, SYS_readv, SYS_writev, SYS_close, SYS_fcntl, SYS_ioctl, SYS_futex, SYS_brk, SYS_mmap, SYS_munmap,
	SYS_mremap, SYS_mprotect, SYS_madvise, SYS_accept4, SYS_shutdown, SYS_socketpair, SYS_getsockopt, SYS_setsockopt,
	SYS_dup, SYS_dup3, SYS_pipe2, SYS_eventfd2, SYS_poll, SYS_ppoll,
	/* files */
	SYS_openat, SYS_open, SYS_pread64, SYS_pwrite64, SYS_lseek, SYS_ftruncate, SYS_fsync, SYS_fdatasync, SYS_fchmod,
	SYS_renameat, SYS_renameat2, SYS_unlinkat, SYS_fstat, SYS_newfstatat, SYS_stat, SYS_statx, SYS_statfs, SYS_fstatfs,
	SYS_getdents64, SYS_access, SYS_faccessat, SYS_faccessat2,
	/* processes */
	SYS_kill, SYS_tgkill, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_wait4, SYS_waitid, SYS_getpid, SYS_gettid, SYS_getrandom,
	SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_sched_yield, SYS_clock_nanosleep,
	SYS_restart_syscall, SYS_exit, SYS_exit_group,
};

#define N_ALLOWED (sizeof allowed_calls / sizeof allowed_calls[0])
#define N_HEAD 4
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))

/* Of a few instructions, without libseccomp, whose compiler would take a megabyte in each holder. */
static int give_up_calls(struct error *err)
{
	struct sock_filter code[N_HEAD + N_ALLOWED + 2] = {
		LOAD(arch),
		/* Another architecture has other numbers: none is allowed. */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		LOAD(nr),
	};
	const struct sock_fprog program = { .len = sizeof code / sizeof code[0], .filter = code };
	struct sock_filter *next = code + N_HEAD, *deny = next + N_ALLOWED;

	for (size_t i = 0; i < N_ALLOWED; i++)
		*next++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed_calls[i], (uint8_t)(N_ALLOWED - i), 0);
	deny[0] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	deny[1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		return error_errno(err, errno, "cannot filter system calls");
	return 0;
}

int seclude(const struct vm_options *o, const struct monitor *m, struct error *err)
{
	if (give_up_files(o, m, err) < 0)
		return -1;
	/* With no more than a container has it would be open to one that sees the host's processes: base/confine.h. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return error_errno(err, errno, "cannot shut off /proc/PID");
	holder_lower_capabilities(CONFINE_KEEP(CAP_KILL) | CONFINE_KEEP(CAP_DAC_OVERRIDE), true);
	return give_up_calls(err);
}
