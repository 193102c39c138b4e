/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/shim.h"

#include "base/fs.h"
#include "base/process.h"
#include "base/timeutil.h"
#include "shim/cgroup.h"
#include "shim/oci_run.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define RUNTIME_TIMEOUT_MS 60000

struct launch {
	struct shim *shim;
	int out[2], err[2];
	/* The payload's process inherits the write end, which execve() closes: the read end tells when that was. */
	int gate[2];
	int64_t deadline;
};

static void pipe_release(int fds[2])
{
	cleanup_closep(&fds[0]);
	cleanup_closep(&fds[1]);
	fds[0] = fds[1] = -1;
}

static int pipe_open(int fds[2])
{
	return pipe2(fds, O_CLOEXEC) < 0 || fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static bool wait_readable(int fd, int64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int n;

	do {
		int64_t left = (deadline - time_monotonic_ns()) / NSEC_PER_MSEC;

		n = poll(&p, 1, left < 0 ? 0 : (int)left);
	} while (n < 0 && errno == EINTR);
	return n > 0;
}

static int run_runtime(struct launch *l, struct error *err)
{
	const struct shim_options *o = l->shim->options;
	_cleanup_oci_run_ struct oci_run run = { 0 };
	_cleanup_close_ int pidfd = -1;
	char sealed[32];
	const struct process_fd fds[] = { { l->out[1], 1 }, { l->err[1], 2 }, { l->gate[1], OCI_RUN_GATE_FD } };
	struct process_spawn spawn = {
		.argv = run.argv, .program = o->sealed_runtime ? sealed : NULL, .env = oci_run_env, .dir = o->run_dir,
		.fds = fds, .n_fds = 3,
	};
	pid_t pid;
	int code;

	snprintf(sealed, sizeof sealed, "/proc/self/fd/%d", SHIM_FD_RUNTIME);
	if (oci_run_init(&run, o->runtime, o->runtime_root, o->run_dir, o->name, err) < 0 ||
	    process_spawn(&spawn, &pid, &pidfd, err) < 0)
		return -1;
	if (!wait_readable(pidfd, l->deadline)) {
		kill(pid, SIGKILL);
		process_wait(pid);
		return error_set(err, ERR_DEADLINE_EXCEEDED, "%s did not start the workload within %d s and was killed",
				 o->runtime, RUNTIME_TIMEOUT_MS / 1000);
	}
	code = process_wait(pid);
	return code == 0 ? 0 : oci_run_failure(l->shim->run_fd, l->err[0], err);
}

static int wait_exec(struct launch *l, struct error *err)
{
	if (!wait_readable(l->gate[0], l->deadline))
		return error_set(err, ERR_DEADLINE_EXCEEDED, "the payload was not executed within %d s",
				 RUNTIME_TIMEOUT_MS / 1000);
	if (oci_run_ended_before_exec(l->shim->pid))
		return oci_run_failure(l->shim->run_fd, l->err[0], err);
	return 0;
}

/* On a failure: no process stays behind, also none that the runtime has lost sight of. */
static void kill_all(const struct shim_options *o)
{
	(void)cgroup_kill(o->cgroup, 10000, NULL);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int launch_payload(struct shim *shim, struct error *err)
{
	struct launch l = {
		.shim = shim, .out = { -1, -1 }, .err = { -1, -1 }, .gate = { -1, -1 },
		.deadline = time_monotonic_ns() + RUNTIME_TIMEOUT_MS * NSEC_PER_MSEC,
	};
	int r;

	if ((r = pipe_open(l.out)) < 0 || (r = pipe_open(l.err)) < 0 || (r = pipe_open(l.gate)) < 0) {
		r = error_errno(err, -r, "cannot make pipes");
	} else {
		r = run_runtime(&l, err);
		/* Only the payload may hold the gate now. */
		cleanup_closep(&l.gate[1]);
		l.gate[1] = -1;
		if (r == 0)
			r = oci_run_pid(shim->run_fd, &shim->pid, err);
		if (r == 0)
			r = wait_exec(&l, err);
		if (r < 0)
			kill_all(shim->options);
	}
	if (r == 0) {
		shim->out_fd = steal_fd(&l.out[0]);
		shim->err_fd = steal_fd(&l.err[0]);
	}
	pipe_release(l.out);
	pipe_release(l.err);
	pipe_release(l.gate);
	return r;
}
