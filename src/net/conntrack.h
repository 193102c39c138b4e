/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Remembered UDP flows, private to this folder.
 *
 * Connection tracking decides once, at a flow's first packet, where it goes. A client that keeps sending from one port
 * would go on talking to a workload that is gone, or to nobody if it was early, until it falls silent for long enough.
 */
#ifndef CAPSULE_NET_CONNTRACK_H
#define CAPSULE_NET_CONNTRACK_H

#include "base/error.h"
#include "net/net.h"

/* Forgets the UDP flows that came in for these host ports. Flows that are merely forwarded are left alone. Success on a
 * kernel whose connection tracking cannot be reached by netlink. */
int conntrack_forget_udp(const struct net_endpoint *endpoint, struct error *err);

#endif
