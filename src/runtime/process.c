/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/process.h"

#include "base/buf.h"
#include "shim/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#define READ_SIZE (64u << 10)
#define EOF_CHARACTER 4 /* ^D */

/* What is watched: the connection to the shim and our ends of the streams. */
enum end_id { END_CONTROL, END_INPUT, END_STDOUT, END_STDERR, END_COUNT };

struct end {
	struct process *process;
	int fd; /* -1: closed, or not there */
	uv_poll_t *poll;
};

struct process {
	uv_loop_t *loop;
	struct process_events events;
	struct end ends[END_COUNT];
	struct buf input; /* not written yet */
	bool input_ended; /* to be closed when `input` is empty */
	bool in_line;     /* what was queued last does not end a line of a terminal */
	bool terminal, in_guest, started;
	unsigned columns, rows;
	bool paused;
	bool exited;
	int exit_code;
	size_t left[END_COUNT]; /* once it has ended: bytes that are its own and still in the pipe */
};

/* Whether its terminal's master side is ours. That of a guest stays there: bytes come and go through pipes. */
static bool has_master(const struct process *p)
{
	return p->terminal && !p->in_guest;
}

/* ---- ends ---- */

static void on_poll_closed(uv_handle_t *handle)
{
	close((int)(intptr_t)handle->data);
	free(handle);
}

static void end_close(struct end *end)
{
	if (end->fd < 0)
		return;
	/* libuv lets go of a descriptor before it is closed, which it does in the callback. */
	end->poll->data = (void *)(intptr_t)steal_fd(&end->fd);
	uv_close((uv_handle_t *)steal_ptr(&end->poll), on_poll_closed);
}

/* Takes over the descriptor. */
static int end_open(struct process *p, enum end_id id, int fd)
{
	struct end *end = &p->ends[id];
	uv_poll_t *poll = malloc(sizeof *poll);
	int r = poll ? uv_poll_init(p->loop, poll, fd) : -ENOMEM;

	if (r < 0) {
		free(poll);
		close(fd);
		return r;
	}
	poll->data = end;
	end->fd = fd;
	end->poll = poll;
	return 0;
}

/* ---- the end ---- */

/* The callee may free the process. */
static void report_failure(struct process *p, enum error_code code, const char *why)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	for (int id = 0; id < END_COUNT; id++)
		end_close(&p->ends[id]);
	error_set(&err, code, "%s", why);
	p->events.failed(&err, p->events.arg);
}

/* Tells of the end when everything was delivered. True if it did: then the process may have been freed. */
static bool check_ended(struct process *p)
{
	if (!p->exited || p->ends[END_STDOUT].fd >= 0 || p->ends[END_STDERR].fd >= 0)
		return false;
	for (int id = 0; id < END_COUNT; id++)
		end_close(&p->ends[id]);
	p->events.ended(p->exit_code, NULL, p->events.arg);
	return true;
}

/* ---- output ---- */

static void watch_output(struct process *p);

static void read_output(struct process *p, enum end_id id)
{
	static char data[READ_SIZE];
	struct end *end = &p->ends[id];
	bool counted = p->exited && !has_master(p);
	ssize_t n = read(end->fd, data, counted && p->left[id] < sizeof data ? p->left[id] : sizeof data);

	/* Others may hold a terminal after its process has ended; all that this one wrote came before. */
	if (n < 0 && (errno == EINTR || (errno == EAGAIN && !p->exited)))
		return;
	/* EIO is the end of a terminal. */
	if (n <= 0) {
		end_close(end);
		return;
	}
	p->left[id] -= counted ? (size_t)n : 0;
	if (counted && p->left[id] == 0)
		end_close(end);
	if (!p->events.output(id == END_STDOUT ? PROCESS_STDOUT : PROCESS_STDERR, data, (size_t)n, p->events.arg)) {
		p->paused = true;
		watch_output(p);
	}
}

static void on_output(uv_poll_t *poll, int status, int events)
{
	struct end *end = poll->data;
	struct process *p = end->process;

	read_output(p, (enum end_id)(end - p->ends));
	check_ended(p);
}

static void watch_output(struct process *p)
{
	for (int id = END_STDOUT; id <= END_STDERR; id++) {
		if (p->ends[id].fd < 0)
			continue;
		/* What is left in a terminal is not counted. It is writable always, so it is looked into until it is empty. */
		if (p->paused)
			uv_poll_stop(p->ends[id].poll);
		else
			uv_poll_start(p->ends[id].poll, UV_READABLE | (p->exited ? UV_WRITABLE : 0), on_output);
	}
}

void process_resume(struct process *p)
{
	if (!p->paused)
		return;
	p->paused = false;
	watch_output(p);
}

/* ---- input ---- */

static void write_input(struct process *p);

static void on_input(uv_poll_t *poll, int status, int events)
{
	struct end *end = poll->data;
	struct process *p = end->process;

	uv_poll_stop(poll);
	write_input(p);
	if (p->input.len == 0)
		p->events.drained(p->events.arg);
}

/* As much as the process takes; the rest when it takes more. */
static void write_input(struct process *p)
{
	struct end *end = &p->ends[END_INPUT];

	while (p->input.len > 0 && end->fd >= 0) {
		ssize_t n = write(end->fd, buf_data(&p->input), p->input.len);

		if (n > 0) {
			buf_take(&p->input, (size_t)n);
		} else if (n < 0 && errno == EAGAIN) {
			uv_poll_start(end->poll, UV_WRITABLE, on_input);
			return;
		} else if (n < 0 && errno != EINTR) {
			end_close(end);
		}
	}
	buf_reset(&p->input);
	if (p->input_ended)
		end_close(end);
}

static void queue_input(struct process *p, const void *data, size_t len)
{
	/* As everywhere in the daemon: without memory for a message there is no going on. */
	if (buf_add(&p->input, data, len) < 0)
		abort();
}

static bool ends_line(char c)
{
	return c == '\n' || c == '\r' || c == EOF_CHARACTER;
}

bool process_write(struct process *p, const void *data, size_t len)
{
	if (p->input_ended)
		return true;
	queue_input(p, data, len);
	if (len > 0)
		p->in_line = !ends_line(((const char *)data)[len - 1]);
	if (p->started)
		write_input(p);
	return p->input.len == 0;
}

static void finish_input(struct process *p)
{
	static const char eof[] = { EOF_CHARACTER, EOF_CHARACTER };

	/* In the middle of a line the first one only hands over what there is of it. */
	if (has_master(p))
		queue_input(p, eof, p->in_line ? 2 : 1);
	write_input(p);
}

void process_end_input(struct process *p)
{
	if (p->input_ended)
		return;
	p->input_ended = true;
	if (p->started)
		finish_input(p);
}

/* ---- the terminal ---- */

static void set_size(const struct process *p)
{
	const struct winsize size = { .ws_col = (unsigned short)p->columns, .ws_row = (unsigned short)p->rows };
	const struct shim_exec_resize resize = { .columns = size.ws_col, .rows = size.ws_row };

	if (!p->terminal || !p->started || !p->columns || !p->rows)
		return;
	if (p->in_guest && p->ends[END_CONTROL].fd >= 0)
		(void)shim_send(p->ends[END_CONTROL].fd, SHIM_EXEC_RESIZE, &resize, sizeof resize);
	else if (p->ends[END_STDOUT].fd >= 0)
		(void)ioctl(p->ends[END_STDOUT].fd, TIOCSWINSZ, &size);
}

void process_resize(struct process *p, unsigned columns, unsigned rows)
{
	p->columns = columns < USHRT_MAX ? columns : USHRT_MAX;
	p->rows = rows < USHRT_MAX ? rows : USHRT_MAX;
	set_size(p);
}

/* Takes over the master side. It is read and written through two descriptors, so that each can be watched. */
static int open_terminal(struct process *p, int master)
{
	int copy = fcntl(master, F_DUPFD_CLOEXEC, 0), r = copy < 0 ? -errno : end_open(p, END_INPUT, copy);

	if (r < 0) {
		close(master);
		return r;
	}
	return end_open(p, END_STDOUT, master);
}

/* ---- what the shim says ---- */

/* -1: it was told that it failed. */
static int on_started(struct process *p, int *fds, size_t n_fds)
{
	bool queued = p->input.len > 0;
	int r = 0;

	if (has_master(p))
		r = n_fds == 1 ? open_terminal(p, fds[0]) : -EPROTO;
	if (r < 0) {
		report_failure(p, ERR_INTERNAL, "cannot take over the terminal");
		return -1;
	}
	p->started = true;
	/* It may have changed since the shim was told. */
	set_size(p);
	watch_output(p);
	if (p->input_ended)
		finish_input(p);
	else
		write_input(p);
	if (queued && p->input.len == 0)
		p->events.drained(p->events.arg);
	return 0;
}

static void on_exit_message(struct process *p, int exit_code)
{
	p->exited = true;
	p->exit_code = exit_code;
	/* A pipe may be held by others too, and they may write forever. What counts is in it now. */
	for (int id = END_STDOUT; id <= END_STDERR && !has_master(p); id++) {
		int n = 0;

		if (p->ends[id].fd < 0)
			continue;
		if (ioctl(p->ends[id].fd, FIONREAD, &n) < 0 || n == 0)
			end_close(&p->ends[id]);
		p->left[id] = (size_t)n;
	}
	if (!check_ended(p))
		watch_output(p);
}

/* False: that was the last word. */
static bool on_message(struct process *p, struct shim_message *m, int *fds, size_t n_fds)
{
	switch (m->type) {
	case SHIM_EXEC_STARTED:
		return on_started(p, fds, n_fds) == 0;
	case SHIM_EXEC_EXIT:
		end_close(&p->ends[END_CONTROL]);
		on_exit_message(p, m->body.exec_exit.exit_code);
		return false;
	case SHIM_EXEC_FAILED:
		if (m->body.exec_failed.exit_code)
			p->events.ended(m->body.exec_failed.exit_code, m->body.exec_failed.text, p->events.arg);
		else
			report_failure(p, ERR_FAILED_PRECONDITION, m->body.exec_failed.text);
		return false;
	case SHIM_UNSUPPORTED:
		report_failure(p, ERR_FAILED_PRECONDITION,
			       "it was started by an older version, which runs nothing further in it; restart the workload");
		return false;
	case SHIM_FAILED:
	case SHIM_EXIT:
		report_failure(p, ERR_FAILED_PRECONDITION, "the workload has ended");
		return false;
	default:
		shim_close_fds(fds, n_fds);
		return true;
	}
}

static void report_lost(struct process *p)
{
	if (p->started)
		report_failure(p, ERR_UNAVAILABLE, "the workload went, and all its processes with it");
	else
		report_failure(p, ERR_FAILED_PRECONDITION,
			       "its shim refuses: the workload is ending, or was started by an older version and must be restarted");
}

static void on_control(uv_poll_t *poll, int status, int events)
{
	struct end *end = poll->data;
	struct process *p = end->process;
	struct shim_message m;
	int fds[SHIM_FDS_MAX], r;
	size_t n_fds;

	do {
		r = shim_receive_fds(end->fd, &m, fds, &n_fds);
		if (r == -EAGAIN)
			return;
		if (r <= 0) {
			report_lost(p);
			return;
		}
	} while (on_message(p, &m, fds, n_fds));
}

/* ---- life ---- */

struct process *process_new(uv_loop_t *loop, const struct process_events *events)
{
	struct process *p = calloc(1, sizeof *p);

	if (!p)
		return NULL;
	p->loop = loop;
	p->events = *events;
	buf_init(&p->input, SIZE_MAX);
	for (int id = 0; id < END_COUNT; id++)
		p->ends[id] = (struct end){ .process = p, .fd = -1 };
	return p;
}

int process_start(struct process *p, struct driver_process *prepared, struct error *err)
{
	struct shim_exec request = {
		.terminal = prepared->terminal, .columns = (uint16_t)p->columns, .rows = (uint16_t)p->rows,
	};
	int r;

	p->terminal = prepared->terminal;
	p->in_guest = prepared->in_guest;
	r = shim_send_fds(prepared->control_fd, SHIM_EXEC, &request, sizeof request, prepared->theirs, has_master(p) ? 1 : 4);
	if (r == 0)
		r = end_open(p, END_CONTROL, steal_fd(&prepared->control_fd));
	for (int i = 0; r == 0 && !has_master(p) && i < 3; i++)
		r = end_open(p, (enum end_id)(END_INPUT + i), steal_fd(&prepared->ours[i]));
	if (r == 0)
		uv_poll_start(p->ends[END_CONTROL].poll, UV_READABLE, on_control);
	driver_process_release(prepared);
	return r < 0 ? error_errno(err, -r, "cannot ask for a process") : 0;
}

void process_free(struct process *p)
{
	if (!p)
		return;
	for (int id = 0; id < END_COUNT; id++)
		end_close(&p->ends[id]);
	buf_release(&p->input);
	free(p);
}
