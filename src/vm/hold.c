/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/hold.h"

#include <string.h>

struct hold {
	struct rpc_call *call; /* NULL: over */
	int connection;        /* borrowed */
	bool held;
	bool let_go; /* the daemon has asked for that */
	void (*ended)(void *arg);
	void *arg;
};

void hold_refuse(int connection, enum error_code code, const char *why)
{
	struct shim_hold_ended end = { .code = (int32_t)code };

	snprintf(end.text, sizeof end.text, "%s", why);
	(void)shim_send(connection, SHIM_HOLD_ENDED, &end, sizeof end.code + strlen(end.text) + 1);
}

static void on_event(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct hold *h = rpc_call_data(call);

	if (!h || h->held)
		return;
	h->held = true;
	(void)shim_send(h->connection, SHIM_HELD, NULL, 0);
}

static void on_closed(struct rpc_call *call, enum error_code code, const char *message)
{
	struct hold *h = rpc_call_data(call);

	if (!h)
		return;
	h->call = NULL;
	/* A guest that ends well what it never held has not done what it was asked for. */
	if (code == ERR_OK && !h->held)
		hold_refuse(h->connection, ERR_INTERNAL, "the guest did not hold it");
	else if (code == ERR_OK && !h->let_go)
		hold_refuse(h->connection, ERR_ABORTED, "the guest has let go of it before it should, as its payload ends");
	else
		hold_refuse(h->connection, code, message);
	h->ended(h->arg);
}

struct hold *hold_begin(struct guest *g, int connection, const struct shim_hold *request, void (*ended)(void *arg), void *arg)
{
	static const struct rpc_method method = {
		.path = "/capsule.guest.v1.GuestService/Hold", .receives = &capsule__guest__v1__hold_event__descriptor,
		.message = on_event, .close = on_closed,
	};
	Capsule__Guest__V1__HoldRequest message = CAPSULE__GUEST__V1__HOLD_REQUEST__INIT;
	char volume[sizeof request->volume + 1];
	struct hold *h = calloc(1, sizeof *h);

	if (!h)
		return NULL;
	*h = (struct hold){ .connection = connection, .ended = ended, .arg = arg };
	h->call = rpc_client_call(guest_client(g), &method, 0, h);
	if (!h->call) {
		free(h);
		return NULL;
	}
	snprintf(volume, sizeof volume, "%.*s", (int)sizeof request->volume, request->volume);
	message.volume = volume;
	message.seconds = request->seconds;
	/* A connection that is gone tells in `close`. */
	(void)rpc_call_send(h->call, &message.base);
	return h;
}

void hold_let_go(struct hold *h)
{
	h->let_go = true;
	if (h->call)
		rpc_call_half_close(h->call);
}

void hold_free(struct hold *h)
{
	if (!h)
		return;
	if (h->call) {
		rpc_call_set_data(h->call, NULL);
		rpc_call_cancel(h->call);
	}
	free(h);
}
