/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Calls between our own client and server: the four kinds, back-pressure, ends of every sort, health. */
#include "base/timeutil.h"
#include "health.pb-c.h"
#include "rpc/health.h"
#include "rpc/internal.h"
#include "rpc/unary.h"
#include "rpc_pair.h"
#include "runner.h"

#include <check.h>

static const ProtobufCMessageDescriptor *const echo = &echo__v1__echo_message__descriptor;

/* --- a client's call that takes notes --- */

struct notes {
	unsigned messages, closes, writables;
	uint64_t bytes, last_seq;
	bool in_order, pause_each;
	enum error_code code;
	char text[256], child_text[256], blob[256];
	char close_message[4096];
};

static void note_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Echo__V1__EchoMessage *m = (const Echo__V1__EchoMessage *)message;
	struct notes *n = rpc_call_data(call);

	if (n->messages == 0)
		n->in_order = true;
	n->in_order = n->in_order && m->seq == n->messages;
	n->messages++;
	n->bytes += m->blob.len;
	n->last_seq = m->seq;
	snprintf(n->text, sizeof(n->text), "%s", m->text);
	snprintf(n->child_text, sizeof(n->child_text), "%s", m->n_children ? m->children[0]->text : "");
	snprintf(n->blob, sizeof(n->blob), "%.*s", (int)m->blob.len, m->blob.data ? (const char *)m->blob.data : "");
	if (n->pause_each)
		rpc_call_pause(call);
}

static void note_writable(struct rpc_call *call)
{
	((struct notes *)rpc_call_data(call))->writables++;
}

static void note_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct notes *n = rpc_call_data(call);

	n->closes++;
	n->code = code;
	snprintf(n->close_message, sizeof(n->close_message), "%s", message);
}

#define CLIENT_METHOD(p, one)                                                                                         \
	{                                                                                                             \
		.path = (p), .receives = &echo__v1__echo_message__descriptor, .receives_one = (one),                  \
		.message = note_message, .writable = note_writable, .close = note_close                              \
	}
static const struct rpc_method unary = CLIENT_METHOD("/echo.v1.Echo/Unary", true);
static const struct rpc_method server_stream = CLIENT_METHOD("/echo.v1.Echo/ServerStream", false);
static const struct rpc_method client_stream = CLIENT_METHOD("/echo.v1.Echo/ClientStream", true);
static const struct rpc_method bidi = CLIENT_METHOD("/echo.v1.Echo/Bidi", false);

static int send_echo(struct rpc_call *call, const char *text, uint64_t seq, size_t blob)
{
	Echo__V1__EchoMessage m = ECHO__V1__ECHO_MESSAGE__INIT;
	uint8_t *bytes = malloc(blob + 1);
	int r;

	memset(bytes, 'x', blob + 1);
	m.text = (char *)text;
	m.seq = seq;
	m.blob.len = blob;
	m.blob.data = bytes;
	r = rpc_call_send(call, &m.base);
	free(bytes);
	return r;
}

static struct pair pair;

static void setup(void)
{
	pair_init(&pair, echo_methods, ECHO_METHODS);
}

static void teardown(void)
{
	pair_release(&pair);
}

/* --- the four kinds --- */

START_TEST(four_kinds_of_call)
{
	static const size_t steps[] = { 1, 7, 1000, SIZE_MAX };
	struct notes a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
	struct rpc_call *call;

	pair.step = steps[_i];
	call = rpc_conn_call(pair.client, &unary, 0, &a);
	ck_assert_int_eq(send_echo(call, "hé", 0, 3), 0);
	rpc_call_half_close(call);
	call = rpc_conn_call(pair.client, &server_stream, 0, &b);
	send_echo(call, "s", 50, 10);
	rpc_call_half_close(call);
	call = rpc_conn_call(pair.client, &client_stream, 0, &c);
	for (unsigned i = 0; i < 50; i++)
		send_echo(call, "c", i, 10);
	rpc_call_half_close(call);
	call = rpc_conn_call(pair.client, &bidi, 0, &d);
	for (unsigned i = 0; i < 50; i++) {
		send_echo(call, "d", i, 0);
		pair_run(&pair);
		ck_assert_uint_eq(d.messages, i + 1);
	}
	ck_assert_uint_eq(d.closes, 0);
	rpc_call_half_close(call);
	pair_run(&pair);
	ck_assert_str_eq(a.text, "hé");
	ck_assert_uint_eq(a.bytes, 3);
	ck_assert_uint_eq(a.messages, 1);
	ck_assert_uint_eq(b.messages, 50);
	ck_assert(b.in_order && d.in_order);
	ck_assert_str_eq(c.text, "50 messages, 500 bytes");
	ck_assert(a.closes == 1 && b.closes == 1 && c.closes == 1 && d.closes == 1);
	ck_assert(a.code == ERR_OK && b.code == ERR_OK && c.code == ERR_OK && d.code == ERR_OK);
	ck_assert_uint_eq(rpc_conn_calls(pair.client), 0);
	ck_assert_uint_eq(rpc_conn_calls(pair.server), 0);
}
END_TEST

START_TEST(empty_stream_is_ok)
{
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &bidi, 0, &n);

	rpc_call_half_close(call);
	pair_run(&pair);
	ck_assert_uint_eq(n.closes, 1);
	ck_assert_int_eq(n.code, ERR_OK);
	ck_assert_uint_eq(n.messages, 0);
}
END_TEST

START_TEST(largest_message_passes_and_larger_does_not)
{
	struct notes n = { 0 }, m = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &unary, 0, &n);

	/* 5 bytes of field header: 1 tag, 4 length. */
	ck_assert_int_eq(send_echo(call, "", 0, RPC_MESSAGE_MAX - 5), 0);
	rpc_call_half_close(call);
	pair_run(&pair);
	ck_assert_int_eq(n.code, ERR_OK);
	ck_assert_uint_eq(n.bytes, RPC_MESSAGE_MAX - 5);
	call = rpc_conn_call(pair.client, &unary, 0, &m);
	ck_assert_int_eq(send_echo(call, "", 0, RPC_MESSAGE_MAX), -1);
	pair_run(&pair);
	ck_assert_uint_eq(m.closes, 1);
	ck_assert_int_eq(m.code, ERR_RESOURCE_EXHAUSTED);
}
END_TEST

START_TEST(server_reply_above_the_limit)
{
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &unary, 0, &n);

	send_echo(call, "large", RPC_MESSAGE_MAX + 1, 0);
	rpc_call_half_close(call);
	pair_run(&pair);
	ck_assert_int_eq(n.code, ERR_RESOURCE_EXHAUSTED);
}
END_TEST

/* --- back-pressure --- */

/* 40 MB through a stream, from a sender that heeds `writable`. */
static void stream_40mb(const struct rpc_method *method, struct notes *n)
{
	struct rpc_call *call = rpc_conn_call(pair.client, method, 0, n);
	size_t most = 0;

	for (unsigned i = 0; i < 400; i++) {
		while (!rpc_call_writable(call)) {
			unsigned before = n->writables;

			pair_run(&pair);
			ck_assert_uint_eq(n->writables, before + 1);
		}
		ck_assert_int_eq(send_echo(call, "", i, 100000), 0);
		if (call->queued > most)
			most = call->queued;
	}
	rpc_call_half_close(call);
	pair_run(&pair);
	ck_assert_uint_le(most, RPC_SEND_HIGH + 100100);
	ck_assert_uint_eq(n->closes, 1);
	ck_assert_int_eq(n->code, ERR_OK);
}

START_TEST(streams_of_40_mb)
{
	struct notes up = { 0 }, both = { 0 }, down = { 0 };
	struct rpc_call *call;

	stream_40mb(&client_stream, &up);
	ck_assert_str_eq(up.text, "400 messages, 40000000 bytes");
	stream_40mb(&bidi, &both);
	ck_assert_uint_eq(both.bytes, 40000000);
	ck_assert(both.in_order);
	call = rpc_conn_call(pair.client, &server_stream, 0, &down);
	send_echo(call, "", 400, 100000);
	rpc_call_half_close(call);
	pair_run(&pair);
	ck_assert_uint_eq(down.bytes, 40000000);
	ck_assert(down.in_order);
}
END_TEST

START_TEST(paused_receiver_bounds_both_sides)
{
	struct notes n = { 0 }, other = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &server_stream, 0, &n), *quick;
	struct rpc_call *served;

	rpc_call_pause(call);
	send_echo(call, "", 400, 100000);
	rpc_call_half_close(call);
	pair_run(&pair);
	served = pair.server->calls;
	ck_assert_uint_eq(n.messages, 0);
	ck_assert_uint_le(call->in.len, RPC_WINDOW);
	ck_assert_uint_le(served->queued, RPC_SEND_HIGH + 100100);
	ck_assert(!rpc_call_writable(served));
	/* A call that does not read holds up no other one. */
	quick = rpc_conn_call(pair.client, &unary, 0, &other);
	send_echo(quick, "quick", 0, 2 * RPC_WINDOW);
	rpc_call_half_close(quick);
	pair_run(&pair);
	ck_assert_str_eq(other.text, "quick");
	/* One message at a time. */
	n.pause_each = true;
	for (unsigned i = 1; i <= 20; i++) {
		rpc_call_resume(call);
		pair_run(&pair);
		ck_assert_uint_eq(n.messages, i);
		ck_assert_uint_le(call->in.len, RPC_WINDOW + 100100);
	}
	n.pause_each = false;
	rpc_call_resume(call);
	pair_run(&pair);
	ck_assert_uint_eq(n.messages, 400);
	ck_assert(n.in_order);
	ck_assert_int_eq(n.code, ERR_OK);
}
END_TEST

/* As many as a guest has further processes, and nobody reads what any of them says. */
START_TEST(calls_of_a_shared_connection_that_nobody_reads_harm_no_other)
{
	enum { CALLS = 256 };
	const struct rpc_conn_options options = { .peer = { .fd = -1 }, .shared = true };
	static struct notes n[CALLS];
	struct pair shared = pair;
	struct notes last = { 0 };
	struct rpc_call *call;

	shared.client = rpc_conn_new_client("localhost", &options);
	shared.server = rpc_conn_new_server(pair.services, &options);
	for (unsigned i = 0; i < CALLS; i++) {
		call = rpc_conn_call(shared.client, &server_stream, 0, &n[i]);
		rpc_call_pause(call);
		send_echo(call, "", 250, 10000);
		rpc_call_half_close(call);
		pair_run(&shared);
	}
	ck_assert_uint_le(shared.client->unread, RPC_UNREAD_MAX);
	ck_assert_uint_le(shared.server->queued, RPC_QUEUED_MAX);
	call = rpc_conn_call(shared.client, &server_stream, 0, &last);
	send_echo(call, "", 250, 10000);
	rpc_call_half_close(call);
	pair_run(&shared);
	ck_assert(last.closes == 1 && last.code == ERR_OK && last.messages == 250 && last.in_order);
	for (call = shared.client->calls; call; call = call->next)
		rpc_call_resume(call);
	pair_run(&shared);
	for (unsigned i = 0; i < CALLS; i++)
		ck_assert(n[i].closes == 1 && n[i].code == ERR_OK && n[i].messages == 250 && n[i].in_order);
	rpc_conn_free(shared.client);
	rpc_conn_free(shared.server);
}
END_TEST

START_TEST(messages_come_before_the_status_even_when_paused)
{
	struct notes n = { .pause_each = true };
	struct rpc_call *call = rpc_conn_call(pair.client, &server_stream, 0, &n);

	send_echo(call, "", 3, 10);
	rpc_call_half_close(call);
	pair_run(&pair);
	ck_assert_uint_eq(rpc_conn_calls(pair.server), 0);
	for (unsigned i = 1; i <= 3; i++) {
		ck_assert_uint_eq(n.messages, i);
		ck_assert_uint_eq(n.closes, i == 3 ? n.closes : 0);
		if (n.closes == 0)
			rpc_call_resume(call);
		pair_run(&pair);
	}
	ck_assert_uint_eq(n.closes, 1);
	ck_assert_int_eq(n.code, ERR_OK);
}
END_TEST

START_TEST(resume_just_before_the_end_loses_nothing)
{
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &server_stream, 0, &n);

	rpc_call_pause(call);
	send_echo(call, "", 3, 10);
	rpc_call_half_close(call);
	pair_move(&pair, pair.client, pair.server);
	rpc_call_resume(call);
	pair_run(&pair);
	ck_assert_uint_eq(n.messages, 3);
	ck_assert_int_eq(n.code, ERR_OK);
}
END_TEST

START_TEST(cancel_of_a_paused_call_that_has_ended)
{
	struct notes n = { .pause_each = true };
	struct rpc_call *call = rpc_conn_call(pair.client, &server_stream, 0, &n);

	send_echo(call, "", 3, 10);
	rpc_call_half_close(call);
	pair_run(&pair);
	rpc_call_cancel(call);
	pair_run(&pair);
	ck_assert_uint_eq(n.closes, 1);
	ck_assert_uint_eq(n.messages, 1);
	ck_assert_uint_eq(rpc_conn_calls(pair.client), 0);
}
END_TEST

/* --- the server's side of an end --- */

static struct {
	unsigned opens, messages, half_closes, closes;
	enum error_code code;
	struct rpc_call *call;
} seen;

static void seen_open(struct rpc_call *call)
{
	seen.opens++;
	seen.call = call;
}

static void seen_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	seen.messages++;
}

static void seen_half_close(struct rpc_call *call)
{
	seen.half_closes++;
}

static void seen_close(struct rpc_call *call, enum error_code code, const char *message)
{
	seen.closes++;
	seen.code = code;
}

static const struct rpc_method seen_methods[] = {
	{ .path = "/echo.v1.Echo/Bidi", .receives = &echo__v1__echo_message__descriptor, .open = seen_open,
	  .message = seen_message, .half_close = seen_half_close, .close = seen_close },
};

static void setup_seen(void)
{
	memset(&seen, 0, sizeof(seen));
	pair_init(&pair, seen_methods, 1);
}

START_TEST(client_cancel_reaches_the_server)
{
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &bidi, 0, &n);

	send_echo(call, "", 0, 10);
	pair_run(&pair);
	ck_assert_uint_eq(seen.messages, 1);
	rpc_call_cancel(call);
	ck_assert_uint_eq(n.closes, 0); /* never inside the call */
	pair_run(&pair);
	ck_assert_uint_eq(n.closes, 1);
	ck_assert_int_eq(n.code, ERR_CANCELLED);
	ck_assert_uint_eq(seen.closes, 1);
	ck_assert_int_eq(seen.code, ERR_CANCELLED);
	ck_assert_uint_eq(rpc_conn_calls(pair.client) + rpc_conn_calls(pair.server), 0);
}
END_TEST

START_TEST(cancel_before_anything_was_sent)
{
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &bidi, 0, &n);

	rpc_call_cancel(call);
	pair_run(&pair);
	ck_assert_uint_eq(n.closes, 1);
	ck_assert_int_eq(n.code, ERR_CANCELLED);
	ck_assert_uint_eq(seen.opens, 0);
	ck_assert_uint_eq(rpc_conn_calls(pair.client), 0);
}
END_TEST

START_TEST(deadline_on_the_server)
{
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &bidi, 5000, &n);
	int64_t deadline;

	send_echo(call, "", 0, 10);
	pair_run(&pair);
	deadline = rpc_conn_deadline(pair.server);
	ck_assert_int_gt(deadline, time_monotonic_ns() + 4 * NSEC_PER_SEC);
	rpc_conn_expire(pair.server, deadline - 1);
	pair_run(&pair);
	ck_assert_uint_eq(seen.closes, 0);
	rpc_conn_expire(pair.server, deadline);
	pair_run(&pair);
	ck_assert_uint_eq(seen.closes, 1);
	ck_assert_int_eq(seen.code, ERR_CANCELLED);
	ck_assert_uint_eq(n.closes, 1);
	ck_assert_int_eq(n.code, ERR_DEADLINE_EXCEEDED);
	ck_assert_int_eq(rpc_conn_deadline(pair.server), -1);
}
END_TEST

START_TEST(deadline_on_the_client)
{
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &bidi, 1000, &n);

	send_echo(call, "", 0, 10);
	pair_run(&pair);
	rpc_conn_expire(pair.client, rpc_conn_deadline(pair.client));
	pair_run(&pair);
	ck_assert_int_eq(n.code, ERR_DEADLINE_EXCEEDED);
	ck_assert_uint_eq(seen.closes, 1);
	ck_assert_int_eq(seen.code, ERR_CANCELLED);
}
END_TEST

START_TEST(deadline_ends_a_server_whose_peer_does_not_read)
{
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &bidi, 1000, &n);

	rpc_call_pause(call);
	pair_run(&pair);
	for (unsigned i = 0; i < 20; i++)
		send_echo(seen.call, "", i, 100000);
	pair_run(&pair);
	rpc_conn_expire(pair.server, rpc_conn_deadline(pair.server));
	pair_run(&pair);
	ck_assert_uint_eq(seen.closes, 1);
	ck_assert_uint_eq(rpc_conn_calls(pair.server), 0);
	ck_assert_uint_eq(n.closes, 1);
}
END_TEST

START_TEST(status_before_the_client_has_ended)
{
	struct notes n = { 0 };

	rpc_conn_call(pair.client, &bidi, 0, &n);
	pair_run(&pair);
	rpc_call_finish(seen.call, ERR_FAILED_PRECONDITION, "no");
	ck_assert_int_eq(send_echo(seen.call, "", 0, 0), -1);
	pair_run(&pair);
	ck_assert_uint_eq(n.closes, 1);
	ck_assert_int_eq(n.code, ERR_FAILED_PRECONDITION);
	ck_assert_str_eq(n.close_message, "no");
	ck_assert_int_eq(seen.code, ERR_OK);
	ck_assert_uint_eq(rpc_conn_calls(pair.client) + rpc_conn_calls(pair.server), 0);
}
END_TEST

START_TEST(lost_connection)
{
	struct notes n = { 0 }, late = { 0 };

	rpc_conn_call(pair.client, &bidi, 0, &n);
	pair_run(&pair);
	rpc_conn_fail(pair.client, ERR_UNAVAILABLE, "gone");
	rpc_conn_fail(pair.server, ERR_UNAVAILABLE, "gone");
	ck_assert_int_eq(n.code, ERR_UNAVAILABLE);
	ck_assert_str_eq(n.close_message, "gone");
	ck_assert_int_eq(seen.code, ERR_CANCELLED);
	ck_assert(rpc_conn_finished(pair.client) && rpc_conn_finished(pair.server));
	rpc_conn_call(pair.client, &bidi, 0, &late);
	ck_assert_uint_eq(late.closes, 0);
	pair_run(&pair);
	ck_assert_uint_eq(late.closes, 1);
	ck_assert_int_eq(late.code, ERR_UNAVAILABLE);
}
END_TEST

START_TEST(drain_lets_calls_finish_and_takes_no_more)
{
	struct notes n = { 0 }, late = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &bidi, 0, &n);

	pair_run(&pair);
	rpc_conn_drain(pair.server);
	pair_run(&pair);
	ck_assert(!rpc_conn_finished(pair.server));
	rpc_conn_call(pair.client, &bidi, 0, &late);
	pair_run(&pair);
	ck_assert_int_eq(late.code, ERR_UNAVAILABLE);
	ck_assert_uint_eq(late.closes, 1);
	ck_assert_int_eq(send_echo(call, "", 0, 0), 0);
	pair_run(&pair);
	ck_assert_uint_eq(seen.messages, 1);
	rpc_call_finish(seen.call, ERR_OK, NULL);
	pair_run(&pair);
	ck_assert_uint_eq(n.closes, 1);
	ck_assert_int_eq(n.code, ERR_OK);
	ck_assert(rpc_conn_finished(pair.server) && rpc_conn_finished(pair.client));
}
END_TEST

START_TEST(drain_of_an_idle_connection)
{
	pair_run(&pair);
	rpc_conn_drain(pair.server);
	pair_run(&pair);
	ck_assert(rpc_conn_finished(pair.server));
}
END_TEST

START_TEST(unread_data_of_a_connection_is_limited)
{
	enum { CALLS = 80 };
	static struct notes n[CALLS];
	unsigned refused = 0;

	for (unsigned i = 0; i < CALLS; i++) {
		rpc_conn_call(pair.client, &bidi, 0, &n[i]);
		pair_run(&pair);
		rpc_call_pause(seen.call);
		for (unsigned k = 0; k < 10 && n[i].closes == 0; k++)
			send_echo(pair.client->calls, "", k, 100000);
		pair_run(&pair);
		ck_assert_uint_le(pair.server->unread, RPC_UNREAD_MAX);
	}
	for (unsigned i = 0; i < CALLS; i++)
		refused += n[i].closes == 1 && n[i].code == ERR_RESOURCE_EXHAUSTED;
	ck_assert_uint_gt(refused, 5);
	ck_assert_uint_lt(refused, 20);
}
END_TEST

START_TEST(queued_data_of_a_connection_is_limited)
{
	enum { CALLS = 40 };
	static struct notes n[CALLS];
	unsigned refused = 0;

	pair_run(&pair);
	for (unsigned i = 0; i < CALLS; i++) {
		struct rpc_call *call = rpc_conn_call(pair.client, &unary, 0, &n[i]);

		send_echo(call, "large", 4000000, 0);
		rpc_call_half_close(call);
	}
	/* The client asks and does not read. */
	pair_move(&pair, pair.client, pair.server);
	ck_assert_uint_le(pair.server->queued, RPC_QUEUED_MAX + 100);
	pair_run(&pair);
	for (unsigned i = 0; i < CALLS; i++) {
		ck_assert_uint_eq(n[i].closes, 1);
		refused += n[i].code == ERR_RESOURCE_EXHAUSTED;
	}
	ck_assert_uint_eq(refused, CALLS - RPC_QUEUED_MAX / 4000000);
	ck_assert_uint_eq(pair.server->queued, 0);
}
END_TEST

/* --- statuses --- */

START_TEST(status_messages_survive)
{
	static const char *const messages[] = { "plain", "a%b", "line\nline", "größer 100 %", "", "%41" };
	Echo__V1__EchoMessage m = ECHO__V1__ECHO_MESSAGE__INIT;

	for (int code = 1; code <= 16; code++) {
		const char *text = messages[code % 6];
		struct notes n = { 0 };
		struct rpc_call *call = rpc_conn_call(pair.client, &unary, 0, &n);

		m.text = (char *)"fail";
		m.seq = code;
		m.blob.data = (uint8_t *)text;
		m.blob.len = strlen(text);
		rpc_call_send(call, &m.base);
		rpc_call_half_close(call);
		pair_run(&pair);
		ck_assert_int_eq(n.code, code);
		ck_assert_str_eq(n.close_message, text);
	}
}
END_TEST

/* Foreign bytes in a text cost the text, not the message. */
START_TEST(foreign_bytes_in_a_reply)
{
	static const struct {
		const char *bytes, *text;
	} foreign[] = {
		{ "größer", "größer" },
		{ "a\xff" "b\xc3", "a?b?" },
		{ "\xed\xa0\x80 \xf0\x9f\x98\x80 \xf0\x9f\x98", "??? \xf0\x9f\x98\x80 ???" },
	};
	Echo__V1__EchoMessage m = ECHO__V1__ECHO_MESSAGE__INIT;
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &unary, 0, &n);

	m.text = (char *)"foreign";
	m.blob.data = (uint8_t *)foreign[_i].bytes;
	m.blob.len = strlen(foreign[_i].bytes);
	rpc_call_send(call, &m.base);
	rpc_call_half_close(call);
	pair_run(&pair);
	ck_assert_int_eq(n.code, ERR_OK);
	ck_assert_str_eq(n.text, foreign[_i].text);
	ck_assert_str_eq(n.child_text, foreign[_i].text);
	/* What is not text is as it was. */
	ck_assert_str_eq(n.blob, foreign[_i].bytes);
}
END_TEST

START_TEST(foreign_bytes_in_a_request_are_refused)
{
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &unary, 0, &n);

	send_echo(call, "\xff", 0, 0);
	rpc_call_half_close(call);
	pair_run(&pair);
	ck_assert_int_eq(n.code, ERR_INVALID_ARGUMENT);
	ck_assert_str_eq(n.close_message, "the field \"text\" is not UTF-8 text without NUL");
}
END_TEST

START_TEST(unknown_method_is_named)
{
	static const struct rpc_method nope = CLIENT_METHOD("/echo.v1.Echo/Nope", true);
	struct notes n = { 0 };
	struct rpc_call *call = rpc_conn_call(pair.client, &nope, 0, &n);

	send_echo(call, "", 0, 300000);
	rpc_call_half_close(call);
	pair_run(&pair);
	ck_assert_uint_eq(n.closes, 1);
	ck_assert_int_eq(n.code, ERR_UNIMPLEMENTED);
	ck_assert_ptr_nonnull(strstr(n.close_message, "/echo.v1.Echo/Nope"));
	ck_assert_uint_eq(rpc_conn_calls(pair.server), 0);
}
END_TEST

START_TEST(more_calls_than_streams_wait_their_turn)
{
	enum { CALLS = RPC_STREAMS_MAX + 200 };
	static struct notes n[CALLS];

	for (unsigned i = 0; i < CALLS; i++) {
		struct rpc_call *call = rpc_conn_call(pair.client, &unary, 0, &n[i]);

		send_echo(call, "", i, 0);
		rpc_call_half_close(call);
	}
	pair_run(&pair);
	for (unsigned i = 0; i < CALLS; i++) {
		ck_assert_int_eq(n[i].code, ERR_OK);
		ck_assert_uint_eq(n[i].last_seq, i);
	}
}
END_TEST

/* --- unary.h --- */

static struct {
	unsigned calls;
	enum error_code code;
	char text[64];
} answer;

static void on_answer(const ProtobufCMessage *reply, const struct error *err, void *arg)
{
	answer.calls++;
	answer.code = err ? err->code : ERR_OK;
	snprintf(answer.text, sizeof(answer.text), "%s",
		 err ? error_message(err) : ((const Echo__V1__EchoMessage *)reply)->text);
}

START_TEST(unary_helper)
{
	Echo__V1__EchoMessage m = ECHO__V1__ECHO_MESSAGE__INIT;

	memset(&answer, 0, sizeof(answer));
	m.text = (char *)"hello";
	ck_assert_ptr_nonnull(
		rpc_conn_unary(pair.client, "/echo.v1.Echo/Unary", &m.base, echo, 0, on_answer, NULL));
	pair_run(&pair);
	ck_assert_uint_eq(answer.calls, 1);
	ck_assert_str_eq(answer.text, "hello");
	m.text = (char *)"fail";
	m.seq = ERR_NOT_FOUND;
	rpc_conn_unary(pair.client, "/echo.v1.Echo/Unary", &m.base, echo, 0, on_answer, NULL);
	pair_run(&pair);
	ck_assert_uint_eq(answer.calls, 2);
	ck_assert_int_eq(answer.code, ERR_NOT_FOUND);
	ck_assert_str_eq(answer.text, "NOT_FOUND"); /* never an empty sentence */
	m.text = (char *)"hang";
	rpc_call_cancel(rpc_conn_unary(pair.client, "/echo.v1.Echo/Unary", &m.base, echo, 0, on_answer, NULL));
	pair_run(&pair);
	ck_assert_uint_eq(answer.calls, 3);
	ck_assert_int_eq(answer.code, ERR_CANCELLED);
}
END_TEST

/* --- health --- */

static struct {
	int statuses[8];
	unsigned n, closes;
	enum error_code code;
} watched;

static void on_status(struct rpc_call *call, const ProtobufCMessage *message)
{
	watched.statuses[watched.n++] = ((const Grpc__Health__V1__HealthCheckResponse *)message)->status;
}

static void on_watch_end(struct rpc_call *call, enum error_code code, const char *message)
{
	watched.closes++;
	watched.code = code;
}

static void ask_health(struct rpc_conn *conn, const struct rpc_method *method, const char *service)
{
	Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	struct rpc_call *call = rpc_conn_call(conn, method, 0, NULL);

	request.service = (char *)service;
	rpc_call_send(call, &request.base);
	rpc_call_half_close(call);
	pair_run(&pair);
}

START_TEST(health_check_and_watch)
{
	static const struct rpc_method check = { .path = "/grpc.health.v1.Health/Check",
						 .receives = &grpc__health__v1__health_check_response__descriptor,
						 .message = on_status, .close = on_watch_end };
	static const struct rpc_method watch = { .path = "/grpc.health.v1.Health/Watch",
						 .receives = &grpc__health__v1__health_check_response__descriptor,
						 .message = on_status, .close = on_watch_end };
	struct rpc_health *health = rpc_health_new();

	memset(&watched, 0, sizeof(watched));
	rpc_health_register(health, pair.services);
	ask_health(pair.client, &check, "nobody");
	ck_assert_int_eq(watched.code, ERR_NOT_FOUND);
	ask_health(pair.client, &check, "");
	ck_assert_int_eq(watched.code, ERR_OK);
	ck_assert_int_eq(watched.statuses[0], 2);
	ask_health(pair.client, &watch, "echo");
	rpc_health_set(health, "echo", true);
	rpc_health_set(health, "echo", true);
	rpc_health_set(health, "other", true);
	pair_run(&pair);
	ck_assert_uint_eq(watched.n, 3);
	ck_assert_int_eq(watched.statuses[1], 3);
	ck_assert_int_eq(watched.statuses[2], 1);
	rpc_health_shutdown(health);
	pair_run(&pair);
	ck_assert_uint_eq(watched.closes, 3);
	ck_assert_int_eq(watched.statuses[3], 2);
	ck_assert_int_eq(watched.code, ERR_UNAVAILABLE);
	pair_release(&pair);
	rpc_health_free(health);
	setup();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rpc");
	TCase *t = tcase_create("calls"), *e = tcase_create("ends");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, four_kinds_of_call, 0, 4);
	tcase_add_test(t, empty_stream_is_ok);
	tcase_add_test(t, largest_message_passes_and_larger_does_not);
	tcase_add_test(t, server_reply_above_the_limit);
	tcase_add_test(t, streams_of_40_mb);
	tcase_add_test(t, paused_receiver_bounds_both_sides);
	tcase_add_test(t, calls_of_a_shared_connection_that_nobody_reads_harm_no_other);
	tcase_add_test(t, messages_come_before_the_status_even_when_paused);
	tcase_add_test(t, resume_just_before_the_end_loses_nothing);
	tcase_add_test(t, cancel_of_a_paused_call_that_has_ended);
	tcase_add_test(t, queued_data_of_a_connection_is_limited);
	tcase_add_test(t, status_messages_survive);
	tcase_add_loop_test(t, foreign_bytes_in_a_reply, 0, 3);
	tcase_add_test(t, foreign_bytes_in_a_request_are_refused);
	tcase_add_test(t, unknown_method_is_named);
	tcase_add_test(t, more_calls_than_streams_wait_their_turn);
	tcase_add_test(t, unary_helper);
	tcase_add_test(t, health_check_and_watch);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	tcase_add_checked_fixture(e, setup_seen, teardown);
	tcase_add_test(e, client_cancel_reaches_the_server);
	tcase_add_test(e, cancel_before_anything_was_sent);
	tcase_add_test(e, deadline_on_the_server);
	tcase_add_test(e, deadline_on_the_client);
	tcase_add_test(e, deadline_ends_a_server_whose_peer_does_not_read);
	tcase_add_test(e, status_before_the_client_has_ended);
	tcase_add_test(e, lost_connection);
	tcase_add_test(e, drain_lets_calls_finish_and_takes_no_more);
	tcase_add_test(e, drain_of_an_idle_connection);
	tcase_add_test(e, unread_data_of_a_connection_is_limited);
	tcase_set_timeout(e, 60);
	suite_add_tcase(s, e);
	return run_suite(s);
}
