/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/relay.h"

#include "base/buf.h"
#include "rpc/unpack.h"
#include "shim/holder.h"
#include "vm/watch.h"

#include "workload.pb-c.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define SERVICE "/capsule.guest.v1.GuestService/"
#define READ_SIZE (32u << 10)
/* What a process that ended without a word has for an exit code: all are killed with their machine. */
#define EXIT_KILLED 137

enum stream { STREAM_IN, STREAM_OUT, STREAM_ERR, STREAM_COUNT };

struct relay {
	struct rpc_call *call; /* NULL: over */
	int connection;        /* borrowed */
	bool copy;
	bool started;
	bool answered; /* the last thing was told */
	bool exited;
	int exit_code;
	struct watch *streams[STREAM_COUNT]; /* NULL: closed */
	struct buf waiting[STREAM_COUNT];    /* not written yet; of the outputs */
	void (*ended)(void *arg);
	void *arg;
};

static void close_stream(struct relay *r, enum stream stream)
{
	watch_close(steal_ptr(&r->streams[stream]));
	buf_release(&r->waiting[stream]);
}

static void free_streams(struct relay *r)
{
	for (enum stream s = STREAM_IN; s < STREAM_COUNT; s++)
		close_stream(r, s);
}

void relay_free(struct relay *r)
{
	if (!r)
		return;
	free_streams(r);
	if (r->call) {
		rpc_call_set_data(r->call, NULL);
		rpc_call_cancel(r->call);
	}
	free(r);
}

/* ---- the end ---- */

static void answer_failure(struct relay *r, int exit_code, const char *why)
{
	if (r->answered)
		return;
	r->answered = true;
	free_streams(r);
	holder_refuse_exec(r->connection, exit_code, why);
}

static void answer_exit(struct relay *r)
{
	struct shim_exec_exit exit = { .exit_code = r->exit_code };

	if (r->answered)
		return;
	r->answered = true;
	free_streams(r);
	(void)shim_send(r->connection, SHIM_EXEC_EXIT, &exit, sizeof exit);
}

/* When all is written and the call is over. The relay may be gone after it. */
static void check_ended(struct relay *r)
{
	if (r->call || r->waiting[STREAM_OUT].len || r->waiting[STREAM_ERR].len)
		return;
	answer_exit(r);
	r->ended(r->arg);
}

void relay_break(struct relay *r)
{
	/* How it ended may lie behind output that nobody has read. */
	free_streams(r);
	if (r->call)
		rpc_call_deliver_rest(r->call);
	if (r->started)
		answer_exit(r);
	else
		answer_failure(r, 0, "the machine has ended");
}

/* ---- out of the guest ---- */

/* As much as the reader takes now. */
static void write_waiting(struct relay *r, enum stream stream)
{
	struct buf *b = &r->waiting[stream];

	while (b->len > 0 && r->streams[stream]) {
		ssize_t n = write(watch_fd(r->streams[stream]), buf_data(b), b->len);

		if (n > 0) {
			buf_take(b, (size_t)n);
		} else if (n < 0 && errno == EAGAIN) {
			watch_set(r->streams[stream], UV_WRITABLE);
			return;
		} else if (n < 0 && errno != EINTR) {
			close_stream(r, stream);
		}
	}
	buf_release(b);
	if (r->streams[stream])
		watch_set(r->streams[stream], 0);
}

static void on_writable(struct relay *r, enum stream stream)
{
	write_waiting(r, stream);
	if (r->waiting[STREAM_OUT].len || r->waiting[STREAM_ERR].len)
		return;
	if (r->call)
		rpc_call_resume(r->call);
	check_ended(r);
}

static void on_stdout(int fd, int events, void *arg)
{
	on_writable(arg, STREAM_OUT);
}

static void on_stderr(int fd, int events, void *arg)
{
	on_writable(arg, STREAM_ERR);
}

static void take_output(struct relay *r, enum stream stream, const ProtobufCBinaryData *bytes)
{
	if (!r->streams[stream] || r->exited)
		return;
	if (buf_add(&r->waiting[stream], bytes->data, bytes->len) < 0) {
		rpc_call_cancel(r->call);
		return;
	}
	write_waiting(r, stream);
	if (r->waiting[stream].len)
		rpc_call_pause(r->call);
}

static void on_event(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__Guest__V1__ExecEvent *event = (const void *)message;
	struct shim_exec_started started = { 0 };
	struct relay *r = rpc_call_data(call);

	if (!r)
		return;
	switch (event->event_case) {
	case CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_STARTED:
		if (r->started || r->answered)
			break;
		r->started = true;
		started.pid = event->started->pid;
		(void)shim_send(r->connection, SHIM_EXEC_STARTED, &started, sizeof started);
		break;
	case CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_FAILED:
		if (!r->started)
			answer_failure(r, event->failed->exit_code & 0xff, event->failed->message);
		break;
	case CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_STDOUT:
		take_output(r, STREAM_OUT, &event->stdout);
		break;
	case CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_STDERR:
		take_output(r, STREAM_ERR, &event->stderr);
		break;
	case CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_EXIT:
		if (r->started)
			r->exit_code = event->exit->exit_code & 0xff;
		r->exited = r->started;
		break;
	default: /* of a newer guest */
		break;
	}
}

static void on_call_closed(struct rpc_call *call, enum error_code code, const char *message)
{
	struct relay *r = rpc_call_data(call);

	if (!r)
		return;
	r->call = NULL;
	if (r->streams[STREAM_IN])
		close_stream(r, STREAM_IN);
	if (!r->started)
		answer_failure(r, 0, *message ? message : "the guest did not start it");
	check_ended(r);
}

/* ---- into the guest ---- */

static void send_input(struct relay *r, void *data, size_t len)
{
	Capsule__Guest__V1__ExecRequest exec = CAPSULE__GUEST__V1__EXEC_REQUEST__INIT;
	Capsule__Guest__V1__CopyRequest copy = CAPSULE__GUEST__V1__COPY_REQUEST__INIT;
	ProtobufCBinaryData bytes = { .data = data, .len = len };

	exec.request_case = CAPSULE__GUEST__V1__EXEC_REQUEST__REQUEST_STDIN;
	copy.request_case = CAPSULE__GUEST__V1__COPY_REQUEST__REQUEST_STDIN;
	exec.stdin = copy.stdin = bytes;
	(void)rpc_call_send(r->call, r->copy ? &copy.base : &exec.base);
}

static void on_stdin(int fd, int events, void *arg)
{
	struct relay *r = arg;
	uint8_t data[READ_SIZE];
	ssize_t n = read(fd, data, sizeof data);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		send_input(r, data, (size_t)n);
		if (!rpc_call_writable(r->call))
			watch_set(r->streams[STREAM_IN], 0);
		return;
	}
	close_stream(r, STREAM_IN);
	rpc_call_half_close(r->call);
}

static void on_call_writable(struct rpc_call *call)
{
	struct relay *r = rpc_call_data(call);

	if (r && r->streams[STREAM_IN])
		watch_set(r->streams[STREAM_IN], UV_READABLE);
}

void relay_resize(struct relay *r, unsigned columns, unsigned rows)
{
	Capsule__Guest__V1__ExecRequest request = CAPSULE__GUEST__V1__EXEC_REQUEST__INIT;
	Capsule__Guest__V1__Size size = CAPSULE__GUEST__V1__SIZE__INIT;

	if (!r->call || r->copy)
		return;
	size.columns = columns;
	size.rows = rows;
	request.request_case = CAPSULE__GUEST__V1__EXEC_REQUEST__REQUEST_RESIZE;
	request.resize = &size;
	(void)rpc_call_send(r->call, &request.base);
}

/* ---- the start ---- */

/* Takes over the three streams in any case. */
static struct relay *relay_new(uv_loop_t *loop, int connection, const int *streams, void (*ended)(void *arg), void *arg)
{
	static const watch_fn fns[STREAM_COUNT] = { on_stdin, on_stdout, on_stderr };
	struct relay *r = calloc(1, sizeof *r);
	bool whole = r;

	for (enum stream s = STREAM_IN; s < STREAM_COUNT; s++) {
		if (!r) {
			close(streams[s]);
			continue;
		}
		buf_init(&r->waiting[s], RPC_MESSAGE_MAX);
		r->streams[s] = watch_new(loop, streams[s], fns[s], r);
		whole &= r->streams[s] != NULL;
	}
	if (!whole) {
		relay_free(r);
		holder_refuse_exec(connection, 0, "its streams cannot be watched");
		return NULL;
	}
	r->connection = connection;
	r->exit_code = EXIT_KILLED;
	r->ended = ended;
	r->arg = arg;
	return r;
}

static struct relay *begin(struct relay *r, struct guest *g, const ProtobufCMessage *start)
{
	static const struct rpc_method exec = {
		.path = SERVICE "Exec", .receives = &capsule__guest__v1__exec_event__descriptor, .message = on_event,
		.writable = on_call_writable, .close = on_call_closed,
	};
	static const struct rpc_method copy = {
		.path = SERVICE "Copy", .receives = &capsule__guest__v1__exec_event__descriptor, .message = on_event,
		.writable = on_call_writable, .close = on_call_closed,
	};

	r->call = rpc_client_call(guest_client(g), r->copy ? &copy : &exec, 0, r);
	if (!r->call) {
		answer_failure(r, 0, "out of memory");
		relay_free(r);
		return NULL;
	}
	/* A connection that is gone tells in `close`. */
	(void)rpc_call_send(r->call, start);
	watch_set(r->streams[STREAM_IN], UV_READABLE);
	return r;
}

static ProtobufCMessage *read_config(int fd, struct error *err)
{
	_cleanup_free_ uint8_t *data = NULL;
	ProtobufCMessage *config;
	struct stat st;

	if (fstat(fd, &st) < 0 || st.st_size > RELAY_SPEC_MAX) {
		error_set(err, ERR_INVALID_ARGUMENT, "the request is too large");
		return NULL;
	}
	data = malloc((size_t)st.st_size + 1);
	if (!data || pread(fd, data, (size_t)st.st_size, 0) != st.st_size) {
		error_set(err, ERR_INTERNAL, "the request cannot be read");
		return NULL;
	}
	if (rpc_message_unpack(&capsule__v1__workload_exec_config__descriptor, data, (size_t)st.st_size, &config, err) < 0)
		return NULL;
	return config;
}

static struct relay *begin_exec(struct relay *r, struct guest *g, const struct shim_exec *request,
				const Capsule__V1__WorkloadExecConfig *config)
{
	Capsule__Guest__V1__ExecRequest message = CAPSULE__GUEST__V1__EXEC_REQUEST__INIT;
	Capsule__Guest__V1__ExecStart start = CAPSULE__GUEST__V1__EXEC_START__INIT;
	Capsule__Guest__V1__Size size = CAPSULE__GUEST__V1__SIZE__INIT;
	_cleanup_free_ Capsule__Guest__V1__ExecStart__EnvEntry *entries = calloc(config->n_env + 1, sizeof *entries);
	_cleanup_free_ Capsule__Guest__V1__ExecStart__EnvEntry **env = calloc(config->n_env + 1, sizeof *env);

	if (!entries || !env) {
		answer_failure(r, 0, "out of memory");
		relay_free(r);
		return NULL;
	}
	for (size_t i = 0; i < config->n_env; i++) {
		capsule__guest__v1__exec_start__env_entry__init(&entries[i]);
		entries[i].key = config->env[i]->key;
		entries[i].value = config->env[i]->value;
		env[i] = &entries[i];
	}
	size.columns = request->columns;
	size.rows = request->rows;
	start.command = config->command;
	start.n_command = config->n_command;
	start.terminal = request->terminal != 0;
	start.size = request->terminal ? &size : NULL;
	start.env = env;
	start.n_env = config->n_env;
	start.workdir = config->working_dir;
	start.user = config->user;
	message.request_case = CAPSULE__GUEST__V1__EXEC_REQUEST__REQUEST_START;
	message.start = &start;
	return begin(r, g, &message.base);
}

struct relay *relay_exec(struct guest *g, uv_loop_t *loop, int connection, const struct shim_exec *request, const int *fds,
			 size_t n_fds, void (*ended)(void *arg), void *arg)
{
	_cleanup_(rpc_message_freep) ProtobufCMessage *config = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	struct relay *r;

	if (n_fds != 1 + STREAM_COUNT) {
		shim_close_fds(fds, n_fds);
		holder_refuse_exec(connection, 0, "the request came without its descriptors");
		return NULL;
	}
	config = read_config(fds[0], &err);
	close(fds[0]);
	if (!config) {
		shim_close_fds(fds + 1, STREAM_COUNT);
		holder_refuse_exec(connection, 0, error_message(&err));
		return NULL;
	}
	r = relay_new(loop, connection, fds + 1, ended, arg);
	return r ? begin_exec(r, g, request, (const void *)config) : NULL;
}

struct relay *relay_copy(struct guest *g, uv_loop_t *loop, int connection, const struct shim_copy *request, const int *fds,
			 size_t n_fds, void (*ended)(void *arg), void *arg)
{
	Capsule__Guest__V1__CopyRequest message = CAPSULE__GUEST__V1__COPY_REQUEST__INIT;
	Capsule__Guest__V1__CopyStart start = CAPSULE__GUEST__V1__COPY_START__INIT;
	struct relay *r;

	if (n_fds != STREAM_COUNT || !memchr(request->path, '\0', sizeof request->path)) {
		shim_close_fds(fds, n_fds);
		holder_refuse_exec(connection, 0, "the request came without its descriptors, or its path has no end");
		return NULL;
	}
	r = relay_new(loop, connection, fds, ended, arg);
	if (!r)
		return NULL;
	r->copy = true;
	start.in = request->in != 0;
	start.path = (char *)(uintptr_t)request->path;
	message.request_case = CAPSULE__GUEST__V1__COPY_REQUEST__REQUEST_START;
	message.start = &start;
	return begin(r, g, &message.base);
}
