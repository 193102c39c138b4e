/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

#include "net_fixture.h"

#include "base/fs.h"
#include "base/process.h"
#include "base/timeutil.h"

#include <errno.h>
#include <fcntl.h>
#include <resolv.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

int remote_ns = -1, host_ns = -1;

/* Commands */

char *output_of(const char *const *argv)
{
	struct process_result result = { 0 };
	struct process_run run = { .spawn = { .argv = argv }, .timeout_ms = 10000, .output_max = 1 << 20 };

	OK(process_run(&run, &result, &err));
	return result.output;
}

int in_namespace(int ns, int (*fn)(const void *), const void *arg)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (setns(ns, CLONE_NEWNET) < 0)
			_exit(99);
		_exit(fn(arg));
	}
	return process_wait(pid);
}

int run_argv(const void *arg)
{
	return process_run_ok(arg, 10000, NULL) < 0;
}

/* Servers and clients */

struct sockaddr_in ipv4(const char *address, uint16_t port)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, address, &sa.sin_addr);
	return sa;
}

/* Answers each call with its own name and the caller's address. */
static void serve(int fd, const struct service *s)
{
	for (;;) {
		struct sockaddr_in peer;
		socklen_t len = sizeof peer;
		char text[128], from[INET_ADDRSTRLEN];
		int c = -1;

		if (s->udp)
			recvfrom(fd, text, sizeof text, 0, (void *)&peer, &len);
		else
			c = accept(fd, (void *)&peer, &len);
		inet_ntop(AF_INET, &peer.sin_addr, from, sizeof from);
		snprintf(text, sizeof text, "%s %s", s->name, from);
		if (s->udp)
			sendto(fd, text, strlen(text), 0, (void *)&peer, len);
		else if (c >= 0 && write(c, text, strlen(text)) < 0)
			_exit(1);
		if (c >= 0)
			close(c);
	}
}

pid_t start_server(int ns, struct service s)
{
	int ready[2];
	char c;
	pid_t pid;

	ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(s.port) };
		int fd, on = 1;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (setns(ns, CLONE_NEWNET) < 0)
			_exit(1);
		fd = socket(AF_INET, s.udp ? SOCK_DGRAM : SOCK_STREAM, 0);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
		if (bind(fd, (void *)&any, sizeof any) < 0 || (!s.udp && listen(fd, 64) < 0) || write(ready[1], "", 1) != 1)
			_exit(1);
		serve(fd, &s);
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &c, 1), 1);
	close(ready[0]);
	return pid;
}

void stop(pid_t pid)
{
	kill(pid, SIGKILL);
	process_wait(pid);
}

struct call {
	const char *address;
	struct service service;
	uint16_t source_port; /* 0: any */
	int timeout_ms;
	int reply_fd;
};

static int make_call(const void *arg)
{
	const struct call *c = arg;
	struct timeval tv = { c->timeout_ms / 1000, c->timeout_ms % 1000 * 1000 };
	struct sockaddr_in to = ipv4(c->address, c->service.port), from = { .sin_family = AF_INET, .sin_port = htons(c->source_port) };
	int fd = socket(AF_INET, c->service.udp ? SOCK_DGRAM : SOCK_STREAM, 0);
	char text[128];
	ssize_t n;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
	if (c->source_port && bind(fd, (void *)&from, sizeof from) < 0)
		return 2;
	if (connect(fd, (void *)&to, sizeof to) < 0 || (c->service.udp && send(fd, "?", 1, 0) != 1))
		return 1;
	n = recv(fd, text, sizeof text, 0);
	return n > 0 && write(c->reply_fd, text, (size_t)n) == n ? 0 : 1;
}

const char *call_from(int ns, const char *address, struct service service, uint16_t source_port, int timeout_ms)
{
	static char reply[128];
	struct call c = { address, service, source_port, timeout_ms, -1 };
	int fds[2];
	ssize_t n;

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	c.reply_fd = fds[1];
	in_namespace(ns, make_call, &c);
	close(fds[1]);
	n = read(fds[0], reply, sizeof reply - 1);
	reply[n > 0 ? n : 0] = '\0';
	close(fds[0]);
	return reply;
}

/* Names */

struct question {
	const char *name;
	int type;
	int answer_fd;
};

static int ask(const void *arg)
{
	const struct question *q = arg;
	struct __res_state state = { 0 };
	unsigned char answer[1024];
	char text[64] = "";
	HEADER *h = (HEADER *)(void *)answer;
	int n;

	if (res_ninit(&state) < 0)
		return 1;
	state.nscount = 1;
	state.nsaddr_list[0] = ipv4("172.20.254.1", 53);
	state.retrans = 1;
	state.retry = 3;
	n = res_nmkquery(&state, ns_o_query, q->name, ns_c_in, q->type, NULL, 0, NULL, answer, sizeof answer);
	if (n > 0) {
		unsigned char query[1024];

		memcpy(query, answer, (size_t)n);
		n = res_nsend(&state, query, n, answer, sizeof answer);
	}
	if (n <= 0)
		snprintf(text, sizeof text, "no answer");
	else if (h->rcode != ns_r_noerror)
		snprintf(text, sizeof text, "rcode %d", h->rcode);
	else if (q->type == ns_t_a && ntohs(h->ancount) == 1 && h->arcount == 0) /* the address is the last thing */
		inet_ntop(AF_INET, answer + n - 4, text, sizeof text);
	else
		snprintf(text, sizeof text, "no data");
	return write(q->answer_fd, text, strlen(text)) < 0;
}

const char *resolve(int ns, const char *name, int type)
{
	static char text[64];
	struct question q = { name, type, -1 };
	int fds[2];
	ssize_t n;

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	q.answer_fd = fds[1];
	in_namespace(ns, ask, &q);
	close(fds[1]);
	n = read(fds[0], text, sizeof text - 1);
	text[n > 0 ? n : 0] = '\0';
	close(fds[0]);
	return text;
}

void assert_resolves(int ns, const char *name, const char *expected)
{
	int64_t deadline = time_monotonic_ns() + 3 * NSEC_PER_SEC;
	const char *got;

	do
		got = resolve(ns, name, ns_t_a);
	while (strcmp(got, expected) != 0 && time_monotonic_ns() < deadline);
	ck_assert_str_eq(got, expected);
}

/* The stage */

static void make_remote(void)
{
	RUN("ip", "link", "set", "lo", "up");
	host_ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(unshare(CLONE_NEWNET), 0);
	remote_ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(setns(host_ns, CLONE_NEWNET), 0);
	ck_assert_int_ge(remote_ns, 0);
	RUN("ip", "link", "add", "wan", "type", "veth", "peer", "name", "wan2");
	ck_assert_int_eq(fcntl(remote_ns, F_SETFD, 0), 0);
	{
		char *target = fs_path("/proc/%d/fd/%d", (int)getpid(), remote_ns);

		RUN("ip", "link", "set", "wan2", "netns", target);
		free(target);
	}
	fcntl(remote_ns, F_SETFD, FD_CLOEXEC);
	RUN("ip", "addr", "add", HOST_ADDRESS "/24", "dev", "wan");
	RUN("ip", "link", "set", "wan", "up");
	RUN_IN(remote_ns, "ip", "addr", "add", REMOTE_ADDRESS "/24", "dev", "wan2");
	RUN_IN(remote_ns, "ip", "link", "set", "wan2", "up");
}

void on_a_host(void (*body)(void))
{
	int status;
	pid_t pid;

	ck_assert_msg(unshare(CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID) == 0, "these tests need root: %s", strerror(errno));
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
		ck_assert_int_eq(mount("proc", "/proc", "proc", 0, NULL), 0);
		ck_assert_int_eq(mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755"), 0);
		make_remote();
		body();
		exit(0); /* with the leak check of a sanitized build */
	}
	status = process_wait(pid);
	/* A failure was reported in the child. Without a first process in its new namespace this one can start nothing more. */
	_exit(status);
}

struct net *make_net(void)
{
	const struct net_options options = { .bridge = "br0", .table = "capsule", .address = BRIDGE_ADDRESS, .prefix = 24,
					     .run_dir = RUN_DIR, .dnsmasq = "dnsmasq" };
	struct net *net = NULL;

	OK(net_new(&options, &net, &err));
	return net;
}

int attach(struct net *net, const char *name, unsigned last, const struct net_port *ports, size_t n)
{
	struct net_endpoint e = { name, (BRIDGE_ADDRESS & ~255u) | last, ports, n };
	int fd = -1;

	OK(net_attach(net, &e, &fd, &err));
	ck_assert_int_ge(fd, 0);
	return fd;
}

void detach(struct net *net, const char *name)
{
	OK(net_detach(net, name, &err));
}

void assert_clean(void)
{
	ASSERT_OUTPUT(false, "br0", "ip", "link");
	ASSERT_OUTPUT(false, "cap", "ip", "link");
	ASSERT_OUTPUT(false, "capsule", "nft", "list", "ruleset");
	ASSERT_OUTPUT(false, "capsule-dnsmasq", "ps", "axww", "-o", "args");
	ck_assert_int_lt(access(RUN_DIR "/hosts", F_OK), 0);
}
