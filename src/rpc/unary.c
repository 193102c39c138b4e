/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/unary.h"

#include "rpc/conn.h"

struct unary {
	struct rpc_method method;
	rpc_unary_done_fn done;
	void *arg;
	bool answered;
};

void rpc_reply(struct rpc_call *call, const ProtobufCMessage *reply)
{
	if (rpc_call_send(call, reply) == 0)
		rpc_call_finish(call, ERR_OK, NULL);
}

static void unary_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct unary *u = rpc_call_data(call);

	u->answered = true;
	u->done(message, NULL, u->arg);
}

static void unary_close(struct rpc_call *call, enum error_code code, const char *message)
{
	_cleanup_free_ struct unary *u = rpc_call_data(call);
	_cleanup_error_ struct error err = ERROR_INIT;

	if (u->answered)
		return;
	error_set(&err, code, "%s", *message ? message : error_code_name(code));
	u->done(NULL, &err, u->arg);
}

struct rpc_call *rpc_conn_unary(struct rpc_conn *conn, const char *path, const ProtobufCMessage *request,
				const ProtobufCMessageDescriptor *reply, int64_t timeout_ms, rpc_unary_done_fn done,
				void *arg)
{
	struct rpc_call *call;
	struct unary *u = calloc(1, sizeof(*u));

	if (!u)
		return NULL;
	u->method = (struct rpc_method){
		.path = path,
		.receives = reply,
		.receives_one = true,
		.message = unary_message,
		.close = unary_close,
	};
	u->done = done;
	u->arg = arg;
	call = rpc_conn_call(conn, &u->method, timeout_ms, u);
	if (!call) {
		free(u);
		return NULL;
	}
	/* A call that cannot take the request has its status already, which `close` brings. */
	if (rpc_call_send(call, request) == 0)
		rpc_call_half_close(call);
	return call;
}
