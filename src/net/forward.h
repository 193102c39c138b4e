/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Other programs' rules about what this host forwards and takes in, private to this folder.
 *
 * Netfilter drops a packet that any chain drops, whatever ours say. Docker's FORWARD chain drops by policy. Where the
 * chain is iptables-nft's (ip filter), we put two accepting rules for the bridge in front: into DOCKER-USER, which
 * Docker leaves to the user, else into FORWARD. They carry our table's name as a comment and go when the bridge goes.
 * Anything else that drops by policy is reported, with the commands that open it; we do not edit it. So is a chain that
 * drops what comes in, as workloads ask the resolver on the bridge; but not iptables' INPUT, which calls chains of others.
 *
 * nl is a socket of NETLINK_NETFILTER.
 */
#ifndef CAPSULE_NET_FORWARD_H
#define CAPSULE_NET_FORWARD_H

#include "base/error.h"
#include "net/link.h"

/* Puts the accepting rules where they are missing. */
int forward_open(struct nl *nl, const struct bridge_plan *plan, struct error *err);

/* Takes them away. */
int forward_close(struct nl *nl, const struct bridge_plan *plan, struct error *err);

/* What drops the bridge's traffic and how to open it, one sentence a chain, or NULL. Caller frees. resolver: whether there is
 * one on the bridge, which must be reached. */
int forward_obstacle(struct nl *nl, const struct bridge_plan *plan, bool resolver, char **ret_text, struct error *err);

#endif
