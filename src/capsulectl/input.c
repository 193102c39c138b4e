/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/input.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

int input_standard(void)
{
	struct stat st;
	int fd = -1;

	if (fstat(STDIN_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || isatty(STDIN_FILENO)))
		fd = open("/proc/self/fd/0", O_RDONLY | O_NOCTTY | O_CLOEXEC);
	return fd >= 0 ? fd : fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
}

static void fail(struct input *in, int errnum)
{
	in->ended = true;
	error_errno(&in->error, errnum, "cannot read %s", in->name);
	rpc_call_cancel(in->call);
}

/* Sends the next chunk. False when there is none: the end, an error, or nothing to read yet. */
static bool read_chunk(struct input *in)
{
	ssize_t n;

	do
		n = read(in->fd, in->chunk, INPUT_CHUNK);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		in->data(in->chunk, (size_t)n, in->arg);
		return true;
	}
	if (n < 0 && errno == EAGAIN && in->poll)
		return false;
	if (n < 0) {
		fail(in, errno);
		return false;
	}
	in->ended = true;
	in->end(in->arg);
	return false;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct input *in = poll->data;

	if (status < 0)
		fail(in, -status);
	else
		read_chunk(in);
	/* Without room, or with nothing more to come, there is nothing to wait for. The call may be over already. */
	if (in->poll && (in->ended || !rpc_call_writable(in->call)))
		uv_poll_stop(poll);
}

void input_writable(struct input *in)
{
	if (in->poll) {
		if (!in->ended)
			uv_poll_start(in->poll, UV_READABLE, on_readable);
		return;
	}
	while (!in->ended && rpc_call_writable(in->call) && read_chunk(in))
		;
}

/* What epoll does not take, files and /dev/null, never blocks for long and is read without. */
static void start_polling(struct input *in, uv_loop_t *loop)
{
	uv_poll_t *poll = malloc(sizeof *poll);

	in->flags = fcntl(in->fd, F_GETFL);
	if (!poll || uv_poll_init(loop, poll, in->fd) < 0) {
		free(poll);
		return;
	}
	poll->data = in;
	in->poll = poll;
	/* A pipe's default of 64 KiB makes every chunk small; where more is not allowed, so be it. */
	fcntl(in->fd, F_SETPIPE_SZ, (int)(2 * INPUT_CHUNK));
}

int input_start(struct input *in, uv_loop_t *loop, struct rpc_call *call, struct error *err)
{
	in->call = call;
	in->chunk = malloc(INPUT_CHUNK);
	if (!in->chunk)
		return error_errno(err, ENOMEM, "cannot read %s", in->name);
	start_polling(in, loop);
	input_writable(in);
	return 0;
}

static void free_poll(uv_handle_t *poll)
{
	free(poll);
}

void input_stop(struct input *in, struct error *err)
{
	in->ended = true;
	if (in->poll) {
		uv_close((uv_handle_t *)steal_ptr(&in->poll), free_poll);
		/* Where it is not our own description after all. */
		fcntl(in->fd, F_SETFL, in->flags);
	}
	free(steal_ptr(&in->chunk));
	if (in->error.message)
		error_move(err, &in->error);
}
