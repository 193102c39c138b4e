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
#include <string.h>

#define FLOWS_MAX 4096 /* of one workload at once: what is beyond goes by its own time-out */

struct tuple {
	uint32_t src, dst;       /* network byte order, as all here */
	uint16_t sport, dport;
	uint16_t zone;
};

struct flows {
	const struct net_endpoint *endpoint;
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

static bool port_is_published(const struct net_endpoint *e, uint16_t port)
{
	for (size_t i = 0; i < e->n_ports; i++)
		if (e->ports[i].udp && e->ports[i].host_port == port)
			return true;
	return false;
}

static void flow_look(const struct nlmsghdr *message, void *arg)
{
	const struct nlattr *attrs[CTA_MAX + 1];
	struct flows *flows = arg;
	struct tuple t = { 0 };

	nl_attributes(message, sizeof(struct nfgenmsg), attrs, CTA_MAX);
	if (flows->n == FLOWS_MAX || !attrs[CTA_TUPLE_ORIG] || !tuple_parse(attrs[CTA_TUPLE_ORIG], &t) ||
	    !port_is_published(flows->endpoint, ntohs(t.dport)))
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

static int flow_delete(struct nl *ct, const struct tuple *t)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct nlattr *tuple, *nest;
	struct nlmsghdr *message;
	int r;

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
	r = nl_batch_run(ct, &batch);
	return r == -ENOENT ? 0 : r;
}

/* EINVAL is how nfnetlink says that nobody serves this subsystem. */
static bool is_absent(int r)
{
	return r == -EINVAL || r == -EOPNOTSUPP || r == -EPROTONOSUPPORT;
}

int conntrack_forget_udp(const struct net_endpoint *endpoint, struct error *err)
{
	_cleanup_nl_ struct nl ct = NL_INIT, route = NL_INIT;
	_cleanup_free_ struct tuple *tuples = NULL;
	struct flows flows = { .endpoint = endpoint };
	struct nl_batch batch = NL_BATCH_INIT;
	bool any = false;
	int r;

	for (size_t i = 0; i < endpoint->n_ports; i++)
		any |= endpoint->ports[i].udp;
	if (!any)
		return 0;
	flows.tuples = tuples = calloc(FLOWS_MAX, sizeof *tuples);
	if (!tuples)
		return error_errno(err, ENOMEM, "cannot list the tracked connections");
	r = nl_open(&ct, NETLINK_NETFILTER);
	if (r == 0)
		r = nl_open(&route, NETLINK_ROUTE);
	if (r == 0) {
		add_request(&batch, IPCTNL_MSG_CT_GET, NLM_F_DUMP);
		r = nl_query(&ct, &batch, flow_look, &flows);
	}
	if (is_absent(r))
		return 0;
	for (size_t i = 0; r == 0 && i < flows.n; i++)
		if (is_local(&route, tuples[i].dst))
			r = flow_delete(&ct, &tuples[i]);
	return r < 0 ? nl_error(&ct, r, err, "cannot forget tracked UDP flows") : 0;
}
