/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/holder.h"

#include "base/fs.h"
#include "base/timeutil.h"
#include "shim/cgroup.h"
#include "volume/freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define PATIENCE_MS 300000     /* for a holder that is found still starting its payload */
#define IMPATIENCE_MS 1000
#define GRACE_MS_DEFAULT 10000
#define BACKLOG 128          /* connections that the holder has not seen yet */
#define CONNECT_TIMEOUT_S 10 /* where there are more */
#define FDS_MAX 8
#define HOLD_TIMEOUT_MS 120000  /* what a guest has in its caches is written first */
#define LET_GO_TIMEOUT_MS 60000

/* ---- the command ---- */

void holder_command_release(struct holder_command *c)
{
	for (size_t i = 0; i < c->n_owned; i++)
		free(c->owned[i]);
}

void holder_add_flag(struct holder_command *c, const char *flag)
{
	if (c->n < HOLDER_ARGS_MAX)
		c->argv[c->n++] = flag;
	else
		c->failed = true;
}

void holder_add_option(struct holder_command *c, const char *option, const char *value)
{
	holder_add_flag(c, option);
	holder_add_flag(c, value);
}

void holder_add_made(struct holder_command *c, const char *option, char *value)
{
	if (!value || c->n_owned == sizeof c->owned / sizeof c->owned[0]) {
		free(value);
		c->failed = true;
		return;
	}
	c->owned[c->n_owned++] = value;
	holder_add_option(c, option, value);
}

/* "SIGTERM", "TERM" or "15"; images write all three. */
static int parse_signal(const char *text)
{
	char *end;
	long n;

	if (!text || !*text)
		return SIGTERM;
	n = strtol(text, &end, 10);
	if (!*end)
		return n > 0 && n < NSIG ? (int)n : SIGTERM;
	if (!strncasecmp(text, "SIG", 3))
		text += 3;
	if (!strncasecmp(text, "RTMIN+", 6))
		return SIGRTMIN + (int)(strtol(text + 6, NULL, 10) & 31);
	for (int sig = 1; sig < NSIG; sig++) {
		const char *name = sigabbrev_np(sig);

		if (name && !strcasecmp(name, text))
			return sig;
	}
	return SIGTERM;
}

void holder_command_begin(struct holder_command *c, const char *program, const struct driver_common *d,
			  const struct places *p, const struct driver_plan *plan)
{
	const Capsule__V1__Workload *spec = plan->spec;
	int64_t grace_ms = GRACE_MS_DEFAULT;

	if (spec->stop_grace_case == CAPSULE__V1__WORKLOAD__STOP_GRACE_STOP_GRACE_PERIOD_SECONDS)
		grace_ms = (int64_t)spec->stop_grace_period_seconds * 1000;
	holder_add_flag(c, program);
	holder_add_option(c, "--run", p->run_dir);
	holder_add_option(c, "--state", p->state_dir);
	holder_add_option(c, "--cgroup", p->cgroup);
	holder_add_made(c, "--generation", fs_path("%" PRIu64, plan->generation));
	holder_add_made(c, "--log-max-bytes", fs_path("%" PRIu64, d->log_max_bytes));
	holder_add_made(c, "--log-max-files", fs_path("%u", d->log_max_files));
	holder_add_made(c, "--stop-signal", fs_path("%d", parse_signal(plan->image->config.stop_signal)));
	holder_add_made(c, "--grace", fs_path("%" PRId64, grace_ms));
}

void holder_command_end(struct holder_command *c, const char *name)
{
	holder_add_flag(c, name);
	c->argv[c->n] = NULL;
}

/* ---- its socket ---- */

/* Through /proc, because a socket's path may have 107 bytes only and a run root may be deep. */
static void socket_address(int dirfd, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d/" SHIM_SOCKET, dirfd);
}

static int listen_for_daemons(int dirfd, struct error *err)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un address;

	socket_address(dirfd, &address);
	unlinkat(dirfd, SHIM_SOCKET, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
		return error_errno(err, errno, "cannot make the holder's socket");
	return steal_fd(&fd);
}

int holder_connect(int dirfd)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	const struct timeval timeout = { .tv_sec = CONNECT_TIMEOUT_S };
	struct sockaddr_un address;

	socket_address(dirfd, &address);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) < 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return -1;
	return steal_fd(&fd);
}

/* leaving: -1, or what is readable when nobody waits any more. 1: a message; 0: the holder is gone; -1: it is silent. */
static int await_message(int fd, int leaving, int timeout_ms, struct shim_message *ret, struct error *err)
{
	struct pollfd p[] = { { .fd = fd, .events = POLLIN }, { .fd = leaving, .events = POLLIN } };
	int64_t deadline = time_monotonic_ns() + timeout_ms * NSEC_PER_MSEC;
	int n;

	do {
		int64_t left = (deadline - time_monotonic_ns()) / NSEC_PER_MSEC;

		n = poll(p, 2, left > 0 ? (int)left : 0);
	} while (n < 0 && errno == EINTR);
	if (!p[0].revents && p[1].revents)
		return error_set(err, ERR_CANCELLED, "the daemon ends; the start goes on");
	if (n == 0)
		return error_set(err, ERR_DEADLINE_EXCEEDED, "its holder did not answer within %d s", timeout_ms / 1000);
	return shim_receive(fd, ret) > 0;
}

/* Waits for the holder's first word. 1: the payload runs; 0: it does not, with its reason in err; -1: it is gone or
 * silent, or nobody waits any more. */
static int await_hello(int fd, int leaving, int timeout_ms, struct shim_message *ret, struct error *err)
{
	int r = await_message(fd, leaving, timeout_ms, ret, err);

	if (r < 0)
		return -1;
	if (r > 0 && ret->type == SHIM_HELLO)
		return 1;
	if (r > 0 && ret->type == SHIM_FAILED) {
		error_set(err, ERR_FAILED_PRECONDITION, "%s", ret->body.text);
		return 0;
	}
	error_set(err, ERR_INTERNAL, "its holder ended before the payload ran");
	return -1;
}

static void instance_running(struct driver_instance *i, const struct shim_message *hello, int *fd)
{
	*i = (struct driver_instance){
		.pid = hello->body.hello.pid,
		.generation = hello->body.hello.generation,
		.started_at_ns = hello->body.hello.started_at_ns,
		.shim_fd = steal_fd(fd),
	};
}

/* ---- a start ---- */

/* *ret_fd: the first connection to it. */
static int spawn(const struct holder_start *start, int *ret_fd, pid_t *ret_pid, struct error *err)
{
	_cleanup_close_ int listener = listen_for_daemons(start->dirfd, err), mine = -1, theirs = -1;
	struct process_fd fds[FDS_MAX];
	struct process_spawn spawn = {
		.argv = start->command->argv, .program = start->program, .fds = fds, .new_session = true,
	};
	int pair[2];

	if (listener < 0)
		return -1;
	if (start->n_fds + 2 > FDS_MAX)
		return error_set(err, ERR_INTERNAL, "too many descriptors for the holder");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_errno(err, errno, "cannot make a socket for the holder");
	mine = pair[0];
	theirs = pair[1];
	fds[spawn.n_fds++] = (struct process_fd){ theirs, SHIM_FD_CONNECTION };
	fds[spawn.n_fds++] = (struct process_fd){ listener, SHIM_FD_LISTEN };
	for (size_t i = 0; i < start->n_fds; i++)
		fds[spawn.n_fds++] = start->fds[i];
	if (process_spawn(&spawn, ret_pid, NULL, err) < 0)
		return -1;
	*ret_fd = steal_fd(&mine);
	return 0;
}

/* The holder may be so young that it has no pid file, by which holder_kill() would find it. At the end of the connection it is
 * gone, or has one. */
static void abandon(int fd)
{
	struct shim_message ignored;

	shutdown(fd, SHUT_WR);
	while (await_message(fd, -1, HOLDER_KILL_TIMEOUT_MS, &ignored, NULL) > 0)
		;
}

int holder_run(const struct holder_start *start, struct driver_instance *ret, struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct shim_message message;
	pid_t pid;
	int r;

	if (start->command->failed)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "too many layers or volumes");
	if (spawn(start, &fd, &pid, err) < 0)
		return -1;
	if (start->handed_over)
		close(steal_fd(start->handed_over));
	r = start->prepare ? start->prepare(start->arg, err) : 0;
	/* The process that was started is gone by now; the holder is its child and nobody's. */
	process_wait(pid);
	if (r < 0) {
		abandon(fd);
		return -1;
	}
	/* If the holder has failed meanwhile, it has said why. */
	(void)shim_send(fd, SHIM_START, NULL, 0);
	if (await_hello(fd, start->driver->leaving, start->timeout_ms, &message, err) <= 0)
		return -1;
	instance_running(ret, &message, &fd);
	return 0;
}

/* ---- the end ---- */

int holder_kill(int dirfd, struct error *err)
{
	pid_t pid = 0;
	_cleanup_close_ int pidfd = shim_pid_open(dirfd, &pid);
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	int n;

	if (pidfd < 0)
		return 0;
	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	do {
		n = poll(&p, 1, HOLDER_KILL_TIMEOUT_MS);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		return 0;
	return error_set(err, ERR_DEADLINE_EXCEEDED, "its holder (pid %d) does not end although it was killed", (int)pid);
}

/* ---- what there is ---- */

static void instance_ended(struct driver_instance *i, const struct shim_result *r)
{
	*i = (struct driver_instance){
		.generation = r->generation,
		.started_at_ns = r->started_at_ns,
		.shim_fd = -1,
		.ended = true,
		.exit_code = r->exit_code,
		.oom_killed = r->oom_killed,
		.stopped = r->stopped,
		.finished_at_ns = r->finished_at_ns,
	};
	snprintf(i->reason, sizeof i->reason, "%s", r->reason);
}

int holder_find(const struct driver *driver, const struct places *p, const char *name, const char *begun, bool patient,
		struct driver_instance *ret, struct error *err)
{
	int leaving = ((const struct driver_common *)driver)->leaving;
	_cleanup_close_ int dirfd = -1, fd = -1;
	struct shim_result result = { .exit_code = 255 };
	_cleanup_error_ struct error why = ERROR_INIT;
	struct shim_message message;
	int hello = -1;

	dirfd = open(p->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0 && !cgroup_exists(p->cgroup)) {
		*ret = (struct driver_instance){ .shim_fd = -1 };
		return 0;
	}
	if (dirfd >= 0)
		fd = holder_connect(dirfd);
	if (fd >= 0)
		hello = await_hello(fd, leaving, patient ? PATIENCE_MS : IMPATIENCE_MS, &message, &why);
	if (hello > 0) {
		instance_running(ret, &message, &fd);
		return 0;
	}
	if (why.code == ERR_CANCELLED)
		return error_set(err, ERR_CANCELLED, "%s", error_message(&why));
	if (why.code == ERR_DEADLINE_EXCEEDED && !patient) {
		*ret = (struct driver_instance){ .shim_fd = -1, .starting = true };
		return 0;
	}
	if (dirfd >= 0 && shim_result_read(dirfd, &result) == 1) {
		instance_ended(ret, &result);
		return 0;
	}
	/* The holder was killed, or failed with nobody to tell. Without it the workload's output goes nowhere and its end
	 * would be seen by nobody, so it does not go on. */
	if ((dirfd >= 0 && holder_kill(dirfd, err) < 0) || cgroup_kill(p->cgroup, HOLDER_KILL_TIMEOUT_MS, err) < 0)
		return error_wrap(err, "cannot take up %s", name);
	if (hello == 0 || access(begun, F_OK) < 0)
		*ret = (struct driver_instance){ .shim_fd = -1 };
	else
		instance_ended(ret, &result);
	return 0;
}

/* ---- further processes ---- */

int holder_connect_process(int dirfd, struct driver_process *process, struct error *err)
{
	process->control_fd = holder_connect(dirfd);
	if (process->control_fd < 0)
		return error_set(err, ERR_FAILED_PRECONDITION, "its shim does not answer; it may be ending");
	return 0;
}

/* ---- volumes that are held still ---- */

/* The holder's answer, which is of this type or SHIM_HOLD_ENDED. 0, or -1. */
static int await_hold(int fd, enum shim_type type, int timeout_ms, struct shim_message *ret, struct error *err)
{
	int r;

	do {
		r = await_message(fd, -1, timeout_ms, ret, err);
	} while (r > 0 && (ret->type == SHIM_VOLUME_FAILED || ret->type == SHIM_ENDING));
	if (r < 0)
		return -1;
	if (r > 0 && ret->type == SHIM_UNSUPPORTED)
		return error_set(err, ERR_UNIMPLEMENTED, "its machine was started by an older version; restart the workload");
	if (r > 0 && ret->type == type)
		return 0;
	if (r > 0 && ret->type == SHIM_HOLD_ENDED)
		return error_set(err, ret->body.hold_ended.code > 0 ? (enum error_code)ret->body.hold_ended.code : ERR_INTERNAL, "%s",
				 ret->body.hold_ended.text);
	return error_set(err, ERR_UNAVAILABLE, "its machine is ending; try again");
}

static int hold(int fd, const char *volume, struct error *err)
{
	struct shim_hold request = { .seconds = FREEZE_SECONDS_MAX };
	_cleanup_error_ struct error why = ERROR_INIT;
	struct shim_message m;
	int r;

	if (await_hello(fd, -1, IMPATIENCE_MS, &m, &why) <= 0)
		return error_set(err, ERR_UNAVAILABLE, "its machine is %s; try again",
				 why.code == ERR_DEADLINE_EXCEEDED ? "starting" : "ending");
	snprintf(request.volume, sizeof request.volume, "%s", volume);
	r = shim_send(fd, SHIM_HOLD, &request, sizeof request);
	if (r < 0)
		return error_errno(err, -r, "cannot ask its machine");
	return await_hold(fd, SHIM_HELD, HOLD_TIMEOUT_MS, &m, err);
}

int holder_hold(int dirfd, const char *volume, const char *what, int *ret_fd, struct error *err)
{
	_cleanup_close_ int fd = holder_connect(dirfd);

	if (fd < 0)
		return error_set(err, ERR_UNAVAILABLE, "cannot hold %s still: its machine is ending; try again", what);
	if (hold(fd, volume, err) < 0)
		return error_wrap(err, "cannot hold %s still", what);
	*ret_fd = steal_fd(&fd);
	return 0;
}

int holder_let_go(int *hold_fd, const char *what, struct error *err)
{
	_cleanup_close_ int fd = steal_fd(hold_fd);
	_cleanup_error_ struct error why = ERROR_INIT;
	struct shim_message m;

	(void)shim_send(fd, SHIM_LET_GO, NULL, 0);
	if (await_hold(fd, SHIM_HOLD_ENDED, LET_GO_TIMEOUT_MS, &m, &why) == 0 && m.body.hold_ended.code == ERR_OK)
		return 0;
	if (why.code == ERR_OK && m.body.hold_ended.code == ERR_DEADLINE_EXCEEDED)
		return freeze_too_late(what, err);
	return error_set(err, ERR_ABORTED, "%s was not held still: %s; try again", what,
			 why.code == ERR_OK ? m.body.hold_ended.text : error_message(&why));
}
