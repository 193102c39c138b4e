/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "metrics/http.h"

#include "metrics/http_head.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#define BACKLOG 32

/* One connection, and the one request on it. */
struct http_exchange {
	uv_tcp_t tcp;
	uv_timer_t timer;
	struct http_server *server;
	struct http_exchange *next, **self;
	unsigned handles;  /* that libuv has not let go of */
	bool closing;
	bool asked;        /* get() was called and is not answered */
	bool head_only;
	size_t received;
	char head[HTTP_HEAD_MAX];
	uv_write_t write;
	struct buf answer;
};

struct http_server {
	uv_tcp_t tcp;
	const struct http_document *document;
	struct http_exchange *exchanges;
	unsigned n_exchanges;
	uint16_t port;
	bool waiting; /* a connection is there and could not be taken yet */
	bool closing, closed;
};

static void accept_waiting(struct http_server *server);

/* ---- the end ---- */

static void server_maybe_free(struct http_server *server)
{
	if (server->closed && server->n_exchanges == 0)
		free(server);
}

static void exchange_maybe_free(struct http_exchange *x)
{
	struct http_server *server = x->server;

	if (x->handles || x->asked)
		return;
	*x->self = x->next;
	if (x->next)
		x->next->self = x->self;
	buf_release(&x->answer);
	free(x);
	server->n_exchanges--;
	accept_waiting(server);
	server_maybe_free(server);
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct http_exchange *x = handle->data;

	x->handles--;
	exchange_maybe_free(x);
}

static void exchange_close(struct http_exchange *x)
{
	if (x->closing)
		return;
	x->closing = true;
	uv_close((uv_handle_t *)&x->tcp, on_handle_closed);
	uv_close((uv_handle_t *)&x->timer, on_handle_closed);
}

static void on_timeout(uv_timer_t *timer)
{
	exchange_close(timer->data);
}

/* ---- the answer ---- */

static void on_written(uv_write_t *write, int status)
{
	exchange_close(write->data);
}

static void respond(struct http_exchange *x, const char *status, const char *headers, const void *body, size_t len)
{
	uv_buf_t out;

	if (x->closing)
		return;
	buf_addf(&x->answer, "HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %zu\r\n%s\r\n", status, len, headers);
	if (!x->head_only)
		buf_add(&x->answer, body, len);
	out = uv_buf_init((char *)(uintptr_t)buf_data(&x->answer), (unsigned)x->answer.len);
	x->write.data = x;
	uv_timer_start(&x->timer, on_timeout, HTTP_TIMEOUT_MS, 0);
	if (x->answer.failed || uv_write(&x->write, (uv_stream_t *)&x->tcp, &out, 1, on_written) < 0)
		exchange_close(x);
}

static void refuse(struct http_exchange *x, const char *status, const char *more_headers)
{
	char headers[128], body[64];
	int len = snprintf(body, sizeof body, "%s\n", status);

	snprintf(headers, sizeof headers, "Content-Type: text/plain\r\n%s", more_headers);
	respond(x, status, headers, body, (size_t)len);
}

void http_answer(struct http_exchange *x, const struct buf *body)
{
	char headers[128];

	x->asked = false;
	if (x->closing) {
		exchange_maybe_free(x);
		return;
	}
	snprintf(headers, sizeof headers, "Content-Type: %s\r\n", x->server->document->content_type);
	if (body->failed)
		refuse(x, "500 Internal Server Error", "");
	else
		respond(x, "200 OK", headers, buf_data(body), body->len);
}

/* ---- the request ---- */

static void answer_request(struct http_exchange *x, const struct http_head *head)
{
	const struct http_document *document = x->server->document;

	x->head_only = head->method == HTTP_HEAD;
	if (strcmp(head->path, document->path) != 0) {
		refuse(x, "404 Not Found", "");
	} else if (head->method == HTTP_OTHER) {
		refuse(x, "405 Method Not Allowed", "Allow: GET, HEAD\r\n");
	} else {
		x->asked = true;
		document->get(x, document->arg);
	}
}

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct http_exchange *x = handle->data;

	*buf = uv_buf_init(x->head + x->received, (unsigned)(sizeof x->head - x->received));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct http_exchange *x = stream->data;
	struct http_head head;
	ssize_t r;

	if (n < 0) {
		exchange_close(x);
		return;
	}
	x->received += (size_t)n;
	r = http_head_parse(x->head, x->received, &head);
	if (r == 0 && x->received < sizeof x->head)
		return;
	/* One request a connection: nothing more is read. */
	uv_read_stop(stream);
	uv_timer_stop(&x->timer);
	if (r == 0)
		refuse(x, "431 Request Header Fields Too Large", "");
	else if (r < 0)
		refuse(x, "400 Bad Request", "");
	else
		answer_request(x, &head);
}

/* ---- connections ---- */

static struct http_exchange *exchange_new(struct http_server *server)
{
	struct http_exchange *x = calloc(1, sizeof *x);

	if (!x)
		abort();
	x->server = server;
	buf_init(&x->answer, SIZE_MAX);
	uv_tcp_init(server->tcp.loop, &x->tcp);
	uv_timer_init(server->tcp.loop, &x->timer);
	x->handles = 2;
	x->tcp.data = x->timer.data = x;
	x->next = server->exchanges;
	x->self = &server->exchanges;
	if (x->next)
		x->next->self = &x->next;
	server->exchanges = x;
	server->n_exchanges++;
	return x;
}

static void accept_waiting(struct http_server *server)
{
	struct http_exchange *x;

	if (!server->waiting || server->closing || server->n_exchanges >= HTTP_CONNECTIONS_MAX)
		return;
	server->waiting = false;
	x = exchange_new(server);
	uv_timer_start(&x->timer, on_timeout, HTTP_TIMEOUT_MS, 0);
	if (uv_accept((uv_stream_t *)&server->tcp, (uv_stream_t *)&x->tcp) < 0 ||
	    uv_read_start((uv_stream_t *)&x->tcp, on_room, on_read) < 0)
		exchange_close(x);
}

static void on_connection(uv_stream_t *listener, int status)
{
	struct http_server *server = listener->data;

	if (status < 0)
		return;
	/* libuv takes no further one from the kernel until this one is accepted. */
	server->waiting = true;
	accept_waiting(server);
}

/* ---- the server ---- */

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static int bind_and_listen(struct http_server *server, const union address *address)
{
	union address bound;
	int len = sizeof bound, r = uv_tcp_bind(&server->tcp, &address->any, 0);

	if (r == 0)
		r = uv_listen((uv_stream_t *)&server->tcp, BACKLOG, on_connection);
	if (r == 0)
		r = uv_tcp_getsockname(&server->tcp, &bound.any, &len);
	if (r == 0)
		server->port = ntohs(bound.any.sa_family == AF_INET ? bound.v4.sin_port : bound.v6.sin6_port);
	return r;
}

int http_server_new(uv_loop_t *loop, const char *host, uint16_t port, const struct http_document *document,
		    struct http_server **ret, struct error *err)
{
	const char *numeric = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
	struct http_server *server;
	union address address;
	int r;

	if (uv_ip4_addr(numeric, port, &address.v4) < 0 && uv_ip6_addr(numeric, port, &address.v6) < 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "cannot listen on \"%s\": it is not a numeric address", host);
	server = calloc(1, sizeof *server);
	if (!server)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	uv_tcp_init(loop, &server->tcp);
	server->tcp.data = server;
	server->document = document;
	r = bind_and_listen(server, &address);
	if (r < 0) {
		http_server_close(server);
		return error_errno(err, -r, "cannot listen on %s port %u", host, port);
	}
	*ret = server;
	return 0;
}

uint16_t http_server_port(const struct http_server *server)
{
	return server->port;
}

static void on_listener_closed(uv_handle_t *handle)
{
	struct http_server *server = handle->data;

	server->closed = true;
	server_maybe_free(server);
}

void http_server_close(struct http_server *server)
{
	if (!server || server->closing)
		return;
	server->closing = true;
	for (struct http_exchange *x = server->exchanges; x; x = x->next)
		exchange_close(x);
	uv_close((uv_handle_t *)&server->tcp, on_listener_closed);
}
