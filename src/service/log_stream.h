/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* A log reader at one end of a streaming call. Threads: the loop's. */
#ifndef CAPSULE_SERVICE_LOG_STREAM_H
#define CAPSULE_SERVICE_LOG_STREAM_H

#include "runtime/log_reader.h"
#include "service/service.h"

struct log_stream;

/* Sends the log through `send`, which wraps bytes into the service's message, and finishes the call at the end. The call's
 * `writable` calls log_stream_resume(), its `close` log_stream_free(). */
struct log_stream *log_stream_new(struct service_host *host, struct rpc_call *call, const struct log_reader_options *options,
				  int (*send)(struct rpc_call *call, const void *data, size_t len), struct error *err);
void log_stream_resume(struct log_stream *s);
void log_stream_finish(struct log_stream *s);
void log_stream_free(struct log_stream *s); /* NULL is fine */

#endif
