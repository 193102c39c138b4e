/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "service/log_stream.h"

struct log_stream {
	struct log_reader *reader;
	struct rpc_call *call;
	int (*send)(struct rpc_call *call, const void *data, size_t len);
};

static bool on_data(const void *data, size_t len, void *arg)
{
	struct log_stream *s = arg;

	(void)s->send(s->call, data, len);
	return rpc_call_writable(s->call);
}

static void on_end(const struct error *err, void *arg)
{
	struct log_stream *s = arg;

	if (err)
		rpc_call_fail(s->call, err);
	else
		rpc_call_finish(s->call, ERR_OK, NULL);
}

struct log_stream *log_stream_new(struct service_host *host, struct rpc_call *call, const struct log_reader_options *options,
				  int (*send)(struct rpc_call *call, const void *data, size_t len), struct error *err)
{
	struct log_stream *s = calloc(1, sizeof *s);
	const struct log_reader_callbacks callbacks = { on_data, on_end, s };

	if (!s) {
		error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
		return NULL;
	}
	s->call = call;
	s->send = send;
	s->reader = log_reader_new(host->loop, host->tasks, options, &callbacks, err);
	if (!s->reader) {
		free(s);
		return NULL;
	}
	return s;
}

void log_stream_resume(struct log_stream *s)
{
	if (s)
		log_reader_resume(s->reader);
}

void log_stream_finish(struct log_stream *s)
{
	if (s)
		log_reader_finish(s->reader);
}

void log_stream_free(struct log_stream *s)
{
	if (!s)
		return;
	log_reader_free(s->reader);
	free(s);
}
