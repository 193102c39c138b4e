/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "net/forward.h"

#include "base/buf.h"
#include "base/fs.h"
#include "net/firewall.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <string.h>
#include <sys/socket.h>

#define NAME_MAX_SIZE 64
#define CHAINS_MAX 32 /* base chains that drop what passes through or comes in; more than any host has */
#define HANDLES_MAX 16
#define TEXT_MAX 8192
#define LEGACY_MAX (16u << 20)

/* Comments live in a rule's user data as type, length, bytes: libnftnl's encoding, stable because nft reads it back. */
#define UDATA_RULE_COMMENT 0

struct chain {
	uint8_t family;
	uint32_t hook; /* NF_INET_FORWARD or NF_INET_LOCAL_IN */
	char table[NAME_MAX_SIZE], name[NAME_MAX_SIZE];
};

/* Chains */

struct chains {
	struct chain dropping[CHAINS_MAX];
	size_t n;
	bool docker_user;
};

static void copy_name(const struct nlattr *attr, char out[NAME_MAX_SIZE])
{
	snprintf(out, NAME_MAX_SIZE, "%.*s", attr ? (int)mnl_attr_get_payload_len(attr) : 0, attr ? mnl_attr_get_str(attr) : "");
}

/* NF_INET_NUMHOOKS: not a base chain. */
static uint32_t hook_number(const struct nlattr *hook)
{
	const struct nlattr *attrs[NFTA_HOOK_MAX + 1];

	if (!hook)
		return NF_INET_NUMHOOKS;
	nl_attributes_nested(hook, attrs, NFTA_HOOK_MAX);
	return attrs[NFTA_HOOK_HOOKNUM] ? ntohl(mnl_attr_get_u32(attrs[NFTA_HOOK_HOOKNUM])) : NF_INET_NUMHOOKS;
}

static void chain_look(const struct nlmsghdr *message, void *arg)
{
	const struct nfgenmsg *nf = mnl_nlmsg_get_payload(message);
	const struct nlattr *attrs[NFTA_CHAIN_MAX + 1];
	struct chains *chains = arg;
	struct chain c = { .family = nf->nfgen_family };

	if (c.family != NFPROTO_IPV4 && c.family != NFPROTO_INET)
		return;
	nl_attributes(message, sizeof *nf, attrs, NFTA_CHAIN_MAX);
	copy_name(attrs[NFTA_CHAIN_TABLE], c.table);
	copy_name(attrs[NFTA_CHAIN_NAME], c.name);
	if (c.family == NFPROTO_IPV4 && strcmp(c.table, "filter") == 0 && strcmp(c.name, "DOCKER-USER") == 0)
		chains->docker_user = true;
	c.hook = hook_number(attrs[NFTA_CHAIN_HOOK]);
	if ((c.hook != NF_INET_FORWARD && c.hook != NF_INET_LOCAL_IN) || !attrs[NFTA_CHAIN_POLICY] ||
	    ntohl(mnl_attr_get_u32(attrs[NFTA_CHAIN_POLICY])) != NF_DROP)
		return;
	for (size_t i = 0; i < chains->n; i++) /* a dump may tell twice */
		if (memcmp(&chains->dropping[i], &c, sizeof c) == 0)
			return;
	if (chains->n < CHAINS_MAX)
		chains->dropping[chains->n++] = c;
}

static int chains_list(struct nl *nl, struct chains *ret, struct error *err)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct nfgenmsg *nf = nl_batch_add(&batch, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, NLM_F_DUMP, sizeof *nf);
	int r;

	nf->nfgen_family = NFPROTO_UNSPEC;
	nf->version = NFNETLINK_V0;
	memset(ret, 0, sizeof *ret);
	r = nl_query(nl, &batch, chain_look, ret);
	return r < 0 ? nl_error(nl, r, err, "cannot list the chains of nftables") : 0;
}

/* Rules of ours in a chain of another */

struct rules {
	const struct chain *chain;
	char comment[LINK_ALIAS_MAX];
	uint64_t handles[HANDLES_MAX];
	size_t n;
};

static bool comment_is(const struct nlattr *userdata, const char *comment)
{
	const uint8_t *p = userdata ? mnl_attr_get_payload(userdata) : NULL;
	size_t left = userdata ? mnl_attr_get_payload_len(userdata) : 0, want = strlen(comment) + 1;

	while (left >= 2 && left - 2 >= p[1]) {
		if (p[0] == UDATA_RULE_COMMENT && p[1] == want && memcmp(p + 2, comment, want) == 0)
			return true;
		left -= 2u + p[1];
		p += 2 + p[1];
	}
	return false;
}

static void rule_look(const struct nlmsghdr *message, void *arg)
{
	const struct nlattr *attrs[NFTA_RULE_MAX + 1];
	char table[NAME_MAX_SIZE], chain[NAME_MAX_SIZE];
	struct rules *rules = arg;
	uint64_t handle;

	nl_attributes(message, sizeof(struct nfgenmsg), attrs, NFTA_RULE_MAX);
	copy_name(attrs[NFTA_RULE_TABLE], table);
	copy_name(attrs[NFTA_RULE_CHAIN], chain);
	if (strcmp(table, rules->chain->table) != 0 || strcmp(chain, rules->chain->name) != 0 || !attrs[NFTA_RULE_HANDLE] ||
	    !comment_is(attrs[NFTA_RULE_USERDATA], rules->comment))
		return;
	handle = be64toh(mnl_attr_get_u64(attrs[NFTA_RULE_HANDLE]));
	for (size_t i = 0; i < rules->n; i++)
		if (rules->handles[i] == handle)
			return;
	if (rules->n < HANDLES_MAX)
		rules->handles[rules->n++] = handle;
}

static int rules_find(struct nl *nl, const struct bridge_plan *plan, const struct chain *chain, struct rules *ret,
		      struct error *err)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct nfgenmsg *nf = nl_batch_add(&batch, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE, NLM_F_DUMP, sizeof *nf);
	int r;

	nf->nfgen_family = chain->family;
	nf->version = NFNETLINK_V0;
	mnl_attr_put_strz(nl_message(&batch), NFTA_RULE_TABLE, chain->table);
	mnl_attr_put_strz(nl_message(&batch), NFTA_RULE_CHAIN, chain->name);
	memset(ret, 0, sizeof *ret);
	ret->chain = chain;
	snprintf(ret->comment, sizeof ret->comment, "capsule:%s", plan->table);
	r = nl_query(nl, &batch, rule_look, ret);
	if (r == -ENOENT)
		return 0;
	return r < 0 ? nl_error(nl, r, err, "cannot list the rules of the chain %s %s", chain->table, chain->name) : 0;
}

static const struct chain docker_user = { NFPROTO_IPV4, NF_INET_FORWARD, "filter", "DOCKER-USER" };
static const struct chain iptables_forward = { NFPROTO_IPV4, NF_INET_FORWARD, "filter", "FORWARD" };
static const struct chain iptables_input = { NFPROTO_IPV4, NF_INET_LOCAL_IN, "filter", "INPUT" };

static bool same_chain(const struct chain *a, const struct chain *b)
{
	return a->family == b->family && strcmp(a->table, b->table) == 0 && strcmp(a->name, b->name) == 0;
}

/* The chain that takes our rules; NULL if none needs them. */
static const struct chain *chain_to_open(const struct chains *chains)
{
	if (chains->docker_user)
		return &docker_user;
	for (size_t i = 0; i < chains->n; i++)
		if (same_chain(&chains->dropping[i], &iptables_forward))
			return &iptables_forward;
	return NULL;
}

int forward_open(struct nl *nl, const struct bridge_plan *plan, struct error *err)
{
	const struct chain *chain;
	struct chains chains;
	struct rules rules;

	if (chains_list(nl, &chains, err) < 0)
		return -1;
	chain = chain_to_open(&chains);
	if (!chain)
		return 0;
	if (rules_find(nl, plan, chain, &rules, err) < 0)
		return -1;
	return rules.n ? 0 : firewall_accept_in(plan, chain->table, chain->name, err);
}

int forward_close(struct nl *nl, const struct bridge_plan *plan, struct error *err)
{
	const struct chain *const chains[] = { &docker_user, &iptables_forward };
	struct rules rules;

	for (size_t c = 0; c < 2; c++) {
		if (rules_find(nl, plan, chains[c], &rules, err) < 0)
			return -1;
		for (size_t i = 0; i < rules.n; i++)
			if (firewall_delete_rule(chains[c]->table, chains[c]->name, rules.handles[i], err) < 0)
				return -1;
	}
	return 0;
}

/* iptables-legacy: not nftables, read through its own socket option */

/* Whether the rules between the chain's first one and its policy name the bridge as both ways: the user has opened it. */
static bool legacy_names_bridge(const struct ipt_get_entries *entries, unsigned from, unsigned to, const char *bridge)
{
	bool in = false, out = false;

	while (from < to && from + sizeof(struct ipt_entry) <= entries->size) {
		const struct ipt_entry *e = (const void *)((const uint8_t *)entries->entrytable + from);

		in |= strncmp(e->ip.iniface, bridge, sizeof e->ip.iniface) == 0;
		out |= strncmp(e->ip.outiface, bridge, sizeof e->ip.outiface) == 0;
		if (!e->next_offset)
			break;
		from += e->next_offset;
	}
	return in && out;
}

static bool legacy_policy_drops(const struct ipt_get_entries *entries, unsigned policy)
{
	const struct ipt_entry *e = (const void *)((const uint8_t *)entries->entrytable + policy);
	const struct xt_standard_target *target;

	if (policy + sizeof *e > entries->size || policy + e->target_offset + sizeof *target > entries->size)
		return false;
	target = (const void *)((const uint8_t *)e + e->target_offset);
	return target->verdict == -NF_DROP - 1;
}

/* 1: drops, 0: does not, or -errno. The file is read first, because asking for the table would create it. */
static int legacy_drops(const char *bridge)
{
	_cleanup_free_ char *tables = NULL;
	_cleanup_free_ struct ipt_get_entries *entries = NULL;
	_cleanup_close_ int fd = -1;
	struct ipt_getinfo info = { .name = "filter" };
	socklen_t len = sizeof info;

	if (fs_read(AT_FDCWD, "/proc/thread-self/net/ip_tables_names", 4096, &tables, NULL, NULL) < 0 ||
	    !strstr(tables, "filter\n"))
		return 0;
	fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	if (fd < 0 || getsockopt(fd, IPPROTO_IP, IPT_SO_GET_INFO, &info, &len) < 0)
		return -errno;
	if (info.size > LEGACY_MAX)
		return -E2BIG;
	len = (socklen_t)(sizeof *entries + info.size);
	entries = calloc(1, len);
	if (!entries)
		return -ENOMEM;
	memcpy(entries->name, info.name, sizeof entries->name);
	entries->size = info.size;
	if (getsockopt(fd, IPPROTO_IP, IPT_SO_GET_ENTRIES, entries, &len) < 0)
		return -errno;
	return legacy_policy_drops(entries, info.underflow[NF_INET_FORWARD]) &&
	       !legacy_names_bridge(entries, info.hook_entry[NF_INET_FORWARD], info.underflow[NF_INET_FORWARD], bridge);
}

static void describe(struct buf *text, const struct chain *c, const struct bridge_plan *plan)
{
	const char *family = c->family == NFPROTO_IPV4 ? "ip" : "inet";

	buf_addf(text, "%sthe nftables chain %s %s %s drops ", text->len ? "\n" : "", family, c->table, c->name);
	if (c->hook == NF_INET_LOCAL_IN)
		buf_addf(text,
			 "what workloads ask the resolver on the bridge %s, so names do not resolve; open it with: "
			 "nft insert rule %s %s %s iifname \"%s\" meta l4proto { tcp, udp } th dport 53 accept comment \\\"capsule:%s\\\"",
			 plan->name, family, c->table, c->name, plan->name, plan->table);
	else
		buf_addf(text,
			 "what the bridge %s forwards; "
			 "open it with: nft insert rule %s %s %s iifname \"%s\" accept comment \\\"capsule:%s\\\" ; "
			 "nft insert rule %s %s %s oifname \"%s\" accept comment \\\"capsule:%s\\\"",
			 plan->name, family, c->table, c->name, plan->name, plan->table, family, c->table, c->name, plan->name,
			 plan->table);
}

static int obstacle_nft(struct nl *nl, const struct bridge_plan *plan, bool resolver, struct buf *text, struct error *err)
{
	const struct chain *opened;
	struct chains chains;

	if (chains_list(nl, &chains, err) < 0)
		return -1;
	opened = chain_to_open(&chains);
	for (size_t i = 0; i < chains.n; i++) {
		const struct chain *c = &chains.dropping[i];
		struct rules rules;

		/* What ufw and others accept stands in chains that INPUT calls. */
		if (c->hook == NF_INET_LOCAL_IN && (!resolver || same_chain(c, &iptables_input)))
			continue;
		/* DOCKER-USER stands in front of FORWARD: what is accepted there is not dropped here. */
		if (opened && (same_chain(c, opened) || (opened == &docker_user && same_chain(c, &iptables_forward))))
			c = opened;
		if (rules_find(nl, plan, c, &rules, err) < 0)
			return -1;
		if (!rules.n)
			describe(text, c, plan);
	}
	return 0;
}

int forward_obstacle(struct nl *nl, const struct bridge_plan *plan, bool resolver, char **ret_text, struct error *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(TEXT_MAX);
	char *result = NULL;
	int r;

	if (obstacle_nft(nl, plan, resolver, &text, err) < 0)
		return -1;
	r = legacy_drops(plan->name);
	if (r < 0)
		return error_errno(err, -r, "cannot read the rules of iptables-legacy");
	if (r > 0)
		buf_addf(&text,
			 "%sthe FORWARD chain of iptables-legacy drops what the bridge %s forwards; open it with: "
			 "iptables-legacy -I FORWARD -i %s -j ACCEPT ; iptables-legacy -I FORWARD -o %s -j ACCEPT",
			 text.len ? "\n" : "", plan->name, plan->name, plan->name);
	if (text.len && !(result = buf_steal(&text)))
		return error_errno(err, ENOMEM, "cannot describe what the host's firewall blocks");
	*ret_text = result;
	return 0;
}
