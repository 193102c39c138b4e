/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The nftables table, private to this folder.
 *
 *   guard        (raw)     what route_localnet would let workloads do to the host's loopback; the resolver is not for outsiders
 *   prerouting   (dstnat)  what is addressed to this host goes through `publish`
 *   output       (dstnat)  the same for what this host itself sends
 *   publish                looks protocol and port up in the map `ports` and translates
 *   postrouting  (srcnat)  masquerade: to the outside, and where a reply would not come back through this host
 *   forward      (filter)  new connections from outside reach published ports only
 *
 * `ports` maps protocol and host port to address and container port; the comment of an element names its workload.
 * Every call is one transaction: the kernel takes all of it or nothing, and no packet sees half of it.
 *
 * libnftables keeps state of the whole process: calls are serialized here.
 */
#ifndef CAPSULE_NET_FIREWALL_H
#define CAPSULE_NET_FIREWALL_H

#include "base/error.h"
#include "net/link.h"
#include "net/net.h"
#include "net/netlink.h"

/* Replaces the whole table. Connections that exist live on: their translation is the connection tracking's. */
int firewall_rebuild(const struct bridge_plan *plan, const struct net_endpoint *const *endpoints, size_t n,
		     struct error *err);

/* Takes away the ports of one set and adds those of another; either may be NULL. Fails without a change if the table is
 * not as we left it: then firewall_rebuild() is called for. */
int firewall_change(const struct bridge_plan *plan, const struct net_endpoint *remove, const struct net_endpoint *add,
		    struct error *err);

/* Whether there is a table of that name. nl: a socket for NETLINK_NETFILTER. */
bool firewall_exists(struct nl *nl, const struct bridge_plan *plan);

/* Removes the table; success if there is none. */
int firewall_remove(const struct bridge_plan *plan, struct error *err);

/* Accepts what the bridge forwards, in front of the rules of another program's chain (family ip). */
int firewall_accept_in(const struct bridge_plan *plan, const char *table, const char *chain, struct error *err);

/* Removes one rule of another program's chain (family ip). */
int firewall_delete_rule(const char *table, const char *chain, uint64_t handle, struct error *err);

#endif
