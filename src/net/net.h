/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The bridge network: links, addresses, published ports, names.
 *
 * One `struct net` owns one bridge, one nftables table and one dnsmasq. A workload on the bridge has a network namespace
 * that only its own processes pin, and a veth pair whose host end is named after it; a virtual machine has a TAP of that
 * name instead.
 *
 * Threads: every function may be called from any task thread; a lock inside serializes the short parts that need it.
 * They may block for milliseconds: not on the event loop.
 */
#ifndef CAPSULE_NET_NET_H
#define CAPSULE_NET_NET_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct net;

struct net_options {
	const char *bridge;   /* "br0" */
	const char *table;    /* "capsule": the nftables table, family ip */
	uint32_t address;     /* of the bridge, host byte order */
	unsigned prefix;      /* of the subnet */
	const char *run_dir;  /* <run>/dns: dnsmasq's files; made if missing */
	const char *dnsmasq;  /* program; "dnsmasq" */
	bool linger;          /* keep bridge, table and dnsmasq after the last net_detach() until net_sweep(): making
			       * them costs a first start some 20 ms */
};

struct net_port {
	bool udp;
	uint16_t host_port, container_port;
};

/* One workload on the bridge. */
struct net_endpoint {
	const char *name;
	uint32_t address; /* host byte order */
	const struct net_port *ports;
	size_t n_ports;
};

/* Strings are copied. Only remembers the options; the bridge, the table and dnsmasq appear with the first endpoint. */
int net_new(const struct net_options *options, struct net **ret, struct error *err);
/* Forgets; what is on the host stays. */
void net_free(struct net *net);

/* "172.20.254.1/24" to address and prefix; INVALID_ARGUMENT unless it is an IPv4 host address with prefix 8 to 30. */
int net_parse_subnet(const char *text, uint32_t *ret_address, unsigned *ret_prefix, struct error *err);

/* Makes a network namespace with `lo` up, a veth pair (eth0 inside, with address and default route; the host's end in
 * the bridge), its name, and, last and in one transaction, its published ports. *ret_netns_fd is owned by the caller.
 * Whatever an earlier attempt left under the same name is replaced. On failure nothing is left. */
int net_attach(struct net *net, const struct net_endpoint *endpoint, int *ret_netns_fd, struct error *err);

/* The same for a virtual machine: a TAP in the bridge, *ret_tap_fd, owned by the caller, whose frames begin with a
 * virtio_net_hdr. The link lasts as long as that descriptor and its copies. Address and route are set inside the machine. */
int net_attach_tap(struct net *net, const struct net_endpoint *endpoint, int *ret_tap_fd, struct error *err);

/* What is set there beside the endpoint's address: the bridge's own, in host byte order, and the subnet's prefix. */
void net_gateway(const struct net *net, uint32_t *ret_address, unsigned *ret_prefix);

/* Takes away ports, name and link, and with the last workload (unless `linger`) the bridge, the table and dnsmasq too.
 * Missing parts: success. */
int net_detach(struct net *net, const char *name, struct error *err);

/* Removes bridge, table and dnsmasq if no workload is attached; else does nothing. For `linger`: to be called when the
 * bridge has been empty for a while and before the daemon ends. */
int net_sweep(struct net *net, struct error *err);

/* Whether an earlier daemon has left workloads that are connected. If so and the bridge is not one that net_recover() could
 * take up, because it has another address for one: FAILED_PRECONDITION with what to do. Changes nothing. */
int net_check(const struct net *net, bool *ret_used, struct error *err);

/* Takes up what an earlier daemon left: keeps bridge, rules and names of exactly these endpoints (their links exist),
 * removes everything else that carries this net's name, (re)starts dnsmasq if there is an endpoint, and reports in
 * ret_present (an array of n bools given by the caller) which endpoints still have their link. With n = 0 nothing of
 * this net remains on the host. */
int net_recover(struct net *net, const struct net_endpoint *endpoints, size_t n, bool *ret_present, struct error *err);

/* What a workload on the bridge has received and sent since it was connected. NOT_FOUND if it has no link. */
struct net_traffic {
	uint64_t received_bytes, sent_bytes;
};
int net_traffic(struct net *net, const char *name, struct net_traffic *ret, struct error *err);

/* Whether a process of the host listens on the port (any address): *ret_holder is "nginx (pid 123)" or NULL; caller
 * frees. Listeners inside workloads do not count. */
int net_host_port_holder(bool udp, uint16_t port, char **ret_holder, struct error *err);

/* What a container's /etc/resolv.conf says: on the bridge its resolver is the bridge's address (search and options are
 * taken from the host's file; ndots is 0, so that a bare name is asked as it stands first); on the host's network the
 * host's own file. Where names do not resolve on the bridge (net_names_obstacle) it is the host's file without the
 * resolvers on its loopback. Best asked after net_attach(). Caller frees. */
int net_resolv_conf(const struct net *net, bool bridge, char **ret_text, struct error *err);

/* What on this host stands in the way of the bridge: text for the user, with the command that helps, or NULL. Caller
 * frees. net_forward_obstacle: a firewall drops what the bridge forwards or asks the resolver (one line a chain). Docker's and iptables-nft's
 * FORWARD chains are opened by net_attach() and net_recover() by themselves and told of only if that did not last.
 * net_names_obstacle: dnsmasq is missing or cannot run; workloads run without names then. */
int net_forward_obstacle(struct net *net, char **ret_text, struct error *err);
int net_names_obstacle(struct net *net, char **ret_text, struct error *err);

/* A pidfd of the running dnsmasq, readable when it ends, owned by the caller; -1: none runs. It is a new process after
 * net_dns_restart() and after the first net_attach() on an empty bridge, and ends by itself with the last net_detach(). */
int net_dns_pidfd(struct net *net);

/* Starts dnsmasq again if it has ended and there is an endpoint; else does nothing. */
int net_dns_restart(struct net *net, struct error *err);

#endif
