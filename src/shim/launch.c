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
#define CONFIG_MAX (4u << 20)

static void pipe_release(int fds[2])
{
	cleanup_closep(&fds[0]);
	cleanup_closep(&fds[1]);
	fds[0] = fds[1] = -1;
}

/* Our end, 0 or 1, does not block. */
static int pipe_open(int fds[2], int ours)
{
	return pipe2(fds, O_CLOEXEC) < 0 || fcntl(fds[ours], F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static bool wait_ready(int fd, short events, int64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = events };
	int n;

	do {
		int64_t left = (deadline - time_monotonic_ns()) / NSEC_PER_MSEC;

		n = poll(&p, 1, left < 0 ? 0 : (int)left);
	} while (n < 0 && errno == EINTR);
	return n > 0;
}

/* ---- the runtime ---- */

static int open_pipes(struct launch *l, bool config)
{
	int r;

	if ((r = pipe_open(l->out, 0)) < 0 || (r = pipe_open(l->err, 0)) < 0 || (r = pipe_open(l->gate, 0)) < 0)
		return r;
	return config ? pipe_open(l->config, 1) : 0;
}

int launch_runtime(struct launch *l, struct shim *shim, struct error *err)
{
	const struct shim_options *o = shim->options;
	_cleanup_oci_run_ struct oci_run run = { 0 };
	char sealed[32];
	struct process_fd fds[4];
	struct process_spawn spawn = {
		.argv = run.argv, .program = o->sealed_runtime ? sealed : NULL, .env = oci_run_env, .dir = o->run_dir,
		.fds = fds, .n_fds = 3,
	};
	int r = open_pipes(l, o->config_pipe);

	l->shim = shim;
	l->deadline = time_monotonic_ns() + RUNTIME_TIMEOUT_MS * NSEC_PER_MSEC;
	if (r < 0)
		return error_errno(err, -r, "cannot make pipes");
	fds[0] = (struct process_fd){ l->out[1], 1 };
	fds[1] = (struct process_fd){ l->err[1], 2 };
	fds[2] = (struct process_fd){ l->gate[1], OCI_RUN_GATE_FD };
	if (o->config_pipe)
		fds[spawn.n_fds++] = (struct process_fd){ l->config[0], OCI_RUN_CONFIG_FD };
	snprintf(sealed, sizeof sealed, "/proc/self/fd/%d", SHIM_FD_RUNTIME);
	if (oci_run_init(&run, o->runtime, o->runtime_root, o->run_dir, o->name, o->config_pipe, err) < 0 ||
	    process_spawn(&spawn, &l->runtime, &l->runtime_pidfd, err) < 0)
		return -1;
	/* Only the payload may hold the gate now, and only the runtime read its configuration. */
	cleanup_closep(&l->gate[1]);
	l->gate[1] = -1;
	cleanup_closep(&l->config[0]);
	l->config[0] = -1;
	return 0;
}

/* A runtime that reads no more has failed, or is too late: its end will tell which. */
static int feed_config(struct launch *l, struct error *err)
{
	_cleanup_free_ char *config = NULL;
	size_t len, done = 0;

	if (fs_read(l->shim->run_fd, "config.json", CONFIG_MAX, &config, &len, err) < 0)
		return -1;
	while (done < len && wait_ready(l->config[1], POLLOUT, l->deadline)) {
		ssize_t n = write(l->config[1], config + done, len - done);

		if (n > 0)
			done += (size_t)n;
		else if (n < 0 && errno == EPIPE)
			break;
		else if (n < 0 && errno != EAGAIN && errno != EINTR)
			return error_errno(err, errno, "cannot hand the configuration to the OCI runtime");
	}
	pipe_release(l->config);
	return 0;
}

static int await_runtime(struct launch *l, struct error *err)
{
	int code;

	if (!wait_ready(l->runtime_pidfd, POLLIN, l->deadline))
		return error_set(err, ERR_DEADLINE_EXCEEDED, "%s did not start the workload within %d s and was killed",
				 l->shim->options->runtime, RUNTIME_TIMEOUT_MS / 1000);
	code = process_wait(l->runtime);
	l->runtime = 0;
	return code == 0 ? 0 : oci_run_failure(l->shim->run_fd, l->err[0], err);
}

/* ---- the payload ---- */

static int await_exec(struct launch *l, struct error *err)
{
	if (!wait_ready(l->gate[0], POLLIN, l->deadline))
		return error_set(err, ERR_DEADLINE_EXCEEDED, "the payload was not executed within %d s",
				 RUNTIME_TIMEOUT_MS / 1000);
	if (oci_run_ended_before_exec(l->shim->pid))
		return oci_run_failure(l->shim->run_fd, l->err[0], err);
	return 0;
}

int launch_payload(struct launch *l, struct error *err)
{
	struct shim *shim = l->shim;

	if ((l->config[1] >= 0 && feed_config(l, err) < 0) || await_runtime(l, err) < 0 ||
	    oci_run_pid(shim->run_fd, &shim->pid, err) < 0 || await_exec(l, err) < 0)
		return -1;
	shim->out_fd = steal_fd(&l->out[0]);
	shim->err_fd = steal_fd(&l->err[0]);
	return 0;
}

/* ---- the end ---- */

/* No process stays behind, also none that the runtime has lost sight of. */
static void kill_all(struct launch *l)
{
	if (l->runtime) {
		kill(l->runtime, SIGKILL);
		process_wait(l->runtime);
		l->runtime = 0;
	}
	(void)cgroup_kill(l->shim->options->cgroup, 10000, NULL);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

void launch_release(struct launch *l)
{
	if (l->runtime_pidfd >= 0 && l->shim->out_fd < 0)
		kill_all(l);
	cleanup_closep(&l->runtime_pidfd);
	l->runtime_pidfd = -1;
	pipe_release(l->out);
	pipe_release(l->err);
	pipe_release(l->gate);
	pipe_release(l->config);
}
