/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/exec.h"

#include "base/fs.h"
#include "base/timeutil.h"
#include "shim/cgroup.h"
#include "shim/holder.h"
#include "volume/error_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

/* After everything was killed: how long to wait for processes that do not die (stuck in the kernel). */
#define DEATH_TIMEOUT_MS 10000

enum source { SOURCE_SIGNAL, SOURCE_TIMER, SOURCE_LISTEN, SOURCE_STDOUT, SOURCE_STDERR, SOURCE_CONNECTION, SOURCE_REPORT,
	      SOURCE_VOLUME };

struct connection {
	int fd; /* -1: closed; the slot is free when its process is gone too */
	struct exec exec;
};

struct server {
	struct shim *shim;
	int epoll_fd, signal_fd, timer_fd;
	struct connection connections[HOLDER_CONNECTIONS_MAX];
	unsigned n_execs;
	struct {
		int watch; /* -1: nothing is to be told any more */
		bool failed;
	} volumes[SHIM_VOLUMES_MAX]; /* as in the options */
	bool running;       /* the first process has not been reaped */
	bool stopping;      /* a stop was asked for */
	bool childless;     /* no process of the workload is left: as subreaper the shim is parent of each orphan */
	bool over;
	int64_t kill_at_ns; /* monotonic; 0: no stop under way */
	int64_t give_up_at_ns;
};

static int watch(struct server *s, int fd, enum source source, unsigned index)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = (uint64_t)source << 32 | index };

	return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void arm_timer(struct server *s)
{
	int64_t at = s->give_up_at_ns ? s->give_up_at_ns : s->kill_at_ns;
	struct itimerspec spec = { .it_value = { at / NSEC_PER_SEC, at % NSEC_PER_SEC } };

	timerfd_settime(s->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void drop_connection(struct server *s, unsigned i)
{
	struct connection *c = &s->connections[i];

	/* A process does not outlive whom it was started for. */
	if (c->exec.pid)
		exec_kill(&c->exec, s->shim);
	epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
	close(steal_fd(&c->fd));
}

static void tell_volume_failed(const struct server *s, unsigned volume, int fd)
{
	struct shim_volume_failed failed = { 0 };

	snprintf(failed.volume, sizeof failed.volume, "%s", s->shim->options->volumes[volume].name);
	(void)shim_send(fd, SHIM_VOLUME_FAILED, &failed, sizeof failed);
}

static void add_connection(struct server *s, int fd)
{
	struct shim_hello hello = {
		.generation = s->shim->result.generation,
		.started_at_ns = s->shim->result.started_at_ns,
		.pid = s->shim->pid,
	};

	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++) {
		struct connection *c = &s->connections[i];

		if (c->fd >= 0 || c->exec.pid)
			continue;
		if (shim_send(fd, SHIM_HELLO, &hello, sizeof hello) < 0 || watch(s, fd, SOURCE_CONNECTION, i) < 0)
			break;
		c->fd = fd;
		for (unsigned v = 0; v < s->shim->options->n_volumes; v++)
			if (s->volumes[v].failed)
				tell_volume_failed(s, v, fd);
		return;
	}
	close(fd);
}

static void on_connect(struct server *s)
{
	int fd = accept4(SHIM_FD_LISTEN, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		add_connection(s, fd);
}

/* ---- the end ---- */

static void send_signal(struct server *s, int sig)
{
	/* Not reaped, so the pid still is this process. */
	if (s->running)
		kill(s->shim->pid, sig);
}

static void check_over(struct server *s)
{
	if (s->running)
		return;
	/* A workload with a pid namespace of its own died as a whole with its first process. One that shares the host's
	 * is hunted down through its cgroup; each death of an orphan wakes us, so nothing is polled. */
	if (!s->childless) {
		(void)cgroup_kill_once(s->shim->options->cgroup);
		return;
	}
	/* Whoever is left is no descendant: something that was put into the cgroup from outside. */
	(void)cgroup_kill(s->shim->options->cgroup, DEATH_TIMEOUT_MS, NULL);
	s->over = true;
}

static int exit_code_of(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void on_first_process_ended(struct server *s, int status)
{
	struct shim_result *r = &s->shim->result;

	s->running = false;
	r->finished_at_ns = time_realtime_ns();
	r->exit_code = exit_code_of(status);
	r->stopped = s->stopping;
	r->oom_killed = !s->stopping && r->exit_code != 0 && cgroup_oom_killed(s->shim->options->cgroup);
	s->give_up_at_ns = time_monotonic_ns() + DEATH_TIMEOUT_MS * NSEC_PER_MSEC;
	arm_timer(s);
	/* Most are dead with their pid namespace. One that is on its way into the workload is in no cgroup yet. */
	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++)
		if (s->connections[i].exec.pid)
			kill(s->connections[i].exec.pid, SIGKILL);
}

static void on_child_ended(struct server *s, pid_t pid, int status)
{
	if (pid == s->shim->pid && s->running) {
		on_first_process_ended(s, status);
		return;
	}
	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++) {
		struct connection *c = &s->connections[i];

		if (c->exec.pid != pid)
			continue;
		exec_ended(&c->exec, c->fd, exit_code_of(status));
		s->n_execs--;
		return;
	}
}

static void reap(struct server *s)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		on_child_ended(s, pid, status);
	s->childless = pid < 0 && errno == ECHILD;
	check_over(s);
}

static void stop(struct server *s, int sig, int64_t grace_ms)
{
	int64_t now = time_monotonic_ns(), at = now + (grace_ms > 0 ? grace_ms : 0) * NSEC_PER_MSEC;

	if (!s->running)
		return;
	if (!s->stopping && grace_ms > 0)
		send_signal(s, sig);
	s->stopping = true;
	if (grace_ms <= 0)
		send_signal(s, SIGKILL);
	if (!s->kill_at_ns || at < s->kill_at_ns) {
		s->kill_at_ns = at;
		arm_timer(s);
	}
}

static void on_timer(struct server *s)
{
	uint64_t expirations;

	(void)!read(s->timer_fd, &expirations, sizeof expirations);
	if (s->running) {
		send_signal(s, SIGKILL);
		/* Also what the signal does not reach: a first process that is frozen. */
		(void)cgroup_kill_once(s->shim->options->cgroup);
	} else {
		s->over = true;
	}
}

static void on_signal(struct server *s)
{
	struct signalfd_siginfo info;

	while (read(s->signal_fd, &info, sizeof info) == sizeof info) {
		if (info.ssi_signo == SIGCHLD)
			reap(s);
		else if (info.ssi_signo == SIGTERM)
			stop(s, s->shim->options->stop_signal, s->shim->options->grace_ms);
		/* SIGHUP and SIGINT are those of a terminal that the daemon was started from: no business of ours. */
	}
}

/* ---- messages ---- */

static void on_exec(struct server *s, unsigned i, const struct shim_exec *request, const int *fds, size_t n_fds)
{
	struct connection *c = &s->connections[i];
	_cleanup_error_ struct error err = ERROR_INIT;

	if (!s->running)
		error_set(&err, ERR_FAILED_PRECONDITION, "the workload is ending");
	else if (s->n_execs == HOLDER_EXECS_MAX)
		error_set(&err, ERR_RESOURCE_EXHAUSTED, "%d processes were started in it already", HOLDER_EXECS_MAX);
	else if (c->exec.pid)
		error_set(&err, ERR_FAILED_PRECONDITION, "there is a process on this connection already");
	else if (exec_begin(&c->exec, s->shim, request, fds, n_fds, &err) == 0) {
		s->n_execs++;
		/* Unwatched, the report is taken when the process ends. */
		(void)watch(s, c->exec.report_fd, SOURCE_REPORT, i);
		return;
	}
	holder_refuse_exec(c->fd, 0, error_message(&err));
}

static void on_message(struct server *s, unsigned i)
{
	struct shim_unsupported unsupported;
	struct shim_message m;
	int fds[SHIM_FDS_MAX];
	size_t n_fds;
	int r = shim_receive_fds(s->connections[i].fd, &m, fds, &n_fds);

	if (r == -EAGAIN)
		return;
	if (r <= 0) {
		drop_connection(s, i);
		return;
	}
	switch (m.type) {
	case SHIM_STOP:
		if (m.body.stop.signal >= 0 && m.body.stop.signal < NSIG && m.body.stop.grace_ms <= INT64_C(1) << 40)
			stop(s, m.body.stop.signal ? m.body.stop.signal : s->shim->options->stop_signal,
			     m.body.stop.grace_ms);
		break;
	case SHIM_EXEC:
		on_exec(s, i, &m.body.exec, fds, n_fds);
		break;
	default:
		unsupported.type = m.type;
		if (shim_send(s->connections[i].fd, SHIM_UNSUPPORTED, &unsupported, sizeof unsupported) < 0)
			drop_connection(s, i);
	}
	shim_close_fds(fds, n_fds);
}

/* ---- volumes ---- */

static void watch_volumes(struct server *s)
{
	const struct shim_options *o = s->shim->options;

	for (unsigned i = 0; i < o->n_volumes; i++) {
		_cleanup_free_ char *path = fs_path("%s/volumes/%s", o->run_dir, o->volumes[i].name);

		s->volumes[i].watch = path && !o->volumes[i].read_only ? error_watch_open(path) : -1;
		if (s->volumes[i].watch >= 0)
			(void)watch(s, s->volumes[i].watch, SOURCE_VOLUME, i);
	}
}

/* Once: nothing that comes later says more. */
static void on_volume_failed(struct server *s, unsigned i)
{
	s->volumes[i].failed = true;
	close(steal_fd(&s->volumes[i].watch));
	for (unsigned c = 0; c < HOLDER_CONNECTIONS_MAX; c++)
		if (s->connections[c].fd >= 0)
			tell_volume_failed(s, i, s->connections[c].fd);
}

/* ---- output ---- */

/* False at the end of the pipe or when it is empty. */
static bool copy_output(struct server *s, enum log_stream stream)
{
	static char data[LOG_WRITER_READ_MAX];
	int *fd = stream == LOG_STDOUT ? &s->shim->out_fd : &s->shim->err_fd;
	ssize_t n = *fd < 0 ? 0 : read(*fd, data, sizeof data);

	if (n > 0) {
		log_writer_add(&s->shim->log, stream, data, (size_t)n);
		return true;
	}
	if (*fd >= 0 && !(n < 0 && (errno == EAGAIN || errno == EINTR))) {
		epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, *fd, NULL);
		close(steal_fd(fd));
	}
	return false;
}

static void dispatch(struct server *s, const struct epoll_event *event)
{
	unsigned index = (unsigned)event->data.u64;

	switch ((enum source)(event->data.u64 >> 32)) {
	case SOURCE_SIGNAL:
		on_signal(s);
		break;
	case SOURCE_TIMER:
		on_timer(s);
		break;
	case SOURCE_LISTEN:
		on_connect(s);
		break;
	case SOURCE_STDOUT:
		copy_output(s, LOG_STDOUT);
		break;
	case SOURCE_STDERR:
		copy_output(s, LOG_STDERR);
		break;
	case SOURCE_CONNECTION:
		if (s->connections[index].fd >= 0)
			on_message(s, index);
		break;
	case SOURCE_REPORT:
		exec_take_report(&s->connections[index].exec, s->connections[index].fd);
		break;
	case SOURCE_VOLUME:
		if (s->volumes[index].watch >= 0)
			on_volume_failed(s, index);
		break;
	}
}

/* ---- set-up and tear-down ---- */

static int server_init(struct server *s)
{
	sigset_t signals;
	int flags;

	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	s->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	flags = fcntl(SHIM_FD_LISTEN, F_GETFL);
	if (s->epoll_fd < 0 || s->timer_fd < 0 || s->signal_fd < 0 || flags < 0 ||
	    fcntl(SHIM_FD_LISTEN, F_SETFL, flags | O_NONBLOCK) < 0)
		return -1;
	if (watch(s, s->signal_fd, SOURCE_SIGNAL, 0) < 0 || watch(s, s->timer_fd, SOURCE_TIMER, 0) < 0 ||
	    watch(s, SHIM_FD_LISTEN, SOURCE_LISTEN, 0) < 0 || watch(s, s->shim->out_fd, SOURCE_STDOUT, 0) < 0 ||
	    watch(s, s->shim->err_fd, SOURCE_STDERR, 0) < 0)
		return -1;
	return 0;
}

static void finish(struct server *s)
{
	struct shim *shim = s->shim;

	/* What the dead wrote is in the pipes; somebody outside who holds an end must not keep us. */
	while (copy_output(s, LOG_STDOUT) || copy_output(s, LOG_STDERR))
		;
	log_writer_close(&shim->log);
	/* Volumes first, the word second: who hears that the run is over may mount them elsewhere. */
	mounts_release(shim->options);
	(void)shim_result_write(shim->run_fd, &shim->result, NULL);
	on_connect(s);
	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++)
		if (s->connections[i].fd >= 0)
			holder_say_last(s->connections[i].fd, SHIM_EXIT, &shim->result, sizeof shim->result);
}

int serve(struct shim *shim)
{
	static struct server s;
	struct epoll_event events[8];
	bool shrunk = false;

	s.shim = shim;
	s.running = true;
	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++)
		s.connections[i] = (struct connection){ .fd = -1, .exec = EXEC_NONE };
	if (server_init(&s) < 0) {
		/* Without a loop there is nobody to hold the workload. */
		(void)cgroup_kill(shim->options->cgroup, DEATH_TIMEOUT_MS, NULL);
		return 1;
	}
	watch_volumes(&s);
	add_connection(&s, SHIM_FD_CONNECTION);
	/* A signal that came before the signalfd existed is pending and will be read; a child may have ended unseen. */
	reap(&s);
	while (!s.over) {
		/* Once after each burst of work, not a tick: after a quiet second the shim sleeps without a limit. */
		int n = epoll_wait(s.epoll_fd, events, (int)(sizeof events / sizeof events[0]), shrunk ? -1 : HOLDER_QUIET_MS);

		shrunk = n == 0;
		if (shrunk)
			holder_shrink();
		for (int i = 0; i < n; i++)
			dispatch(&s, &events[i]);
	}
	finish(&s);
	return 0;
}
