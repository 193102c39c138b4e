/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Copy: a capsule-copy process (copier/protocol.h) in the payload's mount namespace, between the call and the files. */
#include "guest/guest.h"

#include "base/worker.h"
#include "copier/protocol.h"
#include "guest.pb-c.h"

#include <assert.h>
#include <limits.h>
#include <string.h>

#define PROGRAM "/bin/capsule-copy"

static_assert(WORKER_EXTRA_FD == COPIER_FD_PROCESS, "the worker finds it elsewhere");

/* Lives as long as the call or the worker. */
struct copy_call {
	struct copy_call *next;
	struct guest *guest;
	struct rpc_call *call; /* NULL: closed */
	struct worker *worker; /* NULL: not started, or gone */
	bool asked;            /* there was a start */
};

static void release_if_over(struct copy_call *c)
{
	struct copy_call **p = &c->guest->copies;

	if (c->call || c->worker)
		return;
	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	free(c);
}

static void send_event(struct copy_call *c, const Capsule__Guest__V1__ExecEvent *event)
{
	if (c->call)
		(void)rpc_call_send(c->call, &event->base);
}

/* ---- the worker ---- */

static void on_output(const char *data, size_t len, void *arg)
{
	Capsule__Guest__V1__ExecEvent event = CAPSULE__GUEST__V1__EXEC_EVENT__INIT;
	struct copy_call *c = arg;

	event.event_case = CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_STDOUT;
	event.stdout = (ProtobufCBinaryData){ len, (uint8_t *)(uintptr_t)data };
	send_event(c, &event);
	if (c->call && !rpc_call_writable(c->call))
		worker_pause(c->worker);
}

static void on_drained(void *arg)
{
	struct copy_call *c = arg;

	if (c->call)
		rpc_call_resume(c->call);
}

static void send_last_words(struct copy_call *c, const char *words)
{
	Capsule__Guest__V1__ExecEvent event = CAPSULE__GUEST__V1__EXEC_EVENT__INIT;

	event.event_case = CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_STDERR;
	event.stderr = (ProtobufCBinaryData){ strlen(words), (uint8_t *)(uintptr_t)words };
	if (*words)
		send_event(c, &event);
}

static void on_ended(const struct worker_end *end, void *arg)
{
	Capsule__Guest__V1__ExecEvent event = CAPSULE__GUEST__V1__EXEC_EVENT__INIT;
	Capsule__Guest__V1__ExecExit exit = CAPSULE__GUEST__V1__EXEC_EXIT__INIT;
	struct copy_call *c = arg;
	struct guest *g = c->guest;

	c->worker = NULL;
	send_last_words(c, end->last_words);
	exit.exit_code = end->term_signal ? 128 + end->term_signal : (int32_t)end->exit_status;
	event.event_case = CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_EXIT;
	event.exit = &exit;
	send_event(c, &event);
	if (c->call)
		rpc_call_finish(c->call, ERR_OK, NULL);
	release_if_over(c);
	payload_continue_end(&g->payload);
}

static unsigned count_workers(const struct guest *g)
{
	unsigned n = 0;

	for (const struct copy_call *c = g->copies; c; c = c->next)
		n += c->worker != NULL;
	return n;
}

static int start(struct copy_call *c, const Capsule__Guest__V1__CopyStart *request, struct error *err)
{
	const char *argv[] = { PROGRAM, request->in ? "in" : "out", "--process", "--", request->path, NULL };
	const struct worker_options options = { argv, request->in, c->guest->payload.pidfd };
	const struct worker_callbacks callbacks = { on_output, on_drained, on_ended, c };

	if (c->guest->payload.state != PAYLOAD_RUNNING)
		return error_set(err, ERR_FAILED_PRECONDITION, "the payload does not run");
	if (count_workers(c->guest) >= GUEST_COPIES_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "%d copies are under way already", GUEST_COPIES_MAX);
	if (!*request->path || strlen(request->path) >= PATH_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the path must have 1 to %d bytes", PATH_MAX - 1);
	c->worker = worker_start(&c->guest->loop, &options, &callbacks, err);
	return c->worker ? 0 : -1;
}

static void send_started(struct copy_call *c)
{
	Capsule__Guest__V1__ExecEvent event = CAPSULE__GUEST__V1__EXEC_EVENT__INIT;
	Capsule__Guest__V1__Started started = CAPSULE__GUEST__V1__STARTED__INIT;

	started.pid = worker_pid(c->worker);
	event.event_case = CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_STARTED;
	event.started = &started;
	send_event(c, &event);
}

static void send_failed(struct copy_call *c, const struct error *err)
{
	Capsule__Guest__V1__ExecEvent event = CAPSULE__GUEST__V1__EXEC_EVENT__INIT;
	Capsule__Guest__V1__ExecFailed failed = CAPSULE__GUEST__V1__EXEC_FAILED__INIT;

	failed.message = (char *)(uintptr_t)error_message(err);
	event.event_case = CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_FAILED;
	event.failed = &failed;
	send_event(c, &event);
	rpc_call_finish(c->call, ERR_OK, NULL);
}

/* ---- the call ---- */

static void on_open(struct rpc_call *call)
{
	struct guest *g = guest_of(call);
	struct copy_call *c;

	if (!hello_check(call))
		return;
	c = calloc(1, sizeof *c);
	if (!c)
		guest_die("out of memory");
	*c = (struct copy_call){ .next = g->copies, .guest = g, .call = call };
	g->copies = c;
	rpc_call_set_data(call, c);
}

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__Guest__V1__CopyRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;
	struct copy_call *c = rpc_call_data(call);

	if (request->request_case == CAPSULE__GUEST__V1__COPY_REQUEST__REQUEST_START && !c->asked) {
		c->asked = true;
		if (start(c, request->start, &err) < 0)
			send_failed(c, &err);
		else
			send_started(c);
	} else if (request->request_case == CAPSULE__GUEST__V1__COPY_REQUEST__REQUEST_STDIN && c->asked) {
		if (c->worker && worker_write(c->worker, request->stdin.data, request->stdin.len) > WORKER_QUEUE_HIGH)
			rpc_call_pause(call);
	} else {
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "the first message must hold the start, and only that");
	}
}

static void on_half_close(struct rpc_call *call)
{
	struct copy_call *c = rpc_call_data(call);

	if (c && c->worker)
		worker_end_input(c->worker);
	else
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "the stream ended without a start");
}

static void on_writable(struct rpc_call *call)
{
	struct copy_call *c = rpc_call_data(call);

	if (c->worker)
		worker_resume(c->worker);
}

static void on_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct copy_call *c = rpc_call_data(call);

	if (!c)
		return;
	c->call = NULL;
	if (c->worker)
		worker_kill(c->worker);
	release_if_over(c);
}

/* ---- the guest's side ---- */

bool copy_owns(const struct guest *g, pid_t pid)
{
	for (const struct copy_call *c = g->copies; c; c = c->next)
		if (c->worker && worker_pid(c->worker) == pid)
			return true;
	return false;
}

bool copies_end(struct guest *g)
{
	for (struct copy_call *c = g->copies; c; c = c->next)
		if (c->worker)
			worker_kill(c->worker);
	return count_workers(g) == 0;
}

struct rpc_method copy_method = {
	.path = "/capsule.guest.v1.GuestService/Copy",
	.receives = &capsule__guest__v1__copy_request__descriptor,
	.open = on_open,
	.message = on_message,
	.half_close = on_half_close,
	.writable = on_writable,
	.close = on_close,
};
