/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "net/conntrack.h"

#include "net/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/rtnetlink.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#define FLOWS_MAX 4096 /* at once: what is beyond goes by its own time-out */

/* Host ports whose flows are to be forgotten, and whether a thread is at it. One walk serves all that came in meanwhile. */
static struct {
	pthread_mutex_t lock;
	bool running, any;
	uint8_t ports[65536 / 8];
	struct nl ct; /* the thread's alone; kept, because closing it would stop all transactions of nftables for 10 ms */
} pending = { .lock = PTHREAD_MUTEX_INITIALIZER, .ct = NL_INIT };

struct tuple {
	uint32_t src, dst;       /* network byte order, as all here */
	uint16_t sport, dport;
	uint16_t zone;
};

struct flows {
	const uint8_t *ports; /* a bit each */
	struct tuple *tuples;
	size_t n;
};

static void *add_request(struct nl_batch *batch, unsigned type, unsigned flags)
{
	struct nfgenmsg *nf = nl_batch_add(batch, NFNL_SUBSYS_CTNETLINK << 8 | type, flags, sizeof *nf);

	nf->nfgen_family = AF_INET;
	nf->version = NFNETLINK_V0;
	return nf;
}

/* False if it is not a UDP tuple over IPv4. */
static bool tuple_parse(const struct nlattr *attr, struct tuple *ret)
{
	const struct nlattr *tuple[CTA_TUPLE_MAX + 1], *ip[CTA_IP_MAX + 1], *proto[CTA_PROTO_MAX + 1];

	nl_attributes_nested(attr, tuple, CTA_TUPLE_MAX);
	if (!tuple[CTA_TUPLE_IP] || !tuple[CTA_TUPLE_PROTO])
		return false;
	nl_attributes_nested(tuple[CTA_TUPLE_IP], ip, CTA_IP_MAX);
	nl_attributes_nested(tuple[CTA_TUPLE_PROTO], proto, CTA_PROTO_MAX);
	if (!ip[CTA_IP_V4_SRC] || !ip[CTA_IP_V4_DST] || !proto[CTA_PROTO_NUM] || !proto[CTA_PROTO_SRC_PORT] ||
	    !proto[CTA_PROTO_DST_PORT] || mnl_attr_get_u8(proto[CTA_PROTO_NUM]) != IPPROTO_UDP)
		return false;
	ret->src = mnl_attr_get_u32(ip[CTA_IP_V4_SRC]);
	ret->dst = mnl_attr_get_u32(ip[CTA_IP_V4_DST]);
	ret->sport = mnl_attr_get_u16(proto[CTA_PROTO_SRC_PORT]);
	ret->dport = mnl_attr_get_u16(proto[CTA_PROTO_DST_PORT]);
	return true;
}

static void flow_look(const struct nlmsghdr *message, void *arg)
{
	const struct nlattr *attrs[CTA_MAX + 1];
	struct flows *flows = arg;
	struct tuple t = { 0 };

	nl_attributes(message, sizeof(struct nfgenmsg), attrs, CTA_MAX);
	if (flows->n == FLOWS_MAX || !attrs[CTA_TUPLE_ORIG] || !tuple_parse(attrs[CTA_TUPLE_ORIG], &t) ||
	    !(flows->ports[ntohs(t.dport) / 8] & 1u << ntohs(t.dport) % 8))
		return;
	t.zone = attrs[CTA_ZONE] ? mnl_attr_get_u16(attrs[CTA_ZONE]) : 0;
	flows->tuples[flows->n++] = t;
}

static void route_look(const struct nlmsghdr *message, void *arg)
{
	const struct rtmsg *route = mnl_nlmsg_get_payload(message);

	*(bool *)arg = route->rtm_type == RTN_LOCAL;
}

/* Whether the address is one of this host's. */
static bool is_local(struct nl *route, uint32_t address)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct rtmsg *r = nl_batch_add(&batch, RTM_GETROUTE, 0, sizeof *r);
	bool local = false;

	r->rtm_family = AF_INET;
	r->rtm_dst_len = 32;
	mnl_attr_put_u32(nl_message(&batch), RTA_DST, address);
	return nl_query(route, &batch, route_look, &local) == 0 && local;
}

static void flow_delete(struct nl *ct, const struct tuple *t)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct nlattr *tuple, *nest;
	struct nlmsghdr *message;

	add_request(&batch, IPCTNL_MSG_CT_DELETE, 0);
	message = nl_message(&batch);
	tuple = mnl_attr_nest_start(message, CTA_TUPLE_ORIG);
	nest = mnl_attr_nest_start(message, CTA_TUPLE_IP);
	mnl_attr_put_u32(message, CTA_IP_V4_SRC, t->src);
	mnl_attr_put_u32(message, CTA_IP_V4_DST, t->dst);
	mnl_attr_nest_end(message, nest);
	nest = mnl_attr_nest_start(message, CTA_TUPLE_PROTO);
	mnl_attr_put_u8(message, CTA_PROTO_NUM, IPPROTO_UDP);
	mnl_attr_put_u16(message, CTA_PROTO_SRC_PORT, t->sport);
	mnl_attr_put_u16(message, CTA_PROTO_DST_PORT, t->dport);
	mnl_attr_nest_end(message, nest);
	mnl_attr_nest_end(message, tuple);
	if (t->zone)
		mnl_attr_put_u16(message, CTA_ZONE, t->zone);
	(void)nl_batch_run(ct, &batch); /* it may be gone by itself */
}

/* Forgets the flows to these ports. A kernel whose connection tracking cannot be reached has its time-outs. */
static void forget(const uint8_t *ports)
{
	_cleanup_nl_ struct nl route = NL_INIT;
	_cleanup_free_ struct tuple *tuples = calloc(FLOWS_MAX, sizeof *tuples);
	struct flows flows = { .ports = ports, .tuples = tuples };
	struct nl_batch batch = NL_BATCH_INIT;

	if (!tuples || (!pending.ct.socket && nl_open(&pending.ct, NETLINK_NETFILTER) < 0) ||
	    nl_open(&route, NETLINK_ROUTE) < 0)
		return;
	add_request(&batch, IPCTNL_MSG_CT_GET, NLM_F_DUMP);
	if (nl_query(&pending.ct, &batch, flow_look, &flows) < 0)
		return;
	for (size_t i = 0; i < flows.n; i++)
		if (is_local(&route, tuples[i].dst))
			flow_delete(&pending.ct, &tuples[i]);
}

static void *forget_main(void *arg)
{
	uint8_t ports[sizeof pending.ports];

	for (;;) {
		pthread_mutex_lock(&pending.lock);
		if (!pending.any) {
			pending.running = false;
			pthread_mutex_unlock(&pending.lock);
			return NULL;
		}
		memcpy(ports, pending.ports, sizeof ports);
		memset(pending.ports, 0, sizeof pending.ports);
		pending.any = false;
		pthread_mutex_unlock(&pending.lock);
		forget(ports);
	}
}

static int thread_start(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&thread, &attr, forget_main, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return r;
}

void conntrack_forget_udp(const struct net_endpoint *endpoint)
{
	bool start;

	pthread_mutex_lock(&pending.lock);
	for (size_t i = 0; i < endpoint->n_ports; i++) {
		uint16_t port = endpoint->ports[i].host_port;

		if (!endpoint->ports[i].udp)
			continue;
		pending.ports[port / 8] |= (uint8_t)(1u << port % 8);
		pending.any = true;
	}
	start = pending.any && !pending.running;
	if (start)
		pending.running = true;
	pthread_mutex_unlock(&pending.lock);
	if (start && thread_start() != 0)
		forget_main(NULL);
}
