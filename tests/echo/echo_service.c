/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "echo_service.h"

#include "rpc/unary.h"

#include <inttypes.h>

#define LARGE_MAX (64u << 20) /* more than any message may have */

static void reply_peer(struct rpc_call *call)
{
	const struct rpc_peer *peer = rpc_call_peer(call);
	Echo__V1__EchoMessage reply = ECHO__V1__ECHO_MESSAGE__INIT;
	char local[] = "local", remote[] = "remote";

	reply.text = peer->local ? local : remote;
	reply.seq = peer->local ? peer->uid : 0;
	rpc_reply(call, &reply.base);
}

static void reply_failure(struct rpc_call *call, const Echo__V1__EchoMessage *request)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, (enum error_code)request->seq, "%.*s", (int)request->blob.len,
		  (const char *)request->blob.data);
	rpc_call_fail(call, &err);
}

static void reply_large(struct rpc_call *call, uint64_t len)
{
	Echo__V1__EchoMessage reply = ECHO__V1__ECHO_MESSAGE__INIT;
	_cleanup_free_ uint8_t *bytes = len <= LARGE_MAX ? calloc(1, len) : NULL;

	if (!bytes) {
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "too large");
		return;
	}
	reply.blob.data = bytes;
	reply.blob.len = len;
	rpc_reply(call, &reply.base);
}

static void reply_foreign(struct rpc_call *call, const ProtobufCBinaryData *blob)
{
	Echo__V1__EchoMessage reply = ECHO__V1__ECHO_MESSAGE__INIT, child = ECHO__V1__ECHO_MESSAGE__INIT, *children[] = { &child };
	_cleanup_free_ char *text = strndup((const char *)blob->data, blob->len);

	reply.text = child.text = text;
	reply.blob = child.blob = *blob;
	reply.children = children;
	reply.n_children = 1;
	rpc_reply(call, &reply.base);
}

static void on_unary(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Echo__V1__EchoMessage *request = (const Echo__V1__EchoMessage *)message;

	if (strcmp(request->text, "hang") == 0)
		return;
	if (strcmp(request->text, "fail") == 0)
		reply_failure(call, request);
	else if (strcmp(request->text, "peer") == 0)
		reply_peer(call);
	else if (strcmp(request->text, "large") == 0)
		reply_large(call, request->seq);
	else if (strcmp(request->text, "foreign") == 0)
		reply_foreign(call, &request->blob);
	else
		rpc_reply(call, message);
}

struct stream_state {
	uint64_t next, count;
	char *text;
	ProtobufCBinaryData blob;
};

static void stream_more(struct rpc_call *call)
{
	struct stream_state *s = rpc_call_data(call);
	Echo__V1__EchoMessage reply = ECHO__V1__ECHO_MESSAGE__INIT;

	reply.text = s->text;
	reply.blob = s->blob;
	while (s->next < s->count && rpc_call_writable(call)) {
		reply.seq = s->next++;
		if (rpc_call_send(call, &reply.base) < 0)
			return;
	}
	if (s->next == s->count)
		rpc_call_finish(call, ERR_OK, NULL);
}

static void on_stream_request(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Echo__V1__EchoMessage *request = (const Echo__V1__EchoMessage *)message;
	struct stream_state *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->count = request->seq;
	s->text = strdup(request->text);
	s->blob.len = request->blob.len;
	s->blob.data = malloc(request->blob.len + 1);
	if (!s->text || !s->blob.data)
		abort();
	if (request->blob.len)
		memcpy(s->blob.data, request->blob.data, request->blob.len);
	rpc_call_set_data(call, s);
	stream_more(call);
}

static void on_stream_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct stream_state *s = rpc_call_data(call);

	if (!s)
		return;
	free(s->text);
	free(s->blob.data);
	free(s);
}

struct count_state {
	uint64_t messages, bytes;
};

static void on_count_open(struct rpc_call *call)
{
	rpc_call_set_data(call, calloc(1, sizeof(struct count_state)));
}

static void on_count_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct count_state *s = rpc_call_data(call);

	s->messages++;
	s->bytes += ((const Echo__V1__EchoMessage *)message)->blob.len;
}

static void on_count_end(struct rpc_call *call)
{
	const struct count_state *s = rpc_call_data(call);
	Echo__V1__EchoMessage reply = ECHO__V1__ECHO_MESSAGE__INIT;
	char text[80];

	snprintf(text, sizeof(text), "%" PRIu64 " messages, %" PRIu64 " bytes", s->messages, s->bytes);
	reply.text = text;
	reply.seq = s->messages;
	rpc_reply(call, &reply.base);
}

static void on_count_close(struct rpc_call *call, enum error_code code, const char *message)
{
	free(rpc_call_data(call));
}

static void on_bidi_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	rpc_call_send(call, message);
	if (!rpc_call_writable(call))
		rpc_call_pause(call);
}

static void on_bidi_writable(struct rpc_call *call)
{
	rpc_call_resume(call);
}

static void on_bidi_end(struct rpc_call *call)
{
	rpc_call_finish(call, ERR_OK, NULL);
}

const struct rpc_method echo_methods[ECHO_METHODS] = {
	{
		.path = "/echo.v1.Echo/Unary",
		.receives = &echo__v1__echo_message__descriptor,
		.receives_one = true,
		.message = on_unary,
	},
	{
		.path = "/echo.v1.Echo/ServerStream",
		.receives = &echo__v1__echo_message__descriptor,
		.receives_one = true,
		.message = on_stream_request,
		.writable = stream_more,
		.close = on_stream_close,
	},
	{
		.path = "/echo.v1.Echo/ClientStream",
		.receives = &echo__v1__echo_message__descriptor,
		.open = on_count_open,
		.message = on_count_message,
		.half_close = on_count_end,
		.close = on_count_close,
	},
	{
		.path = "/echo.v1.Echo/Bidi",
		.receives = &echo__v1__echo_message__descriptor,
		.message = on_bidi_message,
		.half_close = on_bidi_end,
		.writable = on_bidi_writable,
	},
};
