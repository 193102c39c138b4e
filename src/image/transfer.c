/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "image/transfer.h"

#include "base/buf.h"

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#define STDERR_KEPT (4u << 10)
#define READ_CHUNK (64u << 10)
#define ARGS_MAX 8

/*
 * A transfer is over when its process has been reaped and both of its outputs have ended. Only then, and after libuv
 * has let go of every handle, is `done` called and the memory released. A cancelled transfer goes the same way with its
 * callbacks taken away.
 */
struct transfer {
	uv_process_t process;
	uv_pipe_t input, output, errors;
	struct transfer_callbacks callbacks;
	bool cancelled;
	bool exited, output_ended, errors_ended;
	bool input_open;      /* more may be written */
	bool above_high;      /* the caller has been told to wait */
	unsigned open;        /* handles that libuv still holds */
	int64_t exit_status;
	int term_signal;
	struct buf line;      /* of the output, not whole yet */
	struct buf stderr_tail;
	struct error error;   /* the result, unless it is success */
	char **references;
	size_t n_references;
	char chunk[READ_CHUNK];
};

struct write {
	uv_write_t request;
	struct transfer *transfer;
	char data[];
};

static void transfer_free(struct transfer *t)
{
	for (size_t i = 0; i < t->n_references; i++)
		free(t->references[i]);
	free(t->references);
	buf_release(&t->line);
	buf_release(&t->stderr_tail);
	error_release(&t->error);
	free(t);
}

/* ---- the end ---- */

/* The last line of standard error, without control characters, cut to what a message can hold. */
static const char *last_words(struct transfer *t)
{
	char *text, *start;
	size_t len = t->stderr_tail.len;

	if (buf_addc(&t->stderr_tail, '\0') < 0 || len == 0)
		return "";
	text = (char *)buf_data(&t->stderr_tail);
	while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == ' '))
		text[--len] = '\0';
	start = memrchr(text, '\n', len);
	start = start ? start + 1 : text;
	for (char *p = start; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
	return start;
}

static void judge(struct transfer *t)
{
	const char *words;

	if (t->error.code != ERR_OK)
		return;
	if (t->term_signal == 0 && t->exit_status == 0 && t->n_references > 0)
		return;
	words = last_words(t);
	if (t->term_signal)
		error_set(&t->error, ERR_INTERNAL, "the image transfer was killed by signal %d%s%s", t->term_signal,
			  words[0] ? ": " : "", words);
	else
		error_set(&t->error, ERR_INTERNAL,
			  "the image transfer ended with exit code %lld and without a result%s%s",
			  (long long)t->exit_status, words[0] ? ": " : "", words);
}

static void on_closed(uv_handle_t *handle)
{
	struct transfer *t = handle->data;

	if (--t->open > 0)
		return;
	if (!t->cancelled) {
		judge(t);
		t->callbacks.done(t->error.code == ERR_OK ? t->references : NULL,
				  t->error.code == ERR_OK ? t->n_references : 0,
				  t->error.code == ERR_OK ? NULL : &t->error, t->callbacks.arg);
	}
	transfer_free(t);
}

static void close_handle(uv_handle_t *handle)
{
	if (!uv_is_closing(handle))
		uv_close(handle, on_closed);
}

static void close_input(struct transfer *t)
{
	t->input_open = false;
	close_handle((uv_handle_t *)&t->input);
}

static void finish_if_over(struct transfer *t)
{
	if (!t->exited || !t->output_ended || !t->errors_ended)
		return;
	close_input(t);
	close_handle((uv_handle_t *)&t->output);
	close_handle((uv_handle_t *)&t->errors);
	close_handle((uv_handle_t *)&t->process);
}

static void on_exit_cb(uv_process_t *process, int64_t exit_status, int term_signal)
{
	struct transfer *t = process->data;

	t->exited = true;
	t->exit_status = exit_status;
	t->term_signal = term_signal;
	finish_if_over(t);
}

static void kill_worker(struct transfer *t)
{
	/* Its number is its own until on_exit_cb() has run. The group, in case it has children. */
	if (!t->exited && kill(-t->process.pid, SIGKILL) < 0)
		uv_process_kill(&t->process, SIGKILL);
}

/* The worker does not keep to the protocol: nothing that it says counts any more. */
static void protocol_error(struct transfer *t, const char *why)
{
	if (t->error.code == ERR_OK)
		error_set(&t->error, ERR_INTERNAL, "the image transfer %s", why);
	kill_worker(t);
}

/* ---- the worker's lines ---- */

static enum error_code code_by_name(const char *name)
{
	for (enum error_code code = ERR_CANCELLED; code <= ERR_UNAUTHENTICATED; code++)
		if (name && strcmp(error_code_name(code), name) == 0)
			return code;
	return ERR_INTERNAL;
}

static uint64_t count_of(const json_t *object, const char *name)
{
	json_int_t n = json_integer_value(json_object_get(object, name));

	return n > 0 ? (uint64_t)n : 0;
}

static void take_progress(struct transfer *t, const json_t *p)
{
	const char *status = json_string_value(json_object_get(p, "status"));
	struct transfer_progress progress = {
		.done_bytes = count_of(p, "done"), .total_bytes = count_of(p, "total"), .status = status ? status : "",
	};

	if (t->callbacks.progress)
		t->callbacks.progress(&progress, t->callbacks.arg);
}

static void take_image(struct transfer *t, const json_t *image)
{
	const char *reference = json_string_value(json_object_get(image, "reference"));
	char **longer, *copy;

	if (!reference || t->n_references == TRANSFER_IMAGES_MAX) {
		protocol_error(t, reference ? "brought too many images" : "wrote a line that is not understood");
		return;
	}
	longer = realloc(t->references, (t->n_references + 1) * sizeof *longer);
	if (longer)
		t->references = longer;
	copy = strdup(reference);
	if (!longer || !copy) {
		free(copy);
		if (t->error.code == ERR_OK)
			error_set(&t->error, ERR_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	t->references[t->n_references++] = copy;
}

static void take_error(struct transfer *t, const json_t *error)
{
	const char *message = json_string_value(json_object_get(error, "message"));

	if (t->error.code == ERR_OK)
		error_set(&t->error, code_by_name(json_string_value(json_object_get(error, "code"))), "%s",
			  message && message[0] ? message : "the image transfer failed and did not say why");
}

static void take_line(struct transfer *t, const char *line, size_t len)
{
	json_t *root = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL), *member;

	if ((member = json_object_get(root, "progress")))
		take_progress(t, member);
	else if ((member = json_object_get(root, "image")))
		take_image(t, member);
	else if ((member = json_object_get(root, "error")))
		take_error(t, member);
	else
		protocol_error(t, "wrote a line that is not understood");
	json_decref(root);
}

static void take_output(struct transfer *t, const char *data, size_t len)
{
	while (len > 0 && !t->cancelled) {
		const char *end = memchr(data, '\n', len);
		size_t n = end ? (size_t)(end - data) : len;

		if (buf_add(&t->line, data, n) < 0) {
			protocol_error(t, "wrote a line that is too long");
			return;
		}
		if (!end)
			return;
		take_line(t, buf_str(&t->line), t->line.len);
		buf_reset(&t->line);
		data = end + 1;
		len -= n + 1;
	}
}

/* ---- its outputs ---- */

/* One chunk of memory serves both outputs: what is read is used up before the next read. */
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
	struct transfer *t = handle->data;

	*ret = uv_buf_init(t->chunk, sizeof t->chunk);
}

static void on_output(uv_stream_t *stream, ssize_t n, const uv_buf_t *chunk)
{
	struct transfer *t = stream->data;

	if (n > 0 && !t->cancelled)
		take_output(t, chunk->base, (size_t)n);
	if (n >= 0)
		return;
	uv_read_stop(stream);
	t->output_ended = true;
	finish_if_over(t);
}

static void on_errors(uv_stream_t *stream, ssize_t n, const uv_buf_t *chunk)
{
	struct transfer *t = stream->data;
	struct buf *tail = &t->stderr_tail;

	if (n > 0) {
		const char *data = chunk->base;
		size_t len = (size_t)n;

		if (len > STDERR_KEPT) {
			data += len - STDERR_KEPT;
			len = STDERR_KEPT;
		}
		if (tail->len + len > STDERR_KEPT)
			buf_take(tail, tail->len + len - STDERR_KEPT);
		buf_add(tail, data, len);
	}
	if (n >= 0)
		return;
	uv_read_stop(stream);
	t->errors_ended = true;
	finish_if_over(t);
}

/* ---- the start ---- */

static void init_pipes(uv_loop_t *loop, struct transfer *t)
{
	uv_pipe_t *const pipes[] = { &t->input, &t->output, &t->errors };

	for (size_t i = 0; i < sizeof pipes / sizeof pipes[0]; i++) {
		(void)uv_pipe_init(loop, pipes[i], 0); /* opens nothing yet, and cannot fail */
		pipes[i]->data = t;
		t->open++;
	}
}

static int spawn(uv_loop_t *loop, struct transfer *t, char **args, bool with_input)
{
	uv_stdio_container_t stdio[3] = {
		{ .flags = with_input ? UV_CREATE_PIPE | UV_READABLE_PIPE : UV_IGNORE },
		{ .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE },
		{ .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE },
	};
	uv_process_options_t options = {
		.file = args[0], .args = args, .exit_cb = on_exit_cb, .flags = UV_PROCESS_DETACHED, .stdio = stdio,
		.stdio_count = 3,
	};
	int r;

	stdio[0].data.stream = (uv_stream_t *)&t->input;
	stdio[1].data.stream = (uv_stream_t *)&t->output;
	stdio[2].data.stream = (uv_stream_t *)&t->errors;
	t->process.data = t;
	r = uv_spawn(loop, &t->process, &options);
	t->open++; /* to be closed even when it failed */
	if (r < 0)
		return r;
	t->input_open = with_input;
	r = uv_read_start((uv_stream_t *)&t->output, on_alloc, on_output);
	return r < 0 ? r : uv_read_start((uv_stream_t *)&t->errors, on_alloc, on_errors);
}

/* Takes the callbacks away: what is left only has to be released. */
static void abandon(struct transfer *t)
{
	t->cancelled = true;
	close_input(t);
	close_handle((uv_handle_t *)&t->output);
	close_handle((uv_handle_t *)&t->errors);
	t->output_ended = t->errors_ended = true;
}

static struct transfer *start(uv_loop_t *loop, char **args, bool with_input, const struct transfer_callbacks *callbacks,
			      struct error *err)
{
	struct transfer *t = calloc(1, sizeof *t);
	int r;

	if (!t) {
		error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
		return NULL;
	}
	t->callbacks = *callbacks;
	buf_init(&t->line, TRANSFER_LINE_MAX);
	buf_init(&t->stderr_tail, STDERR_KEPT + 1);
	init_pipes(loop, t);
	r = spawn(loop, t, args, with_input);
	if (r == 0)
		return t;
	error_errno(err, -r, "cannot start %s", args[0]);
	abandon(t);
	if (t->process.pid > 0) {
		kill_worker(t); /* on_exit_cb() does the rest */
	} else {
		t->exited = true;
		finish_if_over(t);
	}
	return NULL;
}

/* The arguments that every transfer has. uv_spawn() takes them as not const but does not change them. */
static size_t common_args(char **args, const struct transfer_options *options, const char *verb)
{
	const char *const fixed[] = { options->program, verb, "--root", options->root };
	size_t n = sizeof fixed / sizeof fixed[0];

	for (size_t i = 0; i < n; i++)
		args[i] = (char *)(uintptr_t)fixed[i];
	return n;
}

struct transfer *transfer_pull(uv_loop_t *loop, const struct transfer_options *options, const char *reference,
			       const struct transfer_callbacks *callbacks, struct error *err)
{
	static char registries[] = "--registries", end[] = "--";
	char *args[ARGS_MAX + 1] = { NULL };
	size_t n = common_args(args, options, "pull");

	if (options->registries_file) {
		args[n++] = registries;
		args[n++] = (char *)(uintptr_t)options->registries_file;
	}
	args[n++] = end; /* whatever the reference looks like, it is no option */
	args[n++] = (char *)(uintptr_t)reference;
	return start(loop, args, false, callbacks, err);
}

struct transfer *transfer_push(uv_loop_t *loop, const struct transfer_options *options,
			       const struct transfer_callbacks *callbacks, struct error *err)
{
	char *args[ARGS_MAX + 1] = { NULL };

	common_args(args, options, "push");
	return start(loop, args, true, callbacks, err);
}

/* ---- its input ---- */

static size_t queued(const struct transfer *t)
{
	return uv_stream_get_write_queue_size((const uv_stream_t *)&t->input);
}

static void on_written(uv_write_t *request, int status)
{
	struct write *w = (struct write *)request;
	struct transfer *t = w->transfer;

	free(w);
	/* The worker closed its end: it has failed, and says or said why. */
	if (status < 0 && status != UV_ECANCELED)
		close_input(t);
	if (t->cancelled || !t->above_high || queued(t) > TRANSFER_QUEUE_HIGH / 2)
		return;
	t->above_high = false;
	if (t->callbacks.drained)
		t->callbacks.drained(t->callbacks.arg);
}

size_t transfer_write(struct transfer *t, const void *data, size_t len)
{
	struct write *w;
	uv_buf_t buf;

	if (!t->input_open || len == 0)
		return t->input_open ? queued(t) : 0;
	w = malloc(sizeof *w + len);
	if (!w) {
		error_set(&t->error, ERR_RESOURCE_EXHAUSTED, "out of memory");
		kill_worker(t);
		return 0;
	}
	w->transfer = t;
	memcpy(w->data, data, len);
	buf = uv_buf_init(w->data, (unsigned)len);
	if (uv_write(&w->request, (uv_stream_t *)&t->input, &buf, 1, on_written) < 0) {
		free(w);
		close_input(t);
		return 0;
	}
	if (queued(t) > TRANSFER_QUEUE_HIGH)
		t->above_high = true;
	return queued(t);
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
	struct transfer *t = request->data;

	free(request);
	close_input(t);
}

void transfer_end(struct transfer *t)
{
	uv_shutdown_t *request;

	if (!t->input_open)
		return;
	t->input_open = false;
	request = malloc(sizeof *request);
	if (request) {
		request->data = t;
		if (uv_shutdown(request, (uv_stream_t *)&t->input, on_shutdown) == 0)
			return;
		free(request);
	}
	error_set(&t->error, ERR_INTERNAL, "cannot end the archive");
	kill_worker(t);
}

void transfer_cancel(struct transfer *t)
{
	abandon(t);
	kill_worker(t);
	finish_if_over(t);
}
