/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Serves one document over plain HTTP/1.1 on a libuv loop: GET and HEAD of one path, a connection a request. There is no
 * access control, and nothing can be changed through it.
 *
 * Threads: the loop's. Limits: HTTP_CONNECTIONS_MAX at a time, further ones wait in the kernel; a request's head has at most
 * HTTP_HEAD_MAX bytes and HTTP_TIMEOUT_MS to arrive; the answer has as long to be read.
 */
#ifndef CAPSULE_METRICS_HTTP_H
#define CAPSULE_METRICS_HTTP_H

#include "base/buf.h"
#include "base/error.h"

#include <uv.h>

#define HTTP_CONNECTIONS_MAX 16
#define HTTP_TIMEOUT_MS 10000

struct http_server;
struct http_exchange;

/* What is served, and who makes it. */
struct http_document {
	const char *path;
	const char *content_type;
	/* Somebody asks for it: to be answered with http_answer(), now or later, exactly once. */
	void (*get)(struct http_exchange *exchange, void *arg);
	void *arg;
};

/* Listens on a numeric address; port 0 takes a free one. The document is the caller's and stays where it is. */
int http_server_new(uv_loop_t *loop, const char *host, uint16_t port, const struct http_document *document,
		    struct http_server **ret, struct error *err);

/* The port that it listens on. */
uint16_t http_server_port(const struct http_server *server);

/* Stops listening and ends every connection. It frees itself when the loop has let go of its handles and every get() has
 * been answered. NULL is fine. */
void http_server_close(struct http_server *server);

/* The document's content; a body that failed for want of memory becomes status 500. The bytes are copied. */
void http_answer(struct http_exchange *exchange, const struct buf *body);

#endif
