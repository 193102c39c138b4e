/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "service/unary.h"

#include "manifest/manifest.h"

#include <stdlib.h>

struct held {
	struct unary unary; /* first: a struct unary * is a struct held * */
	bool again, held;
};

bool call_name_valid(struct rpc_call *call, const char *what, const char *name)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (manifest_check_name(what, name, &err) == 0)
		return true;
	rpc_call_fail(call, &err);
	return false;
}

void unary_finish(struct unary *u)
{
	if (u->call)
		rpc_call_set_data(u->call, NULL);
	if (u->request)
		protobuf_c_message_free_unpacked(u->request, NULL);
	if (u->reply)
		protobuf_c_message_free_unpacked(u->reply, NULL);
	store_workload_release(&u->record);
	error_release(&u->err);
	free(u);
}

static void run(void *arg)
{
	struct unary *u = arg;

	u->work(u);
}

static void finished(void *arg)
{
	struct held *h = arg;

	h->again = h->held = false;
	h->unary.done(&h->unary);
	if (!h->again && !h->held)
		unary_finish(&h->unary);
}

void unary_start(struct rpc_call *call, const ProtobufCMessage *request, unary_fn work, unary_fn done)
{
	struct held *h = calloc(1, sizeof *h);

	if (!h)
		abort();
	h->unary = (struct unary){ .host = call_host(call), .call = call, .request = message_copy(request), .work = work,
				   .done = done };
	rpc_call_set_data(call, h);
	task_start(h->unary.host->tasks, run, finished, h);
}

void unary_continue(struct unary *u, unary_fn work, unary_fn done)
{
	u->work = work;
	u->done = done;
	((struct held *)u)->again = true;
	task_start(u->host->tasks, run, finished, u);
}

void unary_hold(struct unary *u)
{
	((struct held *)u)->held = true;
}

void unary_reply(struct unary *u, const ProtobufCMessage *reply)
{
	if (u->call)
		rpc_reply(u->call, reply);
}

void unary_fail(struct unary *u)
{
	if (u->call)
		rpc_call_fail(u->call, &u->err);
}

void unary_answer(struct unary *u)
{
	if (u->err.code != ERR_OK)
		unary_fail(u);
	else if (u->reply)
		unary_reply(u, u->reply);
}

void unary_on_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct unary *u = rpc_call_data(call);

	if (u)
		u->call = NULL;
}
