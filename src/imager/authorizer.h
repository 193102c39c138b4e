/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The Authorization header for one endpoint: none at first, then what its challenge asks for (Basic, or a token fetched
 * from the token server that the challenge names), kept for all requests to this endpoint.
 *
 * Threads: any; while one fetches a token the others wait for it.
 */
#ifndef CAPSULE_IMAGER_AUTHORIZER_H
#define CAPSULE_IMAGER_AUTHORIZER_H

#include "imager/http.h"
#include "imager/registries.h"

#include <pthread.h>

struct authorizer {
	pthread_mutex_t lock;
	const struct registries *registries;
	const struct registry_endpoint *endpoint;
	const char *repository;
	const atomic_bool *stop;
	char *header;         /* NULL: none yet */
	unsigned generation;  /* counts the headers; 0: none yet */
};

void authorizer_init(struct authorizer *a, const struct registries *registries,
		     const struct registry_endpoint *endpoint, const char *repository, const atomic_bool *stop);
void authorizer_release(struct authorizer *a);

/* A copy of the present header (NULL: none) and its generation. Caller frees. */
int authorizer_header(struct authorizer *a, char **ret, unsigned *ret_generation, struct error *err);

/* Answers a 401 to a request that was sent with the header of this generation. HTTP_DONE: ask again with the new
 * header. HTTP_REFUSED: UNAUTHENTICATED with what to do, or what else is wrong. HTTP_TROUBLE: try later. */
enum http_result authorizer_renew(struct authorizer *a, struct http *http, unsigned generation,
				  const struct http_response *challenge, struct error *err);

/* UNAUTHENTICATED: what can be done about a refusal. Returns -1. */
int authorizer_denied(const struct authorizer *a, struct error *err);

#endif
