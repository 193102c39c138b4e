/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A regular file is read where the call has room: the kernel reads ahead of us, so it does not block for long. A pipe
 * may block for as long as its writer likes, and meanwhile the daemon may have found the archive to be wrong: it is
 * read when the loop finds it readable.
 */
#include "capsulectl/upload.h"

#include "capsulectl/progress.h"

#include <errno.h>
#include <fcntl.h>

#define CHUNK (512u << 10)

/* An upload under way. */
struct sender {
	const struct upload *upload;
	int flags;              /* of the fd before the loop made it non-blocking */
	struct rpc_call *call;
	uv_poll_t *poll;        /* NULL: the fd cannot be polled */
	bool ended;             /* all of it is queued, or it failed */
	bool told;              /* it failed, and the user knows why */
	uint8_t *chunk;
	uint64_t sent;
	struct progress progress;
	struct error error;
};

static void fail(struct sender *s, int errnum)
{
	s->ended = true;
	error_errno(&s->error, errnum, "cannot read %s", s->upload->name);
	rpc_call_cancel(s->call);
}

static void finish(struct sender *s)
{
	s->ended = true;
	if (s->upload->finish && s->upload->finish(s->upload->arg, &s->error) < 0) {
		s->told = !s->error.message;
		rpc_call_cancel(s->call);
		return;
	}
	rpc_call_half_close(s->call);
	progress_text(&s->progress, "all is sent; the daemon is at work on it");
}

/* Sends the next chunk. False when there is none: the end, an error, or nothing to read yet. */
static bool read_chunk(struct sender *s)
{
	ssize_t n;

	do
		n = read(s->upload->fd, s->chunk, CHUNK);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		s->upload->send(s->call, s->chunk, (size_t)n);
		s->sent += (uint64_t)n;
		progress_bytes(&s->progress, NULL, s->sent, s->upload->total);
		return true;
	}
	if (n < 0 && errno == EAGAIN && s->poll)
		return false;
	if (n < 0)
		fail(s, errno);
	else
		finish(s);
	return false;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct sender *s = poll->data;

	if (status < 0)
		fail(s, -status);
	else
		read_chunk(s);
	/* Without room, or with nothing more to come, there is nothing to wait for. The call may be over already. */
	if (s->poll && (s->ended || !rpc_call_writable(s->call)))
		uv_poll_stop(poll);
}

static void on_room(struct rpc_call *call, void *arg)
{
	struct sender *s = arg;

	if (s->poll) {
		if (!s->ended)
			uv_poll_start(s->poll, UV_READABLE, on_readable);
		return;
	}
	while (!s->ended && rpc_call_writable(call) && read_chunk(s))
		;
}

/* What epoll does not take, files and /dev/null, never blocks for long and is read without. */
static void start_polling(struct sender *s, uv_loop_t *loop)
{
	uv_poll_t *poll = malloc(sizeof *poll);

	s->flags = fcntl(s->upload->fd, F_GETFL);
	if (!poll || uv_poll_init(loop, poll, s->upload->fd) < 0) {
		free(poll);
		return;
	}
	poll->data = s;
	s->poll = poll;
	/* A pipe's default of 64 KiB makes every chunk small; where more is not allowed, so be it. */
	fcntl(s->upload->fd, F_SETPIPE_SZ, (int)(2 * CHUNK));
}

static void on_start(struct rpc_call *call, uv_loop_t *loop, void *arg)
{
	struct sender *s = arg;

	s->call = call;
	s->upload->begin(call, s->upload);
	start_polling(s, loop);
	on_room(call, s);
}

static void free_poll(uv_handle_t *poll)
{
	free(poll);
}

static void on_stop(void *arg, struct error *err)
{
	struct sender *s = arg;

	s->ended = true;
	if (s->poll) {
		uv_close((uv_handle_t *)steal_ptr(&s->poll), free_poll);
		/* Others may share the description: standard input is not ours. */
		fcntl(s->upload->fd, F_SETFL, s->flags);
	}
	progress_clear(&s->progress);
	if (s->error.message)
		error_move(err, &s->error);
}

int upload_run(struct cli *cli, const struct upload *upload, void *ret_reply, struct error *err)
{
	struct sender s = { .upload = upload, .chunk = malloc(CHUNK) };
	struct client_feed feed = { on_start, on_room, on_stop, &s };
	int r;

	if (!s.chunk)
		return error_errno(err, ENOMEM, "cannot send %s", upload->name);
	progress_init(&s.progress);
	r = client_upload(cli, upload->method, &feed, ret_reply, err);
	free(s.chunk);
	/* That the call was cancelled adds nothing. */
	if (r < 0 && s.told)
		error_release(err);
	return r;
}
