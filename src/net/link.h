/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The bridge and its ports, veth pairs and TAPs, private to this folder.
 *
 * Ours are known by their alias (`ip link` shows it), never by their name alone: "capsule:<table>" is the bridge of the
 * daemon that owns this table, "capsule:<table>:<workload>" the host's end of a workload's veth pair, or its TAP.
 */
#ifndef CAPSULE_NET_LINK_H
#define CAPSULE_NET_LINK_H

#include "base/error.h"
#include "net/netlink.h"
#include "net/netns.h"

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#define LINK_ALIAS_MAX 160

struct link {
	unsigned index;
	unsigned master;     /* index of the bridge that it is a port of; 0: none */
	uint64_t received_bytes, sent_bytes;
	bool up;
	char name[IFNAMSIZ];
	char kind[16];       /* "bridge", "veth", "tun" (also a TAP); "" for hardware */
	char alias[LINK_ALIAS_MAX];
};

/* 1: found, 0: there is none of this name, or -errno. */
int link_find(struct nl *nl, const char *name, struct link *ret);

/* All links of the namespace. *ret is an array owned by the caller. 0, or -errno. */
int link_list(struct nl *nl, struct link **ret, size_t *ret_n);

/* 0 also when there is none of this name; or -errno. */
int link_delete(struct nl *nl, const char *name);

/* What bridge_ensure() is to bring about. */
struct bridge_plan {
	const char *name;
	const char *table;
	uint32_t address; /* host byte order */
	unsigned prefix;
};

/* Makes the bridge, or checks that the one of this name is ours and has our address; sets *ret_index. Another's bridge,
 * another address, a subnet that the host already routes: FAILED_PRECONDITION with what to do. */
int bridge_ensure(struct nl *nl, const struct bridge_plan *plan, unsigned *ret_index, struct error *err);

/* Whether bridge_ensure() would refuse, with its errors. Changes nothing. */
int bridge_check(struct nl *nl, const struct bridge_plan *plan, struct error *err);

/* Removes the bridge if it is ours; 0 also if there is none or it is another's. */
int bridge_remove(struct nl *nl, const struct bridge_plan *plan, struct error *err);

/* The name of the host's end: "cap" and a hash of table and workload, because a workload's name may be longer than an
 * interface's. Returns out. */
const char *port_name(const char *table, const char *workload, char out[IFNAMSIZ]);

/* The workload that the link is a port of, inside link->alias; NULL if it is not one of this table. */
const char *port_owner(const struct link *link, const char *table);

/* Makes the veth pair of a workload: the host's end in the bridge, eth0 with address and default route in netns. A pair
 * left from before is replaced. On failure nothing is left. */
int port_create(struct nl *nl, const struct bridge_plan *plan, unsigned bridge_index, struct netns *netns,
		const char *workload, uint32_t address, struct error *err);

/* Makes a TAP in the bridge (tuntap.rst of the kernel), whose frames begin with a virtio_net_hdr. It goes when *ret_fd, the
 * caller's, and its copies are closed. One left from before is replaced. */
int port_create_tap(struct nl *nl, const struct bridge_plan *plan, unsigned bridge_index, const char *workload, int *ret_fd,
		    struct error *err);

/* Puts a host's end back into the bridge, for one that was made anew. */
int port_join(struct nl *nl, unsigned bridge_index, const struct link *port, struct error *err);

#endif
