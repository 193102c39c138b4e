/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/qmp.h"

#include "base/buf.h"
#include "vm/watch.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define READ_SIZE 4096

struct qmp {
	struct watch *watch;
	struct qmp_events events;
	struct buf in;
	bool greeted, ready;
	bool busy;  /* in a callback */
	bool freed; /* in it: the memory goes after */
};

void qmp_command(struct qmp *q, const char *name)
{
	char text[128];
	int n = snprintf(text, sizeof text, "{\"execute\":\"%s\"}\n", name);

	/* A few bytes in a row of which the first were read long ago: it fits, or nobody reads. */
	if (q->watch)
		(void)send(watch_fd(q->watch), text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void fail(struct qmp *q, const char *why)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	watch_close(steal_ptr(&q->watch));
	error_set(&err, ERR_INTERNAL, "QEMU's control connection is broken: %s", why);
	q->events.failed(&err, q->events.arg);
}

static void on_object(struct qmp *q, const json_t *object)
{
	const char *event = json_string_value(json_object_get(object, "event"));

	if (json_object_get(object, "QMP") && !q->greeted) {
		q->greeted = true;
		qmp_command(q, "qmp_capabilities");
	} else if (event) {
		q->events.event(event, json_object_get(object, "data"), q->events.arg);
	} else if (json_object_get(object, "return") && q->greeted && !q->ready) {
		q->ready = true;
		q->events.ready(q->events.arg);
	} else if (json_object_get(object, "error") && !q->ready) {
		fail(q, "it refuses to speak");
	}
}

static void take_lines(struct qmp *q)
{
	char *line, *newline;

	while (q->watch && !q->freed && q->in.len && (newline = memchr(line = (char *)buf_data(&q->in), '\n', q->in.len))) {
		size_t len = (size_t)(newline - line) + 1;
		json_t *object = json_loadb(line, len, 0, NULL);

		buf_take(&q->in, len);
		if (json_is_object(object))
			on_object(q, object);
		else
			fail(q, "it does not speak JSON");
		json_decref(object);
	}
}

static void on_readable(int fd, int events, void *arg)
{
	struct qmp *q = arg;
	char data[READ_SIZE];
	ssize_t n = recv(fd, data, sizeof data, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	q->busy = true;
	if (n <= 0)
		watch_close(steal_ptr(&q->watch));
	else if (buf_add(&q->in, data, (size_t)n) < 0)
		fail(q, "a line has no end");
	else
		take_lines(q);
	q->busy = false;
	if (q->freed)
		qmp_free(q);
}

struct qmp *qmp_new(uv_loop_t *loop, int fd, const struct qmp_events *events, struct error *err)
{
	struct qmp *q = calloc(1, sizeof *q);

	if (!q) {
		close(fd);
		error_errno(err, ENOMEM, "cannot control QEMU");
		return NULL;
	}
	q->events = *events;
	buf_init(&q->in, QMP_LINE_MAX);
	q->watch = watch_new(loop, fd, on_readable, q);
	if (!q->watch) {
		error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot watch QEMU's control connection");
		qmp_free(q);
		return NULL;
	}
	watch_set(q->watch, UV_READABLE);
	return q;
}

void qmp_free(struct qmp *q)
{
	if (!q)
		return;
	q->freed = true;
	watch_close(steal_ptr(&q->watch));
	if (q->busy)
		return;
	buf_release(&q->in);
	free(q);
}
