/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "net/subnet.h"

#include "net/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

uint32_t subnet_mask(unsigned prefix)
{
	return prefix ? UINT32_MAX << (32 - prefix) : 0;
}

bool subnet_overlaps(uint32_t a, unsigned a_prefix, uint32_t b, unsigned b_prefix)
{
	uint32_t mask = subnet_mask(a_prefix < b_prefix ? a_prefix : b_prefix);

	return (a & mask) == (b & mask);
}

const char *subnet_text(uint32_t address, char out[SUBNET_TEXT_MAX])
{
	snprintf(out, SUBNET_TEXT_MAX, "%u.%u.%u.%u", address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255);
	return out;
}

/* One or two digits without a sign, a blank or a leading zero; -1 otherwise. */
static int parse_prefix(const char *s)
{
	int value = 0;

	if (!*s || *s == '0' || strlen(s) > 2)
		return -1;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -1;
		value = value * 10 + (*s - '0');
	}
	return value;
}

int net_parse_subnet(const char *text, uint32_t *ret_address, unsigned *ret_prefix, struct error *err)
{
	const char *slash = strchr(text, '/');
	char host[SUBNET_TEXT_MAX];
	struct in_addr in;
	uint32_t address, mask;
	int prefix;

	if (!slash || (size_t)(slash - text) >= sizeof host)
		goto malformed;
	memcpy(host, text, (size_t)(slash - text));
	host[slash - text] = '\0';
	prefix = parse_prefix(slash + 1);
	if (inet_pton(AF_INET, host, &in) != 1 || prefix < 0)
		goto malformed;
	if (prefix < 8 || prefix > 30)
		return error_set(err, ERR_INVALID_ARGUMENT, "the subnet %s has a prefix outside of 8 to 30", text);
	address = ntohl(in.s_addr);
	mask = subnet_mask((unsigned)prefix);
	if ((address & ~mask) == 0 || (address & ~mask) == ~mask)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "the subnet %s must be given by an address of a host in it, such as 172.20.254.1/24", text);
	if (address >> 24 == 0 || address >> 24 == 127 || address >> 24 >= 224)
		return error_set(err, ERR_INVALID_ARGUMENT, "the subnet %s is not one that a host can have", text);
	*ret_address = address;
	*ret_prefix = (unsigned)prefix;
	return 0;

malformed:
	return error_set(err, ERR_INVALID_ARGUMENT, "the subnet %s is not an address and prefix such as 172.20.254.1/24", text);
}

struct overlap {
	uint32_t address;
	unsigned prefix;
	uint32_t found;
	unsigned found_prefix;
	unsigned oif;
	bool any;
};

static void overlap_look(const struct nlmsghdr *message, void *arg)
{
	const struct rtmsg *route = mnl_nlmsg_get_payload(message);
	const struct nlattr *attrs[RTA_MAX + 1];
	struct overlap *o = arg;
	uint32_t dst;

	/* A default route overlaps everything; so do its two halves, which VPN programs put in its place. */
	if (route->rtm_type != RTN_UNICAST || route->rtm_dst_len <= 1)
		return;
	nl_attributes(message, sizeof *route, attrs, RTA_MAX);
	if (!attrs[RTA_DST] || !attrs[RTA_TABLE] || mnl_attr_get_u32(attrs[RTA_TABLE]) != RT_TABLE_MAIN)
		return;
	dst = ntohl(mnl_attr_get_u32(attrs[RTA_DST]));
	if (o->any || !subnet_overlaps(dst, route->rtm_dst_len, o->address, o->prefix))
		return;
	o->any = true;
	o->found = dst;
	o->found_prefix = route->rtm_dst_len;
	o->oif = attrs[RTA_OIF] ? mnl_attr_get_u32(attrs[RTA_OIF]) : 0;
}

int subnet_check_free(struct nl *nl, uint32_t address, unsigned prefix, struct error *err)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct overlap o = { .address = address, .prefix = prefix };
	struct rtmsg *route = nl_batch_add(&batch, RTM_GETROUTE, NLM_F_DUMP, sizeof *route);
	char own[SUBNET_TEXT_MAX], other[SUBNET_TEXT_MAX], interface[32] = "several interfaces";
	int r;

	route->rtm_family = AF_INET;
	r = nl_query(nl, &batch, overlap_look, &o);
	if (r < 0)
		return nl_error(nl, r, err, "cannot list the routes of the host");
	if (!o.any)
		return 0;
	if (o.oif && !if_indextoname(o.oif, interface))
		snprintf(interface, sizeof interface, "%u", o.oif);
	return error_set(err, ERR_FAILED_PRECONDITION,
			 "the subnet %s/%u overlaps %s/%u, which this host reaches through %s: choose another one with --subnet",
			 subnet_text(address & subnet_mask(prefix), own), prefix, subnet_text(o.found, other), o.found_prefix,
			 interface);
}
