/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/console.h"

#include "base/cleanup.h"
#include "base/utf8.h"

#include <errno.h>
#include <string.h>

#define LINES_SHOWN 3

int console_open(struct console *c, uv_loop_t *loop, const char *state_dir, uint64_t max_bytes, unsigned max_files,
		 struct error *err)
{
	*c = (struct console){ .loop = loop };
	uv_timer_init(loop, &c->gather);
	c->gather.data = c;
	return log_writer_open(&c->log, state_dir, CONSOLE_LOG, max_bytes, max_files, err);
}

static void remember(struct console *c, const char *data, size_t len)
{
	size_t kept = c->tail_len;

	if (len > sizeof c->tail) {
		data += len - sizeof c->tail;
		len = sizeof c->tail;
	}
	if (kept > sizeof c->tail - len)
		kept = sizeof c->tail - len;
	memmove(c->tail, c->tail + c->tail_len - kept, kept);
	memcpy(c->tail + kept, data, len);
	c->tail_len = kept + len;
}

/* False when there is nothing more, for now or for good. */
static bool copy(struct console *c, enum log_stream stream)
{
	char data[LOG_WRITER_READ_MAX];
	ssize_t n = read(watch_fd(c->streams[stream]), data, sizeof data);

	if (n > 0) {
		log_writer_add(&c->log, stream, data, (size_t)n);
		remember(c, data, (size_t)n);
		return true;
	}
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		watch_close(steal_ptr(&c->streams[stream]));
	return false;
}

static void watch_streams(struct console *c, int events)
{
	for (enum log_stream stream = LOG_STDOUT; stream <= LOG_STDERR; stream++)
		if (c->streams[stream])
			watch_set(c->streams[stream], events);
}

static void on_gathered(uv_timer_t *timer)
{
	struct console *c = timer->data;

	for (enum log_stream stream = LOG_STDOUT; stream <= LOG_STDERR; stream++)
		if (c->streams[stream])
			copy(c, stream);
	watch_streams(c, UV_READABLE);
}

static void on_readable(int fd, int events, void *arg)
{
	struct console *c = arg;

	watch_streams(c, 0);
	uv_timer_start(&c->gather, on_gathered, CONSOLE_GATHER_MS, 0);
}

int console_attach(struct console *c, int out_fd, int err_fd, struct error *err)
{
	c->tail_len = 0;
	c->streams[LOG_STDOUT] = watch_new(c->loop, out_fd, on_readable, c);
	c->streams[LOG_STDERR] = watch_new(c->loop, err_fd, on_readable, c);
	if (!c->streams[LOG_STDOUT] || !c->streams[LOG_STDERR]) {
		console_detach(c);
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot watch the console");
	}
	watch_streams(c, UV_READABLE);
	return 0;
}

void console_detach(struct console *c)
{
	uv_timer_stop(&c->gather);
	for (enum log_stream stream = LOG_STDOUT; stream <= LOG_STDERR; stream++) {
		while (c->streams[stream] && copy(c, stream))
			;
		watch_close(steal_ptr(&c->streams[stream]));
	}
}

/* The beginning of the last lines that hold something. */
static const char *find_lines(const char *text, const char *end)
{
	const char *p = end;
	bool something = false;

	for (unsigned lines = 0; p > text; p--) {
		if (p[-1] != '\n') {
			something |= (unsigned char)p[-1] > ' ';
			continue;
		}
		if (something && ++lines == LINES_SHOWN)
			break;
		something = false;
	}
	return p;
}

const char *console_last_lines(const struct console *c, char out[CONSOLE_LINES_MAX])
{
	const char *end = c->tail + c->tail_len, *p = find_lines(c->tail, end);
	bool new_line = false;
	size_t n = 0;

	/* Of lines that are too long together, the end. */
	if ((size_t)(end - p) > CONSOLE_LINES_MAX / 2)
		p = end - CONSOLE_LINES_MAX / 2;
	/* Without what a cut, here or in remember(), left of a character. */
	for (unsigned i = 0; i < 3 && p < end && ((unsigned char)*p & 0xc0) == 0x80; i++)
		p++;
	for (; p < end && n + 5 < CONSOLE_LINES_MAX; p++) {
		if (*p == '\n')
			new_line = n > 0;
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			continue;
		if (new_line) {
			memcpy(out + n, " | ", 3);
			n += 3;
		}
		new_line = false;
		out[n++] = *p;
	}
	out[n] = '\0';
	utf8_line(out);
	return out;
}

void console_close(struct console *c)
{
	console_detach(c);
	log_writer_close(&c->log);
}
