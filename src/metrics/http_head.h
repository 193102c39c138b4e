/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The head of an HTTP/1.x request (RFC 9112), as far as a server of one document needs it. Pure.
 */
#ifndef CAPSULE_METRICS_HTTP_HEAD_H
#define CAPSULE_METRICS_HTTP_HEAD_H

#include <stddef.h>
#include <sys/types.h>

#define HTTP_HEAD_MAX 8192
#define HTTP_PATH_MAX 256

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_OTHER };

struct http_head {
	enum http_method method;
	char path[HTTP_PATH_MAX]; /* without the query; "" for one that is longer or not a path */
};

/* The number of bytes that the head has, 0: it is not whole yet, -1: this is no HTTP. */
ssize_t http_head_parse(const char *data, size_t len, struct http_head *ret);

#endif
