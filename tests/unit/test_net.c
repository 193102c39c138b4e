/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The bridge network against the real kernel. Each test is the first process of new network, process and mount
 * namespaces, which play the host: nothing of the real one is touched, and whatever a test leaves behind ends with it.
 * A second namespace, joined by a cable, plays another host: 10.9.0.1 is ours, 10.9.0.2 the other's.
 */
#include "net/net.h"

#include "base/fs.h"
#include "base/process.h"
#include "base/timeutil.h"
#include "net/link.h"
#include "net/resolv.h"
#include "net/subnet.h"

#include "runner.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <poll.h>
#include <pthread.h>
#include <resolv.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define RUN_DIR "/mnt/dns"
#define BRIDGE_ADDRESS 0xac14fe01u /* 172.20.254.1 */
#define HOST_ADDRESS "10.9.0.1"
#define REMOTE_ADDRESS "10.9.0.2"

static int remote_ns = -1, host_ns = -1;

#define OK(call)                                                                                                      \
	do {                                                                                                          \
		struct error err = ERROR_INIT;                                                                        \
		int ok_r = (call);                                                                                    \
		ck_assert_msg(ok_r >= 0, "%s: %s", #call, error_message(&err));                                       \
	} while (0)

#define FAILS(call, what, text)                                                                                       \
	do {                                                                                                          \
		struct error err = ERROR_INIT;                                                                        \
		ck_assert_msg((call) < 0, "%s did not fail", #call);                                                  \
		ck_assert_msg(err.code == (what) && strstr(error_message(&err), text), "%s: %s",                      \
			      error_code_name(err.code), error_message(&err));                                        \
		error_release(&err);                                                                                  \
	} while (0)

/* Commands */

static char *output_of(const char *const *argv)
{
	struct process_result result = { 0 };
	struct process_run run = { .spawn = { .argv = argv }, .timeout_ms = 10000, .output_max = 1 << 20 };

	OK(process_run(&run, &result, &err));
	return result.output;
}

#define RUN(...)                                                                                                      \
	do {                                                                                                          \
		const char *const run_argv[] = { __VA_ARGS__, NULL };                                                 \
		OK(process_run_ok(run_argv, 10000, &err));                                                            \
	} while (0)

#define ASSERT_OUTPUT(expected, text, ...)                                                                            \
	do {                                                                                                          \
		const char *const out_argv[] = { __VA_ARGS__, NULL };                                                 \
		char *out = output_of(out_argv);                                                                      \
		ck_assert_msg(!!strstr(out, text) == (expected), "\"%s\" %s in: %s", text,                            \
			      (expected) ? "missing" : "found", out);                                                 \
		free(out);                                                                                            \
	} while (0)

/* Runs fn in a child that has entered the namespace; its exit status. */
static int in_namespace(int ns, int (*fn)(const void *), const void *arg)
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

static int run_argv(const void *arg)
{
	return process_run_ok(arg, 10000, NULL) < 0;
}

#define RUN_IN(ns, ...)                                                                                               \
	do {                                                                                                          \
		const char *const in_argv[] = { __VA_ARGS__, NULL };                                                  \
		ck_assert_int_eq(in_namespace(ns, run_argv, in_argv), 0);                                             \
	} while (0)

/* Servers and clients */

struct service {
	bool udp;
	uint16_t port;
	const char *name; /* what the server calls itself */
};

static struct sockaddr_in ipv4(const char *address, uint16_t port)
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

/* Starts a server; it listens when this returns and ends with this process. */
static pid_t start_server(int ns, struct service s)
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

static void stop(pid_t pid)
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

/* The answer to a call from a namespace; "" if there was none. */
static const char *call_from(int ns, const char *address, struct service service, uint16_t source_port, int timeout_ms)
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

#define TCP(port) ((struct service){ false, port, "" })
#define UDP(port) ((struct service){ true, port, "" })
#define ASSERT_REPLY(ns, address, service, expected) ck_assert_str_eq(call_from(ns, address, service, 0, 3000), expected)
#define ASSERT_SILENCE(ns, address, service) ck_assert_str_eq(call_from(ns, address, service, 0, 300), "")

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

static const char *resolve(int ns, const char *name, int type)
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

/* The resolver reads its names a moment after it was told to. */
static void assert_resolves(int ns, const char *name, const char *expected)
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

/* Runs the body as the first process of a host of its own. */
static void on_a_host(void (*body)(void))
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

#define HOST_TEST(name)                                                                                               \
	static void name##_body(void);                                                                                \
	START_TEST(name)                                                                                              \
	{                                                                                                             \
		on_a_host(name##_body);                                                                               \
	}                                                                                                             \
	END_TEST                                                                                                      \
	static void name##_body(void)

static struct net *make_net(void)
{
	const struct net_options options = { .bridge = "br0", .table = "capsule", .address = BRIDGE_ADDRESS, .prefix = 24,
					     .run_dir = RUN_DIR, .dnsmasq = "dnsmasq" };
	struct net *net = NULL;

	OK(net_new(&options, &net, &err));
	return net;
}

static int attach(struct net *net, const char *name, unsigned last, const struct net_port *ports, size_t n)
{
	struct net_endpoint e = { name, (BRIDGE_ADDRESS & ~255u) | last, ports, n };
	int fd = -1;

	OK(net_attach(net, &e, &fd, &err));
	ck_assert_int_ge(fd, 0);
	return fd;
}

static void detach(struct net *net, const char *name)
{
	OK(net_detach(net, name, &err));
}

/* Nothing of ours is on the host: no link, no rule, no process, no file. */
static void assert_clean(void)
{
	ASSERT_OUTPUT(false, "br0", "ip", "link");
	ASSERT_OUTPUT(false, "cap", "ip", "link");
	ASSERT_OUTPUT(false, "capsule", "nft", "list", "ruleset");
	ASSERT_OUTPUT(false, "capsule-dnsmasq", "ps", "axww", "-o", "args");
	ck_assert_int_lt(access(RUN_DIR "/hosts", F_OK), 0);
}

/* Plain functions */

START_TEST(subnets_are_parsed)
{
	static const char *const bad[] = { "", "172.20.254.1", "172.20.254.1/", "172.20.254.1/7", "172.20.254.1/31",
					   "172.20.254.0/24", "172.20.254.255/24", "172.20.254.1/024", "172.20.254.1/+24",
					   "172.20.254/24", "256.1.1.1/24", "127.0.0.1/8", "224.0.0.1/24", "fd00::1/64",
					   "172.20.254.1/24 ", "172.20.254.1/2a", "0.0.0.1/8" };
	uint32_t address;
	unsigned prefix;

	OK(net_parse_subnet("172.20.254.1/24", &address, &prefix, &err));
	ck_assert_uint_eq(address, BRIDGE_ADDRESS);
	ck_assert_uint_eq(prefix, 24);
	OK(net_parse_subnet("10.1.2.3/8", &address, &prefix, &err));
	OK(net_parse_subnet("192.168.1.2/30", &address, &prefix, &err));
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		FAILS(net_parse_subnet(bad[i], &address, &prefix, &err), ERR_INVALID_ARGUMENT, "subnet");
}
END_TEST

START_TEST(resolv_conf_is_made)
{
	char *text = resolv_for_bridge("# host\nnameserver 127.0.0.53\noptions edns0 ndots:2  trust-ad\nsearch a.org b.org\n",
				       BRIDGE_ADDRESS);

	ck_assert_str_eq(text, "nameserver 172.20.254.1\nsearch a.org b.org\noptions ndots:0 edns0 trust-ad\n");
	free(text);
	text = resolv_for_bridge("nameserver 8.8.8.8", BRIDGE_ADDRESS);
	ck_assert_str_eq(text, "nameserver 172.20.254.1\noptions ndots:0\n");
	free(text);
	text = resolv_without_loopback("nameserver 127.0.0.53\nnameserver\t::1\nnameserver 9.9.9.9\nsearch x\n");
	ck_assert_str_eq(text, "nameserver 9.9.9.9\nsearch x\n");
	free(text);
	ck_assert(resolv_reaches_out("nameserver 9.9.9.9") && !resolv_reaches_out("nameserver 127.0.0.1\nsearch a\n"));
}
END_TEST

START_TEST(bad_options_are_refused)
{
	struct net_options o = { "br0", "capsule", BRIDGE_ADDRESS, 24, RUN_DIR, "dnsmasq" };
	struct net *net;

	o.table = "x; flush ruleset";
	FAILS(net_new(&o, &net, &err), ERR_INVALID_ARGUMENT, "flush");
	o.table = "capsule";
	o.bridge = "a-name-of-sixteen";
	FAILS(net_new(&o, &net, &err), ERR_INVALID_ARGUMENT, "bridge");
}
END_TEST

/* On a host */

HOST_TEST(attach_makes_all_and_detach_leaves_nothing)
{
	const struct net_port port = { false, 8080, 80 };
	struct net *net = make_net();
	struct net_endpoint bad = { "a\"b", BRIDGE_ADDRESS + 1, NULL, 0 };
	char name[IFNAMSIZ];
	int web = attach(net, "web", 2, &port, 1), fd;

	RUN_IN(web, "ip", "link", "show", "lo", "up");
	RUN_IN(web, "sh", "-c", "ip link show eth0 | grep -q 02:ca:ac:14:fe:02");
	RUN_IN(web, "sh", "-c", "ip route | grep -q '^default via 172.20.254.1 dev eth0'");
	RUN_IN(web, "sh", "-c", "test $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start) = 0");
	RUN_IN(web, "grep", "-q", "2147483647", "/proc/sys/net/ipv4/ping_group_range");
	ASSERT_OUTPUT(true, "alias capsule:capsule:web", "ip", "link", "show", port_name("capsule", "web", name));
	ASSERT_OUTPUT(true, "hairpin on", "ip", "-d", "link", "show", name);
	ASSERT_OUTPUT(true, "comment \"web\" : 172.20.254.2 . 80", "nft", "list", "map", "ip", "capsule", "ports");
	ASSERT_OUTPUT(true, "alias capsule:capsule", "ip", "link", "show", "br0");
	ASSERT_OUTPUT(false, "inet6", "ip", "addr", "show", "br0");
	FAILS(net_attach(net, &bad, &fd, &err), ERR_INVALID_ARGUMENT, "name");
	bad.name = "far";
	bad.address = 0x0a000002;
	FAILS(net_attach(net, &bad, &fd, &err), ERR_INVALID_ARGUMENT, "address");
	detach(net, "nobody");
	ASSERT_OUTPUT(true, "comment \"web\"", "nft", "list", "map", "ip", "capsule", "ports");
	detach(net, "web");
	assert_clean();
	detach(net, "web");
	net_free(net);
}

/* A machine at the other end of a TAP: asks who has 172.20.254.1 and waits for the answer. */
static void assert_tap_asks_the_bridge(int tap)
{
	static const uint8_t mac[6] = { 0x02, 0xca, 0xac, 0x14, 0xfe, 0x02 };
	struct {
		struct virtio_net_hdr virtio;
		struct ether_header ethernet;
		struct ether_arp arp;
	} __attribute__((packed)) frame = { 0 }, reply;
	const in_addr_t mine = htonl(BRIDGE_ADDRESS + 1), bridge = htonl(BRIDGE_ADDRESS);
	struct pollfd p = { .fd = tap, .events = POLLIN };

	memset(frame.ethernet.ether_dhost, 0xff, 6);
	memcpy(frame.ethernet.ether_shost, mac, 6);
	frame.ethernet.ether_type = htons(ETHERTYPE_ARP);
	frame.arp.ea_hdr = (struct arphdr){ htons(ARPHRD_ETHER), htons(ETHERTYPE_IP), 6, 4, htons(ARPOP_REQUEST) };
	memcpy(frame.arp.arp_sha, mac, 6);
	memcpy(frame.arp.arp_spa, &mine, 4);
	memcpy(frame.arp.arp_tpa, &bridge, 4);
	ck_assert_int_eq(write(tap, &frame, sizeof frame), sizeof frame);
	do {
		ck_assert_int_eq(poll(&p, 1, 10000), 1);
		ck_assert_int_ge(read(tap, &reply, sizeof reply), 0);
	} while (reply.ethernet.ether_type != htons(ETHERTYPE_ARP) || reply.arp.ea_hdr.ar_op != htons(ARPOP_REPLY));
	ck_assert_mem_eq(reply.arp.arp_spa, &bridge, 4);
	ck_assert_mem_eq(reply.arp.arp_tha, mac, 6);
}

HOST_TEST(a_virtual_machine_gets_a_tap_that_goes_with_its_holder)
{
	const struct net_port port = { false, 8080, 80 };
	const struct net_endpoint vm = { "vm", BRIDGE_ADDRESS + 1, &port, 1 };
	struct net *net = make_net();
	struct net_traffic traffic;
	char name[IFNAMSIZ];
	bool present = false;
	unsigned prefix;
	uint32_t gateway;
	int tap = -1;

	port_name("capsule", "vm", name);
	OK(net_attach_tap(net, &vm, &tap, &err));
	ASSERT_OUTPUT(true, "alias capsule:capsule:vm", "ip", "link", "show", name);
	ASSERT_OUTPUT(true, "hairpin on", "ip", "-d", "link", "show", name);
	ASSERT_OUTPUT(true, "comment \"vm\" : 172.20.254.2 . 80", "nft", "list", "map", "ip", "capsule", "ports");
	net_gateway(net, &gateway, &prefix);
	ck_assert(gateway == BRIDGE_ADDRESS && prefix == 24);
	assert_tap_asks_the_bridge(tap);
	OK(net_traffic(net, "vm", &traffic, &err));
	ck_assert(traffic.sent_bytes > 0 && traffic.received_bytes > 0);
	/* The next daemon finds it, and one that was held twice is replaced by a new start. */
	OK(net_recover(net, &vm, 1, &present, &err));
	ck_assert(present);
	OK(net_attach_tap(net, &vm, &tap, &err));
	assert_tap_asks_the_bridge(tap);
	close(tap);
	ASSERT_OUTPUT(false, "capsule:capsule:vm", "ip", "link");
	detach(net, "vm");
	assert_clean();
	net_free(net);
}

HOST_TEST(published_ports_answer_from_everywhere)
{
	const struct net_port ports[] = { { false, 8080, 80 }, { true, 8053, 53 } };
	const struct service services[] = { { false, 80, "web" }, { true, 53, "web" } };
	struct net *net = make_net();
	int web = attach(net, "web", 2, ports, 2), other = attach(net, "other", 3, NULL, 0);

	for (int i = 0; i < 2; i++) {
		struct service outside = i ? UDP(8053) : TCP(8080), inside = i ? UDP(53) : TCP(80);

		start_server(web, services[i]);
		ASSERT_REPLY(remote_ns, HOST_ADDRESS, outside, "web " REMOTE_ADDRESS); /* whoever calls is seen as who it is */
		ASSERT_REPLY(host_ns, HOST_ADDRESS, outside, "web " HOST_ADDRESS);
		ASSERT_REPLY(host_ns, "127.0.0.1", outside, "web 172.20.254.1");
		ASSERT_REPLY(other, HOST_ADDRESS, outside, "web 172.20.254.1");
		ASSERT_REPLY(other, "172.20.254.1", outside, "web 172.20.254.1");
		ASSERT_REPLY(web, HOST_ADDRESS, outside, "web 172.20.254.1"); /* itself, through the hairpin */
		ASSERT_REPLY(other, "172.20.254.2", inside, "web 172.20.254.3");
		ASSERT_REPLY(host_ns, "172.20.254.2", inside, "web 172.20.254.1");
	}
	start_server(remote_ns, (struct service){ false, 9000, "remote" });
	ASSERT_REPLY(web, REMOTE_ADDRESS, TCP(9000), "remote " HOST_ADDRESS); /* out through masquerade */
	detach(net, "web");
	ASSERT_SILENCE(remote_ns, HOST_ADDRESS, TCP(8080));
	ASSERT_SILENCE(host_ns, "127.0.0.1", TCP(8080));
	detach(net, "other");
	assert_clean();
	net_free(net);
}

HOST_TEST(what_is_not_published_stays_inside)
{
	struct net *net = make_net();
	int web = attach(net, "web", 2, NULL, 0);

	start_server(web, (struct service){ false, 80, "web" });
	start_server(host_ns, (struct service){ false, 7000, "host" });
	/* Even for a host that routes the subnet to us. */
	RUN_IN(remote_ns, "ip", "route", "add", "172.20.254.0/24", "via", HOST_ADDRESS);
	ASSERT_SILENCE(remote_ns, "172.20.254.2", TCP(80));
	ASSERT_SILENCE(remote_ns, "172.20.254.1", TCP(53));
	/* A workload that sends 127.0.0.1 over the wire does not reach the host's loopback. */
	RUN_IN(web, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo");
	RUN_IN(web, "ip", "route", "add", "127.0.0.1/32", "via", "172.20.254.1", "src", "172.20.254.2");
	RUN_IN(web, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet");
	ASSERT_SILENCE(web, "127.0.0.1", TCP(7000));
	RUN("nft", "flush", "chain", "ip", "capsule", "guard"); /* the attack is real: without the guard it succeeds */
	ASSERT_REPLY(web, "127.0.0.1", TCP(7000), "host 172.20.254.2");
	detach(net, "web");
	net_free(net);
}

HOST_TEST(names_resolve_on_the_bridge)
{
	struct net *net = make_net();
	char *text = NULL;
	int web = attach(net, "web", 2, NULL, 0), db;

	OK(net_names_obstacle(net, &text, &err));
	ck_assert_ptr_null(text);
	assert_resolves(web, "web", "172.20.254.2");
	db = attach(net, "db", 3, NULL, 0);
	assert_resolves(web, "db", "172.20.254.3");
	ck_assert_str_eq(resolve(db, "web", ns_t_aaaa), "no data");
	ck_assert_str_eq(resolve(db, "nobody", ns_t_a), "rcode 3"); /* no such name, and nobody outside is asked */
	ck_assert_str_eq(resolve(db, "9.254.20.172.in-addr.arpa", ns_t_ptr), "rcode 3");
	OK(net_resolv_conf(net, true, &text, &err));
	ck_assert_ptr_nonnull(strstr(text, "nameserver 172.20.254.1\n"));
	free(text);
	detach(net, "db");
	assert_resolves(web, "db", "rcode 3");
	OK(fs_read(AT_FDCWD, RUN_DIR "/dnsmasq.pid", 32, &text, NULL, &err));
	text[strcspn(text, "\n")] = '\0';
	ASSERT_OUTPUT(true, "dnsmasq", "ps", "-p", text, "-o", "args=");
	ASSERT_OUTPUT(false, "root", "ps", "-p", text, "-o", "user=");
	free(text);
	detach(net, "web");
	net_free(net);
}

HOST_TEST(a_dead_resolver_is_started_again)
{
	struct net *net = make_net();
	int web, fd, next;
	struct pollfd p;

	ck_assert_int_eq(net_dns_pidfd(net), -1);
	web = attach(net, "web", 2, NULL, 0);
	fd = net_dns_pidfd(net);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pidfd_send_signal(fd, SIGKILL, NULL, 0), 0);
	p = (struct pollfd){ .fd = fd, .events = POLLIN };
	ck_assert_int_eq(poll(&p, 1, 3000), 1);
	OK(net_dns_restart(net, &err));
	next = net_dns_pidfd(net);
	p.fd = next;
	ck_assert_int_eq(poll(&p, 1, 0), 0);
	assert_resolves(web, "web", "172.20.254.2");
	detach(net, "web");
	ck_assert_int_eq(poll(&p, 1, 3000), 1);
	OK(net_dns_restart(net, &err));
	ck_assert_int_eq(net_dns_pidfd(net), -1);
	assert_clean();
	net_free(net);
}

HOST_TEST(without_a_resolver_workloads_run_without_names)
{
	struct net_options o = { "br0", "capsule", BRIDGE_ADDRESS, 24, RUN_DIR, "/nowhere/dnsmasq" };
	struct net_endpoint e = { "web", BRIDGE_ADDRESS + 1, NULL, 0 };
	struct net *net;
	char *text;
	int fd;

	OK(net_new(&o, &net, &err));
	OK(net_attach(net, &e, &fd, &err));
	OK(net_names_obstacle(net, &text, &err));
	ck_assert_ptr_nonnull(strstr(text, "dnsmasq-base"));
	free(text);
	OK(net_resolv_conf(net, true, &text, &err));
	ck_assert_ptr_null(strstr(text, "172.20.254.1"));
	free(text);
	detach(net, "web");
	net_free(net);
	/* A directory that the resolver's user may not pass. */
	o.dnsmasq = "dnsmasq";
	o.run_dir = "/mnt/closed/dns";
	ck_assert_int_eq(mkdir("/mnt/closed", 0700), 0);
	OK(net_new(&o, &net, &err));
	OK(net_attach(net, &e, &fd, &err));
	OK(net_names_obstacle(net, &text, &err));
	ck_assert_ptr_nonnull(strstr(text, "chmod a+x /mnt/closed"));
	free(text);
	detach(net, "web");
	net_free(net);
}

HOST_TEST(an_earlier_attempt_is_replaced)
{
	const struct net_port first[] = { { false, 8080, 80 }, { false, 8081, 80 } }, second = { false, 8080, 81 };
	struct net *net = make_net();
	int a = attach(net, "web", 2, first, 2), b;

	start_server(a, (struct service){ false, 80, "first" });
	b = attach(net, "web", 3, &second, 1);
	start_server(b, (struct service){ false, 81, "second" });
	ASSERT_REPLY(remote_ns, HOST_ADDRESS, TCP(8080), "second " REMOTE_ADDRESS);
	ASSERT_SILENCE(remote_ns, HOST_ADDRESS, TCP(8081));
	assert_resolves(b, "web", "172.20.254.3");
	detach(net, "web");
	assert_clean();
	net_free(net);
}

HOST_TEST(a_failed_attach_leaves_nothing)
{
	const struct net_port clash[] = { { false, 8080, 80 }, { false, 8080, 81 } };
	struct net_endpoint e = { "web", BRIDGE_ADDRESS + 1, clash, 2 };
	struct net *net = make_net();
	int fd = -1;

	FAILS(net_attach(net, &e, &fd, &err), ERR_INTERNAL, "cannot connect web");
	ck_assert_int_eq(fd, -1);
	assert_clean();
	net_free(net);
}

/* Calls the port over and over until told to stop; the exit status says whether every call was answered. */
static pid_t start_caller(int *ret_stop)
{
	int fds[2];
	pid_t pid;

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		struct pollfd p = { .fd = fds[0], .events = POLLIN };

		close(fds[1]);
		while (poll(&p, 1, 0) == 0)
			if (strcmp(call_from(remote_ns, HOST_ADDRESS, TCP(8080), 0, 2000), "web " REMOTE_ADDRESS) != 0)
				_exit(1);
		_exit(0);
	}
	close(fds[0]);
	*ret_stop = fds[1];
	return pid;
}

HOST_TEST(recover_keeps_what_lives_and_removes_the_rest)
{
	const struct net_port ports[] = { { false, 8080, 80 }, { false, 8090, 80 } };
	const struct net_endpoint known[] = { { "web", BRIDGE_ADDRESS + 1, &ports[0], 1 }, { "gone", BRIDGE_ADDRESS + 3, NULL, 0 } };
	struct net *net = make_net();
	int web = attach(net, "web", 2, &ports[0], 1), caller_stop;
	bool present[2];
	pid_t caller;
	char *before, *after;

	attach(net, "stale", 3, &ports[1], 1);
	OK(fs_read(AT_FDCWD, RUN_DIR "/dnsmasq.pid", 32, &before, NULL, &err));
	start_server(web, (struct service){ false, 80, "web" });
	net_free(net); /* the daemon ends; what follows is the next one */
	caller = start_caller(&caller_stop);
	for (int i = 0; i < 5; i++) {
		net = make_net();
		OK(net_recover(net, known, 2, present, &err));
		ck_assert(present[0] && !present[1]);
		if (i < 4)
			net_free(net);
	}
	close(caller_stop);
	ck_assert_int_eq(process_wait(caller), 0); /* no call was lost meanwhile */
	OK(fs_read(AT_FDCWD, RUN_DIR "/dnsmasq.pid", 32, &after, NULL, &err));
	ck_assert_str_eq(before, after);
	free(before);
	free(after);
	ASSERT_OUTPUT(false, ":stale", "ip", "link");
	ASSERT_OUTPUT(false, "stale", "nft", "list", "ruleset");
	assert_resolves(web, "web", "172.20.254.2");
	assert_resolves(web, "stale", "rcode 3");
	OK(net_recover(net, NULL, 0, NULL, &err));
	assert_clean();
	net_free(net);
}

HOST_TEST(recover_mends_a_bridge_that_was_deleted)
{
	const struct net_port port = { false, 8080, 80 };
	const struct net_endpoint known = { "web", BRIDGE_ADDRESS + 1, &port, 1 };
	struct net *net = make_net();
	int web = attach(net, "web", 2, &port, 1);
	bool present;

	start_server(web, (struct service){ false, 80, "web" });
	RUN("ip", "link", "del", "br0");
	RUN("nft", "flush", "ruleset");
	OK(net_recover(net, &known, 1, &present, &err));
	ck_assert(present);
	ASSERT_REPLY(remote_ns, HOST_ADDRESS, TCP(8080), "web " REMOTE_ADDRESS);
	detach(net, "web");
	assert_clean();
	net_free(net);
}

HOST_TEST(a_flushed_ruleset_is_restored_by_the_next_attach)
{
	const struct net_port port = { false, 8080, 80 }, other = { false, 8081, 80 };
	struct net *net = make_net();
	int web = attach(net, "web", 2, &port, 1);

	start_server(web, (struct service){ false, 80, "web" });
	RUN("nft", "flush", "ruleset");
	attach(net, "other", 3, &other, 1);
	ASSERT_REPLY(remote_ns, HOST_ADDRESS, TCP(8080), "web " REMOTE_ADDRESS);
	RUN("nft", "flush", "ruleset");
	detach(net, "other");
	ASSERT_REPLY(remote_ns, HOST_ADDRESS, TCP(8080), "web " REMOTE_ADDRESS);
	detach(net, "web");
	assert_clean();
	net_free(net);
}

HOST_TEST(what_belongs_to_others_is_not_touched)
{
	struct net_endpoint e = { "web", BRIDGE_ADDRESS + 1, NULL, 0 };
	struct net_options o = { "br0", "capsule", 0x0a090107, 16, RUN_DIR, "dnsmasq" };
	struct net *net = make_net(), *net2;
	int fd;

	RUN("ip", "link", "add", "br0", "type", "bridge");
	FAILS(net_attach(net, &e, &fd, &err), ERR_FAILED_PRECONDITION, "--bridge");
	RUN("ip", "link", "show", "br0");
	RUN("ip", "link", "set", "br0", "alias", "capsule:second");
	FAILS(net_attach(net, &e, &fd, &err), ERR_FAILED_PRECONDITION, "another capsule daemon");
	OK(net_recover(net, NULL, 0, NULL, &err));
	RUN("ip", "link", "show", "br0");
	RUN("ip", "link", "del", "br0");
	/* A subnet that the host reaches through `wan`. */
	OK(net_new(&o, &net2, &err));
	e.address = 0x0a090202;
	FAILS(net_attach(net2, &e, &fd, &err), ERR_FAILED_PRECONDITION, "wan");
	assert_clean();
	/* Our own bridge, with the address of an earlier configuration. */
	attach(net, "old", 2, NULL, 0);
	FAILS(net_attach(net2, &e, &fd, &err), ERR_FAILED_PRECONDITION, "172.20.254.1/24");
	net_free(net2);
	detach(net, "old");
	assert_clean();
	net_free(net);
}

HOST_TEST(beside_docker_the_bridge_is_let_through)
{
	const struct net_port port = { false, 8080, 80 };
	struct net *net = make_net();
	char *text;
	int web;

	RUN("iptables-nft", "-P", "FORWARD", "DROP");
	web = attach(net, "web", 2, &port, 1);
	start_server(web, (struct service){ false, 80, "web" });
	ASSERT_REPLY(remote_ns, HOST_ADDRESS, TCP(8080), "web " REMOTE_ADDRESS);
	ASSERT_OUTPUT(true, "-A FORWARD -i br0 -m comment --comment \"capsule:capsule\" -j ACCEPT", "iptables-nft", "-S");
	detach(net, "web");
	ASSERT_OUTPUT(false, "br0", "iptables-nft", "-S");
	/* The chain that Docker leaves to the user comes first. */
	RUN("iptables-nft", "-N", "DOCKER-USER");
	RUN("iptables-nft", "-I", "FORWARD", "-j", "DOCKER-USER");
	web = attach(net, "web", 2, &port, 1);
	start_server(web, (struct service){ false, 80, "web" });
	attach(net, "other", 3, NULL, 0);
	ASSERT_OUTPUT(true, "-A DOCKER-USER -o br0", "iptables-nft", "-S");
	ASSERT_OUTPUT(false, "-A FORWARD -i br0", "iptables-nft", "-S");
	ASSERT_REPLY(remote_ns, HOST_ADDRESS, TCP(8080), "web " REMOTE_ADDRESS);
	OK(net_forward_obstacle(net, &text, &err));
	ck_assert_ptr_null(text);
	OK(net_recover(net, NULL, 0, NULL, &err));
	ASSERT_OUTPUT(false, "br0", "iptables-nft", "-S");
	assert_clean();
	net_free(net);
}

HOST_TEST(what_blocks_the_bridge_is_told_with_the_way_out)
{
	const struct net_port port = { false, 8080, 80 };
	struct net *net = make_net();
	char *text, *commands;
	int web = attach(net, "web", 2, &port, 1);

	start_server(web, (struct service){ false, 80, "web" });
	RUN("nft", "add table inet fw; add chain inet fw through { type filter hook forward priority 5; policy drop; }");
	ASSERT_SILENCE(remote_ns, HOST_ADDRESS, TCP(8080));
	OK(net_forward_obstacle(net, &text, &err));
	ck_assert_ptr_nonnull(text);
	commands = strstr(text, "with: ");
	ck_assert_ptr_nonnull(commands);
	RUN("sh", "-e", "-c", commands + 6); /* the advice helps, as it stands */
	free(text);
	ASSERT_REPLY(remote_ns, HOST_ADDRESS, TCP(8080), "web " REMOTE_ADDRESS);
	OK(net_forward_obstacle(net, &text, &err));
	ck_assert_ptr_null(text);
	RUN("iptables-legacy", "-S"); /* makes the table; its policy accepts */
	OK(net_forward_obstacle(net, &text, &err));
	ck_assert_ptr_null(text);
	RUN("iptables-legacy", "-P", "FORWARD", "DROP");
	ASSERT_SILENCE(remote_ns, HOST_ADDRESS, TCP(8080));
	OK(net_forward_obstacle(net, &text, &err));
	ck_assert_ptr_nonnull(text);
	commands = strstr(text, "with: ");
	RUN("sh", "-e", "-c", commands + 6);
	free(text);
	ASSERT_REPLY(remote_ns, HOST_ADDRESS, TCP(8080), "web " REMOTE_ADDRESS);
	OK(net_forward_obstacle(net, &text, &err));
	ck_assert_ptr_null(text);
	detach(net, "web");
	net_free(net);
}

HOST_TEST(holders_of_host_ports_are_named)
{
	const struct net_port ports[] = { { false, 8080, 80 }, { true, 53, 53 } };
	struct net *net = make_net();
	char *holder, *expected;
	pid_t pid;
	int web = attach(net, "web", 2, ports, 2);

	start_server(web, (struct service){ false, 80, "web" });
	OK(net_host_port_holder(false, 80, &holder, &err)); /* inside a workload */
	ck_assert_ptr_null(holder);
	OK(net_host_port_holder(true, 53, &holder, &err)); /* our own resolver is in nobody's way */
	ck_assert_ptr_null(holder);
	for (int udp = 0; udp < 2; udp++) {
		pid = start_server(host_ns, (struct service){ udp, 7000, "host" });
		OK(net_host_port_holder(udp, 7000, &holder, &err));
		expected = fs_path("(pid %d)", (int)pid);
		ck_assert_msg(holder && strstr(holder, expected), "%s", holder ? holder : "none");
		free(expected);
		free(holder);
		OK(net_host_port_holder(!udp, 7000, &holder, &err));
		ck_assert_ptr_null(holder);
		stop(pid);
		OK(net_host_port_holder(udp, 7000, &holder, &err));
		ck_assert_ptr_null(holder);
	}
	detach(net, "web");
	net_free(net);
}

HOST_TEST(a_udp_client_follows_a_restarted_workload)
{
	const struct net_port port = { true, 8053, 53 };
	struct net *net = make_net();
	int64_t deadline;
	const char *reply;
	int web;

	attach(net, "other", 9, NULL, 0);
	/* From one port all the time: first to nobody, then to one address, then to another. */
	ck_assert_str_eq(call_from(remote_ns, HOST_ADDRESS, UDP(8053), 4444, 200), "");
	for (unsigned last = 2; last < 5; last++) {
		web = attach(net, "web", last, &port, 1);
		start_server(web, (struct service){ true, 53, "web" });
		deadline = time_monotonic_ns() + 3 * NSEC_PER_SEC;
		do
			reply = call_from(remote_ns, HOST_ADDRESS, UDP(8053), 4444, 100);
		while (!*reply && time_monotonic_ns() < deadline);
		ck_assert_str_eq(reply, "web " REMOTE_ADDRESS);
		if (last == 3) {
			detach(net, "web");
			ck_assert_str_eq(call_from(remote_ns, HOST_ADDRESS, UDP(8053), 4444, 200), "");
		}
	}
	detach(net, "web");
	detach(net, "other");
	net_free(net);
}

HOST_TEST(a_lingering_bridge_goes_with_the_sweep)
{
	const struct net_port port = { false, 8080, 80 };
	struct net_options o = { "br0", "capsule", BRIDGE_ADDRESS, 24, RUN_DIR, "dnsmasq", true };
	struct net *net;

	OK(net_new(&o, &net, &err));
	attach(net, "web", 2, &port, 1);
	OK(net_sweep(net, &err));
	RUN("ip", "link", "show", "br0");
	detach(net, "web");
	ASSERT_OUTPUT(false, "web", "nft", "list", "ruleset");
	RUN("ip", "link", "show", "br0");
	attach(net, "web", 2, &port, 1);
	detach(net, "web");
	OK(net_sweep(net, &err));
	assert_clean();
	net_free(net);
}

struct crowd {
	struct net *net;
	unsigned last;
};

static void *crowd_member(void *arg)
{
	const struct crowd *c = arg;
	char name[16];

	snprintf(name, sizeof name, "w%u", c->last);
	for (int i = 0; i < 2; i++) {
		const struct net_port port = { i, (uint16_t)(8000 + c->last), 80 };

		close(attach(c->net, name, c->last, &port, 1));
		detach(c->net, name);
	}
	close(attach(c->net, name, c->last, NULL, 0));
	return NULL;
}

HOST_TEST(many_at_once)
{
	struct crowd members[16];
	pthread_t threads[16];
	struct net *net = make_net();

	for (unsigned i = 0; i < 16; i++) {
		members[i] = (struct crowd){ net, 2 + i };
		ck_assert_int_eq(pthread_create(&threads[i], NULL, crowd_member, &members[i]), 0);
	}
	for (unsigned i = 0; i < 16; i++)
		pthread_join(threads[i], NULL);
	assert_resolves(host_ns, "w2", "172.20.254.2");
	assert_resolves(host_ns, "w17", "172.20.254.17");
	ASSERT_OUTPUT(false, "comment", "nft", "list", "map", "ip", "capsule", "ports");
	OK(net_recover(net, NULL, 0, NULL, &err));
	assert_clean();
	net_free(net);
}

int main(void)
{
	Suite *suite = suite_create("net");
	TCase *plain = tcase_create("plain"), *host = tcase_create("host");

	tcase_add_test(plain, subnets_are_parsed);
	tcase_add_test(plain, resolv_conf_is_made);
	tcase_add_test(plain, bad_options_are_refused);
	suite_add_tcase(suite, plain);
	tcase_set_timeout(host, 60);
	tcase_add_test(host, attach_makes_all_and_detach_leaves_nothing);
	tcase_add_test(host, a_virtual_machine_gets_a_tap_that_goes_with_its_holder);
	tcase_add_test(host, published_ports_answer_from_everywhere);
	tcase_add_test(host, what_is_not_published_stays_inside);
	tcase_add_test(host, names_resolve_on_the_bridge);
	tcase_add_test(host, a_dead_resolver_is_started_again);
	tcase_add_test(host, without_a_resolver_workloads_run_without_names);
	tcase_add_test(host, an_earlier_attempt_is_replaced);
	tcase_add_test(host, a_failed_attach_leaves_nothing);
	tcase_add_test(host, recover_keeps_what_lives_and_removes_the_rest);
	tcase_add_test(host, recover_mends_a_bridge_that_was_deleted);
	tcase_add_test(host, a_flushed_ruleset_is_restored_by_the_next_attach);
	tcase_add_test(host, what_belongs_to_others_is_not_touched);
	tcase_add_test(host, beside_docker_the_bridge_is_let_through);
	tcase_add_test(host, what_blocks_the_bridge_is_told_with_the_way_out);
	tcase_add_test(host, holders_of_host_ports_are_named);
	tcase_add_test(host, a_udp_client_follows_a_restarted_workload);
	tcase_add_test(host, a_lingering_bridge_goes_with_the_sweep);
	tcase_add_test(host, many_at_once);
	suite_add_tcase(suite, host);
	return run_suite(suite);
}
