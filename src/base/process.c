/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/process.h"

#include "base/buf.h"
#include "base/timeutil.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define OUTPUT_MAX_DEFAULT (64u << 10)
#define FDS_MAX 32
#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

extern char **environ;

/* Between vfork() and exec only async-signal-safe calls on memory that was prepared before. */
struct child {
	const struct process_spawn *spawn;
	int fds[FDS_MAX]; /* duplicates above every target, so that no dup2() overwrites a source */
	int null_fd;
	volatile int exec_errno;
};

static void child_fail(struct child *c)
{
	c->exec_errno = errno;
	_exit(127);
}

void process_reset_signals(void)
{
	sigset_t empty;

	for (int sig = 1; sig < NSIG; sig++) {
		struct sigaction sa;

		if (sigaction(sig, NULL, &sa) == 0 && sa.sa_handler != SIG_DFL && sig != SIGKILL && sig != SIGSTOP) {
			memset(&sa, 0, sizeof sa);
			sa.sa_handler = SIG_DFL;
			(void)sigaction(sig, &sa, NULL);
		}
	}
	sigemptyset(&empty);
	sigprocmask(SIG_SETMASK, &empty, NULL);
}

static void child_main(struct child *c)
{
	const struct process_spawn *s = c->spawn;

	process_reset_signals();
	if (s->new_session)
		setsid();
	if (s->dir && chdir(s->dir) < 0)
		child_fail(c);
	for (int target = 0; target <= 2; target++)
		if (dup2(c->null_fd, target) < 0)
			child_fail(c);
	for (size_t i = 0; i < s->n_fds; i++)
		if (dup2(c->fds[i], s->fds[i].target) < 0)
			child_fail(c);
	execvpe(s->program ? s->program : s->argv[0], (char *const *)(uintptr_t)s->argv,
		s->env ? (char *const *)(uintptr_t)s->env : environ);
	child_fail(c);
}

/* vfork() shares the caller's stack frame: nothing here may be live across it but what child_main() reads. */
static __attribute__((noinline)) pid_t child_start(struct child *c)
{
	pid_t pid = vfork();

	if (pid == 0)
		child_main(c);
	return pid;
}

int process_spawn(const struct process_spawn *spawn, pid_t *ret_pid, int *ret_pidfd, struct error *err)
{
	struct child c = { .spawn = spawn, .null_fd = -1 };
	sigset_t all, old;
	int top = 3, r = 0, pidfd = -1;
	pid_t pid = -1;

	if (spawn->n_fds > FDS_MAX)
		return error_set(err, ERR_INTERNAL, "cannot run %s: too many file descriptors", spawn->argv[0]);
	for (size_t i = 0; i < spawn->n_fds; i++) {
		c.fds[i] = -1;
		if (spawn->fds[i].target >= top)
			top = spawn->fds[i].target + 1;
	}
	c.null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (c.null_fd >= 0 && c.null_fd < top) {
		int high = fcntl(c.null_fd, F_DUPFD_CLOEXEC, top);

		close(c.null_fd);
		c.null_fd = high;
	}
	if (c.null_fd < 0)
		r = -errno;
	for (size_t i = 0; r == 0 && i < spawn->n_fds; i++) {
		c.fds[i] = fcntl(spawn->fds[i].fd, F_DUPFD_CLOEXEC, top);
		if (c.fds[i] < 0)
			r = -errno;
	}
	if (r == 0) {
		/* No handler of ours may run in the child while it shares our memory. */
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		pid = child_start(&c);
		r = pid < 0 ? -errno : 0;
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	for (size_t i = 0; i < spawn->n_fds; i++)
		cleanup_closep(&c.fds[i]);
	cleanup_closep(&c.null_fd);
	if (r < 0)
		return error_errno(err, -r, "cannot run %s", spawn->argv[0]);
	if (c.exec_errno) {
		process_wait(pid);
		return error_errno(err, c.exec_errno, "cannot run %s", spawn->argv[0]);
	}
	if (ret_pidfd) {
		pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		if (pidfd < 0) {
			r = errno;
			kill(pid, SIGKILL);
			process_wait(pid);
			return error_errno(err, r, "cannot watch %s", spawn->argv[0]);
		}
		fcntl(pidfd, F_SETFD, FD_CLOEXEC);
		*ret_pidfd = pidfd;
	}
	*ret_pid = pid;
	return 0;
}

int process_wait(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void process_result_release(struct process_result *r)
{
	free(r->output);
	r->output = NULL;
	r->output_len = 0;
}

/* Reads from the pipe until its end or until the process is gone and the pipe is empty. -ETIMEDOUT at the deadline. */
static int collect(int fd, int pidfd, int64_t deadline, struct buf *out)
{
	bool exited = false, eof = false;

	while (!(exited && eof)) {
		struct pollfd p[2] = { { .fd = eof ? -1 : fd, .events = POLLIN }, { .fd = exited ? -1 : pidfd, .events = POLLIN } };
		int64_t left = (deadline - time_monotonic_ns() + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;
		char chunk[8192];
		ssize_t n;

		if (left <= 0)
			return -ETIMEDOUT;
		/* Once the command is gone only what is in the pipe counts: a grandchild may keep it open. */
		n = poll(p, 2, exited ? 0 : left > 1 << 30 ? 1 << 30 : (int)left);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0 && exited)
			return 0;
		if (n <= 0)
			continue;
		if (p[1].revents)
			exited = true;
		if (!p[0].revents)
			continue;
		n = read(fd, chunk, sizeof chunk);
		if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
			eof = true;
		else if (n > 0)
			(void)buf_add(out, chunk, (size_t)n > out->max - out->len ? out->max - out->len : (size_t)n);
	}
	return 0;
}

int process_run(const struct process_run *run, struct process_result *ret, struct error *err)
{
	_cleanup_buf_ struct buf out = BUF_INIT(run->output_max ? run->output_max : OUTPUT_MAX_DEFAULT);
	_cleanup_close_ int rd = -1, wr = -1, pidfd = -1;
	struct process_fd fds[FDS_MAX];
	struct process_spawn spawn = run->spawn;
	int64_t deadline = time_monotonic_ns() + run->timeout_ms * NSEC_PER_MSEC;
	int pipe_fds[2], r, code;
	size_t n = 0;
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return error_errno(err, errno, "cannot run %s", spawn.argv[0]);
	rd = pipe_fds[0];
	wr = pipe_fds[1];
	fds[n++] = (struct process_fd){ wr, STDOUT_FILENO };
	fds[n++] = (struct process_fd){ wr, STDERR_FILENO };
	for (size_t i = 0; i < spawn.n_fds && n < FDS_MAX; i++)
		fds[n++] = spawn.fds[i];
	spawn.fds = fds;
	spawn.n_fds = n;
	if (process_spawn(&spawn, &pid, &pidfd, err) < 0)
		return -1;
	close(steal_fd(&wr));
	r = collect(rd, pidfd, deadline, &out);
	if (r == -ETIMEDOUT && run->patience_ms) {
		kill(pid, SIGTERM);
		(void)collect(rd, pidfd, deadline + run->patience_ms * NSEC_PER_MSEC, &out);
	}
	/* Of one that has ended it is the zombie's. */
	if (r < 0)
		kill(pid, SIGKILL);
	code = process_wait(pid);
	if (r == -ETIMEDOUT)
		return error_set(err, ERR_DEADLINE_EXCEEDED, "%s did not end within %lld s and was killed", spawn.argv[0],
				 (long long)(run->timeout_ms / 1000));
	if (r < 0)
		return error_errno(err, -r, "cannot read from %s", spawn.argv[0]);
	ret->exit_code = code < 0 ? 255 : code;
	ret->output_len = out.len;
	ret->output = buf_steal(&out);
	return ret->output ? 0 : error_errno(err, ENOMEM, "cannot run %s", spawn.argv[0]);
}

/* The last line that holds something, without its newline; edits the text. */
static const char *last_line(char *text)
{
	size_t len = strlen(text);
	char *line;

	while (len && (text[len - 1] == '\n' || text[len - 1] == ' ' || text[len - 1] == '\r'))
		text[--len] = '\0';
	line = strrchr(text, '\n');
	return line ? line + 1 : text;
}

int process_run_ok(const char *const *argv, int64_t timeout_ms, struct error *err)
{
	_cleanup_process_result_ struct process_result result = { 0 };
	struct process_run run = { .spawn = { .argv = argv }, .timeout_ms = timeout_ms };
	const char *line;

	if (process_run(&run, &result, err) < 0)
		return -1;
	if (result.exit_code == 0)
		return 0;
	line = last_line(result.output);
	return error_set(err, ERR_INTERNAL, "%s failed with exit code %d%s%s", argv[0], result.exit_code, *line ? ": " : "",
			 line);
}

char *process_find(const char *name)
{
	const char *path = getenv("PATH");

	if (strchr(name, '/'))
		return access(name, X_OK) == 0 ? realpath(name, NULL) : NULL;
	if (!path || !*path)
		path = PATH_DEFAULT;
	while (*path) {
		size_t len = strcspn(path, ":");
		char *candidate = NULL;

		if (*path == '/' && asprintf(&candidate, "%.*s/%s", (int)len, path, name) < 0)
			return NULL;
		if (candidate && access(candidate, X_OK) == 0)
			return candidate;
		free(candidate);
		path += len + (path[len] == ':');
	}
	return NULL;
}
