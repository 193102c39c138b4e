/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/client.h"

#include "base/timeutil.h"
#include "capsulectl/output.h"
#include "capsulectl/target.h"
#include "rpc/uv.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define CONNECT_TIMEOUT_MS 10000 /* a host that drops packets gives no answer at all */

#define SIGNALS 3

struct client {
	uv_loop_t loop;
	uv_signal_t signals[SIGNALS];
	uv_timer_t connect_timer;
	uv_timer_t pause_timer;
	uv_poll_t reader;      /* see watch_reader() */
	int reader_fd;         /* -1: nothing to watch */
	struct target target;
	struct rpc_client *rpc;
	struct rpc_call *call; /* the one under way; NULL between calls */
	int64_t deadline;      /* CLOCK_MONOTONIC, nanoseconds; 0: none */
	int64_t timeout;
	int signal;
	int connect_errno;     /* of a connect that failed */
	bool connected;
};

/* One call, on the stack of client_run(). */
struct run {
	struct client *client;
	client_message_fn fn;
	void *arg;
	const struct client_feed *feed;
	bool done;
	bool enough;           /* fn wants no more */
	struct error *err;     /* the caller's */
	bool failed;           /* err is set */
};

/* ---- connection ---- */

/* What is under way, a call or a pause, ends. */
static void interrupt(struct client *c)
{
	uv_timer_stop(&c->pause_timer);
	if (c->call)
		rpc_call_cancel(c->call);
}

static void on_signal(uv_signal_t *handle, int signo)
{
	struct client *c = handle->data;

	c->signal = signo;
	interrupt(c);
}

static void on_connect_timeout(uv_timer_t *timer)
{
	struct client *c = timer->data;

	c->connect_errno = ETIMEDOUT;
	interrupt(c);
}

static void on_connected(struct rpc_client *rpc, int errnum, void *arg)
{
	struct client *c = arg;

	c->connected = errnum == 0;
	c->connect_errno = errnum;
	uv_timer_stop(&c->connect_timer);
}

static void watch_signals(struct client *c)
{
	static const int signos[SIGNALS] = { SIGINT, SIGTERM, SIGHUP };

	for (size_t i = 0; i < SIGNALS; i++) {
		uv_signal_init(&c->loop, &c->signals[i]);
		c->signals[i].data = c;
		uv_signal_start(&c->signals[i], on_signal, signos[i]);
		uv_unref((uv_handle_t *)&c->signals[i]);
	}
}

static void on_reader_gone(uv_poll_t *poll, int status, int events)
{
	uv_poll_stop(poll);
	output_set_reader_gone();
	interrupt(poll->data);
}

/*
 * "logs -f | head -1": a stream may be silent for days, and only a write would find that nobody reads any more. A
 * pipe without readers is in error, which the loop can wait for. It must not be made non-blocking, as libuv does with
 * what it polls, so a second description of the same pipe is opened.
 */
static void watch_reader(struct client *c)
{
	struct stat st;

	if (c->reader_fd >= 0 || fstat(STDOUT_FILENO, &st) < 0 || !S_ISFIFO(st.st_mode))
		return;
	c->reader_fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (c->reader_fd < 0)
		return;
	if (uv_poll_init(&c->loop, &c->reader, c->reader_fd) < 0) {
		cleanup_closep(&c->reader_fd);
		c->reader_fd = -1;
		return;
	}
	c->reader.data = c;
	uv_poll_start(&c->reader, UV_DISCONNECT, on_reader_gone);
	uv_unref((uv_handle_t *)&c->reader);
}

static int client_open(struct cli *cli, struct error *err)
{
	const struct option_value *target = cli_option(cli, OPT_CAPSULE), *timeout = cli_option(cli, OPT_TIMEOUT);
	struct client *c;

	if (cli->client)
		return 0;
	c = calloc(1, sizeof *c);
	if (!c || uv_loop_init(&c->loop) < 0) {
		free(c);
		return error_errno(err, ENOMEM, "cannot start");
	}
	cli->client = c;
	c->reader_fd = -1;
	watch_signals(c);
	uv_timer_init(&c->loop, &c->connect_timer);
	c->connect_timer.data = c;
	uv_timer_init(&c->loop, &c->pause_timer);
	if (target_resolve(target ? target->text : NULL, getenv("CAPSULE_HOST"), TARGET_SOCKET, &c->target, err) < 0)
		return CLI_USAGE;
	if (timeout) {
		c->timeout = timeout->number;
		c->deadline = time_monotonic_ns() + timeout->number;
	}
	uv_timer_start(&c->connect_timer, on_connect_timeout, CONNECT_TIMEOUT_MS, 0);
	uv_unref((uv_handle_t *)&c->connect_timer);
	c->rpc = rpc_client_new(&c->loop, c->target.address, on_connected, c, err);
	return c->rpc ? 0 : CLI_USAGE;
}

bool client_close(struct cli *cli)
{
	struct client *c = cli->client;

	if (!c)
		return false;
	cli->client = NULL;
	if (c->rpc && !c->connected && !rpc_client_errno(c->rpc))
		return true;
	rpc_client_close(c->rpc, NULL, NULL);
	for (size_t i = 0; i < SIGNALS; i++)
		uv_close((uv_handle_t *)&c->signals[i], NULL);
	uv_close((uv_handle_t *)&c->connect_timer, NULL);
	uv_close((uv_handle_t *)&c->pause_timer, NULL);
	if (c->reader_fd >= 0)
		uv_close((uv_handle_t *)&c->reader, NULL);
	uv_run(&c->loop, UV_RUN_DEFAULT);
	uv_loop_close(&c->loop);
	cleanup_closep(&c->reader_fd);
	target_release(&c->target);
	free(c);
	return false;
}

int client_signal(const struct cli *cli)
{
	return cli->client ? cli->client->signal : 0;
}

bool client_lost(const struct cli *cli)
{
	const struct client *c = cli->client;

	return c && (!c->rpc || c->signal || c->connect_errno || rpc_client_errno(c->rpc) ||
		     (c->deadline && time_monotonic_ns() >= c->deadline));
}

/* ---- one call ---- */

static struct run *run_of(struct rpc_call *call)
{
	return rpc_call_data(call);
}

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct run *run = run_of(call);
	int r;

	if (run->enough || run->failed)
		return;
	r = run->fn(message, run->arg, run->err);
	if (r == 0)
		return;
	run->enough = r > 0;
	run->failed = r < 0;
	rpc_call_cancel(call);
}

static void on_writable(struct rpc_call *call)
{
	const struct client_feed *feed = run_of(call)->feed;

	if (feed)
		feed->writable(call, feed->arg);
}

/* The status in the user's words. */
static int call_error(const struct client *c, enum error_code code, const char *message, struct error *err)
{
	char limit[TIME_AGE_MAX];
	int errnum;

	if (c->signal)
		return error_set(err, ERR_CANCELLED, "interrupted");
	if (c->connect_errno)
		return target_error(&c->target, c->connect_errno, err);
	errnum = rpc_client_errno(c->rpc);
	if (code == ERR_UNAVAILABLE && !c->connected && errnum)
		return target_error(&c->target, errnum, err);
	if (code == ERR_UNAVAILABLE && errnum)
		return error_set(err, ERR_UNAVAILABLE, "the connection to the daemon broke (%s); if it is being "
				 "restarted, try again", strerror(errnum));
	if (code == ERR_DEADLINE_EXCEEDED && c->deadline)
		return error_set(err, code, "not done within %s (--timeout)", time_format_age(c->timeout, limit));
	return error_set(err, code, "%s", message && *message ? message : error_code_name(code));
}

static void on_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct run *run = run_of(call);
	struct client *c = run->client;

	c->call = NULL;
	run->done = true;
	if (run->feed) {
		struct error why = ERROR_INIT;

		run->feed->stop(run->feed->arg, &why);
		if (why.message && !c->signal && !run->failed) {
			run->failed = true;
			error_move(run->err, &why);
		}
		error_release(&why);
	}
	if (code != ERR_OK && !run->enough && !run->failed) {
		run->failed = true;
		call_error(c, code, message, run->err);
	}
}

/* What is left of --timeout, for the next call; 0: no limit. -1 if nothing is left. */
static int64_t remaining_ms(const struct client *c)
{
	int64_t left;

	if (!c->deadline)
		return 0;
	left = c->deadline - time_monotonic_ns();
	return left <= 0 ? -1 : left / NSEC_PER_MSEC + 1;
}

static int client_run(struct cli *cli, const struct method *method, const void *request, struct run *run)
{
	struct rpc_method rpc = {
		.path = method->path,
		.receives = method->reply,
		.receives_one = !method->replies_stream,
		.message = on_message,
		.writable = on_writable,
		.close = on_close,
	};
	struct error *err = run->err;
	struct client *c;
	int64_t timeout;
	int r;

	r = client_open(cli, err);
	if (r < 0)
		return r;
	c = run->client = cli->client;
	if (method->replies_stream)
		watch_reader(c);
	timeout = remaining_ms(c);
	if (timeout < 0)
		return call_error(c, ERR_DEADLINE_EXCEEDED, NULL, err);
	c->call = rpc_client_call(c->rpc, &rpc, timeout, run);
	if (!c->call)
		return error_errno(err, ENOMEM, "cannot call %s", method->path);
	if (run->feed) {
		run->feed->start(c->call, &c->loop, run->feed->arg);
	} else {
		assert(((const ProtobufCMessage *)request)->descriptor == method->request);
		rpc_call_send(c->call, request);
		rpc_call_half_close(c->call);
	}
	while (!run->done)
		uv_run(&c->loop, UV_RUN_ONCE);
	return run->failed ? -1 : 0;
}

/* The message is the connection's; this one is the caller's. */
static ProtobufCMessage *message_copy(const ProtobufCMessage *message)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	_cleanup_free_ uint8_t *data = malloc(size + 1);

	if (!data)
		return NULL;
	protobuf_c_message_pack(message, data);
	return protobuf_c_message_unpack(message->descriptor, NULL, size, data);
}

static int keep_reply(const void *message, void *arg, struct error *err)
{
	ProtobufCMessage **reply = arg;

	*reply = message_copy(message);
	return *reply ? 0 : error_errno(err, ENOMEM, "cannot keep the answer");
}

static int run_for_reply(struct cli *cli, const struct method *method, const void *request,
			 const struct client_feed *feed, void *ret_reply, struct error *err)
{
	_cleanup_message_ ProtobufCMessage *reply = NULL;
	struct run run = { .fn = keep_reply, .arg = &reply, .feed = feed, .err = err };
	int r = client_run(cli, method, request, &run);

	if (r < 0)
		return r;
	if (ret_reply)
		*(ProtobufCMessage **)ret_reply = steal_ptr(&reply);
	return 0;
}

int client_call(struct cli *cli, const struct method *method, const void *request, void *ret_reply, struct error *err)
{
	return run_for_reply(cli, method, request, NULL, ret_reply, err);
}

int client_upload(struct cli *cli, const struct method *method, const struct client_feed *feed, void *ret_reply,
		  struct error *err)
{
	return run_for_reply(cli, method, NULL, feed, ret_reply, err);
}

int client_stream(struct cli *cli, const struct method *method, const void *request, client_message_fn fn, void *arg,
		  struct error *err)
{
	struct run run = { .fn = fn, .arg = arg, .err = err };

	return client_run(cli, method, request, &run);
}

static void on_pause_over(uv_timer_t *timer)
{
	/* That it is no longer active is what client_pause() waits for. */
}

int client_pause(struct cli *cli, int64_t ns, struct error *err)
{
	struct client *c = cli->client;

	watch_reader(c);
	uv_update_time(&c->loop);
	uv_timer_start(&c->pause_timer, on_pause_over, (uint64_t)(ns / NSEC_PER_MSEC), 0);
	while (!c->signal && !output_reader_gone() && uv_is_active((uv_handle_t *)&c->pause_timer))
		uv_run(&c->loop, UV_RUN_ONCE);
	return c->signal || output_reader_gone() ? error_set(err, ERR_CANCELLED, "interrupted") : 0;
}

int client_converse(struct cli *cli, const struct method *method, const struct client_feed *feed, client_message_fn fn,
		    void *arg, struct error *err)
{
	struct run run = { .fn = fn, .arg = arg, .feed = feed, .err = err };

	return client_run(cli, method, NULL, &run);
}

int client_each_name(struct cli *cli, size_t first, int (*one)(struct cli *cli, size_t i, struct error *err),
		     struct error *err)
{
	bool failed = false;

	for (size_t i = first; i < cli->n_names; i++) {
		int r = one(cli, i, err);

		if (r == CLI_USAGE || (r < 0 && client_lost(cli)))
			return r;
		if (r < 0) {
			cli_report(cli, err);
			failed = true;
		}
	}
	return failed ? -1 : 0;
}
