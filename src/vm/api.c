/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/api.h"

#include "base/buf.h"
#include "vm/watch.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#define READ_SIZE 4096

struct request {
	char *text; /* all of it */
	bool optional;
};

struct api {
	struct watch *watch;
	struct api_events events;
	struct request queue[API_QUEUE_MAX]; /* the first is under way */
	size_t n_queue;
	size_t sent;
	struct buf in;
	bool incomplete; /* a request could not be made */
	bool busy;       /* in a callback */
	bool freed;      /* in it: the memory goes after */
};

static void fail(struct api *a, enum error_code code, const char *what, const char *why)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	watch_close(steal_ptr(&a->watch));
	error_set(&err, code, "%s: %s", what, why);
	a->events.failed(&err, a->events.arg);
}

/* ---- answers ---- */

/* The first word after "PUT ". */
static void path_of(const char *request, char *out, size_t size)
{
	snprintf(out, size, "%.*s", (int)strcspn(request + 4, " "), request + 4);
}

static void refuse(struct api *a, const char *body)
{
	json_t *object = json_loads(body, 0, NULL);
	const char *message = json_string_value(json_object_get(object, "fault_message"));
	char what[128], path[64];

	path_of(a->queue[0].text, path, sizeof path);
	snprintf(what, sizeof what, "Firecracker refuses %s", path);
	fail(a, ERR_FAILED_PRECONDITION, what, message ? message : "it does not say why");
	json_decref(object);
}

/* The value of a header line; the head ends with a NUL. NULL: it is not there. */
static const char *header(const char *head, const char *name)
{
	size_t len = strlen(name);

	for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
		if (!strncasecmp(line + 2, name, len) && line[2 + len] == ':')
			return line + 2 + len + 1;
	return NULL;
}

static void next_request(struct api *a)
{
	free(a->queue[0].text);
	memmove(a->queue, a->queue + 1, --a->n_queue * sizeof a->queue[0]);
	a->sent = 0;
	if (a->n_queue)
		watch_set(a->watch, UV_READABLE | UV_WRITABLE);
	else
		a->events.done(a->events.arg);
}

/* Firecracker answers with a length, or without a body. */
static void take_answer(struct api *a)
{
	char *head = (char *)buf_data(&a->in), *end = strstr(head, "\r\n\r\n");
	unsigned long length = 0;
	const char *value;
	int status;

	if (!end)
		return;
	end[2] = '\0';
	value = header(head, "Content-Length");
	if (value)
		length = strtoul(value, NULL, 10);
	if (sscanf(head, "HTTP/1.%*1d %3d", &status) != 1 || length > API_ANSWER_MAX) {
		fail(a, ERR_INTERNAL, "Firecracker's API", "it does not speak HTTP");
		return;
	}
	end[2] = '\r';
	end += 4;
	if (a->in.len - (size_t)(end - head) < length)
		return;
	if (status / 100 != 2 && !a->queue[0].optional) {
		refuse(a, end);
		return;
	}
	buf_take(&a->in, (size_t)(end - head) + length);
	next_request(a);
}

/* ---- the socket ---- */

static void write_request(struct api *a)
{
	const char *request = a->n_queue ? a->queue[0].text : "";
	size_t left = strlen(request) - a->sent;
	ssize_t n = left ? send(watch_fd(a->watch), request + a->sent, left, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

	if (n > 0)
		a->sent += (size_t)n;
	if (a->sent == strlen(request))
		watch_set(a->watch, UV_READABLE);
}

static void read_answer(struct api *a)
{
	char data[READ_SIZE];
	ssize_t n = recv(watch_fd(a->watch), data, sizeof data, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* Whoever waits for the process hears why. */
	if (n <= 0)
		watch_close(steal_ptr(&a->watch));
	else if (!a->n_queue || memchr(data, '\0', (size_t)n) || buf_add(&a->in, data, (size_t)n) < 0)
		fail(a, ERR_INTERNAL, "Firecracker's API", "an answer that nobody asked for, or without an end");
	else
		take_answer(a);
}

static void on_socket(int fd, int events, void *arg)
{
	struct api *a = arg;

	a->busy = true;
	if (a->incomplete)
		fail(a, ERR_RESOURCE_EXHAUSTED, "Firecracker's API", "out of memory");
	if (a->watch && events & UV_WRITABLE)
		write_request(a);
	if (a->watch && events & UV_READABLE)
		read_answer(a);
	a->busy = false;
	if (a->freed)
		api_free(a);
}

static void add_request(struct api *a, const char *path, json_t *body, bool optional)
{
	_cleanup_free_ char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	char *request;

	json_decref(body);
	if (!text || a->n_queue == API_QUEUE_MAX ||
	    asprintf(&request,
		     "PUT %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
		     "Content-Length: %zu\r\n\r\n%s",
		     path, strlen(text), text) < 0)
		a->incomplete = true;
	else
		a->queue[a->n_queue++] = (struct request){ request, optional };
	if (a->watch)
		watch_set(a->watch, UV_READABLE | UV_WRITABLE);
}

void api_put(struct api *a, const char *path, json_t *body)
{
	add_request(a, path, body, false);
}

void api_try_put(struct api *a, const char *path, json_t *body)
{
	add_request(a, path, body, true);
}

struct api *api_new(uv_loop_t *loop, int fd, const struct api_events *events, struct error *err)
{
	struct api *a = calloc(1, sizeof *a);

	if (!a) {
		close(fd);
		error_errno(err, ENOMEM, "cannot speak to Firecracker");
		return NULL;
	}
	a->events = *events;
	buf_init(&a->in, API_ANSWER_MAX);
	a->watch = watch_new(loop, fd, on_socket, a);
	if (!a->watch) {
		error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot watch Firecracker's API");
		api_free(a);
		return NULL;
	}
	watch_set(a->watch, UV_READABLE);
	return a;
}

void api_free(struct api *a)
{
	if (!a)
		return;
	a->freed = true;
	watch_close(steal_ptr(&a->watch));
	if (a->busy)
		return;
	for (size_t i = 0; i < a->n_queue; i++)
		free(a->queue[i].text);
	buf_release(&a->in);
	free(a);
}
