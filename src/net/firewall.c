/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "net/firewall.h"

#include "base/buf.h"
#include "net/subnet.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#define COMMANDS_MAX (16u << 20) /* 65,536 ports are about 6 MiB */

/* Kept for the life of the process, with its socket in the network namespace of the first call: when a socket to
 * nftables is closed the kernel waits until the leftovers of the last transaction are disposed of, 10 ms and more. */
static struct nft_ctx *nft;
static pthread_mutex_t nft_lock = PTHREAD_MUTEX_INITIALIZER;

/* The first line of what nft prints says what is wrong; the rest quotes the commands. */
static int nft_error(const char *what, struct error *err)
{
	const char *text = nft_ctx_get_error_buffer(nft);
	const char *message = strstr(text, "Error: ");

	message = message ? message + strlen("Error: ") : text;
	return error_set(err, ERR_INTERNAL, "%s: nftables: %.*s", what, (int)strcspn(message, "\n"),
			 *message ? message : "no reason given");
}

/* The library opens its socket without close-on-exec and does not show it. All sockets of this kind are for this process alone. */
static void keep_from_children(void)
{
	_cleanup_closedir_ DIR *dir = opendir("/proc/self/fd");
	const struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		int fd = (int)strtol(entry->d_name, NULL, 10), domain = 0, kind = 0; /* "." is standard input: no such socket */
		socklen_t len = sizeof domain;

		if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_NETLINK &&
		    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &kind, &len) == 0 && kind == NETLINK_NETFILTER)
			(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	}
}

static int nft_run_locked(const char *commands, const char *what, struct error *err)
{
	if (!nft) {
		nft = nft_ctx_new(NFT_CTX_DEFAULT);
		if (nft && (nft_ctx_buffer_error(nft) != 0 || nft_ctx_buffer_output(nft) != 0)) {
			nft_ctx_free(nft);
			nft = NULL;
		}
		keep_from_children();
	}
	if (!nft)
		return error_set(err, ERR_INTERNAL, "%s: libnftables cannot be used", what);
	return nft_run_cmd_from_buffer(nft, commands) == 0 ? 0 : nft_error(what, err);
}

/* One transaction. */
static int nft_run(struct buf *commands, const char *what, struct error *err)
{
	int r;

	if (commands->failed)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "%s: too many rules", what);
	if (commands->len == 0)
		return 0;
	pthread_mutex_lock(&nft_lock);
	r = nft_run_locked(buf_str(commands), what, err);
	pthread_mutex_unlock(&nft_lock);
	return r;
}

static const char *protocol(const struct net_port *port)
{
	return port->udp ? "udp" : "tcp";
}

static void add_ports(struct buf *out, const struct bridge_plan *plan, const struct net_endpoint *e)
{
	char address[SUBNET_TEXT_MAX];

	if (!e->n_ports)
		return;
	subnet_text(e->address, address);
	buf_addf(out, "add element ip %s ports {", plan->table);
	for (size_t i = 0; i < e->n_ports; i++)
		buf_addf(out, "%s %s . %u comment \"%s\" : %s . %u", i ? "," : "", protocol(&e->ports[i]),
			 e->ports[i].host_port, e->name, address, e->ports[i].container_port);
	buf_adds(out, " }\n");
}

static void delete_ports(struct buf *out, const struct bridge_plan *plan, const struct net_endpoint *e)
{
	if (!e->n_ports)
		return;
	buf_addf(out, "delete element ip %s ports {", plan->table);
	for (size_t i = 0; i < e->n_ports; i++)
		buf_addf(out, "%s %s . %u", i ? "," : "", protocol(&e->ports[i]), e->ports[i].host_port);
	buf_adds(out, " }\n");
}

static void add_chains(struct buf *out, const struct bridge_plan *plan)
{
	const char *br = plan->name;
	char gateway[SUBNET_TEXT_MAX], subnet[SUBNET_TEXT_MAX];

	subnet_text(plan->address, gateway);
	subnet_text(plan->address & subnet_mask(plan->prefix), subnet);
	buf_adds(out, "	map ports {\n"
		      "		type inet_proto . inet_service : ipv4_addr . inet_service\n"
		      "	}\n");
	/* The kernel drops 127.0.0.0/8 from the wire; route_localnet, which replies to 127.0.0.1 need, turns that off. */
	buf_addf(out,
		 "	chain guard {\n"
		 "		type filter hook prerouting priority raw; policy accept;\n"
		 "		iifname \"%s\" ip daddr 127.0.0.0/8 drop\n"
		 "		iifname \"%s\" ip saddr 127.0.0.0/8 drop\n"
		 "		iifname != { \"lo\", \"%s\" } ip daddr %s meta l4proto { tcp, udp } th dport 53 drop\n"
		 "	}\n",
		 br, br, br, gateway);
	/* A workload may publish port 53; the resolver on the bridge's address stays what it is. */
	buf_addf(out,
		 "	chain publish {\n"
		 "		ip daddr %s meta l4proto { tcp, udp } th dport 53 return\n"
		 "		dnat ip to meta l4proto . th dport map @ports\n"
		 "	}\n"
		 "	chain prerouting {\n"
		 "		type nat hook prerouting priority dstnat; policy accept;\n"
		 "		fib daddr type local jump publish\n"
		 "	}\n"
		 "	chain output {\n"
		 "		type nat hook output priority -100; policy accept;\n"
		 "		fib daddr type local jump publish\n"
		 "	}\n",
		 gateway);
	/* The second rule: a workload that calls a published port would get its answer straight from the other one (or from
	 * itself), with an address that it did not call; and nobody answers to 127.0.0.1. */
	buf_addf(out,
		 "	chain postrouting {\n"
		 "		type nat hook postrouting priority srcnat; policy accept;\n"
		 "		ip saddr %s/%u oifname != \"%s\" masquerade\n"
		 "		ip saddr { 127.0.0.0/8, %s/%u } oifname \"%s\" ct status dnat masquerade\n"
		 "	}\n"
		 "	chain forward {\n"
		 "		type filter hook forward priority filter; policy accept;\n"
		 "		iifname != \"%s\" oifname \"%s\" ct state new ct status ! dnat drop\n"
		 "	}\n",
		 subnet, plan->prefix, br, subnet, plan->prefix, br, br, br);
}

int firewall_rebuild(const struct bridge_plan *plan, const struct net_endpoint *const *endpoints, size_t n,
		     struct error *err)
{
	_cleanup_buf_ struct buf commands = BUF_INIT(COMMANDS_MAX);

	/* "add" first, so that "delete" finds one: the table may be there or not. */
	buf_addf(&commands, "add table ip %s\ndelete table ip %s\ntable ip %s {\n", plan->table, plan->table, plan->table);
	add_chains(&commands, plan);
	buf_adds(&commands, "}\n");
	for (size_t i = 0; i < n; i++)
		add_ports(&commands, plan, endpoints[i]);
	return nft_run(&commands, "cannot set up the firewall", err);
}

int firewall_change(const struct bridge_plan *plan, const struct net_endpoint *remove, const struct net_endpoint *add,
		    struct error *err)
{
	_cleanup_buf_ struct buf commands = BUF_INIT(COMMANDS_MAX);

	if (remove)
		delete_ports(&commands, plan, remove);
	if (add)
		add_ports(&commands, plan, add);
	return nft_run(&commands, "cannot change the published ports", err);
}

static void ignore(const struct nlmsghdr *message, void *arg)
{
}

bool firewall_exists(struct nl *nl, const struct bridge_plan *plan)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct nfgenmsg *nf = nl_batch_add(&batch, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, 0, sizeof *nf);

	nf->nfgen_family = NFPROTO_IPV4;
	nf->version = NFNETLINK_V0;
	mnl_attr_put_strz(nl_message(&batch), NFTA_TABLE_NAME, plan->table);
	return nl_query(nl, &batch, ignore, NULL) == 0;
}

int firewall_remove(const struct bridge_plan *plan, struct error *err)
{
	_cleanup_buf_ struct buf commands = BUF_INIT(COMMANDS_MAX);

	buf_addf(&commands, "add table ip %s\ndelete table ip %s\n", plan->table, plan->table);
	return nft_run(&commands, "cannot remove the firewall's rules", err);
}

int firewall_accept_in(const struct bridge_plan *plan, const char *table, const char *chain, struct error *err)
{
	_cleanup_buf_ struct buf commands = BUF_INIT(COMMANDS_MAX);

	/* With a counter and one match they are rules that `iptables -S` can show too. */
	for (int out = 0; out < 2; out++)
		buf_addf(&commands, "insert rule ip %s %s %s \"%s\" counter accept comment \"capsule:%s\"\n", table, chain,
			 out ? "oifname" : "iifname", plan->name, plan->table);
	return nft_run(&commands, "cannot open another program's chain for the bridge", err);
}

int firewall_delete_rule(const char *table, const char *chain, uint64_t handle, struct error *err)
{
	_cleanup_buf_ struct buf commands = BUF_INIT(COMMANDS_MAX);

	buf_addf(&commands, "delete rule ip %s %s handle %" PRIu64 "\n", table, chain, handle);
	return nft_run(&commands, "cannot remove our rule from another program's chain", err);
}
