/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "net/net.h"

#include "base/fs.h"
#include "net/conntrack.h"
#include "net/dns.h"
#include "net/firewall.h"
#include "net/forward.h"
#include "net/link.h"
#include "net/netns.h"
#include "net/resolv.h"
#include "net/subnet.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>

#define NAME_MAX_LEN 63
#define TABLE_MAX_LEN 31
#define RESOLV_CONF "/etc/resolv.conf"
#define RESOLV_CONF_SYSTEMD "/run/systemd/resolve/resolv.conf" /* systemd-resolved(8): the resolvers behind its own */
#define RESOLV_CONF_MAX (64u << 10)

/* A workload on the bridge, from the beginning of its attach to the end of its detach. */
struct entry {
	struct net_endpoint endpoint; /* all of it owned */
	bool published;               /* its ports are in the table */
};

struct net {
	pthread_mutex_t lock;
	struct bridge_plan plan; /* strings owned */
	struct nl netfilter;     /* opened at first use and kept: see firewall.c on what closing one costs */
	struct dns dns;
	struct entry **entries;
	size_t n, cap;
	bool linger;
	bool shared;             /* something of what all workloads share may be there */
	bool table;              /* the table is there, unless somebody else took it away */
	bool forwarding;         /* net.ipv4.ip_forward was seen or set to 1 */
};

static void unlock(pthread_mutex_t **lock)
{
	pthread_mutex_unlock(*lock);
}

#define LOCK(net)                                                                                                     \
	_cleanup_(unlock) __attribute__((unused)) pthread_mutex_t *locked = &(net)->lock;                             \
	pthread_mutex_lock(locked)

/* Names go into rules and files of other programs: letters, digits and what cannot mean anything to them. */
static bool is_plain(const char *s, size_t max)
{
	size_t len = strlen(s);

	return len > 0 && len <= max && strchr("-.", s[0]) == NULL &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == len;
}

/* Entries */

static void entry_free(struct entry *entry)
{
	if (!entry)
		return;
	free((void *)(uintptr_t)entry->endpoint.name);
	free((void *)(uintptr_t)entry->endpoint.ports);
	free(entry);
}

DEFINE_CLEANUP(struct entry *, entry_free)

static struct entry *entry_new(const struct net_endpoint *endpoint)
{
	_cleanup_(entry_freep) struct entry *entry = calloc(1, sizeof *entry);
	struct net_port *ports;

	if (!entry)
		return NULL;
	entry->endpoint = *endpoint;
	entry->endpoint.ports = NULL;
	entry->endpoint.name = strdup(endpoint->name);
	ports = calloc(endpoint->n_ports + 1, sizeof *ports);
	if (!entry->endpoint.name || !ports) {
		free(ports);
		return NULL;
	}
	if (endpoint->n_ports)
		memcpy(ports, endpoint->ports, endpoint->n_ports * sizeof *ports);
	entry->endpoint.ports = ports;
	return steal_ptr(&entry);
}

static size_t entry_find(const struct net *net, const char *name)
{
	size_t i = 0;

	while (i < net->n && strcmp(net->entries[i]->endpoint.name, name) != 0)
		i++;
	return i;
}

/* Takes over the entry. 0, or -ENOMEM. */
static int entry_add(struct net *net, struct entry *entry)
{
	if (net->n == net->cap) {
		size_t cap = net->cap ? net->cap * 2 : 16;
		struct entry **entries = reallocarray(net->entries, cap, sizeof(struct entry *));

		if (!entries) {
			entry_free(entry);
			return -ENOMEM;
		}
		net->entries = entries;
		net->cap = cap;
	}
	net->entries[net->n++] = entry;
	return 0;
}

static void entry_drop(struct net *net, size_t i)
{
	entry_free(net->entries[i]);
	memmove(&net->entries[i], &net->entries[i + 1], (net->n - i - 1) * sizeof(struct entry *));
	net->n--;
}

static void entries_clear(struct net *net)
{
	while (net->n)
		entry_drop(net, net->n - 1);
}

/* Pointers to all endpoints, or to those with their ports in the table. Caller frees the array; NULL without memory. */
static const struct net_endpoint **endpoints_of(const struct net *net, bool published, size_t *ret_n)
{
	const struct net_endpoint **all = calloc(net->n + 1, sizeof *all);
	size_t n = 0;

	for (size_t i = 0; all && i < net->n; i++)
		if (!published || net->entries[i]->published)
			all[n++] = &net->entries[i]->endpoint;
	*ret_n = n;
	return all;
}

/* Life of the object */

int net_new(const struct net_options *options, struct net **ret, struct error *err)
{
	struct net *net;

	if (!is_plain(options->table, TABLE_MAX_LEN) || strspn(options->table, "0123456789_"))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "\"%s\" is no name for an nftables table: it begins with a letter and has at most %d letters, "
				 "digits, '_', '-' or '.'",
				 options->table, TABLE_MAX_LEN);
	if (!is_plain(options->bridge, IFNAMSIZ - 1))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "\"%s\" is no name for a bridge: it has at most %d letters, digits, '_', '-' or '.'",
				 options->bridge, IFNAMSIZ - 1);
	net = calloc(1, sizeof *net);
	if (!net)
		return error_errno(err, ENOMEM, "cannot set up the network");
	pthread_mutex_init(&net->lock, NULL);
	net->plan = (struct bridge_plan){ strdup(options->bridge), strdup(options->table), options->address,
					  options->prefix };
	net->linger = options->linger;
	if (dns_init(&net->dns, options->run_dir, options->dnsmasq) < 0 || !net->plan.name || !net->plan.table) {
		net_free(net);
		return error_errno(err, ENOMEM, "cannot set up the network");
	}
	*ret = net;
	return 0;
}

void net_free(struct net *net)
{
	if (!net)
		return;
	entries_clear(net);
	free(net->entries);
	dns_release(&net->dns);
	nl_close(&net->netfilter);
	free((void *)(uintptr_t)net->plan.name);
	free((void *)(uintptr_t)net->plan.table);
	pthread_mutex_destroy(&net->lock);
	free(net);
}

/* The parts, under the lock */

static int publish_names(struct net *net, struct error *err)
{
	size_t n;
	_cleanup_free_ const struct net_endpoint **all = endpoints_of(net, false, &n);

	if (!all)
		return error_errno(err, ENOMEM, "cannot publish names on the bridge");
	return dns_set_names(&net->dns, all, n, err);
}

static int rebuild_firewall(struct net *net, struct error *err)
{
	size_t n;
	_cleanup_free_ const struct net_endpoint **all = endpoints_of(net, true, &n);

	if (!all)
		return error_errno(err, ENOMEM, "cannot set up the firewall");
	net->table = firewall_rebuild(&net->plan, all, n, err) == 0;
	return net->table ? 0 : -1;
}

static int netfilter_open(struct net *net, struct error *err)
{
	int r = net->netfilter.socket ? 0 : nl_open(&net->netfilter, NETLINK_NETFILTER);

	return r < 0 ? nl_error(&net->netfilter, r, err, "cannot open a netlink socket") : 0;
}

/* Accepts the bridge's traffic in other programs' chains. */
static int open_forward(struct net *net, struct error *err)
{
	return netfilter_open(net, err) < 0 ? -1 : forward_open(&net->netfilter, &net->plan, err);
}

/* Switching it on makes this host a router; it stays on, because others may have come to rely on it. */
static int enable_forwarding(struct net *net, struct error *err)
{
	_cleanup_free_ char *now = NULL;
	int r = 0;

	if (net->forwarding)
		return 0;
	/* Writing resets other settings (the kernel's ip-sysctl.rst), even if nothing changes: look first. */
	if (fs_read(AT_FDCWD, "/proc/sys/net/ipv4/ip_forward", 16, &now, NULL, err) < 0)
		return -1;
	if (now[0] != '1')
		r = sysctl_set("1", "net/ipv4/ip_forward");
	if (r < 0)
		return error_errno(err, -r, "cannot switch on IP forwarding");
	net->forwarding = true;
	return 0;
}

/* The bridge, its names and what else all workloads share. */
static int ensure_shared(struct net *net, struct nl *nl, unsigned *ret_bridge, struct error *err)
{
	net->shared = true;
	if (bridge_ensure(nl, &net->plan, ret_bridge, err) < 0 || enable_forwarding(net, err) < 0 ||
	    publish_names(net, err) < 0)
		return -1;
	return dns_begin(&net->dns, &net->plan, err);
}

/* All parts are tried; the first failure is told. */
static int remove_shared(struct net *net, struct nl *nl, struct error *err)
{
	_cleanup_error_ struct error first = ERROR_INIT, next = ERROR_INIT;
	int r = 0;

	if (netfilter_open(net, &next) < 0 || forward_close(&net->netfilter, &net->plan, &next) < 0)
		r = error_move(first.message ? NULL : &first, &next);
	if (firewall_remove(&net->plan, &next) < 0)
		r = error_move(first.message ? NULL : &first, &next);
	if (dns_stop(&net->dns, &next) < 0)
		r = error_move(first.message ? NULL : &first, &next);
	if (bridge_remove(nl, &net->plan, &next) < 0)
		r = error_move(first.message ? NULL : &first, &next);
	net->table = false;
	net->shared = r < 0;
	return r < 0 ? error_move(err, &first) : 0;
}

/* -1: the table is not what it was (somebody has flushed the ruleset, say), and the whole of it is to be written anew. A change
 * would meet that; where there is none to make it is looked for. */
static int change_ports(struct net *net, const struct net_endpoint *remove, const struct net_endpoint *add)
{
	if (!net->table)
		return -1;
	if ((remove ? remove : add)->n_ports)
		return firewall_change(&net->plan, remove, add, NULL);
	return netfilter_open(net, NULL) == 0 && firewall_exists(&net->netfilter, &net->plan) ? 0 : -1;
}

static int publish_ports(struct net *net, struct entry *entry, struct error *err)
{
	entry->published = true;
	if (change_ports(net, NULL, &entry->endpoint) == 0 || rebuild_firewall(net, err) == 0)
		return 0;
	entry->published = false;
	return -1;
}

static int withdraw_ports(struct net *net, struct entry *entry, struct error *err)
{
	if (!entry->published)
		return 0;
	entry->published = false;
	if (change_ports(net, &entry->endpoint, NULL) < 0 && rebuild_firewall(net, err) < 0)
		return -1;
	conntrack_forget_udp(&entry->endpoint);
	return 0;
}

/* Attach */

/* Enters the workload; an earlier run of the same name gives up its ports. */
static int attach_begin(struct net *net, struct nl *nl, const struct net_endpoint *endpoint, unsigned *ret_bridge,
			struct error *err)
{
	_cleanup_(entry_freep) struct entry *entry = entry_new(endpoint);
	size_t i;

	LOCK(net);
	if (!entry)
		return error_errno(err, ENOMEM, "cannot enter the workload");
	i = entry_find(net, endpoint->name);
	if (i < net->n) {
		if (withdraw_ports(net, net->entries[i], err) < 0)
			return -1;
		entry_drop(net, i);
	}
	if (entry_add(net, steal_ptr(&entry)) < 0)
		return error_errno(err, ENOMEM, "cannot enter the workload");
	return ensure_shared(net, nl, ret_bridge, err);
}

static int attach_finish(struct net *net, const char *name, struct error *err)
{
	struct entry *entry;

	LOCK(net);
	entry = net->entries[entry_find(net, name)];
	if (dns_finish(&net->dns, err) < 0 || publish_ports(net, entry, err) < 0 || open_forward(net, err) < 0)
		return -1;
	conntrack_forget_udp(&entry->endpoint);
	return 0;
}

/* Ports and name go first, under the lock. */
static int remove_entry(struct net *net, const char *name, struct error *err)
{
	_cleanup_error_ struct error first = ERROR_INIT, next = ERROR_INIT;
	int r = 0;
	size_t i;

	LOCK(net);
	i = entry_find(net, name);
	if (i == net->n)
		return 0;
	if (withdraw_ports(net, net->entries[i], &next) < 0)
		r = error_move(&first, &next);
	entry_drop(net, i);
	if (publish_names(net, &next) < 0)
		r = error_move(first.message ? NULL : &first, &next);
	return r < 0 ? error_move(err, &first) : 0;
}

/* Outside of the lock: the kernel takes tens of milliseconds for a link, and works on several at a time. */
static int remove_link(struct net *net, struct nl *nl, const char *name, struct error *err)
{
	char port[IFNAMSIZ];
	struct link link;
	int r = link_find(nl, port_name(net->plan.table, name, port), &link);

	if (r == 1)
		r = port_owner(&link, net->plan.table) ? link_delete(nl, port) : 0;
	return r < 0 ? nl_error(nl, r, err, "cannot remove the link of %s", name) : 0;
}

static int remove_idle(struct net *net, struct nl *nl, struct error *err)
{
	LOCK(net);
	return net->n == 0 && net->shared ? remove_shared(net, nl, err) : 0;
}

/* All parts are tried; the first failure is told. */
static int remove_workload(struct net *net, struct nl *nl, const char *name, struct error *err)
{
	_cleanup_error_ struct error first = ERROR_INIT, next = ERROR_INIT;
	int r = remove_entry(net, name, &first);

	if (remove_link(net, nl, name, &next) < 0)
		r = error_move(first.message ? NULL : &first, &next);
	if (!net->linger && remove_idle(net, nl, &next) < 0)
		r = error_move(first.message ? NULL : &first, &next);
	return r < 0 ? error_move(err, &first) : 0;
}

/* Makes the workload's port of the bridge and sets what reaches it from inside: a network namespace, or a TAP. */
typedef int (*make_port_fn)(const struct net *net, struct nl *nl, unsigned bridge, const struct net_endpoint *endpoint,
			    int *ret_fd, struct error *err);

static int make_veth(const struct net *net, struct nl *nl, unsigned bridge, const struct net_endpoint *endpoint, int *ret_fd,
		     struct error *err)
{
	_cleanup_netns_ struct netns netns = NETNS_INIT;

	if (netns_new(&netns, err) < 0 ||
	    port_create(nl, &net->plan, bridge, &netns, endpoint->name, endpoint->address, err) < 0)
		return -1;
	*ret_fd = steal_fd(&netns.fd);
	return 0;
}

static int make_tap(const struct net *net, struct nl *nl, unsigned bridge, const struct net_endpoint *endpoint, int *ret_fd,
		    struct error *err)
{
	return port_create_tap(nl, &net->plan, bridge, endpoint->name, ret_fd, err);
}

static int attach(struct net *net, const struct net_endpoint *endpoint, make_port_fn make_port, int *ret_fd,
		  struct error *err)
{
	_cleanup_nl_ struct nl nl = NL_INIT;
	_cleanup_close_ int fd = -1;
	unsigned bridge;
	int r;

	if (!is_plain(endpoint->name, NAME_MAX_LEN))
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" cannot be the name of a workload on the bridge",
				 endpoint->name);
	if (!subnet_overlaps(endpoint->address, 32, net->plan.address, net->plan.prefix) ||
	    endpoint->address == net->plan.address)
		return error_set(err, ERR_INVALID_ARGUMENT, "the address of %s is not one of the bridge's subnet", endpoint->name);
	r = nl_open(&nl, NETLINK_ROUTE);
	if (r < 0)
		return nl_error(&nl, r, err, "cannot open a netlink socket");
	if (attach_begin(net, &nl, endpoint, &bridge, err) < 0 || make_port(net, &nl, bridge, endpoint, &fd, err) < 0 ||
	    attach_finish(net, endpoint->name, err) < 0) {
		(void)remove_workload(net, &nl, endpoint->name, NULL);
		return error_wrap(err, "cannot connect %s to the bridge %s", endpoint->name, net->plan.name);
	}
	*ret_fd = steal_fd(&fd);
	return 0;
}

int net_attach(struct net *net, const struct net_endpoint *endpoint, int *ret_netns_fd, struct error *err)
{
	return attach(net, endpoint, make_veth, ret_netns_fd, err);
}

int net_attach_tap(struct net *net, const struct net_endpoint *endpoint, int *ret_tap_fd, struct error *err)
{
	return attach(net, endpoint, make_tap, ret_tap_fd, err);
}

void net_gateway(const struct net *net, uint32_t *ret_address, unsigned *ret_prefix)
{
	*ret_address = net->plan.address;
	*ret_prefix = net->plan.prefix;
}

int net_detach(struct net *net, const char *name, struct error *err)
{
	_cleanup_nl_ struct nl nl = NL_INIT;
	int r = nl_open(&nl, NETLINK_ROUTE);

	if (r < 0)
		return nl_error(&nl, r, err, "cannot open a netlink socket");
	if (remove_workload(net, &nl, name, err) < 0)
		return error_wrap(err, "cannot disconnect %s from the bridge %s", name, net->plan.name);
	return 0;
}

int net_sweep(struct net *net, struct error *err)
{
	_cleanup_nl_ struct nl nl = NL_INIT;
	int r = nl_open(&nl, NETLINK_ROUTE);

	if (r < 0)
		return nl_error(&nl, r, err, "cannot open a netlink socket");
	if (remove_idle(net, &nl, err) < 0)
		return error_wrap(err, "cannot remove the bridge %s", net->plan.name);
	return 0;
}

int net_traffic(struct net *net, const char *name, struct net_traffic *ret, struct error *err)
{
	_cleanup_nl_ struct nl nl = NL_INIT;
	char port[IFNAMSIZ];
	struct link link;
	int r = nl_open(&nl, NETLINK_ROUTE);

	if (r == 0)
		r = link_find(&nl, port_name(net->plan.table, name, port), &link);
	if (r < 0)
		return nl_error(&nl, r, err, "cannot read the counters of %s", name);
	if (r == 0 || !port_owner(&link, net->plan.table))
		return error_set(err, ERR_NOT_FOUND, "%s has no link to the bridge", name);
	/* The host's end sends what the workload receives. */
	*ret = (struct net_traffic){ .received_bytes = link.sent_bytes, .sent_bytes = link.received_bytes };
	return 0;
}

/* Recover */

static int look_for_links(const struct net *net, struct nl *nl, bool *ret_used, struct error *err)
{
	_cleanup_free_ struct link *links = NULL;
	size_t n = 0;
	int r = link_list(nl, &links, &n);

	if (r < 0)
		return nl_error(nl, r, err, "cannot list the links of the host");
	*ret_used = false;
	for (size_t i = 0; i < n && !*ret_used; i++)
		*ret_used = port_owner(&links[i], net->plan.table);
	return 0;
}

int net_check(const struct net *net, bool *ret_used, struct error *err)
{
	_cleanup_nl_ struct nl nl = NL_INIT;
	int r = nl_open(&nl, NETLINK_ROUTE);

	if (r < 0)
		return nl_error(&nl, r, err, "cannot open a netlink socket");
	if (look_for_links(net, &nl, ret_used, err) < 0)
		return -1;
	/* A bridge without workloads is no obstacle: it is made anew. */
	if (*ret_used && bridge_check(&nl, &net->plan, err) < 0)
		return error_wrap(err, "cannot take up the bridge %s", net->plan.name);
	return 0;
}

/* Sorts the links of the host: those of the endpoints are noted, all others of this table removed. */
static int recover_links(struct net *net, struct nl *nl, const struct net_endpoint *endpoints, size_t n, struct link *links,
			 size_t n_links, bool *present, struct error *err)
{
	for (size_t l = 0; l < n_links; l++) {
		const char *owner = port_owner(&links[l], net->plan.table);
		size_t i = 0;
		int r;

		while (owner && i < n && strcmp(endpoints[i].name, owner) != 0)
			i++;
		if (!owner)
			continue;
		if (i < n) {
			present[i] = true;
			continue;
		}
		r = link_delete(nl, links[l].name);
		if (r < 0)
			return nl_error(nl, r, err, "cannot remove the link %s", links[l].name);
	}
	return 0;
}

/* A bridge that was made anew has lost its ports. */
static int rejoin_links(struct net *net, struct nl *nl, unsigned bridge, const struct link *links, size_t n_links,
			struct error *err)
{
	for (size_t l = 0; l < n_links; l++) {
		const char *owner = port_owner(&links[l], net->plan.table);

		if (owner && entry_find(net, owner) < net->n && links[l].master != bridge &&
		    port_join(nl, bridge, &links[l], err) < 0)
			return -1;
	}
	return 0;
}

static int recover_locked(struct net *net, struct nl *nl, const struct net_endpoint *endpoints, size_t n, bool *present,
			  struct error *err)
{
	_cleanup_free_ struct link *links = NULL;
	size_t n_links = 0;
	unsigned bridge;
	int r = link_list(nl, &links, &n_links);

	if (r < 0)
		return nl_error(nl, r, err, "cannot list the links of the host");
	entries_clear(net);
	if (recover_links(net, nl, endpoints, n, links, n_links, present, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct entry *entry = present[i] ? entry_new(&endpoints[i]) : NULL;

		if (!present[i])
			continue;
		if (!entry || entry_add(net, entry) < 0)
			return error_errno(err, ENOMEM, "cannot take up the workloads on the bridge");
		entry->published = true;
	}
	if (net->n == 0)
		return remove_shared(net, nl, err);
	if (ensure_shared(net, nl, &bridge, err) < 0 || rejoin_links(net, nl, bridge, links, n_links, err) < 0 ||
	    rebuild_firewall(net, err) < 0 || open_forward(net, err) < 0)
		return -1;
	return dns_finish(&net->dns, err);
}

int net_recover(struct net *net, const struct net_endpoint *endpoints, size_t n, bool *ret_present, struct error *err)
{
	_cleanup_free_ bool *present = calloc(n + 1, sizeof *present);
	_cleanup_nl_ struct nl nl = NL_INIT;
	int r;

	LOCK(net);
	if (!present)
		return error_errno(err, ENOMEM, "cannot take up the workloads on the bridge");
	r = nl_open(&nl, NETLINK_ROUTE);
	if (r < 0)
		return nl_error(&nl, r, err, "cannot open a netlink socket");
	if (recover_locked(net, &nl, endpoints, n, present, err) < 0)
		return error_wrap(err, "cannot take up the bridge %s", net->plan.name);
	if (n)
		memcpy(ret_present, present, n * sizeof *present);
	return 0;
}

/* Questions */

/* Never fails but for memory: what was seen last, or what can be seen without a resolver. */
static int names_obstacle(struct net *net, char **ret_text, struct error *err)
{
	char *text = NULL;

	LOCK(net);
	if (net->dns.obstacle) {
		text = strdup(net->dns.obstacle);
		if (!text)
			return error_errno(err, ENOMEM, "cannot describe the state of the resolver");
	} else {
		text = dns_missing(&net->dns);
	}
	*ret_text = text;
	return 0;
}

int net_forward_obstacle(struct net *net, char **ret_text, struct error *err)
{
	_cleanup_free_ char *nameless = NULL;

	if (names_obstacle(net, &nameless, err) < 0)
		return -1;
	LOCK(net);
	if (netfilter_open(net, err) < 0)
		return -1;
	return forward_obstacle(&net->netfilter, &net->plan, !nameless, ret_text, err);
}

int net_names_obstacle(struct net *net, char **ret_text, struct error *err)
{
	return names_obstacle(net, ret_text, err);
}

int net_dns_pidfd(struct net *net)
{
	LOCK(net);
	return net->dns.pidfd < 0 ? -1 : fcntl(net->dns.pidfd, F_DUPFD_CLOEXEC, 3);
}

int net_dns_restart(struct net *net, struct error *err)
{
	LOCK(net);
	if (net->n == 0)
		return 0;
	if (dns_begin(&net->dns, &net->plan, err) < 0)
		return -1;
	return dns_finish(&net->dns, err);
}

/* The host's resolvers as a workload without ours can reach them. */
static char *resolv_fallback(const char *host)
{
	_cleanup_free_ char *behind = NULL;

	if (!resolv_reaches_out(host) &&
	    fs_read(AT_FDCWD, RESOLV_CONF_SYSTEMD, RESOLV_CONF_MAX, &behind, NULL, NULL) == 0 && resolv_reaches_out(behind))
		return resolv_without_loopback(behind);
	return resolv_without_loopback(host);
}

int net_resolv_conf(const struct net *net, bool bridge, char **ret_text, struct error *err)
{
	_cleanup_free_ char *host = NULL, *obstacle = NULL;
	_cleanup_error_ struct error e = ERROR_INIT;
	char *text;

	if (fs_read(AT_FDCWD, RESOLV_CONF, RESOLV_CONF_MAX, &host, NULL, &e) < 0) {
		if (e.code != ERR_NOT_FOUND)
			return error_move(err, &e);
		host = strdup("");
	}
	/* The lock is the only thing that changes. */
	if (!host || (bridge && names_obstacle((struct net *)(uintptr_t)net, &obstacle, err) < 0))
		return error_errno(err, ENOMEM, "cannot make a resolv.conf");
	if (!bridge)
		text = strdup(host);
	else
		text = obstacle ? resolv_fallback(host) : resolv_for_bridge(host, net->plan.address);
	if (!text)
		return error_errno(err, ENOMEM, "cannot make a resolv.conf");
	*ret_text = text;
	return 0;
}
