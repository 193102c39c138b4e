/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The network on a host that changes under it: daemons that died, rules and bridges of others, what blocks the way. */
#include "net_fixture.h"

#include "base/fs.h"
#include "base/timeutil.h"
#include "runner.h"

#include <fcntl.h>
#include <poll.h>

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

int main(void)
{
	Suite *suite = suite_create("net_host");
	TCase *host = tcase_create("host");

	tcase_set_timeout(host, 60);
	tcase_add_test(host, recover_keeps_what_lives_and_removes_the_rest);
	tcase_add_test(host, recover_mends_a_bridge_that_was_deleted);
	tcase_add_test(host, a_flushed_ruleset_is_restored_by_the_next_attach);
	tcase_add_test(host, what_belongs_to_others_is_not_touched);
	tcase_add_test(host, beside_docker_the_bridge_is_let_through);
	tcase_add_test(host, what_blocks_the_bridge_is_told_with_the_way_out);
	tcase_add_test(host, holders_of_host_ports_are_named);
	tcase_add_test(host, a_udp_client_follows_a_restarted_workload);
	tcase_add_test(host, a_lingering_bridge_goes_with_the_sweep);
	suite_add_tcase(suite, host);
	return run_suite(suite);
}
