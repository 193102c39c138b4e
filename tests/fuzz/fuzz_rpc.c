/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A peer that says anything. The first byte chooses who is tested, how the bytes arrive and whether the preface and the
 * first SETTINGS, which no mutation should have to find, are said for it. A server has the echo service, health and
 * reflection; a client has calls under way, one of them paused after each message.
 */
#include "echo_service.h"
#include "rpc/health.h"
#include "rpc/reflection.h"
#include "rpc/unary.h"

#include <nghttp2/nghttp2.h>

static const uint8_t settings[] = { 0, 0, 0, 4, 0, 0, 0, 0, 0 };

static void feed(struct rpc_conn *conn, const uint8_t *data, size_t len, size_t step)
{
	const uint8_t *pending;
	size_t n, part;
	int64_t deadline;

	for (; len > 0 && !rpc_conn_finished(conn); data += part, len -= part) {
		part = len < step ? len : step;
		if (rpc_conn_receive(conn, data, part, NULL) < 0)
			return;
		while ((n = rpc_conn_pending(conn, &pending)) > 0)
			rpc_conn_sent(conn, n);
		deadline = rpc_conn_deadline(conn);
		if (deadline >= 0)
			rpc_conn_expire(conn, deadline);
	}
}

static void fuzz_server(const uint8_t *data, size_t len, size_t step, bool greet)
{
	struct rpc_conn_options options = { .peer = { .fd = -1 } };
	struct rpc_services *services = rpc_services_new();
	struct rpc_health *health = rpc_health_new();
	struct rpc_reflection *reflection = rpc_reflection_new(services, (const uint8_t *)"", 0);
	struct rpc_conn *conn;

	rpc_services_add(services, echo_methods, ECHO_METHODS);
	rpc_health_register(health, services);
	conn = rpc_conn_new_server(services, &options);
	if (greet) {
		feed(conn, (const uint8_t *)NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN, SIZE_MAX);
		feed(conn, settings, sizeof(settings), SIZE_MAX);
	}
	feed(conn, data, len, step);
	rpc_conn_free(conn);
	rpc_reflection_free(reflection);
	rpc_health_free(health);
	rpc_services_free(services);
}

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	if (rpc_call_data(call))
		rpc_call_pause(call);
}

static void on_done(const ProtobufCMessage *reply, const struct error *err, void *arg)
{
}

static void fuzz_client(const uint8_t *data, size_t len, size_t step, bool greet)
{
	static const struct rpc_method bidi = {
		.path = "/echo.v1.Echo/Bidi",
		.receives = &echo__v1__echo_message__descriptor,
		.message = on_message,
	};
	struct rpc_conn_options options = { .peer = { .fd = -1 } };
	struct rpc_conn *conn = rpc_conn_new_client("localhost", &options);
	Echo__V1__EchoMessage m = ECHO__V1__ECHO_MESSAGE__INIT;

	rpc_conn_unary(conn, "/echo.v1.Echo/Unary", &m.base, &echo__v1__echo_message__descriptor, 0, on_done, NULL);
	rpc_call_send(rpc_conn_call(conn, &bidi, 0, NULL), &m.base);
	rpc_call_send(rpc_conn_call(conn, &bidi, 0, (void *)&bidi), &m.base);
	if (greet)
		feed(conn, settings, sizeof(settings), SIZE_MAX);
	feed(conn, data, len, step);
	rpc_conn_free(conn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	size_t step;

	if (len < 1)
		return 0;
	step = data[0] & 4 ? 1 : data[0] & 8 ? 100 : SIZE_MAX;
	if (data[0] & 1)
		fuzz_client(data + 1, len - 1, step, data[0] & 2);
	else
		fuzz_server(data + 1, len - 1, step, data[0] & 2);
	return 0;
}
