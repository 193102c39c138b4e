/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * From a copy of the shim to a process of the container, in the order that the kernel demands: descriptors, cgroup (its files
 * are the host's), namespaces, terminal, identity, system call filter, execve.
 *
 * The container can see this process before it has executed the command, as one of root with all capabilities. It is not
 * dumpable, so nobody without CAP_SYS_PTRACE looks into it, and it closes every descriptor of the shim's before it touches
 * a path that the container or the user of the API chose.
 */
#include "shim/exec.h"

#include "base/process.h"
#include "shim/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define REPORT_FD 3
#define PIDFD 4
#define SPEC_MAX (8u << 20)
#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
/* As shells have it. */
#define EXIT_NOT_EXECUTABLE 126
#define EXIT_NOT_FOUND 127

struct child {
	const struct shim *shim;
	int report;
	struct shim_exec_spec spec;
	const gid_t *groups;
	const struct sock_filter *filter;
	const char *dir;
	char **args, **env; /* with a NULL at the end */
};

/* exit_code: see struct shim_exec_failed. */
static _Noreturn void __attribute__((format(printf, 3, 4))) fail(const struct child *c, int exit_code, const char *fmt, ...)
{
	struct shim_exec_failed failed = { .exit_code = exit_code };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(failed.text, sizeof failed.text, fmt, ap);
	va_end(ap);
	(void)shim_send(c->report, SHIM_EXEC_FAILED, &failed, sizeof failed.exit_code + strlen(failed.text));
	_exit(EXIT_NOT_FOUND);
}

static _Noreturn void fail_errno(const struct child *c, const char *what)
{
	fail(c, 0, "cannot %s: %s", what, strerror(errno));
}

/* ---- the spec ---- */

/* What was not read yet of the memory file. */
struct rest {
	char *at;
	size_t left;
};

static void *take(const struct child *c, struct rest *rest, size_t n, size_t size)
{
	void *at = rest->at;

	if (n > rest->left / size)
		fail(c, 0, "the description of the process is cut short");
	rest->at += n * size;
	rest->left -= n * size;
	return at;
}

static char *take_string(const struct child *c, struct rest *rest)
{
	return take(c, rest, strnlen(rest->at, rest->left) + 1, 1);
}

static char **take_strings(const struct child *c, struct rest *rest, size_t n)
{
	char **list = n <= rest->left ? calloc(n + 1, sizeof *list) : NULL;

	if (!list)
		fail(c, 0, "the description of the process is cut short");
	for (size_t i = 0; i < n; i++)
		list[i] = take_string(c, rest);
	return list;
}

static void load_spec(struct child *c, int fd)
{
	struct stat st;
	struct rest rest;
	uint32_t size;

	if (fstat(fd, &st) < 0 || st.st_size < (off_t)sizeof size || st.st_size > SPEC_MAX)
		fail(c, 0, "the description of the process cannot be read");
	rest.left = (size_t)st.st_size;
	rest.at = mmap(NULL, rest.left, PROT_READ, MAP_PRIVATE, fd, 0);
	if (rest.at == MAP_FAILED)
		fail_errno(c, "read the description of the process");
	memcpy(&size, rest.at, sizeof size);
	memcpy(&c->spec, take(c, &rest, size, 1), size < sizeof c->spec ? size : sizeof c->spec);
	c->groups = take(c, &rest, c->spec.n_groups, sizeof *c->groups);
	c->filter = take(c, &rest, c->spec.n_filter, sizeof *c->filter);
	c->dir = take_string(c, &rest);
	c->args = take_strings(c, &rest, c->spec.n_args);
	c->env = take_strings(c, &rest, c->spec.n_env);
	if (!c->args[0])
		fail(c, 0, "there is no command");
}

/* ---- into the container ---- */

/* The standard streams, the report, the first process's pidfd, and nothing else: a child that hangs later holds nothing of the
 * shim's. fds: stdin, stdout, stderr; NULL: none yet. */
static void keep_descriptors(struct child *c, const int *fds)
{
	/* Out of the way of each other first. */
	int report = fcntl(c->report, F_DUPFD, PIDFD + 1), pidfd = fcntl(c->shim->pidfd, F_DUPFD, PIDFD + 1);

	for (int i = 0; fds && i < 3; i++)
		if (dup2(fds[i], i) < 0)
			fail_errno(c, "set the standard streams");
	if (report < 0 || pidfd < 0 || dup3(report, REPORT_FD, O_CLOEXEC) < 0 || dup3(pidfd, PIDFD, O_CLOEXEC) < 0 ||
	    close_range(PIDFD + 1, ~0u, 0) < 0)
		fail_errno(c, "arrange the descriptors");
	c->report = REPORT_FD;
}

/* The shim works with a few of the capabilities that it has; entering the container takes more. */
static void set_capabilities(const struct child *c, uint64_t permitted)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (syscall(SYS_capget, &header, data) < 0)
		fail_errno(c, "read the capabilities");
	for (unsigned i = 0; i < 2; i++) {
		data[i].permitted &= (uint32_t)(permitted >> 32 * i);
		data[i].effective = data[i].permitted;
		data[i].inheritable = 0;
	}
	if (syscall(SYS_capset, &header, data) < 0)
		fail_errno(c, "set the capabilities");
}

static void enter_container(const struct child *c)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (cgroup_join(c->shim->options->cgroup, c->shim->pid, &err) < 0)
		fail(c, 0, "%s", error_message(&err));
	/* The pid namespace is that of the shim's children; the network the shim's own. */
	if (setns(PIDFD, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP | CLONE_NEWNET) < 0)
		fail_errno(c, "enter the workload, which may be ending");
	close(PIDFD);
	/* Keys of whoever started the daemon are not for the workload. */
	(void)syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL);
}

/* From the container's own devpts, so that the terminal has a name there. Neither the node nor what it stands for is trusted:
 * the calls fail on anything but a terminal. */
static void open_terminal(const struct child *c, const struct shim_exec *request)
{
	struct winsize size = { .ws_col = request->columns, .ws_row = request->rows };
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC), slave, unlock = 0;
	struct shim_exec_started started = { 0 };

	if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock) < 0)
		fail_errno(c, "open a terminal on the workload's /dev/ptmx");
	slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	if (slave < 0 || (size.ws_col && size.ws_row && ioctl(slave, TIOCSWINSZ, &size) < 0))
		fail_errno(c, "open a terminal");
	for (int fd = 0; fd < 3; fd++)
		if (dup2(slave, fd) < 0)
			fail_errno(c, "set the standard streams");
	close(slave);
	if (ioctl(STDIN_FILENO, TIOCSCTTY, 0) < 0)
		fail_errno(c, "take over the terminal");
	if (shim_send_fds(c->report, SHIM_EXEC_STARTED, &started, sizeof started, &master, 1) < 0)
		fail_errno(c, "hand over the terminal");
	close(master);
}

/* ---- identity ---- */

static void drop_bounding(const struct child *c)
{
	for (unsigned cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(c->spec.bounding >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			fail_errno(c, "drop capabilities");
}

/* Terminal and pipes belong to whom they are for, who may then open /dev/stdout. Others' files stay theirs. */
static void own_streams(const struct child *c)
{
	struct stat st;

	for (int fd = 0; fd < 3; fd++)
		if (fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || isatty(fd)))
			(void)!fchown(fd, c->spec.uid, (gid_t)-1);
}

static void become_user(const struct child *c)
{
	own_streams(c);
	/* As root: the working directory of an image may be closed to the user that was asked for. */
	if (chdir(c->dir) < 0)
		fail(c, EXIT_NOT_EXECUTABLE, "cannot change to the directory %s: %s", c->dir, strerror(errno));
	drop_bounding(c);
	if (setgroups(c->spec.n_groups, c->groups) < 0 || setresgid(c->spec.gid, c->spec.gid, c->spec.gid) < 0 ||
	    setresuid(c->spec.uid, c->spec.uid, c->spec.uid) < 0)
		fail_errno(c, "become the user");
	/* Another user than root has none left. */
	set_capabilities(c, c->spec.permitted);
}

static void confine(const struct child *c)
{
	struct sock_fprog program = { (unsigned short)c->spec.n_filter, (struct sock_filter *)(uintptr_t)c->filter };

	if (c->spec.no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail_errno(c, "give up new privileges");
	if (c->spec.n_filter && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0)
		fail_errno(c, "set the system call filter");
}

/* ---- the command ---- */

static const char *search_path(char *const *env)
{
	const char *path = PATH_DEFAULT;

	for (; *env; env++)
		if (!strncmp(*env, "PATH=", 5))
			path = *env + 5;
	return path;
}

static _Noreturn void fail_execute(const struct child *c, const char *path, int errnum)
{
	const char *why = strerror(errnum);

	if ((errnum == ENOENT || errnum == ENOTDIR) && access(path, F_OK) < 0)
		fail(c, EXIT_NOT_FOUND, "%s: not found in the workload", c->args[0]);
	if (errnum == ENOENT)
		why = "its interpreter or dynamic loader is not in the workload";
	else if (errnum == ENOEXEC)
		why = "not a program for this machine";
	else if (errnum == EACCES)
		why = "permission denied: it is not executable for the user";
	fail(c, EXIT_NOT_EXECUTABLE, "%s: %s", c->args[0], why);
}

/* As execvp(3) does it, in the container's PATH; but what is no program is not given to a shell. */
static _Noreturn void execute(const struct child *c)
{
	const char *name = c->args[0], *path = search_path(c->env);
	char candidate[PATH_MAX];
	bool denied = false;

	if (strchr(name, '/')) {
		execve(name, c->args, c->env);
		fail_execute(c, name, errno);
	}
	for (bool more = *name; more;) {
		size_t len = strcspn(path, ":");

		more = path[len];
		if ((size_t)snprintf(candidate, sizeof candidate, "%.*s/%s", len ? (int)len : 1, len ? path : ".", name) <
		    sizeof candidate) {
			execve(candidate, c->args, c->env);
			if (errno == EACCES)
				denied = true;
			else if (access(candidate, F_OK) == 0)
				fail_execute(c, candidate, errno);
		}
		path += len + more;
	}
	if (denied)
		fail_execute(c, candidate, EACCES);
	fail(c, EXIT_NOT_FOUND, "%s: not found in the workload", name);
}

_Noreturn void exec_child(const struct shim *shim, const struct shim_exec *request, const int *fds, int report)
{
	static struct child c;

	c.shim = shim;
	c.report = report;
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	load_spec(&c, fds[0]);
	keep_descriptors(&c, request->terminal ? NULL : fds + 1);
	set_capabilities(&c, UINT64_MAX);
	enter_container(&c);
	setsid();
	if (request->terminal)
		open_terminal(&c, request);
	become_user(&c);
	process_reset_signals();
	confine(&c);
	execute(&c);
}
