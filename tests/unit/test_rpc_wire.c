/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Peers that do not keep to the rules, played with a bare HTTP/2 session; the text forms of headers and addresses. */
#include "base/timeutil.h"
#include "echo_service.h"
#include "runner.h"
#include "rpc/address.h"
#include "rpc/internal.h"
#include "rpc/metadata.h"

#include <check.h>
#include <nghttp2/nghttp2.h>

/* --- the bare peer --- */

struct raw_body {
	const uint8_t *data;
	size_t len;
	bool open; /* the stream is not ended after it */
};

static struct raw {
	nghttp2_session *session;
	struct rpc_conn *conn; /* ours, at the other end */
	struct rpc_services *services;
	/* what the last answer said */
	int http_status, grpc_status;
	char grpc_message[512];
	unsigned closes, goaways, ping_acks;
	uint32_t reset_code, goaway_code;
} raw;

static int raw_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
		      const uint8_t *value, size_t len, uint8_t flags, void *arg)
{
	if (strcmp((const char *)name, ":status") == 0)
		raw.http_status = (int)strtol((const char *)value, NULL, 10);
	else if (strcmp((const char *)name, "grpc-status") == 0)
		raw.grpc_status = (int)strtol((const char *)value, NULL, 10);
	else if (strcmp((const char *)name, "grpc-message") == 0)
		snprintf(raw.grpc_message, sizeof(raw.grpc_message), "%s", (const char *)value);
	return 0;
}

static int raw_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	if (frame->hd.type == NGHTTP2_GOAWAY) {
		raw.goaways++;
		raw.goaway_code = frame->goaway.error_code;
	} else if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK)) {
		raw.ping_acks++;
	}
	return 0;
}

static int raw_close(nghttp2_session *session, int32_t stream, uint32_t code, void *arg)
{
	raw.closes++;
	raw.reset_code = code;
	return 0;
}

static ssize_t raw_read(nghttp2_session *session, int32_t stream, uint8_t *to, size_t max, uint32_t *flags,
			nghttp2_data_source *source, void *arg)
{
	struct raw_body *body = source->ptr;
	size_t n = body->len < max ? body->len : max;

	if (n == 0 && body->open)
		return NGHTTP2_ERR_DEFERRED;
	memcpy(to, body->data, n);
	body->data += n;
	body->len -= n;
	if (body->len == 0 && !body->open)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)n;
}

static void raw_init(bool server)
{
	nghttp2_session_callbacks *callbacks;

	memset(&raw, 0, sizeof(raw));
	raw.grpc_status = -1;
	nghttp2_session_callbacks_new(&callbacks);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, raw_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, raw_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, raw_close);
	if (server)
		nghttp2_session_server_new(&raw.session, callbacks, NULL);
	else
		nghttp2_session_client_new(&raw.session, callbacks, NULL);
	nghttp2_session_callbacks_del(callbacks);
	nghttp2_submit_settings(raw.session, 0, NULL, 0);
}

static void raw_run(void)
{
	const uint8_t *data;
	size_t len, moved;
	ssize_t n;

	do {
		moved = 0;
		while ((n = nghttp2_session_mem_send(raw.session, &data)) > 0) {
			moved += (size_t)n;
			if (rpc_conn_receive(raw.conn, data, (size_t)n, NULL) < 0)
				break;
		}
		while ((len = rpc_conn_pending(raw.conn, &data)) > 0) {
			moved += len;
			nghttp2_session_mem_recv(raw.session, data, len);
			rpc_conn_sent(raw.conn, len);
		}
	} while (moved > 0);
}

static void setup_client(void)
{
	struct rpc_conn_options options = { .peer = { .fd = -1 } };

	raw_init(false);
	raw.services = rpc_services_new();
	rpc_services_add(raw.services, echo_methods, ECHO_METHODS);
	raw.conn = rpc_conn_new_server(raw.services, &options);
}

static void setup_server(void)
{
	struct rpc_conn_options options = { .peer = { .fd = -1 } };

	raw_init(true);
	raw.conn = rpc_conn_new_client("localhost", &options);
}

static void teardown(void)
{
	rpc_conn_free(raw.conn);
	rpc_services_free(raw.services);
	nghttp2_session_del(raw.session);
}

#define NV(n, v) { (uint8_t *)(n), (uint8_t *)(v), strlen(n), strlen(v), NGHTTP2_NV_FLAG_NONE }

static int32_t raw_submit(const char *method, const char *path, const char *type, const char *name, const char *value,
			  struct raw_body *body)
{
	nghttp2_nv fields[] = {
		NV(":method", method), NV(":scheme", "http"), NV(":path", path), NV(":authority", "x"),
		NV("te", "trailers"), NV("content-type", type), NV(name, value),
	};
	nghttp2_data_provider provider = { .source.ptr = body, .read_callback = raw_read };

	return nghttp2_submit_request(raw.session, NULL, fields, 7, body ? &provider : NULL, NULL);
}

static void raw_request(const char *path, const void *data, size_t len)
{
	struct raw_body body = { data, len, false };

	raw_submit("POST", path, "application/grpc", "x", "y", &body);
	raw_run();
	ck_assert_uint_eq(raw.closes, 1);
	ck_assert_uint_eq(rpc_conn_calls(raw.conn), 0);
}

#define UNARY "/echo.v1.Echo/Unary"
#define CLIENT_STREAM "/echo.v1.Echo/ClientStream"

/* --- our server, a strange client --- */

static const struct {
	const char *name, *path;
	const char *bytes;
	size_t len;
	int status;
} bodies[] = {
	{ "empty unary", UNARY, "", 0, ERR_INVALID_ARGUMENT },
	{ "one empty message", UNARY, "\0\0\0\0\0", 5, ERR_OK },
	{ "two messages", UNARY, "\0\0\0\0\0\0\0\0\0\0", 10, ERR_INVALID_ARGUMENT },
	{ "cut prefix", UNARY, "\0\0\0", 3, ERR_INVALID_ARGUMENT },
	{ "cut message", UNARY, "\0\0\0\0\5\10", 6, ERR_INVALID_ARGUMENT },
	{ "message and cut prefix", UNARY, "\0\0\0\0\0\0\0", 7, ERR_INVALID_ARGUMENT },
	{ "cut message of a stream", CLIENT_STREAM, "\0\0\0\0\5\10", 6, ERR_INVALID_ARGUMENT },
	{ "compressed", UNARY, "\1\0\0\0\1x", 6, ERR_UNIMPLEMENTED },
	{ "unknown flag", UNARY, "\2\0\0\0\1x", 6, ERR_INTERNAL },
	{ "one byte too large", UNARY, "\0\0\x40\0\1", 5, ERR_RESOURCE_EXHAUSTED },
	{ "4 GiB", UNARY, "\0\xff\xff\xff\xff", 5, ERR_RESOURCE_EXHAUSTED },
	{ "bad varint", UNARY, "\0\0\0\0\2\x10\x80", 7, ERR_INVALID_ARGUMENT },
	{ "endless varint", UNARY, "\0\0\0\0\14\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\1", 17,
	  ERR_INVALID_ARGUMENT },
	{ "field 0", UNARY, "\0\0\0\0\2\0\0", 7, ERR_INVALID_ARGUMENT },
	{ "group", UNARY, "\0\0\0\0\1\x0b", 6, ERR_INVALID_ARGUMENT },
	{ "length beyond the end", UNARY, "\0\0\0\0\2\x0a\x7f", 7, ERR_INVALID_ARGUMENT },
	{ "overlong UTF-8", UNARY, "\0\0\0\0\4\x0a\2\xc0\x80", 9, ERR_INVALID_ARGUMENT },
	{ "surrogate", UNARY, "\0\0\0\0\5\x0a\3\xed\xa0\x80", 10, ERR_INVALID_ARGUMENT },
	{ "above U+10FFFF", UNARY, "\0\0\0\0\6\x0a\4\xf4\x90\x80\x80", 11, ERR_INVALID_ARGUMENT },
	{ "cut UTF-8", UNARY, "\0\0\0\0\3\x0a\1\xc3", 8, ERR_INVALID_ARGUMENT },
	{ "NUL in text", UNARY, "\0\0\0\0\3\x0a\1\0", 8, ERR_INVALID_ARGUMENT },
	{ "NUL in text, nested", UNARY, "\0\0\0\0\5\x22\3\x0a\1\0", 10, ERR_INVALID_ARGUMENT },
	{ "four-byte UTF-8", UNARY, "\0\0\0\0\6\x0a\4\xf0\x9f\x98\x80", 11, ERR_OK },
	{ "unknown fields", UNARY, "\0\0\0\0\x10\x98\6\1\xa1\6\1\2\3\4\5\6\7\10\xaa\6\0", 21, ERR_OK },
};

START_TEST(request_bodies)
{
	raw_request(bodies[_i].path, bodies[_i].bytes, bodies[_i].len);
	ck_assert_msg(raw.grpc_status == bodies[_i].status, "%s: status %d (%s), not %d", bodies[_i].name,
		      raw.grpc_status, raw.grpc_message, bodies[_i].status);
	ck_assert_int_eq(raw.http_status, 200);
}
END_TEST

START_TEST(status_without_waiting_for_the_rest)
{
	struct raw_body body = { (const uint8_t *)"\1\0\0\0\0", 5, true };

	raw_submit("POST", UNARY, "application/grpc", "x", "y", &body);
	raw_run();
	ck_assert_int_eq(raw.grpc_status, ERR_UNIMPLEMENTED);
	ck_assert_uint_eq(raw.closes, 1);
	ck_assert_uint_eq(raw.reset_code, NGHTTP2_NO_ERROR);
}
END_TEST

START_TEST(requests_that_are_not_grpc)
{
	static const struct {
		const char *method, *type;
		int status;
	} requests[] = {
		{ "POST", "application/json", 415 },
		{ "POST", "application/grpcx", 415 },
		{ "POST", "", 415 },
		{ "GET", "application/grpc", 405 },
		{ "POST", "application/grpc", 200 },
		{ "POST", "application/grpc+proto", 200 },
		{ "POST", "application/grpc;charset=utf-8", 200 },
	};
	struct raw_body body = { (const uint8_t *)"\0\0\0\0\0", 5, false };

	raw_submit(requests[_i].method, UNARY, requests[_i].type, "x", "y", &body);
	raw_run();
	ck_assert_int_eq(raw.http_status, requests[_i].status);
	ck_assert_int_eq(raw.grpc_status, requests[_i].status == 200 ? 0 : -1);
	ck_assert_uint_eq(raw.closes, 1);
	ck_assert_uint_eq(rpc_conn_calls(raw.conn), 0);
}
END_TEST

START_TEST(malformed_timeout)
{
	raw_submit("POST", UNARY, "application/grpc", "grpc-timeout", "soon", NULL);
	raw_run();
	ck_assert_int_eq(raw.grpc_status, ERR_INVALID_ARGUMENT);
}
END_TEST

START_TEST(timeout_of_nothing)
{
	struct raw_body body = { (const uint8_t *)"", 0, true };

	raw_submit("POST", UNARY, "application/grpc", "grpc-timeout", "0n", &body);
	raw_run();
	rpc_conn_expire(raw.conn, time_monotonic_ns());
	raw_run();
	ck_assert_int_eq(raw.grpc_status, ERR_DEADLINE_EXCEEDED);
	ck_assert_uint_eq(rpc_conn_calls(raw.conn), 0);
}
END_TEST

START_TEST(headers_above_the_limit)
{
	_cleanup_free_ char *value = malloc(RPC_HEADERS_MAX + 1);

	memset(value, 'v', RPC_HEADERS_MAX);
	value[RPC_HEADERS_MAX] = '\0';
	raw_submit("POST", UNARY, "application/grpc", "x-long", value, NULL);
	raw_run();
	ck_assert_int_eq(raw.grpc_status, ERR_RESOURCE_EXHAUSTED);
	ck_assert_uint_eq(rpc_conn_calls(raw.conn), 0);
}
END_TEST

START_TEST(ping_is_answered)
{
	nghttp2_submit_ping(raw.session, 0, (const uint8_t *)"12345678");
	raw_run();
	ck_assert_uint_eq(raw.ping_acks, 1);
}
END_TEST

/* --- floods: the answers are not read, and the server must give up instead of collecting them --- */

static bool flood(const uint8_t *bytes, size_t len, unsigned times)
{
	for (unsigned i = 0; i < times; i++)
		if (rpc_conn_receive(raw.conn, bytes, len, NULL) < 0)
			return true;
	return rpc_conn_finished(raw.conn) || !nghttp2_session_want_read(raw.conn->session);
}

START_TEST(ping_flood)
{
	static const uint8_t ping[17] = { 0, 0, 8, NGHTTP2_PING };

	raw_run();
	ck_assert(!flood(ping, sizeof(ping), 500));
	raw_run();
	ck_assert(flood(ping, sizeof(ping), 20000));
}
END_TEST

START_TEST(settings_flood)
{
	static const uint8_t settings[9] = { 0, 0, 0, NGHTTP2_SETTINGS };

	raw_run();
	ck_assert(flood(settings, sizeof(settings), 20000));
}
END_TEST

/* CVE-2023-44487: requests that are reset at once, so that the limit of streams never bites. */
START_TEST(rapid_reset)
{
	unsigned i;

	raw_run();
	for (i = 0; i < 20000 && raw.goaways == 0; i++) {
		struct raw_body body = { (const uint8_t *)"", 0, true };
		int32_t stream = raw_submit("POST", CLIENT_STREAM, "application/grpc", "x", "y", &body);

		raw_run();
		nghttp2_submit_rst_stream(raw.session, 0, stream, NGHTTP2_CANCEL);
		raw_run();
	}
	ck_assert_uint_eq(raw.goaways, 1);
	ck_assert_uint_lt(i, 5000);
	ck_assert(rpc_conn_finished(raw.conn));
	ck_assert_uint_eq(rpc_conn_calls(raw.conn), 0);
}
END_TEST

START_TEST(another_protocol)
{
	static const char http1[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_int_eq(rpc_conn_receive(raw.conn, http1, sizeof(http1) - 1, &err), -1);
	ck_assert_int_eq(err.code, ERR_INTERNAL);
}
END_TEST

/* --- our client, a strange server --- */

static struct {
	unsigned messages, closes;
	enum error_code code;
	char message[256];
} got;

static void got_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	got.messages++;
}

static void got_close(struct rpc_call *call, enum error_code code, const char *message)
{
	got.closes++;
	got.code = code;
	snprintf(got.message, sizeof(got.message), "%s", message);
}

static const struct rpc_method one_reply = { .path = UNARY, .receives = &echo__v1__echo_message__descriptor,
					     .receives_one = true, .message = got_message, .close = got_close };

static ssize_t reply_read(nghttp2_session *session, int32_t stream, uint8_t *to, size_t max, uint32_t *flags,
			  nghttp2_data_source *source, void *arg)
{
	ssize_t n = raw_read(session, stream, to, max, flags, source, arg);
	nghttp2_nv trailers[] = { NV("grpc-status", "0") };

	if (*flags & NGHTTP2_DATA_FLAG_EOF) {
		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
		nghttp2_submit_trailer(session, stream, trailers, 1);
	}
	return n;
}

static void call_one(void)
{
	Echo__V1__EchoMessage m = ECHO__V1__ECHO_MESSAGE__INIT;
	struct rpc_call *call;

	memset(&got, 0, sizeof(got));
	call = rpc_conn_call(raw.conn, &one_reply, 0, NULL);
	rpc_call_send(call, &m.base);
	rpc_call_half_close(call);
	raw_run();
}

START_TEST(reply_bodies)
{
	static const struct {
		const char *bytes;
		size_t len;
		enum error_code code;
		unsigned messages;
	} replies[] = {
		{ "\0\0\0\0\0", 5, ERR_OK, 1 },
		{ "", 0, ERR_INTERNAL, 0 },
		{ "\0\0\0\0\0\0\0\0\0\0", 10, ERR_INTERNAL, 0 },
		{ "\0\0\0\0\5\10", 6, ERR_INTERNAL, 0 },
		{ "\0\0\0\0\1\xff", 6, ERR_INTERNAL, 0 },
		{ "\1\0\0\0\1x", 6, ERR_UNIMPLEMENTED, 0 },
		{ "\0\x7f\0\0\0", 5, ERR_RESOURCE_EXHAUSTED, 0 },
	};
	nghttp2_nv headers[] = { NV(":status", "200"), NV("content-type", "application/grpc") };
	struct raw_body body = { (const uint8_t *)replies[_i].bytes, replies[_i].len, false };
	nghttp2_data_provider provider = { .source.ptr = &body, .read_callback = reply_read };

	call_one();
	nghttp2_submit_response(raw.session, 1, headers, 2, &provider);
	raw_run();
	ck_assert_uint_eq(got.closes, 1);
	ck_assert_int_eq(got.code, replies[_i].code);
	ck_assert_uint_eq(got.messages, replies[_i].messages);
	ck_assert_uint_eq(rpc_conn_calls(raw.conn), 0);
}
END_TEST

START_TEST(reply_headers)
{
	static const struct {
		const char *status, *type, *name, *value;
		enum error_code code;
		const char *message;
	} replies[] = {
		{ "200", "application/grpc", "grpc-status", "5", ERR_NOT_FOUND, "" },
		{ "200", "application/grpc", "grpc-status", "99", ERR_UNKNOWN, "" },
		{ "200", "application/grpc", "grpc-status", "x", ERR_UNKNOWN, "" },
		{ "200", "application/grpc", "x", "y", ERR_UNKNOWN, "the server ended the call without a status" },
		{ "200", "text/html", "x", "y", ERR_UNKNOWN, "the server's answer is not gRPC" },
		{ "503", "text/html", "x", "y", ERR_UNAVAILABLE, "the server answered with HTTP status 503" },
		{ "404", "text/html", "x", "y", ERR_UNIMPLEMENTED, "the server answered with HTTP status 404" },
		{ "401", "text/html", "x", "y", ERR_UNAUTHENTICATED, "the server answered with HTTP status 401" },
	};
	nghttp2_nv headers[] = { NV(":status", replies[_i].status), NV("content-type", replies[_i].type),
				 NV(replies[_i].name, replies[_i].value) };

	call_one();
	nghttp2_submit_response(raw.session, 1, headers, 3, NULL);
	raw_run();
	ck_assert_uint_eq(got.closes, 1);
	ck_assert_int_eq(got.code, replies[_i].code);
	ck_assert_str_eq(got.message, replies[_i].message);
}
END_TEST

START_TEST(reset_codes)
{
	static const struct {
		uint32_t reset;
		enum error_code code;
	} resets[] = {
		{ NGHTTP2_CANCEL, ERR_CANCELLED },
		{ NGHTTP2_REFUSED_STREAM, ERR_UNAVAILABLE },
		{ NGHTTP2_ENHANCE_YOUR_CALM, ERR_RESOURCE_EXHAUSTED },
		{ NGHTTP2_INADEQUATE_SECURITY, ERR_PERMISSION_DENIED },
		{ NGHTTP2_INTERNAL_ERROR, ERR_INTERNAL },
		{ NGHTTP2_NO_ERROR, ERR_UNKNOWN },
	};

	call_one();
	nghttp2_submit_rst_stream(raw.session, 0, 1, resets[_i].reset);
	raw_run();
	ck_assert_uint_eq(got.closes, 1);
	ck_assert_int_eq(got.code, resets[_i].code);
}
END_TEST

/* --- text forms --- */

START_TEST(timeout_forms)
{
	static const struct {
		const char *text;
		int64_t ns; /* -1: malformed */
	} timeouts[] = {
		{ "1n", 1 }, { "5u", 5000 }, { "100m", 100 * NSEC_PER_MSEC }, { "2S", 2 * NSEC_PER_SEC },
		{ "3M", 180 * NSEC_PER_SEC }, { "1H", 3600 * NSEC_PER_SEC }, { "99999999H", INT64_MAX / 2 },
		{ "", -1 }, { "1", -1 }, { "S", -1 }, { "-1S", -1 }, { "1.5S", -1 }, { "123456789S", -1 }, { "1x", -1 },
	};
	char text[RPC_TIMEOUT_MAX];
	int64_t ns = -1;

	ck_assert_int_eq(rpc_timeout_parse(timeouts[_i].text, strlen(timeouts[_i].text), &ns),
			 timeouts[_i].ns < 0 ? -1 : 0);
	ck_assert_int_eq(ns, timeouts[_i].ns);
	rpc_timeout_format(1500, text);
	ck_assert_str_eq(text, "1500m");
	rpc_timeout_format(INT64_C(100000000), text);
	ck_assert_str_eq(text, "100000S");
	rpc_timeout_format(INT64_MAX, text);
	ck_assert_str_eq(text, "99999999S");
}
END_TEST

START_TEST(status_messages)
{
	static const char *const escaped[][2] = {
		{ "a b", "a b" }, { "a%20b", "a b" }, { "%E2%82%AC", "€" }, { "100%", "100%" }, { "%4", "%4" },
		{ "%zz", "%zz" }, { "%00x", "%00x" }, { "%25", "%" },
		{ "%ff%e2%82x", "???x" },
	};
	char long_text[3 * RPC_STATUS_MESSAGE_MAX];
	char *text = rpc_status_message_decode(escaped[_i][0], strlen(escaped[_i][0]));

	ck_assert_str_eq(text, escaped[_i][1]);
	free(text);
	text = rpc_status_message_encode("a\xff%\n");
	ck_assert_str_eq(text, "a?%25%0A");
	free(text);
	/* A long one is cut between characters. */
	long_text[0] = 'x';
	for (size_t i = 1; i + 2 < sizeof(long_text); i += 2)
		memcpy(long_text + i, "é", 3);
	text = rpc_status_message_encode(long_text);
	ck_assert_uint_eq(strlen(text), 1 + 6 * ((RPC_STATUS_MESSAGE_MAX - 1) / 2));
	free(text);
}
END_TEST

START_TEST(address_forms)
{
	static const struct {
		const char *text, *host; /* NULL: refused */
		unsigned port;
		bool is_unix, loopback;
	} addresses[] = {
		{ "unix:/run/x.sock", "/run/x.sock", 0, true, false },
		{ "unix:///run/x.sock", "/run/x.sock", 0, true, false },
		{ "unix:x", "x", 0, true, false },
		{ "localhost:50000", "localhost", 50000, false, true },
		{ "127.9.9.9:1", "127.9.9.9", 1, false, true },
		{ "[::1]:0", "::1", 0, false, true },
		{ "[fe80::1]:65535", "fe80::1", 65535, false, false },
		{ "0.0.0.0:80", "0.0.0.0", 80, false, false },
		{ "host.example:80", "host.example", 80, false, false },
		{ "127.0.0.1.example:80", "127.0.0.1.example", 80, false, false },
		{ "unix:", NULL }, { "host", NULL }, { "host:", NULL }, { ":80", NULL }, { "host:x", NULL },
		{ "host:65536", NULL }, { "host:-1", NULL }, { "host: 1", NULL }, { "::1:80", NULL }, { "[]:80", NULL },
		{ "", NULL },
	};
	_cleanup_error_ struct error err = ERROR_INIT;
	struct rpc_address a;
	int r = rpc_address_parse(addresses[_i].text, &a, &err);

	if (!addresses[_i].host) {
		ck_assert_int_eq(r, -1);
		ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
		return;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_str_eq(a.is_unix ? a.path : a.host, addresses[_i].host);
	ck_assert_uint_eq(a.port, addresses[_i].port);
	ck_assert(a.is_unix == addresses[_i].is_unix && a.loopback == addresses[_i].loopback);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rpc_wire");
	TCase *c = tcase_create("strange clients"), *v = tcase_create("strange servers"), *t = tcase_create("text");

	tcase_add_checked_fixture(c, setup_client, teardown);
	tcase_add_loop_test(c, request_bodies, 0, sizeof(bodies) / sizeof(bodies[0]));
	tcase_add_test(c, status_without_waiting_for_the_rest);
	tcase_add_loop_test(c, requests_that_are_not_grpc, 0, 7);
	tcase_add_test(c, malformed_timeout);
	tcase_add_test(c, timeout_of_nothing);
	tcase_add_test(c, headers_above_the_limit);
	tcase_add_test(c, ping_is_answered);
	tcase_add_test(c, ping_flood);
	tcase_add_test(c, settings_flood);
	tcase_add_test(c, rapid_reset);
	tcase_add_test(c, another_protocol);
	tcase_set_timeout(c, 60);
	suite_add_tcase(s, c);
	tcase_add_checked_fixture(v, setup_server, teardown);
	tcase_add_loop_test(v, reply_bodies, 0, 7);
	tcase_add_loop_test(v, reply_headers, 0, 8);
	tcase_add_loop_test(v, reset_codes, 0, 6);
	suite_add_tcase(s, v);
	tcase_add_loop_test(t, timeout_forms, 0, 14);
	tcase_add_loop_test(t, status_messages, 0, 9);
	tcase_add_loop_test(t, address_forms, 0, 21);
	suite_add_tcase(s, t);
	return run_suite(s);
}
