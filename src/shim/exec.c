/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/exec.h"

#include "shim/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>

int exec_prepare(struct shim *shim, struct error *err)
{
	shim->pidfd = (int)syscall(SYS_pidfd_open, shim->pid, 0);
	/* A payload that has ended already has no namespaces to enter, now or later. */
	if ((shim->pidfd < 0 || setns(shim->pidfd, CLONE_NEWPID) < 0) && errno != ESRCH)
		return error_errno(err, errno, "cannot enter the pid namespace of the payload");
	return 0;
}

int exec_begin(struct exec *e, const struct shim *shim, const struct shim_exec *request, const int *fds, size_t n_fds,
	       struct error *err)
{
	int pair[2];
	pid_t pid;

	if (n_fds != (request->terminal ? 1 : 4))
		return error_set(err, ERR_INVALID_ARGUMENT, "the request came with %zu descriptors", n_fds);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_errno(err, errno, "cannot make a socket for a process");
	pid = fork();
	if (pid == 0)
		exec_child(shim, request, fds, pair[1]);
	close(pair[1]);
	if (pid < 0 || fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0) {
		close(pair[0]);
		/* ENOMEM: the first process of the pid namespace has ended. */
		return error_errno(err, errno, "cannot start a process in the workload");
	}
	*e = (struct exec){ .pid = pid, .report_fd = pair[0], .terminal_fd = -1 };
	return 0;
}

static void report_done(struct exec *e)
{
	cleanup_closep(&e->report_fd);
	cleanup_closep(&e->terminal_fd);
	e->report_fd = e->terminal_fd = -1;
}

void exec_take_report(struct exec *e, int connection)
{
	struct shim_exec_started started = { .pid = e->pid };
	struct shim_message m;
	int fds[SHIM_FDS_MAX];
	size_t n_fds;
	int r;

	while (e->report_fd >= 0) {
		r = shim_receive_fds(e->report_fd, &m, fds, &n_fds);
		if (r == -EAGAIN)
			return;
		if (r > 0 && m.type == SHIM_EXEC_STARTED && n_fds == 1 && e->terminal_fd < 0) {
			e->terminal_fd = fds[0];
			continue;
		}
		if (r > 0 && m.type == SHIM_EXEC_FAILED) {
			e->failed = true;
			(void)shim_send(connection, SHIM_EXEC_FAILED, &m.body, m.length);
		} else {
			(void)shim_send_fds(connection, SHIM_EXEC_STARTED, &started, sizeof started, &e->terminal_fd,
					    e->terminal_fd >= 0);
		}
		shim_close_fds(fds, n_fds);
		report_done(e);
	}
}

void exec_ended(struct exec *e, int connection, int exit_code)
{
	struct shim_exec_exit exit = { .exit_code = exit_code };

	/* What it reported was sent before it died. */
	exec_take_report(e, connection);
	report_done(e);
	if (!e->failed)
		(void)shim_send(connection, SHIM_EXEC_EXIT, &exit, sizeof exit);
	*e = EXEC_NONE;
}

void exec_kill(const struct exec *e, const struct shim *shim)
{
	kill(e->pid, SIGKILL);
	cgroup_kill_session(shim->options->cgroup, e->pid);
}
