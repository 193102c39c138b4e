/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* New network namespaces, and the sysctls of the one we are in. Private to this folder. */
#ifndef CAPSULE_NET_NETNS_H
#define CAPSULE_NET_NETNS_H

#include "base/error.h"
#include "net/netlink.h"

struct netns {
	int fd;       /* owned; only this pins the namespace, besides the socket */
	struct nl nl; /* NETLINK_ROUTE, inside */
};

#define NETNS_INIT { -1, NL_INIT }

/* Makes a namespace whose processes may ping and may listen below port 1024 without privilege, and where IPv6 lives on
 * `lo` only. Neither the caller's thread nor any other changes its own namespace. `lo` is still down. */
int netns_new(struct netns *ret, struct error *err);
void netns_release(struct netns *netns);
#define _cleanup_netns_ _cleanup_(netns_release)

/* Writes a value below /proc/sys of the calling thread's network namespace. A missing file (a kernel without IPv6, say)
 * is success. 0, or -errno. */
int sysctl_set(const char *value, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
