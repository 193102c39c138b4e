/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * One HTTP exchange after another, as a registry needs them (libcurl beneath).
 *
 * Redirects are followed, at most HTTP_REDIRECTS_MAX of them and never from https to http; credentials go to the host,
 * port and protocol they were given for and to no other. TLS is checked against the system's certificates. What the
 * peer may send is limited: the headers to HTTP_HEADERS_MAX, the body of an error answer to HTTP_ERROR_BODY_MAX, any
 * other body by its taker.
 *
 * Threads: a struct http belongs to one thread. It keeps its connections from one exchange to the next. Nothing is
 * shared between threads on purpose: libcurl does not allow connections to be, and what the rest would save is one
 * look-up and one handshake a thread.
 */
#ifndef CAPSULE_IMAGER_HTTP_H
#define CAPSULE_IMAGER_HTTP_H

#include "base/buf.h"
#include "base/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_REDIRECTS_MAX 10
#define HTTP_HEADERS_MAX (64u << 10)
#define HTTP_ERROR_BODY_MAX (16u << 10)

struct http;

/* Once in the program, before any thread. */
int http_global_init(struct error *err);

struct http *http_new(void); /* NULL without memory */
void http_free(struct http *http);
DEFINE_CLEANUP(struct http *, http_free)

/* Of the last answer of a chain of redirects. Strings are NULL where the header was absent. */
struct http_response {
	long status;
	char *content_type, *content_range, *etag, *docker_content_digest, *retry_after;
	char *www_authenticate;  /* of several headers: joined by ", ", which means the same (RFC 9110, 5.3) */
	struct buf error_body;   /* the start of the body unless the status is 2xx */
};

void http_response_release(struct http_response *response);
#define _cleanup_http_response_ _cleanup_(http_response_release)

/* Takes the body of a 2xx answer. Both return 0, or -1 with err filled, which ends the exchange. */
struct http_sink {
	/* The headers are here; called once, also for an empty body. */
	int (*begin)(void *arg, const struct http_response *response, struct error *err);
	int (*write)(void *arg, const void *data, size_t len, struct error *err);
	void *arg;
};

struct http_request {
	const char *url;
	const char *accept;         /* may be NULL */
	const char *authorization;  /* the header's value; NULL: none */
	const char *form;           /* makes it a POST of this form; may be NULL */
	const char *ca_file;        /* trusted besides the system's certificates; may be NULL */
	uint64_t offset;            /* not 0: ask for the body from this byte on... */
	const char *if_range;       /* ...if it still has this ETag; may be NULL */
	long stall_s;               /* give up when less than a trickle has come for so long */
	const atomic_bool *stop;    /* becomes true: the exchange ends soon, with CANCELLED */
	struct http_sink sink;
};

enum http_result {
	HTTP_DONE,     /* the peer has answered, with whatever status */
	HTTP_TROUBLE,  /* the network or the peer failed: the same may work later */
	HTTP_REFUSED,  /* trying again is of no use, or the sink failed */
};

/* err is filled unless the result is HTTP_DONE; its message does not name the peer. `ret` is to be zeroed or released
 * before; it holds what came even when the exchange failed later. */
enum http_result http_perform(struct http *http, const struct http_request *request, struct http_response *ret,
			      struct error *err);

/* Whether host ("name", "name:port", "[::1]:port") is this machine's loopback: localhost, 127.0.0.0/8, ::1. */
bool http_host_is_loopback(const char *host);

/* Appends text as application/x-www-form-urlencoded to what b holds. */
void http_escape(struct buf *b, const char *text);

#endif
