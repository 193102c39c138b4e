/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "net/netlink.h"

#include <errno.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#define ANSWER_MAX 32768 /* as large as the kernel makes one part of a dump */
#define DUMP_TRIES 8

int nl_open(struct nl *nl, int bus)
{
	int on = 1;

	nl->socket = mnl_socket_open2(bus, SOCK_CLOEXEC);
	if (!nl->socket)
		return -errno;
	if (mnl_socket_bind(nl->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
		int r = -errno;

		nl_close(nl);
		return r;
	}
	(void)mnl_socket_setsockopt(nl->socket, NETLINK_EXT_ACK, &on, sizeof on);
	(void)mnl_socket_setsockopt(nl->socket, NETLINK_CAP_ACK, &on, sizeof on);
	return 0;
}

void nl_close(struct nl *nl)
{
	if (nl->socket)
		mnl_socket_close(nl->socket);
	nl->socket = NULL;
}

struct nlmsghdr *nl_message(struct nl_batch *batch)
{
	return (struct nlmsghdr *)(void *)((uint8_t *)batch->data + batch->last);
}

static size_t batch_len(struct nl_batch *batch)
{
	return batch->count ? batch->last + NLMSG_ALIGN(nl_message(batch)->nlmsg_len) : 0;
}

void *nl_batch_add(struct nl_batch *batch, unsigned type, unsigned flags, size_t extra)
{
	size_t len = batch_len(batch);
	struct nlmsghdr *message;

	if (len + NL_MESSAGE_ROOM > sizeof batch->data)
		abort(); /* a batch is made by code of ours, of a number of messages that we know */
	batch->last = len;
	batch->count++;
	message = mnl_nlmsg_put_header((uint8_t *)batch->data + len);
	message->nlmsg_type = (uint16_t)type;
	message->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	return mnl_nlmsg_put_extra_header(message, extra);
}

static int batch_send(struct nl *nl, struct nl_batch *batch, unsigned flags)
{
	size_t len = batch_len(batch);

	for (size_t at = 0; at < len;) {
		struct nlmsghdr *message = (struct nlmsghdr *)(void *)((uint8_t *)batch->data + at);

		message->nlmsg_seq = ++nl->seq;
		message->nlmsg_flags |= (uint16_t)flags;
		at += NLMSG_ALIGN(message->nlmsg_len);
	}
	return mnl_socket_sendto(nl->socket, batch->data, len) < 0 ? -errno : 0;
}

/* The error that an NLMSG_ERROR carries (0: an acknowledgement), and the kernel's words on it. */
static int error_of(struct nl *nl, const struct nlmsghdr *message)
{
	const struct nlmsgerr *e = mnl_nlmsg_get_payload(message);
	const struct nlattr *attrs[NLMSGERR_ATTR_MSG + 1];

	if (message->nlmsg_len < mnl_nlmsg_size(sizeof *e))
		return -EBADMSG;
	if (e->error == 0)
		return 0;
	nl->reason[0] = '\0';
	if (!(message->nlmsg_flags & NLM_F_ACK_TLVS) || !(message->nlmsg_flags & NLM_F_CAPPED))
		return e->error;
	nl_attributes(message, sizeof *e, attrs, NLMSGERR_ATTR_MSG);
	if (attrs[NLMSGERR_ATTR_MSG] && mnl_attr_validate(attrs[NLMSGERR_ATTR_MSG], MNL_TYPE_NUL_STRING) == 0)
		snprintf(nl->reason, sizeof nl->reason, "%s", mnl_attr_get_str(attrs[NLMSGERR_ATTR_MSG]));
	return e->error;
}

static ssize_t receive(struct nl *nl, void *buffer)
{
	ssize_t n;

	do
		n = mnl_socket_recvfrom(nl->socket, buffer, ANSWER_MAX);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int nl_batch_run(struct nl *nl, struct nl_batch *batch)
{
	_cleanup_free_ void *buffer = malloc(ANSWER_MAX);
	unsigned waiting = batch->count;
	int first = 0, r;

	if (!buffer)
		return -ENOMEM;
	r = batch_send(nl, batch, NLM_F_ACK);
	if (r < 0)
		return r;
	while (waiting) {
		ssize_t n = receive(nl, buffer);
		struct nlmsghdr *message = buffer;

		if (n < 0)
			return (int)n;
		for (int left = (int)n; mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
			if (message->nlmsg_type != NLMSG_ERROR || !waiting)
				continue;
			waiting--;
			r = first ? first : error_of(nl, message);
			first = r;
		}
	}
	return first;
}

/* One round of question and answer. Sets *ret_again when the kernel says that what it dumped changed meanwhile. */
static int query_once(struct nl *nl, struct nl_batch *batch, nl_answer_fn fn, void *arg, void *buffer, bool *ret_again)
{
	bool dump = (nl_message(batch)->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
	int r = batch_send(nl, batch, dump ? 0 : NLM_F_ACK);

	*ret_again = false;
	if (r < 0)
		return r;
	for (;;) {
		ssize_t n = receive(nl, buffer);
		struct nlmsghdr *message = buffer;

		if (n < 0)
			return (int)n;
		for (int left = (int)n; mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
			if (message->nlmsg_seq != nl->seq)
				continue;
			if (message->nlmsg_flags & NLM_F_DUMP_INTR)
				*ret_again = true;
			if (message->nlmsg_type == NLMSG_ERROR)
				return error_of(nl, message);
			if (message->nlmsg_type == NLMSG_DONE)
				return 0;
			if (message->nlmsg_type >= NLMSG_MIN_TYPE)
				fn(message, arg);
		}
	}
}

int nl_query(struct nl *nl, struct nl_batch *batch, nl_answer_fn fn, void *arg)
{
	_cleanup_free_ void *buffer = malloc(ANSWER_MAX);
	bool again = true;
	int r = 0;

	if (!buffer)
		return -ENOMEM;
	for (unsigned i = 0; again && r == 0 && i < DUMP_TRIES; i++)
		r = query_once(nl, batch, fn, arg, buffer, &again);
	return r;
}

int nl_error(const struct nl *nl, int r, struct error *err, const char *fmt, ...)
{
	_cleanup_free_ char *what = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&what, fmt, ap) < 0)
		what = NULL;
	va_end(ap);
	error_errno(err, -r, "%s", what ? what : "netlink");
	if (err && nl->reason[0])
		error_set(err, err->code, "%s (%s)", error_message(err), nl->reason);
	return -1;
}

struct sorter {
	const struct nlattr **table;
	unsigned max;
};

static int sort_attribute(const struct nlattr *attr, void *arg)
{
	struct sorter *s = arg;

	if (mnl_attr_get_type(attr) <= s->max)
		s->table[mnl_attr_get_type(attr)] = attr;
	return MNL_CB_OK;
}

void nl_attributes(const struct nlmsghdr *message, size_t extra, const struct nlattr **table, unsigned max)
{
	struct sorter s = { table, max };

	memset(table, 0, (max + 1) * sizeof *table);
	(void)mnl_attr_parse(message, (unsigned)extra, sort_attribute, &s);
}

void nl_attributes_nested(const struct nlattr *nest, const struct nlattr **table, unsigned max)
{
	struct sorter s = { table, max };

	memset(table, 0, (max + 1) * sizeof *table);
	(void)mnl_attr_parse_nested(nest, sort_attribute, &s);
}
