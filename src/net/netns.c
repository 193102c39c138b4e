/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "net/netns.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

struct maker {
	struct netns made;
	const char *failed; /* what did not work; NULL: all did */
	int errnum;
};

int sysctl_set(const char *value, const char *fmt, ...)
{
	_cleanup_free_ char *name = NULL, *path = NULL;
	_cleanup_close_ int fd = -1;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&name, fmt, ap) < 0)
		name = NULL;
	va_end(ap);
	path = name ? fs_path("/proc/sys/%s", name) : NULL;
	if (!path)
		return -ENOMEM;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	return fs_write_all(fd, value, strlen(value));
}

static void maker_fail(struct maker *m, const char *what, int errnum)
{
	m->failed = what;
	m->errnum = errnum;
}

/* Runs on a thread of its own: unshare(2) moves the calling thread only, and this one ends right after. */
static void *maker_main(void *arg)
{
	static const char *const sysctls[][2] = {
		{ "net/ipv4/ping_group_range", "0 2147483647" },
		{ "net/ipv4/ip_unprivileged_port_start", "0" },
		/* For interfaces to come: no link-local address, so nothing to wait for before eth0 is usable. */
		{ "net/ipv6/conf/default/disable_ipv6", "1" },
	};
	struct maker *m = arg;
	int r;

	if (unshare(CLONE_NEWNET) < 0) {
		maker_fail(m, "cannot make a network namespace", errno);
		return NULL;
	}
	m->made.fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (m->made.fd < 0) {
		maker_fail(m, "cannot open a new network namespace", errno);
		return NULL;
	}
	for (size_t i = 0; i < sizeof sysctls / sizeof sysctls[0]; i++) {
		r = sysctl_set(sysctls[i][1], "%s", sysctls[i][0]);
		if (r < 0) {
			maker_fail(m, "cannot set up a new network namespace", -r);
			return NULL;
		}
	}
	r = nl_open(&m->made.nl, NETLINK_ROUTE);
	if (r < 0)
		maker_fail(m, "cannot open a netlink socket in a new network namespace", -r);
	return NULL;
}

int netns_new(struct netns *ret, struct error *err)
{
	struct maker m = { .made = NETNS_INIT };
	sigset_t all, old;
	pthread_t thread;
	int r;

	/* The process's signals are for threads that expect them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&thread, NULL, maker_main, &m);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r != 0)
		return error_errno(err, r, "cannot start a thread to make a network namespace");
	pthread_join(thread, NULL);
	if (m.failed) {
		netns_release(&m.made);
		return error_errno(err, m.errnum, "%s", m.failed);
	}
	*ret = m.made;
	return 0;
}

void netns_release(struct netns *netns)
{
	nl_close(&netns->nl);
	cleanup_closep(&netns->fd);
	netns->fd = -1;
}
