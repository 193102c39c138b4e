/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Firecracker's API (src/firecracker/swagger of Firecracker): requests of HTTP/1.1 with JSON over a Unix socket, one after the
 * other. The loop's thread. An answer has at most API_ANSWER_MAX bytes.
 */
#ifndef CAPSULE_VM_API_H
#define CAPSULE_VM_API_H

#include "base/error.h"

#include <jansson.h>
#include <uv.h>

#define API_ANSWER_MAX (64u << 10)
#define API_QUEUE_MAX 64

struct api;

struct api_events {
	void (*done)(void *arg); /* all that was queued until now succeeded */
	void (*failed)(const struct error *err, void *arg); /* one was refused; nothing more comes */
	void *arg;
};

/* Takes over the connected socket in any case. */
struct api *api_new(uv_loop_t *loop, int fd, const struct api_events *events, struct error *err);

/* Queues "PUT path"; takes over the body, which may be NULL without memory. What cannot be queued has `failed` soon. */
void api_put(struct api *a, const char *path, json_t *body);

/* The same for what may be refused: then it goes on without it. */
void api_try_put(struct api *a, const char *path, json_t *body);

/* NULL is fine. May be called from a callback. */
void api_free(struct api *a);

#endif
