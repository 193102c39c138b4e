/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Netlink requests over libmnl, private to this folder.
 *
 * Requests that belong together are put into one batch and handed to the kernel in one call; it works them off in
 * order and acknowledges each. A failure does not stop those behind it (netlink(7)), so whoever sends a batch undoes
 * it as a whole.
 *
 * A socket belongs to the network namespace of the thread that opened it, whoever uses it later. One thread at a time.
 */
#ifndef CAPSULE_NET_NETLINK_H
#define CAPSULE_NET_NETLINK_H

#include "base/error.h"

#include <libmnl/libmnl.h>
#include <stdint.h>

#define NL_BATCH_MAX 4096   /* bytes of a batch */
#define NL_MESSAGE_ROOM 640 /* bytes that each message of a batch may fill: the longest holds a name, an alias, a peer */

struct nl {
	struct mnl_socket *socket;
	uint32_t seq;
	char reason[128]; /* the kernel's own words on the last failure; "" if it had none */
};

#define NL_INIT { NULL, 0, "" }

struct nl_batch {
	size_t last;   /* where the message under construction begins */
	unsigned count;
	struct nlmsghdr data[NL_BATCH_MAX / sizeof(struct nlmsghdr)];
};

#define NL_BATCH_INIT { .last = 0, .count = 0 }

/* bus: NETLINK_ROUTE, NETLINK_NETFILTER, NETLINK_SOCK_DIAG. 0, or -errno. */
int nl_open(struct nl *nl, int bus);
void nl_close(struct nl *nl);
#define _cleanup_nl_ _cleanup_(nl_close)

/* Begins a message with a zeroed fixed part of extra bytes, which is returned; attributes follow with mnl_attr_put(),
 * on nl_message(). */
void *nl_batch_add(struct nl_batch *batch, unsigned type, unsigned flags, size_t extra);

/* The message begun last. */
struct nlmsghdr *nl_message(struct nl_batch *batch);

/* Sends all and waits for all acknowledgements. 0, or the first -errno. */
int nl_batch_run(struct nl *nl, struct nl_batch *batch);

/* Sends the one message of the batch and calls fn for each message of the answer. A dump that the kernel reports as
 * interrupted by a change is asked for again: fn must bear to see an object twice. 0, or -errno. */
typedef void (*nl_answer_fn)(const struct nlmsghdr *message, void *arg);
int nl_query(struct nl *nl, struct nl_batch *batch, nl_answer_fn fn, void *arg);

/* Sets the error from a negative errno and, where the kernel gave one, its reason. Returns -1. */
int nl_error(const struct nl *nl, int r, struct error *err, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Sorts the attributes behind a fixed part of extra bytes into table[0..max]; unknown ones are left out. */
void nl_attributes(const struct nlmsghdr *message, size_t extra, const struct nlattr **table, unsigned max);
void nl_attributes_nested(const struct nlattr *nest, const struct nlattr **table, unsigned max);

#endif
