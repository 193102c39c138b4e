/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "net/link.h"

#include "net/subnet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <string.h>
#include <sys/ioctl.h>

#define ALIAS_PREFIX "capsule:"
#define LINKS_MAX 65536 /* of a host; beyond it the list ends in an error */

static void copy_string(const struct nlattr *attr, char *out, size_t size)
{
	if (attr && mnl_attr_get_payload_len(attr))
		snprintf(out, size, "%.*s", (int)mnl_attr_get_payload_len(attr), mnl_attr_get_str(attr));
	else
		out[0] = '\0';
}

static void parse_counters(const struct nlattr *attr, struct link *ret)
{
	struct rtnl_link_stats64 counters = { 0 };
	size_t len = mnl_attr_get_payload_len(attr);

	/* The structure grew at its end, and its place in the message need not be aligned. */
	memcpy(&counters, mnl_attr_get_payload(attr), len < sizeof counters ? len : sizeof counters);
	ret->received_bytes = counters.rx_bytes;
	ret->sent_bytes = counters.tx_bytes;
}

static void link_parse(const struct nlmsghdr *message, struct link *ret)
{
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(message);
	const struct nlattr *attrs[IFLA_MAX + 1], *kind[IFLA_INFO_MAX + 1] = { NULL };

	nl_attributes(message, sizeof *info, attrs, IFLA_MAX);
	if (attrs[IFLA_LINKINFO])
		nl_attributes_nested(attrs[IFLA_LINKINFO], kind, IFLA_INFO_MAX);
	ret->index = (unsigned)info->ifi_index;
	ret->up = info->ifi_flags & IFF_UP;
	ret->master = attrs[IFLA_MASTER] ? mnl_attr_get_u32(attrs[IFLA_MASTER]) : 0;
	if (attrs[IFLA_STATS64])
		parse_counters(attrs[IFLA_STATS64], ret);
	copy_string(attrs[IFLA_IFNAME], ret->name, sizeof ret->name);
	copy_string(attrs[IFLA_IFALIAS], ret->alias, sizeof ret->alias);
	copy_string(kind[IFLA_INFO_KIND], ret->kind, sizeof ret->kind);
}

static void link_found(const struct nlmsghdr *message, void *arg)
{
	if (message->nlmsg_type == RTM_NEWLINK)
		link_parse(message, arg);
}

int link_find(struct nl *nl, const char *name, struct link *ret)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct link found = { 0 };
	int r;

	nl_batch_add(&batch, RTM_GETLINK, 0, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(nl_message(&batch), IFLA_IFNAME, name);
	r = nl_query(nl, &batch, link_found, &found);
	if (r == -ENODEV)
		return 0;
	if (r < 0)
		return r;
	*ret = found;
	return 1;
}

struct list {
	struct link *links;
	size_t n, cap;
	bool failed;
};

static void list_add(const struct nlmsghdr *message, void *arg)
{
	struct list *l = arg;

	if (message->nlmsg_type != RTM_NEWLINK || l->failed)
		return;
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct link *links = cap <= LINKS_MAX ? reallocarray(l->links, cap, sizeof *links) : NULL;

		if (!links) {
			l->failed = true;
			return;
		}
		l->links = links;
		l->cap = cap;
	}
	link_parse(message, &l->links[l->n++]);
}

int link_list(struct nl *nl, struct link **ret, size_t *ret_n)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct list l = { 0 };
	int r;

	nl_batch_add(&batch, RTM_GETLINK, NLM_F_DUMP, sizeof(struct ifinfomsg));
	r = nl_query(nl, &batch, list_add, &l);
	if (r == 0 && l.failed)
		r = -ENOMEM;
	if (r < 0) {
		free(l.links);
		return r;
	}
	*ret = l.links;
	*ret_n = l.n;
	return 0;
}

int link_delete(struct nl *nl, const char *name)
{
	struct nl_batch batch = NL_BATCH_INIT;
	int r;

	nl_batch_add(&batch, RTM_DELLINK, 0, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(nl_message(&batch), IFLA_IFNAME, name);
	r = nl_batch_run(nl, &batch);
	return r == -ENODEV ? 0 : r;
}

/* A MAC of our own making, from the IPv4 address: when an address goes to the next workload, what others remember of it
 * (their ARP tables) stays true. The second bit of the first byte says "locally administered". */
static void put_mac(struct nlmsghdr *message, uint32_t address)
{
	const uint8_t mac[6] = { 0x02, 0xca, (uint8_t)(address >> 24), (uint8_t)(address >> 16), (uint8_t)(address >> 8),
				 (uint8_t)address };

	mnl_attr_put(message, IFLA_ADDRESS, sizeof mac, mac);
}

static void put_up(struct ifinfomsg *info)
{
	info->ifi_flags |= IFF_UP;
	info->ifi_change |= IFF_UP;
}

static void add_address(struct nl_batch *batch, unsigned index, uint32_t address, unsigned prefix)
{
	struct ifaddrmsg *a = nl_batch_add(batch, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof *a);

	a->ifa_family = AF_INET;
	a->ifa_prefixlen = (uint8_t)prefix;
	a->ifa_index = index;
	mnl_attr_put_u32(nl_message(batch), IFA_LOCAL, htonl(address));
	mnl_attr_put_u32(nl_message(batch), IFA_ADDRESS, htonl(address));
	mnl_attr_put_u32(nl_message(batch), IFA_BROADCAST, htonl(address | ~subnet_mask(prefix)));
}

/* Addresses */

struct address_look {
	unsigned index;
	uint32_t address;
	unsigned prefix;
	bool ours;
	uint32_t other; /* 0: none */
	unsigned other_prefix;
};

static void address_seen(const struct nlmsghdr *message, void *arg)
{
	const struct ifaddrmsg *a = mnl_nlmsg_get_payload(message);
	const struct nlattr *attrs[IFA_MAX + 1];
	struct address_look *look = arg;
	uint32_t address;

	if (a->ifa_index != look->index)
		return;
	nl_attributes(message, sizeof *a, attrs, IFA_MAX);
	if (!attrs[IFA_LOCAL])
		return;
	address = ntohl(mnl_attr_get_u32(attrs[IFA_LOCAL]));
	if (address == look->address && a->ifa_prefixlen == look->prefix) {
		look->ours = true;
	} else {
		look->other = address;
		look->other_prefix = a->ifa_prefixlen;
	}
}

static int address_look(struct nl *nl, struct address_look *look)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct ifaddrmsg *a = nl_batch_add(&batch, RTM_GETADDR, NLM_F_DUMP, sizeof *a);

	a->ifa_family = AF_INET;
	return nl_query(nl, &batch, address_seen, look);
}

/* The bridge */

static bool bridge_is_ours(const struct link *link, const char *table)
{
	return strcmp(link->kind, "bridge") == 0 && strncmp(link->alias, ALIAS_PREFIX, strlen(ALIAS_PREFIX)) == 0 &&
	       strcmp(link->alias + strlen(ALIAS_PREFIX), table) == 0;
}

static int bridge_make(struct nl *nl, const struct bridge_plan *plan, struct link *ret, struct error *err)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct nlattr *nest;
	char alias[LINK_ALIAS_MAX];
	int r;

	snprintf(alias, sizeof alias, ALIAS_PREFIX "%s", plan->table);
	nl_batch_add(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(nl_message(&batch), IFLA_IFNAME, plan->name);
	/* A MAC that was given stays; else the bridge would take on another one with each port that comes or goes. */
	put_mac(nl_message(&batch), plan->address);
	nest = mnl_attr_nest_start(nl_message(&batch), IFLA_LINKINFO);
	mnl_attr_put_strz(nl_message(&batch), IFLA_INFO_KIND, "bridge");
	mnl_attr_nest_end(nl_message(&batch), nest);
	/* The kernel takes no alias at creation. In the same batch, a crash cannot fall between the two. */
	nl_batch_add(&batch, RTM_SETLINK, 0, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(nl_message(&batch), IFLA_IFNAME, plan->name);
	mnl_attr_put_strz(nl_message(&batch), IFLA_IFALIAS, alias);
	r = nl_batch_run(nl, &batch);
	if (r < 0)
		return nl_error(nl, r, err, "cannot make the bridge %s", plan->name);
	/* Replies to 127.0.0.1 come in through the bridge; the firewall's guard chain pays for it. */
	r = sysctl_set("1", "net/ipv4/conf/%s/route_localnet", plan->name);
	if (r == 0)
		r = sysctl_set("1", "net/ipv6/conf/%s/disable_ipv6", plan->name);
	if (r < 0)
		error_errno(err, -r, "cannot set up the bridge %s", plan->name);
	else if ((r = link_find(nl, plan->name, ret)) <= 0)
		nl_error(nl, r ? r : -ENODEV, err, "cannot find the bridge %s", plan->name);
	else
		return 0;
	(void)bridge_remove(nl, plan, NULL);
	return -1;
}

/* Whether a bridge that is ours already has our address; any other address on it is an error. */
static int bridge_has_address(struct nl *nl, const struct bridge_plan *plan, const struct link *link, struct error *err)
{
	struct address_look look = { .index = link->index, .address = plan->address, .prefix = plan->prefix };
	char have[SUBNET_TEXT_MAX], want[SUBNET_TEXT_MAX];
	int r = address_look(nl, &look);

	if (r < 0)
		return nl_error(nl, r, err, "cannot list the addresses of the bridge %s", plan->name);
	if (look.other)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "the bridge %s has the address %s/%u and not %s/%u: stop the workloads on it first, or give "
				 "--subnet %s/%u",
				 plan->name, subnet_text(look.other, have), look.other_prefix,
				 subnet_text(plan->address, want), plan->prefix, have, look.other_prefix);
	return look.ours;
}

static int bridge_set_up(struct nl *nl, const struct bridge_plan *plan, unsigned index, bool address, struct error *err)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct ifinfomsg *info;
	int r;

	if (address)
		add_address(&batch, index, plan->address, plan->prefix);
	info = nl_batch_add(&batch, RTM_SETLINK, 0, sizeof *info);
	info->ifi_index = (int)index;
	put_up(info);
	r = nl_batch_run(nl, &batch);
	return r < 0 ? nl_error(nl, r, err, "cannot give the bridge %s its address", plan->name) : 0;
}

static int bridge_refuse(const struct bridge_plan *plan, const struct link *link, struct error *err)
{
	if (strncmp(link->alias, ALIAS_PREFIX, strlen(ALIAS_PREFIX)) == 0)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "the interface %s belongs to another capsule daemon (%s): choose another name with --bridge",
				 plan->name, link->alias);
	return error_set(err, ERR_FAILED_PRECONDITION,
			 "the interface %s exists and was not made by capsule: choose another name with --bridge", plan->name);
}

/* 1: it is there and can be ours, 0: there is none and one can be made. Changes nothing. */
static int bridge_look(struct nl *nl, const struct bridge_plan *plan, struct link *ret, bool *ret_addressed, struct error *err)
{
	int found = link_find(nl, plan->name, ret), addressed = 0;

	if (found < 0)
		return nl_error(nl, found, err, "cannot look for the bridge %s", plan->name);
	if (found && !bridge_is_ours(ret, plan->table))
		return bridge_refuse(plan, ret, err);
	if (found)
		addressed = bridge_has_address(nl, plan, ret, err);
	if (addressed < 0)
		return -1;
	if (!addressed && subnet_check_free(nl, plan->address, plan->prefix, err) < 0)
		return -1;
	*ret_addressed = addressed;
	return found;
}

int bridge_check(struct nl *nl, const struct bridge_plan *plan, struct error *err)
{
	struct link link;
	bool addressed;

	return bridge_look(nl, plan, &link, &addressed, err) < 0 ? -1 : 0;
}

int bridge_ensure(struct nl *nl, const struct bridge_plan *plan, unsigned *ret_index, struct error *err)
{
	struct link link = { 0 };
	bool addressed;
	int found = bridge_look(nl, plan, &link, &addressed, err);

	if (found < 0)
		return -1;
	if (!found && bridge_make(nl, plan, &link, err) < 0)
		return -1;
	if ((!addressed || !link.up) && bridge_set_up(nl, plan, link.index, !addressed, err) < 0) {
		if (!found)
			(void)bridge_remove(nl, plan, NULL);
		return -1;
	}
	*ret_index = link.index;
	return 0;
}

int bridge_remove(struct nl *nl, const struct bridge_plan *plan, struct error *err)
{
	struct link link;
	int r = link_find(nl, plan->name, &link);

	if (r == 1)
		r = bridge_is_ours(&link, plan->table) ? link_delete(nl, plan->name) : 0;
	return r < 0 ? nl_error(nl, r, err, "cannot remove the bridge %s", plan->name) : 0;
}

/* Ports */

/* FNV-1a, 64 bits (draft-eastlake-fnv, section 5): spreads names, keeps no secret. */
static uint64_t hash_add(uint64_t hash, const char *s)
{
	do {
		hash ^= (uint8_t)*s;
		hash *= UINT64_C(0x100000001b3);
	} while (*s++);
	return hash;
}

const char *port_name(const char *table, const char *workload, char out[IFNAMSIZ])
{
	uint64_t hash = hash_add(hash_add(UINT64_C(0xcbf29ce484222325), table), workload);

	snprintf(out, IFNAMSIZ, "cap%012" PRIx64, (hash ^ hash >> 48) & UINT64_C(0xffffffffffff));
	return out;
}

const char *port_owner(const struct link *link, const char *table)
{
	size_t prefix = strlen(ALIAS_PREFIX), n = strlen(table);

	if (strncmp(link->alias, ALIAS_PREFIX, prefix) != 0 || strncmp(link->alias + prefix, table, n) != 0 ||
	    link->alias[prefix + n] != ':' || (strcmp(link->kind, "veth") != 0 && strcmp(link->kind, "tun") != 0))
		return NULL;
	return link->alias + prefix + n + 1;
}

/* Hairpin: a workload that calls its own published port gets its own packet back through the port it came from. */
static void add_join(struct nl_batch *batch, const char *name, unsigned bridge_index, const char *alias)
{
	struct ifinfomsg *info;
	struct nlattr *info_nest, *data;

	info = nl_batch_add(batch, RTM_NEWLINK, 0, sizeof *info);
	mnl_attr_put_strz(nl_message(batch), IFLA_IFNAME, name);
	mnl_attr_put_u32(nl_message(batch), IFLA_MASTER, bridge_index);
	if (alias)
		mnl_attr_put_strz(nl_message(batch), IFLA_IFALIAS, alias);
	/* Settings of a port are taken only once it is one: a message of their own. */
	info = nl_batch_add(batch, RTM_NEWLINK, 0, sizeof *info);
	mnl_attr_put_strz(nl_message(batch), IFLA_IFNAME, name);
	put_up(info);
	info_nest = mnl_attr_nest_start(nl_message(batch), IFLA_LINKINFO);
	mnl_attr_put_strz(nl_message(batch), IFLA_INFO_SLAVE_KIND, "bridge");
	data = mnl_attr_nest_start(nl_message(batch), IFLA_INFO_SLAVE_DATA);
	mnl_attr_put_u8(nl_message(batch), IFLA_BRPORT_MODE, 1);
	mnl_attr_nest_end(nl_message(batch), data);
	mnl_attr_nest_end(nl_message(batch), info_nest);
}

/* A port is a cable: without an address generator it has no IPv6 address, announces nothing and waits for nothing. */
static void add_no_ipv6(struct nl_batch *batch, const char *name)
{
	struct nlattr *spec, *inet6;

	nl_batch_add(batch, RTM_NEWLINK, 0, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(nl_message(batch), IFLA_IFNAME, name);
	spec = mnl_attr_nest_start(nl_message(batch), IFLA_AF_SPEC);
	inet6 = mnl_attr_nest_start(nl_message(batch), AF_INET6);
	mnl_attr_put_u8(nl_message(batch), IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
	mnl_attr_nest_end(nl_message(batch), inet6);
	mnl_attr_nest_end(nl_message(batch), spec);
}

static void add_pair(struct nl_batch *batch, const char *name, const struct netns *netns, uint32_t address)
{
	struct nlattr *info, *data, *peer;
	struct nlmsghdr *message;

	nl_batch_add(batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
	message = nl_message(batch);
	mnl_attr_put_strz(message, IFLA_IFNAME, name);
	info = mnl_attr_nest_start(message, IFLA_LINKINFO);
	mnl_attr_put_strz(message, IFLA_INFO_KIND, "veth");
	data = mnl_attr_nest_start(message, IFLA_INFO_DATA);
	peer = mnl_attr_nest_start(message, VETH_INFO_PEER);
	mnl_nlmsg_put_extra_header(message, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(message, IFLA_IFNAME, "eth0");
	mnl_attr_put_u32(message, IFLA_NET_NS_FD, (uint32_t)netns->fd);
	put_mac(message, address);
	mnl_attr_nest_end(message, peer);
	mnl_attr_nest_end(message, data);
	mnl_attr_nest_end(message, info);
}

/* eth0's address and the way out, from inside. */
static int configure_inside(struct netns *netns, const struct bridge_plan *plan, uint32_t address)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct ifinfomsg *info;
	struct rtmsg *route;
	struct link eth0;
	int r = link_find(&netns->nl, "eth0", &eth0);

	if (r <= 0)
		return r ? r : -ENODEV;
	for (int i = 0; i < 2; i++) {
		info = nl_batch_add(&batch, RTM_SETLINK, 0, sizeof *info);
		mnl_attr_put_strz(nl_message(&batch), IFLA_IFNAME, i ? "eth0" : "lo");
		put_up(info);
	}
	add_address(&batch, eth0.index, address, plan->prefix);
	route = nl_batch_add(&batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof *route);
	route->rtm_family = AF_INET;
	route->rtm_table = RT_TABLE_MAIN;
	route->rtm_protocol = RTPROT_BOOT;
	route->rtm_scope = RT_SCOPE_UNIVERSE;
	route->rtm_type = RTN_UNICAST;
	mnl_attr_put_u32(nl_message(&batch), RTA_GATEWAY, htonl(plan->address));
	mnl_attr_put_u32(nl_message(&batch), RTA_OIF, eth0.index);
	return nl_batch_run(&netns->nl, &batch);
}

/* Makes way for a new pair; -EEXIST if the name is held by a link that is not this workload's. */
static int remove_earlier(struct nl *nl, const char *name, const char *alias)
{
	struct link link;
	int r = link_find(nl, name, &link);

	if (r <= 0)
		return r;
	return strcmp(link.alias, alias) == 0 ? link_delete(nl, name) : -EEXIST;
}

/* The name and alias of the workload's port, after one that was left from before is removed. */
static int port_prepare(struct nl *nl, const struct bridge_plan *plan, const char *workload, char name[IFNAMSIZ],
			char alias[LINK_ALIAS_MAX], struct error *err)
{
	int r;

	port_name(plan->table, workload, name);
	snprintf(alias, LINK_ALIAS_MAX, ALIAS_PREFIX "%s:%s", plan->table, workload);
	r = remove_earlier(nl, name, alias);
	return r < 0 ? nl_error(nl, r, err, "cannot remove the earlier link %s of %s", name, workload) : 0;
}

int port_create(struct nl *nl, const struct bridge_plan *plan, unsigned bridge_index, struct netns *netns,
		const char *workload, uint32_t address, struct error *err)
{
	struct nl_batch batch = NL_BATCH_INIT;
	char name[IFNAMSIZ], alias[LINK_ALIAS_MAX];
	int r;

	if (port_prepare(nl, plan, workload, name, alias, err) < 0)
		return -1;
	add_pair(&batch, name, netns, address);
	add_no_ipv6(&batch, name);
	add_join(&batch, name, bridge_index, alias);
	r = nl_batch_run(nl, &batch);
	if (r < 0) {
		nl_error(nl, r, err, "cannot make the link of %s", workload);
		(void)link_delete(nl, name);
		return -1;
	}
	r = configure_inside(netns, plan, address);
	if (r < 0) {
		nl_error(&netns->nl, r, err, "cannot set up the network inside %s", workload);
		(void)link_delete(nl, name);
		return -1;
	}
	return 0;
}

static int tap_open(const char *name, struct error *err)
{
	struct ifreq request = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL) };
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "cannot open /dev/net/tun; is the kernel's module tun there?");
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		return error_errno(err, errno, "cannot make the TAP %s", name);
	return steal_fd(&fd);
}

int port_create_tap(struct nl *nl, const struct bridge_plan *plan, unsigned bridge_index, const char *workload, int *ret_fd,
		    struct error *err)
{
	struct nl_batch batch = NL_BATCH_INIT;
	char name[IFNAMSIZ], alias[LINK_ALIAS_MAX];
	_cleanup_close_ int fd = -1;
	int r;

	if (port_prepare(nl, plan, workload, name, alias, err) < 0 || (fd = tap_open(name, err)) < 0)
		return -1;
	add_no_ipv6(&batch, name);
	add_join(&batch, name, bridge_index, alias);
	r = nl_batch_run(nl, &batch);
	if (r < 0)
		return nl_error(nl, r, err, "cannot put the link of %s into the bridge", workload);
	*ret_fd = steal_fd(&fd);
	return 0;
}

int port_join(struct nl *nl, unsigned bridge_index, const struct link *port, struct error *err)
{
	struct nl_batch batch = NL_BATCH_INIT;
	int r;

	add_join(&batch, port->name, bridge_index, NULL);
	r = nl_batch_run(nl, &batch);
	return r < 0 ? nl_error(nl, r, err, "cannot put the link %s into the bridge", port->name) : 0;
}
