/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/internal.h"

#include "base/timeutil.h"
#include "rpc/metadata.h"
#include "rpc/unpack.h"

#define PREFIX 5u /* of a message: a flag and the length */

const struct rpc_method *rpc_call_method(const struct rpc_call *call)
{
	return call->method;
}

void rpc_call_set_data(struct rpc_call *call, void *data)
{
	call->data = data;
}

void *rpc_call_data(const struct rpc_call *call)
{
	return call->data;
}

const struct rpc_peer *rpc_call_peer(const struct rpc_call *call)
{
	return &call->conn->options.peer;
}

static bool on_server(const struct rpc_call *call)
{
	return conn_is_server(call->conn);
}

/* Whether messages of the peer still mean something. */
static bool is_reading(const struct rpc_call *call)
{
	return call->method && !call->cut && !call->closed && !(on_server(call) && call->local_done);
}

/* --- status, work, end --- */

void call_set_status(struct rpc_call *call, enum error_code code, const char *message)
{
	if (call->has_status)
		return;
	free(call->message);
	call->has_status = true;
	call->code = code;
	call->message = message && *message ? strdup(message) : NULL;
}

void call_schedule(struct rpc_call *call, enum call_work work)
{
	struct rpc_conn *conn = call->conn;

	if (call->work == 0) {
		call->work_next = NULL;
		*conn->work_tail = call;
		conn->work_tail = &call->work_next;
	}
	call->work |= work;
	conn_wake(conn);
}

static void call_unschedule(struct rpc_call *call)
{
	struct rpc_conn *conn = call->conn;
	struct rpc_call **p = &conn->work;

	if (call->work == 0)
		return;
	while (*p != call)
		p = &(*p)->work_next;
	*p = call->work_next;
	if (!*p)
		conn->work_tail = p;
	call->work = 0;
}

static void drop_out(struct rpc_call *call)
{
	struct rpc_frame *frame;

	while ((frame = call->out)) {
		call->out = frame->next;
		free(frame);
	}
	call->out_tail = &call->out;
	call->conn->queued -= call->queued;
	call->queued = 0;
}

static void drop_in(struct rpc_call *call)
{
	call->conn->unread -= call->in.len;
	if (call->stream && call->withheld > 0)
		nghttp2_session_consume_stream(call->conn->session, call->stream, call->withheld);
	call->withheld = 0;
	buf_release(&call->in);
}

void call_free(struct rpc_call *call)
{
	struct rpc_conn *conn = call->conn;

	call->stream = 0;
	call_unschedule(call);
	*call->link = call->next;
	if (call->next)
		call->next->link = call->link;
	conn->n_calls--;
	drop_in(call);
	drop_out(call);
	rpc_message_free(call->held);
	free(call->message);
	free(call);
}

static void close_client(struct rpc_call *call)
{
	ProtobufCMessage *reply = steal_ptr(&call->held);

	if (call->method->receives_one && call->code == ERR_OK) {
		if (reply && call->method->message) {
			call->method->message(call, reply);
		} else if (!reply) {
			call->has_status = false;
			call_set_status(call, ERR_INTERNAL, "the server sent no reply");
		}
	}
	rpc_message_free(reply);
	if (call->method->close)
		call->method->close(call, call->code, call->message ? call->message : "");
}

void call_close(struct rpc_call *call)
{
	if (call->closed)
		return;
	call->closed = true;
	if (!call->method)
		return;
	if (!on_server(call))
		close_client(call);
	else if (call->method->close)
		call->method->close(call, call->status_sent ? ERR_OK : ERR_CANCELLED,
				    call->message ? call->message : "");
}

/* Resets the stream; the method hears of it soon, the peer when it reads. */
static void call_cut(struct rpc_call *call, uint32_t h2_error)
{
	if (call->cut || call->closed)
		return;
	call->cut = call->local_done = call->remote_done = true;
	drop_in(call);
	drop_out(call);
	if (call->stream)
		nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream, h2_error);
	call_schedule(call, WORK_CLOSE);
}

void call_reject(struct rpc_call *call, enum error_code code, const char *message)
{
	if (on_server(call)) {
		rpc_call_finish(call, code, message);
		return;
	}
	/* What is wrong with the messages counts for more than the server's word that all is well. */
	if (call->code == ERR_OK)
		call->has_status = false;
	call_set_status(call, code, message);
	call_cut(call, NGHTTP2_CANCEL);
}

void rpc_call_cancel(struct rpc_call *call)
{
	if (call->closed || call->cut)
		return;
	call_set_status(call, ERR_CANCELLED, "cancelled");
	call_cut(call, NGHTTP2_CANCEL);
}

void call_expire(struct rpc_call *call)
{
	if (call->closed || call->cut || call->lingering) {
		call->deadline_ns = -1;
		return;
	}
	call->deadline_ns = -1;
	if (on_server(call) && !call->out && !call->local_done) {
		/* The status goes out as soon as the peer takes it; the method need not wait for that. */
		rpc_call_finish(call, ERR_DEADLINE_EXCEEDED, "deadline exceeded");
		call_schedule(call, WORK_CLOSE);
		return;
	}
	call_set_status(call, ERR_DEADLINE_EXCEEDED, "deadline exceeded");
	call_cut(call, NGHTTP2_CANCEL);
}

static void call_deliver(struct rpc_call *call);

void call_stream_closed(struct rpc_call *call, uint32_t h2_error)
{
	bool told = call->has_status;

	call->stream = 0;
	call->withheld = 0;
	call->local_done = call->remote_done = true;
	if (on_server(call)) {
		call_close(call);
		call_free(call);
		return;
	}
	if (!call->has_status && call->deadline_ns >= 0 && call->deadline_ns <= time_monotonic_ns())
		call_set_status(call, ERR_DEADLINE_EXCEEDED, "deadline exceeded");
	else if (!call->has_status && h2_error == NGHTTP2_NO_ERROR)
		call_set_status(call, ERR_UNKNOWN, "the server ended the call without a status");
	else if (!call->has_status && h2_error == NGHTTP2_REFUSED_STREAM)
		call_set_status(call, ERR_UNAVAILABLE, "the server takes no more calls on this connection");
	else if (!call->has_status)
		call_set_status(call, rpc_status_of_reset(h2_error), nghttp2_http2_strerror(h2_error));
	/* A resume may be on the list of work. */
	call_deliver(call);
	if (told && is_reading(call) && call->paused && call->in.len > 0) {
		call->lingering = true;
		return;
	}
	call_close(call);
	call_free(call);
}

/* --- receiving --- */

static void submit_trailers_only(struct rpc_call *call);

void call_open(struct rpc_call *call)
{
	if (call->header_bytes > RPC_HEADERS_MAX) {
		call->method = NULL;
		rpc_call_finish(call, ERR_RESOURCE_EXHAUSTED, "the request's headers are too large");
		return;
	}
	if (!call->post || !call->content_type_ok) {
		call->method = NULL;
		call->http_status = call->post ? 415 : 405;
		call->local_done = true;
		submit_trailers_only(call);
		return;
	}
	if (!call->method) {
		_cleanup_free_ char *message = steal_ptr(&call->message);

		rpc_call_finish(call, ERR_UNIMPLEMENTED, message);
		return;
	}
	if (call->timeout_bad) {
		call->method = NULL;
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "the header grpc-timeout is malformed");
		return;
	}
	if (call->deadline_ns >= 0)
		conn_note_deadline(call->conn, call->deadline_ns);
	if (call->method->calls)
		++*call->method->calls;
	if (call->method->open)
		call->method->open(call);
}

/* Gives the peer new window for len bytes from the front of `in`, as far as it has not got it yet, and drops them. */
static void take_in(struct rpc_call *call, size_t len)
{
	size_t given = call->in.len - call->withheld;
	size_t fresh = len > given ? len - given : 0;

	buf_take(&call->in, len);
	call->conn->unread -= len;
	call->withheld -= fresh;
	if (fresh > 0 && call->stream)
		nghttp2_session_consume_stream(call->conn->session, call->stream, fresh);
}

static void deliver_message(struct rpc_call *call, const uint8_t *data, size_t len)
{
	_cleanup_(rpc_message_freep) ProtobufCMessage *message = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	bool server = on_server(call);
	int r;

	r = rpc_message_unpack(call->method->receives, data, len, &message, &err);
	take_in(call, PREFIX + len);
	if (r < 0) {
		/* A server's nonsense is not the caller's mistake. */
		if (!server && err.code == ERR_INVALID_ARGUMENT)
			err.code = ERR_INTERNAL;
		call_reject(call, err.code, err.message);
	} else if (!call->method->receives_one) {
		if (call->method->message)
			call->method->message(call, message);
	} else if (call->held) {
		call_reject(call, server ? ERR_INVALID_ARGUMENT : ERR_INTERNAL,
			    "there was a second message where one is expected");
	} else {
		call->held = steal_ptr(&message);
	}
}

static void reject_size(struct rpc_call *call, size_t len)
{
	char text[96];

	snprintf(text, sizeof(text), "a message of %zu bytes is larger than the limit of %u", len, RPC_MESSAGE_MAX);
	call_reject(call, ERR_RESOURCE_EXHAUSTED, text);
}

static int check_prefix(struct rpc_call *call, const uint8_t *prefix, size_t *ret_len)
{
	size_t len = (size_t)prefix[1] << 24 | (size_t)prefix[2] << 16 | (size_t)prefix[3] << 8 | prefix[4];

	if (prefix[0] > 1) {
		call_reject(call, ERR_INTERNAL, "a message has an unknown flag");
		return -1;
	}
	if (prefix[0] == 1) {
		call_reject(call, ERR_UNIMPLEMENTED, "compressed messages are not supported; send them plain");
		return -1;
	}
	if (len > RPC_MESSAGE_MAX) {
		reject_size(call, len);
		return -1;
	}
	*ret_len = len;
	return 0;
}

static void deliver_end(struct rpc_call *call)
{
	_cleanup_(rpc_message_freep) ProtobufCMessage *request = NULL;

	call->half_close_told = true;
	if (call->in.len > 0) {
		call_reject(call, on_server(call) ? ERR_INVALID_ARGUMENT : ERR_INTERNAL,
			    "the last message is cut short");
		return;
	}
	if (!on_server(call))
		return;
	if (call->method->receives_one) {
		request = steal_ptr(&call->held);
		if (!request) {
			rpc_call_finish(call, ERR_INVALID_ARGUMENT, "the call carries no message");
			return;
		}
		if (call->method->message)
			call->method->message(call, request);
	}
	if (call->method->half_close && is_reading(call))
		call->method->half_close(call);
}

/* Delivers what is complete, as far as the call is not paused. */
static void call_deliver(struct rpc_call *call)
{
	const uint8_t *data;
	size_t len;

	if (call->delivering)
		return;
	call->delivering = true;
	while (is_reading(call) && !call->paused && call->in.len >= PREFIX) {
		data = buf_data(&call->in);
		if (check_prefix(call, data, &len) < 0 || call->in.len < PREFIX + len)
			break;
		deliver_message(call, data + PREFIX, len);
	}
	if (is_reading(call) && !call->paused) {
		/* The beginning of a message that may be larger than the window. */
		if (call->withheld > 0 && call->stream)
			nghttp2_session_consume_stream(call->conn->session, call->stream, call->withheld);
		call->withheld = 0;
		if (call->remote_done && !call->half_close_told)
			deliver_end(call);
	}
	call->delivering = false;
	if (call->in.len == 0)
		buf_release(&call->in);
}

void call_receive(struct rpc_call *call, const uint8_t *data, size_t len)
{
	struct rpc_conn *conn = call->conn;

	if (!is_reading(call)) {
		nghttp2_session_consume_stream(conn->session, call->stream, len);
		return;
	}
	if (conn->unread + len > RPC_UNREAD_MAX || buf_add(&call->in, data, len) < 0) {
		nghttp2_session_consume_stream(conn->session, call->stream, len);
		call_reject(call, ERR_RESOURCE_EXHAUSTED, "too much data on this connection waits to be read");
		return;
	}
	conn->unread += len;
	call->withheld += len;
	call_deliver(call);
}

void call_remote_done(struct rpc_call *call)
{
	if (call->remote_done)
		return;
	call->remote_done = true;
	call_deliver(call);
	if (on_server(call) || call->cut || !call->stream)
		return;
	/* The status is here: whatever the client still wanted to send, nobody reads it. */
	call->local_done = true;
	if (!nghttp2_session_get_stream_local_close(call->conn->session, call->stream)) {
		drop_out(call);
		nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream, NGHTTP2_NO_ERROR);
	}
}

void rpc_call_pause(struct rpc_call *call)
{
	call->paused = true;
}

void rpc_call_resume(struct rpc_call *call)
{
	if (!call->paused)
		return;
	call->paused = false;
	if (!call->delivering && !call->closed)
		call_schedule(call, WORK_DELIVER);
}

void rpc_call_deliver_rest(struct rpc_call *call)
{
	call->paused = false;
	call_deliver(call);
	call->paused = true;
}

void call_run_work(struct rpc_call *call, unsigned work)
{
	if (work & WORK_DELIVER)
		call_deliver(call);
	if ((work & WORK_WRITABLE) && !call->closed && !call->local_done && rpc_call_writable(call) &&
	    call->method && call->method->writable)
		call->method->writable(call);
	if (call->lingering && !call->paused)
		work |= WORK_CLOSE;
	if (work & WORK_CLOSE)
		call_close(call);
	if (call->stream == 0 && call->closed)
		call_free(call);
}

/* --- sending --- */

static nghttp2_nv field(const char *name, const char *value)
{
	return (nghttp2_nv){ (uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE };
}

struct trailers {
	nghttp2_nv fields[2];
	size_t n;
	char code[12];
	char *message;
};

static void trailers_init(struct trailers *t, const struct rpc_call *call)
{
	*t = (struct trailers){ .n = 1 };
	snprintf(t->code, sizeof(t->code), "%d", (int)call->code);
	t->fields[0] = field("grpc-status", t->code);
	t->message = call->message ? rpc_status_message_encode(call->message) : NULL;
	if (t->message)
		t->fields[t->n++] = field("grpc-message", t->message);
}

static void trailers_release(struct trailers *t)
{
	free(t->message);
}

static ssize_t read_out(nghttp2_session *session, int32_t stream, uint8_t *to, size_t max, uint32_t *flags,
			nghttp2_data_source *source, void *arg)
{
	struct rpc_call *call = source->ptr;
	struct rpc_frame *frame;
	size_t n = 0, part;

	while (!call->cut && n < max && (frame = call->out)) {
		part = frame->len - frame->off < max - n ? frame->len - frame->off : max - n;
		memcpy(to + n, frame->data + frame->off, part);
		n += part;
		frame->off += part;
		if (frame->off == frame->len) {
			call->out = frame->next;
			free(frame);
		}
	}
	if (!call->out)
		call->out_tail = &call->out;
	call->queued -= n;
	call->conn->queued -= n;
	if (call->full && call->queued < call->conn->send_low) {
		call->full = false;
		call_schedule(call, WORK_WRITABLE);
	}
	if (!call->out && call->local_done && !call->cut) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		if (on_server(call)) {
			_cleanup_(trailers_release) struct trailers t;

			trailers_init(&t, call);
			*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
			if (nghttp2_submit_trailer(session, stream, t.fields, t.n) != 0)
				return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
		}
	} else if (n == 0) {
		return NGHTTP2_ERR_DEFERRED;
	}
	return (ssize_t)n;
}

static void submit_headers(struct rpc_call *call)
{
	nghttp2_data_provider provider = { .source.ptr = call, .read_callback = read_out };
	nghttp2_nv fields[] = {
		field(":status", "200"),
		field("content-type", "application/grpc"),
		field("grpc-accept-encoding", "identity"),
	};

	call->headers_sent = true;
	nghttp2_submit_response(call->conn->session, call->stream, fields, sizeof(fields) / sizeof(fields[0]),
				&provider);
}

/* A whole response in one block of headers: a status without messages, or a plain HTTP error. */
static void submit_trailers_only(struct rpc_call *call)
{
	_cleanup_(trailers_release) struct trailers t = { .n = 0 };
	nghttp2_nv fields[5];
	char status[12];
	size_t n = 0;

	call->headers_sent = true;
	snprintf(status, sizeof(status), "%d", call->http_status ? call->http_status : 200);
	fields[n++] = field(":status", status);
	if (!call->http_status) {
		trailers_init(&t, call);
		fields[n++] = field("content-type", "application/grpc");
		fields[n++] = field("grpc-accept-encoding", "identity");
		for (size_t i = 0; i < t.n; i++)
			fields[n++] = t.fields[i];
	}
	nghttp2_submit_response(call->conn->session, call->stream, fields, n, NULL);
	conn_wake(call->conn);
}

int call_submit_request(struct rpc_call *call, int64_t timeout_ms)
{
	struct rpc_conn *conn = call->conn;
	nghttp2_data_provider provider = { .source.ptr = call, .read_callback = read_out };
	char timeout[RPC_TIMEOUT_MAX];
	nghttp2_nv fields[9] = {
		field(":method", "POST"),
		field(":scheme", "http"),
		field(":path", call->method->path),
		field(":authority", conn->authority),
		field("te", "trailers"),
		field("content-type", "application/grpc"),
		field("user-agent", "capsule/" CAPSULE_VERSION),
		field("grpc-accept-encoding", "identity"),
	};
	size_t n = 8;

	if (timeout_ms > 0) {
		rpc_timeout_format(timeout_ms, timeout);
		fields[n++] = field("grpc-timeout", timeout);
	}
	call->stream = nghttp2_submit_request(conn->session, NULL, fields, n, &provider, call);
	if (call->stream < 0) {
		call->stream = 0;
		return -1;
	}
	if (timeout_ms > 0) {
		int64_t now = time_monotonic_ns();

		call->deadline_ns = timeout_ms < (INT64_MAX - now) / NSEC_PER_MSEC ? now + timeout_ms * NSEC_PER_MSEC
										    : INT64_MAX;
		conn_note_deadline(conn, call->deadline_ns);
	}
	conn_wake(conn);
	return 0;
}

static void send_queued(struct rpc_call *call)
{
	if (on_server(call) && !call->headers_sent)
		submit_headers(call);
	else
		nghttp2_session_resume_data(call->conn->session, call->stream);
	conn_wake(call->conn);
}

int rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	struct rpc_frame *frame;

	if (call->closed || call->local_done || !call->stream)
		return -1;
	if (len > RPC_MESSAGE_MAX) {
		reject_size(call, len);
		return -1;
	}
	/* `writable` bounds one call; this, a client that asks for much on many calls and reads nothing. */
	if (on_server(call) && call->conn->queued + len > RPC_QUEUED_MAX) {
		call_set_status(call, ERR_RESOURCE_EXHAUSTED, "too much data on this connection waits to be sent");
		call_cut(call, NGHTTP2_ENHANCE_YOUR_CALM);
		return -1;
	}
	frame = malloc(sizeof(*frame) + PREFIX + len);
	if (!frame) {
		call_reject(call, ERR_RESOURCE_EXHAUSTED, "no memory for a message");
		return -1;
	}
	frame->next = NULL;
	frame->off = 0;
	frame->len = PREFIX + len;
	frame->data[0] = 0;
	for (unsigned i = 0; i < 4; i++)
		frame->data[1 + i] = (uint8_t)(len >> (24 - 8 * i));
	protobuf_c_message_pack(message, frame->data + PREFIX);
	/* What a client says is as the user gave it: the server tells what is wrong with it. */
	if (on_server(call))
		rpc_message_clean(message->descriptor, frame->data + PREFIX, len);
	*call->out_tail = frame;
	call->out_tail = &frame->next;
	call->queued += frame->len;
	call->conn->queued += frame->len;
	if (call->queued > call->conn->send_high)
		call->full = true;
	send_queued(call);
	return 0;
}

bool rpc_call_writable(const struct rpc_call *call)
{
	return !call->full;
}

void rpc_call_finish(struct rpc_call *call, enum error_code code, const char *message)
{
	if (!on_server(call) || call->closed || call->local_done || !call->stream)
		return;
	call_set_status(call, code, message);
	call->local_done = true;
	drop_in(call);
	if (call->headers_sent)
		send_queued(call);
	else
		submit_trailers_only(call);
}

void rpc_call_fail(struct rpc_call *call, const struct error *err)
{
	rpc_call_finish(call, err->code ? err->code : ERR_UNKNOWN, error_message(err));
}

void rpc_call_half_close(struct rpc_call *call)
{
	if (on_server(call) || call->closed || call->local_done || !call->stream)
		return;
	call->local_done = true;
	send_queued(call);
}

void call_trailers_sent(struct rpc_call *call)
{
	call->status_sent = true;
	/* RFC 9113, 8.1: the client need not send the rest of its request. */
	if (!call->remote_done)
		nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream, NGHTTP2_NO_ERROR);
}
