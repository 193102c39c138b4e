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

#include "net/net.h"

/* Forgets the UDP flows that came in for the endpoint's host ports; those that are merely forwarded are left alone. The
 * kernel walks its whole table for this, 10 ms and more: it happens on a thread of its own, soon after the call. */
void conntrack_forget_udp(const struct net_endpoint *endpoint);

#endif
