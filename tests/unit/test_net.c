/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What the network gives a workload: its namespace or TAP, its ports, its names. */
#include "net_fixture.h"

#include "base/fs.h"
#include "net/link.h"
#include "net/resolv.h"
#include "net/subnet.h"
#include "runner.h"

#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <poll.h>
#include <pthread.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

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
	tcase_add_test(host, many_at_once);
	suite_add_tcase(suite, host);
	return run_suite(suite);
}
