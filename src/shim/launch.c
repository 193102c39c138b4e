/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/shim.h"

#include "base/fs.h"
#include "base/process.h"
#include "base/timeutil.h"
#include "shim/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define RUNTIME_TIMEOUT_MS 60000
#define REASON_MAX 1024
/* Number of the gate in the runtime: away from those that it uses for itself. */
#define GATE_FD 30
/* include/linux/sched.h: "Getting shut down", "Forked but didn't exec"; in field 9 of /proc/PID/stat. */
#define PF_EXITING 0x4u
#define PF_FORKNOEXEC 0x40u

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

/* The last line of a text, without the time that the runtimes put in front of it. */
static const char *last_line(char *text)
{
	size_t len = strlen(text);
	char *line, *space;
	int64_t ignored;

	while (len && (text[len - 1] == '\n' || text[len - 1] == '\r'))
		text[--len] = '\0';
	line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	space = strchr(line, ' ');
	if (space && space > line) {
		char last = space[-1];

		*space = '\0';
		if (last == ':')
			space[-1] = '\0';
		if (time_parse_rfc3339(line, &ignored) == 0)
			return space + 1;
		if (last == ':')
			space[-1] = last;
		*space = ' ';
	}
	return line;
}

/* What the runtime says of its failure is in its log or, where it had no log any more, on the payload's stderr. */
static int runtime_failure(struct launch *l, const char *otherwise, struct error *err)
{
	_cleanup_free_ char *log = NULL;
	char said[REASON_MAX];
	const char *text = "";
	ssize_t n;

	if (fs_read(l->shim->run_fd, "runtime.log", 64 << 10, &log, NULL, NULL) == 0)
		text = last_line(log);
	if (!*text) {
		n = read(l->err[0], said, sizeof said - 1);
		said[n > 0 ? n : 0] = '\0';
		text = last_line(said);
	}
	return error_set(err, ERR_FAILED_PRECONDITION, "%s", *text ? text : otherwise);
}

static int run_runtime(struct launch *l, struct error *err)
{
	const struct shim_options *o = l->shim->options;
	_cleanup_free_ char *log = fs_path("%s/runtime.log", o->run_dir);
	_cleanup_free_ char *pid_file = fs_path("%s/pid", o->run_dir);
	_cleanup_close_ int pidfd = -1;
	char sealed[32];
	const char *const argv[] = {
		o->runtime, "--root", o->runtime_root, "--log", log, "--log-format", "text", "run", "--detach",
		"--bundle", o->run_dir, "--pid-file", pid_file, o->name, NULL,
	};
	const char *const env[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	const struct process_fd fds[] = { { l->out[1], 1 }, { l->err[1], 2 }, { l->gate[1], GATE_FD } };
	struct process_spawn spawn = {
		.argv = argv, .program = o->sealed_runtime ? sealed : NULL, .env = env, .dir = o->run_dir, .fds = fds,
		.n_fds = 3,
	};
	pid_t pid;
	int code;

	snprintf(sealed, sizeof sealed, "/proc/self/fd/%d", SHIM_FD_RUNTIME);
	if (!log || !pid_file)
		return error_errno(err, ENOMEM, "cannot run %s", o->runtime);
	if (process_spawn(&spawn, &pid, &pidfd, err) < 0)
		return -1;
	if (!wait_readable(pidfd, l->deadline)) {
		kill(pid, SIGKILL);
		process_wait(pid);
		return error_set(err, ERR_DEADLINE_EXCEEDED, "%s did not start the workload within %d s and was killed",
				 o->runtime, RUNTIME_TIMEOUT_MS / 1000);
	}
	code = process_wait(pid);
	return code == 0 ? 0 : runtime_failure(l, "the OCI runtime failed without a word", err);
}

static int read_pid(struct launch *l, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	int pid;

	if (fs_read(l->shim->run_fd, "pid", 64, &text, NULL, err) < 0)
		return -1;
	if (sscanf(text, "%d", &pid) != 1 || pid <= 1)
		return error_set(err, ERR_INTERNAL, "the OCI runtime wrote no pid");
	l->shim->pid = pid;
	return 0;
}

/* Whether the process never became the payload. The gate is shut, so it has executed it or is ending; the kernel clears the
 * one flag and sets the other before it shuts the gate. The process is our child by now and not reaped, so it can be
 * looked at. (runc does not pass the gate on; what it cannot execute it finds out earlier.) */
static bool ended_before_exec(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	unsigned flags;
	char path[32];
	char *p;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (fs_read(AT_FDCWD, path, 4096, &text, NULL, NULL) < 0)
		return false;
	p = strrchr(text, ')');
	return p && sscanf(p, ") %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && flags & PF_FORKNOEXEC && flags & PF_EXITING;
}

static int wait_exec(struct launch *l, struct error *err)
{
	if (!wait_readable(l->gate[0], l->deadline))
		return error_set(err, ERR_DEADLINE_EXCEEDED, "the payload was not executed within %d s",
				 RUNTIME_TIMEOUT_MS / 1000);
	if (ended_before_exec(l->shim->pid))
		return runtime_failure(l, "the payload could not be executed", err);
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
			r = read_pid(&l, err);
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
