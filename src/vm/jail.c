/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/jail.h"

#include "vm/jail_child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define REPORT_MAX 1024

void jail_add_arg(struct jail *j, const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	if (j->n_args == JAIL_ARGS_MAX || vasprintf(&text, fmt, ap) < 0)
		j->failed = true;
	else
		j->args[j->n_args++] = text;
	va_end(ap);
}

int jail_add_fd(struct jail *j, int fd)
{
	if (j->n_fds == JAIL_FDS_MAX) {
		close(fd);
		j->failed = true;
		return -1;
	}
	j->fds[j->n_fds] = fd;
	return JAIL_FD_FIRST + (int)j->n_fds++;
}

void jail_add_bind(struct jail *j, const char *source, const char *target, bool writable, bool optional)
{
	char *copy = strdup(target);

	if (j->n_binds == JAIL_BINDS_MAX || !copy) {
		free(copy);
		j->failed = true;
		return;
	}
	j->binds[j->n_binds++] = (struct jail_bind){
		.source = source, .target = copy, .writable = writable, .optional = optional,
	};
}

int jail_listen(struct jail *j, const char *path, struct error *err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_errno(err, errno, "cannot make a socket");
	j->scratch = true;
	j->listener_path = path;
	return j->listener_fd = fd;
}

/* As fork(2), into new namespaces. */
static pid_t fork_away(uint64_t namespaces, int *ret_pidfd)
{
	struct clone_args args = {
		.flags = CLONE_PIDFD | namespaces, .pidfd = (uintptr_t)ret_pidfd, .exit_signal = SIGCHLD,
	};
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);

	if (pid > 0)
		fcntl(*ret_pidfd, F_SETFD, FD_CLOEXEC);
	return pid;
}

/* The same, into the pid namespace of a process besides. */
static pid_t fork_after(int first_fd, uint64_t namespaces, int *ret_pidfd)
{
	_cleanup_close_ int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	pid_t pid;

	if (own < 0 || setns(first_fd, CLONE_NEWPID) < 0)
		return -1;
	pid = fork_away(namespaces, ret_pidfd);
	if (pid == 0 || setns(own, CLONE_NEWPID) == 0)
		return pid;
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		cleanup_closep(ret_pidfd);
	}
	return -1;
}

static pid_t fork_program(const struct jail *j, int first_fd, int *ret_pidfd)
{
	uint64_t namespaces = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | (j->host_network ? 0 : CLONE_NEWNET);

	return first_fd < 0 ? fork_away(namespaces | CLONE_NEWPID, ret_pidfd) : fork_after(first_fd, namespaces, ret_pidfd);
}

struct pipes {
	int out[2], err[2];
	int report[2]; /* closes when the program is executed; until then it tells why it is not */
};

static void pipe_release(int fds[2])
{
	for (int i = 0; i < 2; i++)
		cleanup_closep(&fds[i]);
}

static void pipes_release(struct pipes *p)
{
	pipe_release(p->out);
	pipe_release(p->err);
	pipe_release(p->report);
}

static int await_exec(const struct jail *j, int fd, struct error *err)
{
	char text[REPORT_MAX];
	ssize_t n;

	do {
		n = read(fd, text, sizeof text);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		return error_set(err, ERR_FAILED_PRECONDITION, "cannot start %s: %.*s", j->name, (int)n, text);
	return n < 0 ? error_errno(err, errno, "cannot start %s", j->name) : 0;
}

static int start_program(struct jail *j, struct jail_process *ret, struct error *err)
{
	_cleanup_(pipes_release) struct pipes p = { { -1, -1 }, { -1, -1 }, { -1, -1 } };
	_cleanup_close_ int pidfd = -1;
	pid_t pid;

	if (pipe2(p.out, O_CLOEXEC) < 0 || pipe2(p.err, O_CLOEXEC) < 0 || pipe2(p.report, O_CLOEXEC) < 0)
		return error_errno(err, errno, "cannot make pipes");
	pid = fork_program(j, ret->first_fd, &pidfd);
	if (pid == 0) {
		close(p.report[0]);
		jail_child(j, p.out[1], p.err[1], p.report[1]);
	}
	if (pid < 0)
		return error_errno(err, errno, "cannot make namespaces for %s", j->name);
	close(steal_fd(&p.out[1]));
	close(steal_fd(&p.err[1]));
	close(steal_fd(&p.report[1]));
	if (await_exec(j, p.report[0], err) < 0) {
		waitpid(pid, NULL, 0);
		return -1;
	}
	ret->pid = pid;
	ret->pidfd = steal_fd(&pidfd);
	ret->out_fd = steal_fd(&p.out[0]);
	ret->err_fd = steal_fd(&p.err[0]);
	return 0;
}

static void end_first(struct jail_process *p)
{
	if (!p->first)
		return;
	kill(p->first, SIGKILL);
	waitpid(p->first, NULL, 0);
	p->first = 0;
	cleanup_closep(&p->first_fd);
}

static int start_first(const struct jail *j, struct jail_process *ret, struct error *err)
{
	_cleanup_(pipes_release) struct pipes p = { { -1, -1 }, { -1, -1 }, { -1, -1 } };
	pid_t pid;

	if (pipe2(p.report, O_CLOEXEC) < 0)
		return error_errno(err, errno, "cannot make a pipe");
	pid = fork_away(CLONE_NEWPID, &ret->first_fd);
	if (pid == 0) {
		close(p.report[0]);
		jail_first(j, p.report[1]);
	}
	if (pid < 0)
		return error_errno(err, errno, "cannot make a pid namespace for %s", j->name);
	ret->first = pid;
	close(steal_fd(&p.report[1]));
	return await_exec(j, p.report[0], err);
}

int jail_start(struct jail *j, struct jail_process *ret, struct error *err)
{
	struct jail_process p = { .first_fd = -1 };

	if (j->failed)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot start %s: out of memory, or too much for it", j->name);
	if ((j->jailer && start_first(j, &p, err) < 0) || start_program(j, &p, err) < 0) {
		end_first(&p);
		return -1;
	}
	*ret = p;
	return 0;
}

int jail_seal(pid_t pid, struct error *err)
{
	_cleanup_close_ int fs = -1;
	char root[32];

	snprintf(root, sizeof root, "/proc/%d/root", (int)pid);
	fs = fspick(AT_FDCWD, root, FSPICK_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 ||
	    fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) < 0)
		return error_errno(err, errno, "cannot make the root of a jail read-only");
	return 0;
}

void jail_release(struct jail *j)
{
	for (size_t i = 0; i < j->n_args; i++)
		free(j->args[i]);
	for (size_t i = 0; i < j->n_binds; i++)
		free(j->binds[i].target);
	for (size_t i = 0; i < j->n_fds; i++)
		close(j->fds[i]);
	j->n_args = j->n_binds = j->n_fds = 0;
}
