/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "net/dns.h"

#include "base/buf.h"
#include "base/fs.h"
#include "base/process.h"
#include "net/subnet.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

#define CONF_NAME "capsule-dnsmasq.conf" /* told from other dnsmasq's by this: dns_is_resolver() */
#define CONF_ARG "--conf-file="
#define HOSTS_NAME "hosts"
#define PID_NAME "dnsmasq.pid"
#define HOSTS_MAX (8u << 20)
#define CONF_MAX 16384
#define CMDLINE_MAX 8192
#define START_MS 10000
#define STOP_MS 3000

int dns_init(struct dns *dns, const char *dir, const char *program)
{
	*dns = (struct dns){ .pidfd = -1, .launcher = { 0, -1, -1 } };
	dns->dir = strdup(dir);
	dns->program = strdup(program);
	return dns->dir && dns->program ? 0 : -ENOMEM;
}

static void launcher_forget(struct dns *dns)
{
	cleanup_closep(&dns->launcher.pidfd);
	cleanup_closep(&dns->launcher.output);
	dns->launcher.pid = 0;
	dns->launcher.pidfd = dns->launcher.output = -1;
}

static void pidfd_forget(struct dns *dns)
{
	cleanup_closep(&dns->pidfd);
	dns->pidfd = -1;
}

void dns_release(struct dns *dns)
{
	(void)dns_finish(dns, NULL);
	pidfd_forget(dns);
	free(dns->dir);
	free(dns->program);
	free(dns->obstacle);
	free(dns->hosts);
}

static void set_obstacle(struct dns *dns, char *text)
{
	free(dns->obstacle);
	dns->obstacle = text ? text : strdup("names do not resolve on the bridge: out of memory");
}

/* Where the program is: as given if that is a path, else in PATH and where Debian keeps it. NULL: nowhere. */
static char *find_program(const char *program)
{
	const char *path = getenv("PATH");
	_cleanup_free_ char *dirs = fs_path("%s:/usr/sbin:/sbin", path ? path : "/usr/bin");

	if (strchr(program, '/'))
		return access(program, X_OK) == 0 ? strdup(program) : NULL;
	for (const char *dir = dirs; dir && *dir;) {
		size_t len = strcspn(dir, ":");
		_cleanup_free_ char *full = fs_path("%.*s/%s", (int)len, dir, program);

		if (len && full && access(full, X_OK) == 0)
			return steal_ptr(&full);
		dir += len + (dir[len] == ':');
	}
	return NULL;
}

char *dns_missing(const struct dns *dns)
{
	_cleanup_free_ char *program = find_program(dns->program);

	if (program)
		return NULL;
	return fs_path("names do not resolve on the bridge: %s is not installed; install the package dnsmasq-base",
		       dns->program);
}

/* Processes */

static bool is_alive(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return pidfd >= 0 && poll(&p, 1, 0) == 0;
}

/* Waits for the end; false when it does not come in time. */
static bool wait_end(int pidfd, int timeout_ms)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	int r;

	do
		r = poll(&p, 1, timeout_ms);
	while (r < 0 && errno == EINTR);
	return r > 0;
}

/* Whether the process was started with the argument; all arguments end with a NUL. */
static bool has_argument(const char *pid, bool (*matches)(const char *argument, const void *arg), const void *arg)
{
	_cleanup_free_ char *path = fs_path("/proc/%s/cmdline", pid), *line = NULL;
	size_t len;

	if (!path || fs_read(AT_FDCWD, path, CMDLINE_MAX, &line, &len, NULL) < 0)
		return false;
	for (const char *p = line; p < line + len; p += strlen(p) + 1)
		if (matches(p, arg))
			return true;
	return false;
}

static bool is_conf_argument(const char *argument, const void *path)
{
	return strncmp(argument, CONF_ARG, strlen(CONF_ARG)) == 0 && strcmp(argument + strlen(CONF_ARG), path) == 0;
}

static bool is_any_conf_argument(const char *argument, const void *arg)
{
	size_t len = strlen(argument), tail = strlen("/" CONF_NAME);

	return strncmp(argument, CONF_ARG, strlen(CONF_ARG)) == 0 && len > tail &&
	       strcmp(argument + len - tail, "/" CONF_NAME) == 0;
}

bool dns_is_resolver(const char *pid)
{
	return has_argument(pid, is_any_conf_argument, NULL);
}

/* A pidfd of the resolver that the pid file names, or -1. The descriptor comes first and the look at the process
 * second: if it is ours and the descriptor still tells of life, they are the same process. */
static int find_running(const struct dns *dns)
{
	_cleanup_free_ char *path = fs_path("%s/" PID_NAME, dns->dir), *conf = fs_path("%s/" CONF_NAME, dns->dir);
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int pidfd = -1;
	long pid;

	if (!path || !conf || fs_read(AT_FDCWD, path, 32, &text, NULL, NULL) < 0)
		return -1;
	text[strcspn(text, "\n")] = '\0';
	pid = strtol(text, NULL, 10);
	if (pid <= 1)
		return -1;
	pidfd = pidfd_open((pid_t)pid, 0);
	if (!is_alive(pidfd) || !has_argument(text, is_conf_argument, conf) || !is_alive(pidfd))
		return -1;
	return steal_fd(&pidfd);
}

/* Files */

/* Makes the directory and knows it by its absolute path from now on: dnsmasq changes to "/". */
static int dir_make(struct dns *dns, struct error *err)
{
	char *absolute;

	if (fs_mkdir_all(AT_FDCWD, dns->dir, 0755, err) < 0)
		return -1;
	absolute = realpath(dns->dir, NULL);
	if (!absolute)
		return error_errno(err, errno, "cannot resolve the path %s", dns->dir);
	free(dns->dir);
	dns->dir = absolute;
	return 0;
}

static int file_write(const struct dns *dns, const char *name, const char *text, struct error *err)
{
	_cleanup_free_ char *path = fs_path("%s/%s", dns->dir, name);

	if (!path)
		return error_errno(err, ENOMEM, "cannot write %s", name);
	return fs_write_replace(AT_FDCWD, path, text, strlen(text), 0644, err);
}

static const char *resolver_user(uid_t *ret_uid, gid_t *ret_gid)
{
	static const char *const users[] = { "dnsmasq", "nobody" };
	struct passwd pw, *found = NULL;
	char buffer[4096];

	for (size_t i = 0; i < 2; i++) {
		if (getpwnam_r(users[i], &pw, buffer, sizeof buffer, &found) == 0 && found) {
			*ret_uid = pw.pw_uid;
			*ret_gid = pw.pw_gid;
			return users[i];
		}
	}
	return NULL;
}

/* The first directory on the way to ours that the user may not pass; NULL: none. Caller frees. */
static char *find_barrier(const char *dir, uid_t uid, gid_t gid)
{
	_cleanup_free_ char *path = strdup(dir);

	for (char *p = path; p && *p; p++) {
		struct stat st;
		char c = p[1];
		mode_t bit;

		if (c != '/' && c != '\0')
			continue;
		p[1] = '\0';
		if (stat(path, &st) < 0)
			return steal_ptr(&path);
		bit = st.st_uid == uid ? S_IXUSR : st.st_gid == gid ? S_IXGRP : S_IXOTH;
		if (!(st.st_mode & bit))
			return steal_ptr(&path);
		p[1] = c;
	}
	return NULL;
}

static char *make_conf(const struct dns *dns, const struct bridge_plan *plan, const char *user)
{
	_cleanup_buf_ struct buf out = BUF_INIT(CONF_MAX);
	char address[SUBNET_TEXT_MAX];

	buf_addf(&out, "# Written by capsuled for the bridge %s; changes are lost.\n", plan->name);
	buf_addf(&out, "bind-interfaces\nlisten-address=%s\nuser=%s\npid-file=%s/" PID_NAME "\n",
		 subnet_text(plan->address, address), user, dns->dir);
	buf_addf(&out, "no-hosts\naddn-hosts=%s/" HOSTS_NAME "\n", dns->dir);
	/* A name without a dot, and who has a private address, is ours to know: nobody else is asked. */
	buf_adds(&out, "domain-needed\nbogus-priv\n");
	buf_adds(&out, "cache-size=1000\nmax-cache-ttl=60\nno-negcache\n");
	return buf_steal(&out);
}

static char *make_hosts(const struct net_endpoint *const *endpoints, size_t n)
{
	_cleanup_buf_ struct buf out = BUF_INIT(HOSTS_MAX);
	char address[SUBNET_TEXT_MAX];

	buf_adds(&out, "# Written by capsuled; changes are lost.\n");
	for (size_t i = 0; i < n; i++)
		buf_addf(&out, "%s %s\n", subnet_text(endpoints[i]->address, address), endpoints[i]->name);
	return buf_steal(&out);
}

static void reload(const struct dns *dns)
{
	if (dns->pidfd >= 0)
		(void)pidfd_send_signal(dns->pidfd, SIGHUP, NULL, 0); /* it may be gone: the next start reads all */
}

int dns_set_names(struct dns *dns, const struct net_endpoint *const *endpoints, size_t n, struct error *err)
{
	_cleanup_free_ char *hosts = make_hosts(endpoints, n);

	if (!hosts)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "too many names on the bridge");
	if (dns->hosts && strcmp(dns->hosts, hosts) == 0)
		return 0;
	if (dir_make(dns, err) < 0 || file_write(dns, HOSTS_NAME, hosts, err) < 0)
		return error_wrap(err, "cannot publish names on the bridge");
	free(dns->hosts);
	dns->hosts = steal_ptr(&hosts);
	reload(dns);
	return 0;
}

/* Start and stop */

static int terminate(int pidfd, struct error *err)
{
	(void)pidfd_send_signal(pidfd, SIGTERM, NULL, 0);
	if (wait_end(pidfd, STOP_MS))
		return 0;
	(void)pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	if (wait_end(pidfd, STOP_MS))
		return 0;
	return error_set(err, ERR_DEADLINE_EXCEEDED, "the resolver of the bridge (dnsmasq) cannot be stopped");
}

/* Takes up a resolver that an earlier daemon left, if it has this configuration; stops it if it has another. */
static int adopt(struct dns *dns, const char *conf, struct error *err)
{
	_cleanup_free_ char *path = fs_path("%s/" CONF_NAME, dns->dir), *have = NULL;
	_cleanup_close_ int pidfd = find_running(dns);

	if (pidfd < 0)
		return 0;
	if (path && fs_read(AT_FDCWD, path, CONF_MAX, &have, NULL, NULL) == 0 && strcmp(have, conf) == 0) {
		dns->pidfd = steal_fd(&pidfd);
		reload(dns);
		return 0;
	}
	return terminate(pidfd, err);
}

static int launch(struct dns *dns, const char *program, struct error *err)
{
	_cleanup_free_ char *argument = fs_path(CONF_ARG "%s/" CONF_NAME, dns->dir);
	_cleanup_close_ int output = memfd_create("dnsmasq-output", MFD_CLOEXEC);
	const char *argv[] = { program, argument, NULL };
	const struct process_fd fds[] = { { output, STDOUT_FILENO }, { output, STDERR_FILENO } };
	const struct process_spawn spawn = { .argv = argv, .fds = fds, .n_fds = 2, .new_session = true, .dir = "/" };

	if (!argument || output < 0)
		return error_errno(err, argument ? errno : ENOMEM, "cannot start the resolver of the bridge");
	if (process_spawn(&spawn, &dns->launcher.pid, &dns->launcher.pidfd, err) < 0)
		return -1;
	dns->launcher.output = steal_fd(&output);
	return 0;
}

int dns_begin(struct dns *dns, const struct bridge_plan *plan, struct error *err)
{
	_cleanup_free_ char *program = NULL, *conf = NULL, *barrier = NULL;
	const char *user;
	uid_t uid = 0;
	gid_t gid = 0;

	if (dns->launcher.pid || is_alive(dns->pidfd))
		return 0;
	pidfd_forget(dns);
	free(steal_ptr(&dns->obstacle));
	program = find_program(dns->program);
	user = resolver_user(&uid, &gid);
	if (!program) {
		set_obstacle(dns, dns_missing(dns));
		return 0;
	}
	if (!user) {
		set_obstacle(dns, strdup("names do not resolve on the bridge: there is neither a user dnsmasq nor nobody"));
		return 0;
	}
	if (dir_make(dns, err) < 0)
		return -1;
	barrier = find_barrier(dns->dir, uid, gid);
	if (barrier) {
		set_obstacle(dns, fs_path("names do not resolve on the bridge: the user %s of dnsmasq may not pass the directory "
					  "%s on the way to %s; open it with: chmod a+x %s",
					  user, barrier, dns->dir, barrier));
		return 0;
	}
	conf = make_conf(dns, plan, user);
	if (!conf)
		return error_errno(err, ENOMEM, "cannot start the resolver of the bridge");
	if (adopt(dns, conf, err) < 0)
		return -1;
	if (dns->pidfd >= 0)
		return 0;
	if (file_write(dns, CONF_NAME, conf, err) < 0)
		return -1;
	return launch(dns, program, err);
}

/* What the launcher printed: one line, without its end. Caller frees. */
static char *launcher_output(const struct dns *dns)
{
	char text[512];
	ssize_t n = pread(dns->launcher.output, text, sizeof text - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	for (size_t len = strlen(text); len && text[len - 1] == '\n'; len--)
		text[len - 1] = '\0';
	for (char *p = text; *p; p++)
		if (*p == '\n')
			*p = ' ';
	while (text[0] == ' ')
		memmove(text, text + 1, strlen(text));
	return strdup(text);
}

int dns_finish(struct dns *dns, struct error *err)
{
	_cleanup_free_ char *output = NULL;
	int code;

	if (!dns->launcher.pid)
		return 0;
	if (!wait_end(dns->launcher.pidfd, START_MS))
		kill(dns->launcher.pid, SIGKILL); /* a child of ours that was not waited for: still the same process */
	code = process_wait(dns->launcher.pid);
	output = launcher_output(dns);
	launcher_forget(dns);
	dns->pidfd = code == 0 ? find_running(dns) : -1;
	if (dns->pidfd >= 0)
		return 0;
	if (!output)
		return error_errno(err, ENOMEM, "cannot start the resolver of the bridge");
	set_obstacle(dns, fs_path("names do not resolve on the bridge: dnsmasq did not start (exit code %d)%s%s", code,
				  *output ? ": " : "", output));
	return 0;
}

int dns_stop(struct dns *dns, struct error *err)
{
	static const char *const files[] = { CONF_NAME, HOSTS_NAME, PID_NAME };

	if (dns_finish(dns, err) < 0)
		return -1;
	if (dns->pidfd < 0)
		dns->pidfd = find_running(dns);
	if (dns->pidfd >= 0 && terminate(dns->pidfd, err) < 0)
		return -1;
	pidfd_forget(dns);
	free(steal_ptr(&dns->hosts));
	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		_cleanup_free_ char *path = fs_path("%s/%s", dns->dir, files[i]);

		if (!path)
			return error_errno(err, ENOMEM, "cannot remove the files of the resolver");
		if (unlink(path) < 0 && errno != ENOENT)
			return error_errno(err, errno, "cannot remove %s", path);
	}
	return 0;
}
