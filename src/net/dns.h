/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The resolver on the bridge: dnsmasq, private to this folder.
 *
 * It answers for the names of the workloads on the bridge and asks the host's resolvers about the rest. It is started in
 * the background and outlives the daemon; the next one finds it by the pid file and knows it by its command line, which
 * holds the path of our configuration. It is no child of ours, so nothing has to be reaped.
 *
 * Everything here is called under the lock of `struct net`.
 */
#ifndef CAPSULE_NET_DNS_H
#define CAPSULE_NET_DNS_H

#include "base/error.h"
#include "net/link.h"
#include "net/net.h"

#include <stdbool.h>
#include <sys/types.h>

struct dns {
	char *dir;       /* absolute once made */
	char *program;
	char *obstacle;  /* why names do not resolve; NULL: they do, as far as we know */
	char *hosts;     /* what the resolver was given last; NULL: nothing yet */
	int pidfd;       /* of the running resolver; -1 */
	struct {         /* a start under way: the process that ends when the resolver is ready */
		pid_t pid;   /* 0: none */
		int pidfd;
		int output;  /* what it prints */
	} launcher;
};

int dns_init(struct dns *dns, const char *dir, const char *program);
void dns_release(struct dns *dns);

/* Why there can be no names, whatever is tried: the program is missing. NULL: there can. Caller frees. */
char *dns_missing(const struct dns *dns);

/* Gives the resolver the names of these endpoints, at once if it runs. */
int dns_set_names(struct dns *dns, const struct net_endpoint *const *endpoints, size_t n, struct error *err);

/* Begins to start the resolver unless it runs; finds one that an earlier daemon left, and replaces it if it was
 * configured otherwise. Names first, see above. Where there can be no resolver, dns->obstacle says why and that is success. */
int dns_begin(struct dns *dns, const struct bridge_plan *plan, struct error *err);

/* Waits until the start that was begun is done. A resolver that does not come up is told in dns->obstacle. */
int dns_finish(struct dns *dns, struct error *err);

/* Stops the resolver, also one that an earlier daemon left, and removes its files. */
int dns_stop(struct dns *dns, struct error *err);

/* Whether the process (a number under /proc) is a resolver that some capsule daemon started. */
bool dns_is_resolver(const char *pid);

#endif
