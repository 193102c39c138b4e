/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * One pull's dealings with a registry: where to ask, who we are, and how often to try.
 *
 * The endpoints (mirrors in order, then the registry) are asked one after another until one gives what is wanted. At
 * one endpoint a fetch is tried again after network trouble, timeouts, 408, 429 and 5xx, with exponential back-off; the
 * count of tries starts afresh whenever bytes have come, so a slow, breaking line ends a pull only when it gives
 * nothing at all any more. A fetch goes on where it broke off (Range), also when the server ignores that (it then sends
 * all of it, and what is known is skipped).
 *
 * Threads: any, each with its own struct http. A token that one thread has got serves all.
 */
#ifndef CAPSULE_IMAGER_SESSION_H
#define CAPSULE_IMAGER_SESSION_H

#include "base/error.h"
#include "image/reference.h"
#include "imager/http.h"
#include "imager/registries.h"

#include <stdbool.h>
#include <stdint.h>

#define SESSION_TRIES 6          /* without progress, at the registry itself */
#define SESSION_MIRROR_TRIES 2   /* at a mirror: there is another place to ask */

struct session;

/* Both arguments are to outlive the session. */
int session_new(const struct registries *registries, const struct reference *reference, struct session **ret,
		struct error *err);
void session_free(struct session *s);
DEFINE_CLEANUP(struct session *, session_free)

/* Ends every fetch of the session soon, with CANCELLED. */
void session_stop(struct session *s);

/* Called, from any thread, before the wait for another try. Optional. */
void session_set_notice(struct session *s, void (*notice)(const char *text, void *arg), void *arg);

/*
 * What takes the body. A failure of write or end with DATA_LOSS or INVALID_ARGUMENT means that the content is wrong:
 * the next endpoint is asked, after restart. Any other failure is of our own making and ends the fetch.
 */
struct fetch {
	const char *path;    /* below /v2/<repository>/ */
	const char *accept;  /* may be NULL */
	const char *what;    /* for messages: "manifest", "layer sha256:..." */
	uint64_t (*offset)(void *arg);  /* bytes taken so far */
	/* The body begins, at the byte that offset() names. Optional. */
	int (*begin)(void *arg, const struct http_response *response, struct error *err);
	int (*write)(void *arg, const void *data, size_t len, struct error *err);
	/* The body is over. 0: it is whole; 1: it ended early, go on; -1: failed. */
	int (*end)(void *arg, const struct http_response *response, struct error *err);
	int (*restart)(void *arg, struct error *err); /* forget what was taken */
	bool resume;         /* false: forget what was taken before each further try */
	void *arg;
};

/* NOT_FOUND, UNAUTHENTICATED, PERMISSION_DENIED, UNAVAILABLE, DATA_LOSS name the host. */
int session_fetch(struct session *s, struct http *http, const struct fetch *fetch, struct error *err);

#endif
