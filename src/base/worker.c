/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/worker.h"

#include "base/buf.h"

#include <signal.h>
#include <string.h>

#define STDERR_KEPT (4u << 10)
#define READ_CHUNK (64u << 10)

/*
 * A worker is over when its process has been reaped and both of its outputs have ended. Only then, and after libuv
 * has let go of every handle, is `ended` called and the memory released. An abandoned one goes the same way with its
 * callbacks taken away.
 */
struct worker {
	uv_process_t process;
	uv_pipe_t input, output, errors;
	struct worker_callbacks callbacks;
	bool abandoned;
	bool killed; /* what it still says is not wanted */
	bool exited, output_ended, errors_ended;
	bool input_open;      /* more may be written */
	bool above_high;      /* the caller has been told to wait */
	unsigned open;        /* handles that libuv still holds */
	struct worker_end end;
	struct buf stderr_tail;
	char chunk[READ_CHUNK];
};

struct write {
	uv_write_t request;
	struct worker *worker;
	char data[];
};

/* ---- the end ---- */

static const char *last_words(struct worker *w)
{
	char *text, *start;
	size_t len = w->stderr_tail.len;

	if (buf_addc(&w->stderr_tail, '\0') < 0 || len == 0)
		return "";
	text = (char *)buf_data(&w->stderr_tail);
	while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == ' '))
		text[--len] = '\0';
	start = memrchr(text, '\n', len);
	start = start ? start + 1 : text;
	for (char *p = start; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	return start;
}

static void on_closed(uv_handle_t *handle)
{
	struct worker *w = handle->data;

	if (--w->open > 0)
		return;
	if (!w->abandoned) {
		w->end.last_words = last_words(w);
		w->callbacks.ended(&w->end, w->callbacks.arg);
	}
	buf_release(&w->stderr_tail);
	free(w);
}

static void close_handle(uv_handle_t *handle)
{
	if (!uv_is_closing(handle))
		uv_close(handle, on_closed);
}

static void close_input(struct worker *w)
{
	w->input_open = false;
	close_handle((uv_handle_t *)&w->input);
}

static void finish_if_over(struct worker *w)
{
	if (!w->exited || !w->output_ended || !w->errors_ended)
		return;
	close_input(w);
	close_handle((uv_handle_t *)&w->output);
	close_handle((uv_handle_t *)&w->errors);
	close_handle((uv_handle_t *)&w->process);
}

static void on_exit_cb(uv_process_t *process, int64_t exit_status, int term_signal)
{
	struct worker *w = process->data;

	w->exited = true;
	w->end.exit_status = exit_status;
	w->end.term_signal = term_signal;
	finish_if_over(w);
}

static void end_output(struct worker *w)
{
	close_handle((uv_handle_t *)&w->output);
	close_handle((uv_handle_t *)&w->errors);
	w->output_ended = w->errors_ended = true;
}

pid_t worker_pid(const struct worker *w)
{
	return w->process.pid;
}

void worker_kill(struct worker *w)
{
	/* Its number is its own until on_exit_cb() has run. The group, in case it has children. */
	if (!w->exited && kill(-w->process.pid, SIGKILL) < 0)
		uv_process_kill(&w->process, SIGKILL);
	/* It may be paused, and then the end of its output would not be seen. */
	w->killed = true;
	worker_resume(w);
}

/* Takes the callbacks away: what is left only has to be released. */
static void silence(struct worker *w)
{
	w->abandoned = true;
	close_input(w);
	end_output(w);
}

void worker_abandon(struct worker *w)
{
	silence(w);
	worker_kill(w);
	finish_if_over(w);
}

/* ---- its outputs ---- */

/* One chunk of memory serves both outputs: what is read is used up before the next read. */
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
	struct worker *w = handle->data;

	*ret = uv_buf_init(w->chunk, sizeof w->chunk);
}

static void on_output(uv_stream_t *stream, ssize_t n, const uv_buf_t *chunk)
{
	struct worker *w = stream->data;

	if (n > 0 && !w->killed)
		w->callbacks.output(chunk->base, (size_t)n, w->callbacks.arg);
	if (n >= 0)
		return;
	uv_read_stop(stream);
	w->output_ended = true;
	finish_if_over(w);
}

static void on_errors(uv_stream_t *stream, ssize_t n, const uv_buf_t *chunk)
{
	struct worker *w = stream->data;
	struct buf *tail = &w->stderr_tail;

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
	w->errors_ended = true;
	finish_if_over(w);
}

void worker_pause(struct worker *w)
{
	if (!w->killed)
		uv_read_stop((uv_stream_t *)&w->output);
}

void worker_resume(struct worker *w)
{
	if (!w->output_ended && !uv_is_closing((uv_handle_t *)&w->output))
		uv_read_start((uv_stream_t *)&w->output, on_alloc, on_output);
}

/* ---- the start ---- */

static void init_pipes(uv_loop_t *loop, struct worker *w)
{
	uv_pipe_t *const pipes[] = { &w->input, &w->output, &w->errors };

	for (size_t i = 0; i < sizeof pipes / sizeof pipes[0]; i++) {
		(void)uv_pipe_init(loop, pipes[i], 0); /* opens nothing yet, and cannot fail */
		pipes[i]->data = w;
		w->open++;
	}
}

static int spawn(uv_loop_t *loop, struct worker *w, const struct worker_options *o)
{
	uv_stdio_container_t stdio[4] = {
		{ .flags = o->input ? UV_CREATE_PIPE | UV_READABLE_PIPE : UV_IGNORE },
		{ .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE },
		{ .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE },
		{ .flags = UV_INHERIT_FD, .data.fd = o->extra_fd },
	};
	/* uv_spawn() takes the arguments as not const but does not change them. */
	uv_process_options_t options = {
		.file = o->argv[0], .args = (char **)(uintptr_t)o->argv, .exit_cb = on_exit_cb,
		.flags = UV_PROCESS_DETACHED, .stdio = stdio,
		.stdio_count = o->extra_fd < 0 ? WORKER_EXTRA_FD : WORKER_EXTRA_FD + 1,
	};
	int r;

	stdio[0].data.stream = (uv_stream_t *)&w->input;
	stdio[1].data.stream = (uv_stream_t *)&w->output;
	stdio[2].data.stream = (uv_stream_t *)&w->errors;
	w->process.data = w;
	r = uv_spawn(loop, &w->process, &options);
	w->open++; /* to be closed even when it failed */
	if (r < 0)
		return r;
	w->input_open = o->input;
	r = uv_read_start((uv_stream_t *)&w->output, on_alloc, on_output);
	return r < 0 ? r : uv_read_start((uv_stream_t *)&w->errors, on_alloc, on_errors);
}

struct worker *worker_start(uv_loop_t *loop, const struct worker_options *options,
			    const struct worker_callbacks *callbacks, struct error *err)
{
	struct worker *w = calloc(1, sizeof *w);
	int r;

	if (!w) {
		error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
		return NULL;
	}
	w->callbacks = *callbacks;
	buf_init(&w->stderr_tail, STDERR_KEPT + 1);
	init_pipes(loop, w);
	r = spawn(loop, w, options);
	if (r == 0)
		return w;
	error_errno(err, -r, "cannot start %s", options->argv[0]);
	silence(w);
	if (w->process.pid > 0) {
		worker_kill(w); /* on_exit_cb() does the rest */
	} else {
		w->exited = true;
		finish_if_over(w);
	}
	return NULL;
}

/* ---- its input ---- */

static size_t queued(const struct worker *w)
{
	return uv_stream_get_write_queue_size((const uv_stream_t *)&w->input);
}

static void on_written(uv_write_t *request, int status)
{
	struct write *write = (struct write *)request;
	struct worker *w = write->worker;

	free(write);
	/* The worker closed its end: it has failed, and says or said why. */
	if (status < 0 && status != UV_ECANCELED)
		close_input(w);
	if (w->abandoned || !w->above_high || queued(w) > WORKER_QUEUE_HIGH / 2)
		return;
	w->above_high = false;
	if (w->callbacks.drained)
		w->callbacks.drained(w->callbacks.arg);
}

size_t worker_write(struct worker *w, const void *data, size_t len)
{
	struct write *write;
	uv_buf_t buf;

	if (!w->input_open || len == 0)
		return w->input_open ? queued(w) : 0;
	write = malloc(sizeof *write + len);
	if (!write) {
		w->end.out_of_memory = true;
		worker_kill(w);
		return 0;
	}
	write->worker = w;
	memcpy(write->data, data, len);
	buf = uv_buf_init(write->data, (unsigned)len);
	if (uv_write(&write->request, (uv_stream_t *)&w->input, &buf, 1, on_written) < 0) {
		free(write);
		close_input(w);
		return 0;
	}
	if (queued(w) > WORKER_QUEUE_HIGH)
		w->above_high = true;
	return queued(w);
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
	struct worker *w = request->data;

	free(request);
	close_input(w);
}

void worker_end_input(struct worker *w)
{
	uv_shutdown_t *request;

	if (!w->input_open)
		return;
	w->input_open = false;
	request = malloc(sizeof *request);
	if (request) {
		request->data = w;
		if (uv_shutdown(request, (uv_stream_t *)&w->input, on_shutdown) == 0)
			return;
		free(request);
	}
	w->end.out_of_memory = true;
	worker_kill(w);
}
