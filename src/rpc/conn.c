/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/internal.h"

#include "base/timeutil.h"
#include "rpc/metadata.h"

#define CONNECTION_WINDOW (4 << 20)
#define FRAME_MAX (16384 + 9) /* the largest that the session makes in one step, headers apart */
/* Frames in the session's queue above which the peer is asking for answers that it does not read. */
#define OUTBOUND_FRAMES_MAX 10000u
#define DEFLATE_TABLE_MAX 1024u
/* Streams that a peer may reset, at once and every second after that (CVE-2023-44487). */
#define RESET_BURST 1000u
#define RESET_RATE 100u

static const uint8_t drain_ping[8] = "drain";

/* --- list of calls, work, deadlines --- */

struct rpc_call *conn_add_call(struct rpc_conn *conn, const struct rpc_method *method)
{
	struct rpc_call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->conn = conn;
	call->method = method;
	call->deadline_ns = -1;
	call->out_tail = &call->out;
	buf_init(&call->in, 5 + RPC_MESSAGE_MAX + RPC_WINDOW);
	call->next = conn->calls;
	call->link = &conn->calls;
	if (call->next)
		call->next->link = &call->next;
	conn->calls = call;
	conn->n_calls++;
	return call;
}

void conn_wake(struct rpc_conn *conn)
{
	if (conn->busy == 0 && conn->options.wake)
		conn->options.wake(conn, conn->options.arg);
}

void conn_note_deadline(struct rpc_conn *conn, int64_t deadline_ns)
{
	if (conn->deadline_ns >= 0 && conn->deadline_ns <= deadline_ns)
		return;
	conn->deadline_ns = deadline_ns;
	conn_wake(conn);
}

static void conn_run_work(struct rpc_conn *conn)
{
	struct rpc_call *call;
	unsigned work;

	while ((call = conn->work)) {
		conn->work = call->work_next;
		if (!conn->work)
			conn->work_tail = &conn->work;
		work = call->work;
		call->work = 0;
		call_run_work(call, work);
	}
}

/* --- what the session tells --- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct rpc_conn *conn = arg;
	struct rpc_call *call;

	if (!conn_is_server(conn) || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	call = conn_add_call(conn, NULL);
	if (!call)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	call->stream = frame->hd.stream_id;
	nghttp2_session_set_stream_user_data(session, call->stream, call);
	return 0;
}

static bool name_is(const uint8_t *name, size_t len, const char *what)
{
	return strlen(what) == len && memcmp(name, what, len) == 0;
}

static void on_request_header(struct rpc_call *call, const uint8_t *name, size_t name_len, const char *value,
			      size_t len)
{
	int64_t ns, now;

	if (name_is(name, name_len, ":path")) {
		call->method = rpc_services_find(call->conn->services, value, len);
		if (!call->method && asprintf(&call->message, "there is no method %.*s here", (int)len, value) < 0)
			call->message = NULL;
	} else if (name_is(name, name_len, ":method")) {
		call->post = len == 4 && memcmp(value, "POST", 4) == 0;
	} else if (name_is(name, name_len, "content-type")) {
		call->content_type_ok = rpc_content_type_ok(value, len);
	} else if (name_is(name, name_len, "grpc-timeout")) {
		call->timeout_bad = rpc_timeout_parse(value, len, &ns) < 0;
		now = time_monotonic_ns();
		if (!call->timeout_bad)
			call->deadline_ns = ns < INT64_MAX - now ? now + ns : INT64_MAX;
	}
}

static void on_response_header(struct rpc_call *call, const uint8_t *name, size_t name_len, const char *value,
			       size_t len)
{
	if (name_is(name, name_len, ":status")) {
		call->http_status = (int)strtol(value, NULL, 10);
	} else if (name_is(name, name_len, "content-type")) {
		call->content_type_ok = rpc_content_type_ok(value, len);
	} else if (name_is(name, name_len, "grpc-status") && !call->has_status) {
		call->code = rpc_status_parse(value, len);
		call->has_status = true;
	} else if (name_is(name, name_len, "grpc-message") && !call->cut) {
		free(call->message);
		call->message = rpc_status_message_decode(value, len);
	}
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
		     const uint8_t *value, size_t len, uint8_t flags, void *arg)
{
	struct rpc_conn *conn = arg;
	struct rpc_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

	if (!call)
		return 0;
	call->header_bytes += name_len + len + 32;
	if (call->header_bytes > RPC_HEADERS_MAX)
		return 0;
	if (!conn_is_server(conn))
		on_response_header(call, name, name_len, (const char *)value, len);
	else if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
		on_request_header(call, name, name_len, (const char *)value, len);
	return 0;
}

static void on_headers(struct rpc_conn *conn, struct rpc_call *call, const nghttp2_frame *frame)
{
	if (conn_is_server(conn)) {
		if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
			call_open(call);
		return;
	}
	if (call->header_bytes > RPC_HEADERS_MAX) {
		call_reject(call, ERR_RESOURCE_EXHAUSTED, "the reply's headers are too large");
	} else if (call->http_status != 200 && call->http_status / 100 != 1 && !call->has_status) {
		char text[64];

		snprintf(text, sizeof(text), "the server answered with HTTP status %d", call->http_status);
		call_reject(call, rpc_status_of_http(call->http_status), text);
	} else if (call->http_status == 200 && !call->content_type_ok) {
		call_reject(call, ERR_UNKNOWN, "the server's answer is not gRPC");
	}
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct rpc_conn *conn = arg;
	struct rpc_call *call;

	if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK) && conn->draining &&
	    memcmp(frame->ping.opaque_data, drain_ping, sizeof(drain_ping)) == 0) {
		nghttp2_submit_goaway(session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session),
				      NGHTTP2_NO_ERROR, NULL, 0);
		return 0;
	}
	if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
		return 0;
	call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	if (!call)
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS)
		on_headers(conn, call, frame);
	if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
		call_remote_done(call);
	return 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t len,
			 void *arg)
{
	struct rpc_call *call = nghttp2_session_get_stream_user_data(session, stream);

	/* The connection's window is given back at once, so that a call that does not read stops only itself. */
	nghttp2_session_consume_connection(session, len);
	if (call)
		call_receive(call, data, len);
	else
		nghttp2_session_consume_stream(session, stream, len);
	return 0;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct rpc_conn *conn = arg;
	struct rpc_call *call;

	if (!conn_is_server(conn) || frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	if (call)
		call_trailers_sent(call);
	return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t h2_error, void *arg)
{
	struct rpc_call *call = nghttp2_session_get_stream_user_data(session, stream);

	if (!call)
		return 0;
	nghttp2_session_set_stream_user_data(session, stream, NULL);
	call_stream_closed(call, h2_error);
	return 0;
}

/* --- making and freeing --- */

static int session_new(struct rpc_conn *conn)
{
	nghttp2_session_callbacks *callbacks;
	nghttp2_option *options;
	int r;

	if (nghttp2_session_callbacks_new(&callbacks) != 0)
		return -1;
	if (nghttp2_option_new(&options) != 0) {
		nghttp2_session_callbacks_del(callbacks);
		return -1;
	}
	nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
	nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
	nghttp2_option_set_no_auto_window_update(options, 1);
	nghttp2_option_set_no_closed_streams(options, 1);
	nghttp2_option_set_max_deflate_dynamic_table_size(options, DEFLATE_TABLE_MAX);
	nghttp2_option_set_stream_reset_rate_limit(options, RESET_BURST, RESET_RATE);
	if (conn_is_server(conn))
		r = nghttp2_session_server_new2(&conn->session, callbacks, conn, options);
	else
		r = nghttp2_session_client_new2(&conn->session, callbacks, conn, options);
	nghttp2_option_del(options);
	nghttp2_session_callbacks_del(callbacks);
	return r;
}

static int session_greet(struct rpc_conn *conn)
{
	nghttp2_settings_entry settings[] = {
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, conn->window },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, RPC_HEADERS_MAX },
		{ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, RPC_STREAMS_MAX },
		{ NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1 },
		{ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
	};
	size_t n = sizeof(settings) / sizeof(settings[0]);

	/* Only a client may speak of server push. */
	if (nghttp2_submit_settings(conn->session, NGHTTP2_FLAG_NONE, settings, conn_is_server(conn) ? n - 1 : n) != 0)
		return -1;
	return nghttp2_session_set_local_window_size(conn->session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW);
}

static struct rpc_conn *conn_new(const struct rpc_services *services, const char *authority,
				 const struct rpc_conn_options *options)
{
	_cleanup_(rpc_conn_freep) struct rpc_conn *conn = calloc(1, sizeof(*conn));

	if (!conn)
		return NULL;
	conn->services = services;
	conn->options = *options;
	conn->window = options->shared ? RPC_SHARED_WINDOW : RPC_WINDOW;
	conn->send_high = options->shared ? RPC_SHARED_WINDOW : RPC_SEND_HIGH;
	conn->send_low = options->shared ? RPC_SHARED_WINDOW / 4 : RPC_SEND_LOW;
	conn->deadline_ns = -1;
	conn->work_tail = &conn->work;
	buf_init(&conn->out, RPC_OUT_CHUNK + (128u << 10));
	conn->authority = authority ? strdup(authority) : NULL;
	if ((authority && !conn->authority) || session_new(conn) != 0 || session_greet(conn) != 0)
		return NULL;
	return steal_ptr(&conn);
}

struct rpc_conn *rpc_conn_new_server(const struct rpc_services *services, const struct rpc_conn_options *options)
{
	return conn_new(services, NULL, options);
}

struct rpc_conn *rpc_conn_new_client(const char *authority, const struct rpc_conn_options *options)
{
	return conn_new(NULL, authority, options);
}

void rpc_conn_free(struct rpc_conn *conn)
{
	if (!conn)
		return;
	conn->freeing = true;
	rpc_conn_fail(conn, ERR_UNAVAILABLE, "connection lost");
	nghttp2_session_del(conn->session);
	buf_release(&conn->out);
	free(conn->authority);
	free(conn->dead_message);
	free(conn);
}

void rpc_conn_fail(struct rpc_conn *conn, enum error_code code, const char *message)
{
	struct rpc_call *call, *next;

	if (!conn->dead) {
		conn->dead = true;
		conn->dead_code = code;
		conn->dead_message = strdup(message);
		buf_release(&conn->out);
	}
	conn->busy++;
	for (call = conn->calls; call; call = next) {
		next = call->next;
		/* Its messages are all here and its status too: the peer's end takes nothing from it. */
		if (call->lingering && !conn->freeing)
			continue;
		if (call->lingering) {
			call->has_status = false;
			call_set_status(call, ERR_CANCELLED, "cancelled");
		}
		call_set_status(call, code, message);
		if (call->stream && conn->session)
			nghttp2_session_set_stream_user_data(conn->session, call->stream, NULL);
		call->stream = 0;
		call_close(call);
		/* The callback may have started a call, which then stands in front of the list. It must not have ended
		 * others: those end through the list of work. */
		next = call->next;
		call_free(call);
	}
	conn->busy--;
}

/* --- the driver's side --- */

int rpc_conn_receive(struct rpc_conn *conn, const void *data, size_t len, struct error *err)
{
	ssize_t n;

	if (conn->dead || conn->broken)
		return error_set(err, ERR_UNAVAILABLE, "the connection is closed");
	conn->busy++;
	n = nghttp2_session_mem_recv(conn->session, data, len);
	if (n < 0)
		nghttp2_session_terminate_session(conn->session, NGHTTP2_PROTOCOL_ERROR);
	else if (conn_is_server(conn) && nghttp2_session_get_outbound_queue_size(conn->session) > OUTBOUND_FRAMES_MAX)
		nghttp2_session_terminate_session(conn->session, NGHTTP2_ENHANCE_YOUR_CALM);
	conn->busy--;
	if (n < 0)
		return error_set(err, ERR_INTERNAL, "HTTP/2: %s", nghttp2_strerror((int)n));
	return 0;
}

static void conn_fill(struct rpc_conn *conn)
{
	const uint8_t *data;
	ssize_t n;

	while (conn->out.len + FRAME_MAX < RPC_OUT_CHUNK) {
		n = nghttp2_session_mem_send(conn->session, &data);
		if (n == 0)
			return;
		if (n < 0 || buf_add(&conn->out, data, (size_t)n) < 0) {
			conn->broken = true;
			return;
		}
	}
}

size_t rpc_conn_pending(struct rpc_conn *conn, const uint8_t **ret_data)
{
	conn->busy++;
	conn_run_work(conn);
	/* Sending makes work (a queue that ran low, a stream that closed), and that work more to send. */
	while (!conn->dead && !conn->broken && conn->out.len == 0) {
		conn_fill(conn);
		if (!conn->work)
			break;
		conn_run_work(conn);
	}
	conn->busy--;
	if (conn->dead || conn->out.len == 0)
		return 0;
	*ret_data = buf_data(&conn->out);
	return conn->out.len;
}

void rpc_conn_sent(struct rpc_conn *conn, size_t len)
{
	buf_take(&conn->out, len);
	if (conn->out.len == 0)
		buf_release(&conn->out);
}

bool rpc_conn_finished(const struct rpc_conn *conn)
{
	if (conn->dead || conn->broken)
		return true;
	return conn->out.len == 0 && !nghttp2_session_want_read(conn->session) &&
	       !nghttp2_session_want_write(conn->session);
}

int64_t rpc_conn_deadline(const struct rpc_conn *conn)
{
	return conn->calls ? conn->deadline_ns : -1;
}

void rpc_conn_expire(struct rpc_conn *conn, int64_t monotonic_ns)
{
	conn->busy++;
	conn->deadline_ns = -1;
	for (struct rpc_call *call = conn->calls; call; call = call->next) {
		if (call->deadline_ns >= 0 && call->deadline_ns <= monotonic_ns)
			call_expire(call);
		else if (call->deadline_ns >= 0)
			conn_note_deadline(conn, call->deadline_ns);
	}
	conn->busy--;
}

void rpc_conn_drain(struct rpc_conn *conn)
{
	if (conn->draining || conn->dead)
		return;
	conn->draining = true;
	/* RFC 9113, 6.8: a first GOAWAY that refuses nothing, and the real one a round trip later, when every request
	 * that the client sent before it knew is here. */
	if (conn_is_server(conn)) {
		nghttp2_submit_shutdown_notice(conn->session);
		nghttp2_submit_ping(conn->session, NGHTTP2_FLAG_NONE, drain_ping);
	} else {
		nghttp2_submit_goaway(conn->session, NGHTTP2_FLAG_NONE, 0, NGHTTP2_NO_ERROR, NULL, 0);
	}
	conn_wake(conn);
}

struct rpc_call *rpc_conn_call(struct rpc_conn *conn, const struct rpc_method *method, int64_t timeout_ms, void *data)
{
	struct rpc_call *call;

	if (conn->freeing)
		return NULL;
	call = conn_add_call(conn, method);
	if (!call)
		return NULL;
	call->data = data;
	if (conn->dead) {
		call_set_status(call, conn->dead_code, conn->dead_message ? conn->dead_message : "connection lost");
		call_schedule(call, WORK_CLOSE);
		return call;
	}
	if (call_submit_request(call, timeout_ms) < 0) {
		call_set_status(call, ERR_UNAVAILABLE, "no more calls are possible on this connection");
		call_schedule(call, WORK_CLOSE);
	}
	return call;
}

size_t rpc_conn_calls(const struct rpc_conn *conn)
{
	return conn->n_calls;
}

void *rpc_conn_arg(const struct rpc_conn *conn)
{
	return conn->options.arg;
}
