/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A regular file is read where the call has room: the kernel reads ahead of us, so it does not block for long. A pipe
 * may block for as long as its writer likes, and meanwhile the daemon may have found the archive to be wrong: it is
 * read when the loop finds it readable.
 */
#include "capsulectl/push.h"

#include "capsulectl/client.h"
#include "capsulectl/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define CHUNK (512u << 10)

struct push {
	const char *path;
	int fd;
	int flags;              /* of the fd before the loop made it non-blocking */
	struct rpc_call *call;
	uv_poll_t *poll;        /* NULL: the fd cannot be polled */
	bool ended;             /* all of it is queued */
	uint8_t *chunk;
	uint64_t sent, total;
	struct progress progress;
	struct error error;
};

static void fail(struct push *p, int errnum)
{
	p->ended = true;
	error_errno(&p->error, errnum, "cannot read %s", p->path);
	rpc_call_cancel(p->call);
}

static void send_chunk(struct push *p, size_t len)
{
	Capsule__V1__ImagePushRequest request = CAPSULE__V1__IMAGE_PUSH_REQUEST__INIT;

	request.msg_case = CAPSULE__V1__IMAGE_PUSH_REQUEST__MSG_CHUNK;
	request.chunk.data = p->chunk;
	request.chunk.len = len;
	rpc_call_send(p->call, &request.base);
	p->sent += len;
	progress_bytes(&p->progress, NULL, p->sent, p->total);
}

/* Sends the next chunk. False when there is none: the end, an error, or nothing to read yet. */
static bool read_chunk(struct push *p)
{
	ssize_t n;

	do
		n = read(p->fd, p->chunk, CHUNK);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		send_chunk(p, (size_t)n);
		return true;
	}
	if (n < 0 && errno == EAGAIN && p->poll)
		return false;
	if (n < 0) {
		fail(p, errno);
		return false;
	}
	p->ended = true;
	rpc_call_half_close(p->call);
	progress_text(&p->progress, "all is sent; the daemon is at work on it");
	return false;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct push *p = poll->data;

	if (status < 0)
		fail(p, -status);
	else
		read_chunk(p);
	/* Without room, or with nothing more to come, there is nothing to wait for. The call may be over already. */
	if (p->poll && (p->ended || !rpc_call_writable(p->call)))
		uv_poll_stop(poll);
}

static void push_writable(struct rpc_call *call, void *arg)
{
	struct push *p = arg;

	if (p->poll) {
		if (!p->ended)
			uv_poll_start(p->poll, UV_READABLE, on_readable);
		return;
	}
	while (!p->ended && rpc_call_writable(call) && read_chunk(p))
		;
}

/* What epoll does not take, files and /dev/null, never blocks for long and is read without. */
static void start_polling(struct push *p, uv_loop_t *loop)
{
	uv_poll_t *poll = malloc(sizeof *poll);

	p->flags = fcntl(p->fd, F_GETFL);
	if (!poll || uv_poll_init(loop, poll, p->fd) < 0) {
		free(poll);
		return;
	}
	poll->data = p;
	p->poll = poll;
	/* A pipe's default of 64 KiB makes every chunk small; where more is not allowed, so be it. */
	fcntl(p->fd, F_SETPIPE_SZ, (int)(2 * CHUNK));
}

static void push_start(struct rpc_call *call, uv_loop_t *loop, void *arg)
{
	Capsule__V1__ImagePushRequest request = CAPSULE__V1__IMAGE_PUSH_REQUEST__INIT;
	Capsule__V1__ImagePushMetadata metadata = CAPSULE__V1__IMAGE_PUSH_METADATA__INIT;
	struct push *p = arg;

	p->call = call;
	metadata.total_bytes = p->total;
	request.msg_case = CAPSULE__V1__IMAGE_PUSH_REQUEST__MSG_METADATA;
	request.metadata = &metadata;
	rpc_call_send(call, &request.base);
	start_polling(p, loop);
	push_writable(call, p);
}

static void free_poll(uv_handle_t *poll)
{
	free(poll);
}

static void push_stop(void *arg, struct error *err)
{
	struct push *p = arg;

	p->ended = true;
	if (p->poll) {
		uv_close((uv_handle_t *)steal_ptr(&p->poll), free_poll);
		/* Others may share the description: standard input is not ours. */
		fcntl(p->fd, F_SETFL, p->flags);
	}
	progress_clear(&p->progress);
	if (p->error.message)
		error_move(err, &p->error);
}

static int push_open(struct push *p, struct error *err)
{
	struct stat st;

	if (strcmp(p->path, "-") == 0) {
		p->path = "standard input";
		p->fd = dup(STDIN_FILENO);
		if (p->fd >= 0 && isatty(p->fd))
			return cli_usage(err, "standard input is a terminal; pipe an archive into it or name a file");
	} else {
		p->fd = open(p->path, O_RDONLY | O_CLOEXEC);
	}
	if (p->fd < 0 || fstat(p->fd, &st) < 0)
		return error_errno(err, errno, "cannot open %s", p->path);
	if (S_ISDIR(st.st_mode))
		return error_set(err, ERR_INVALID_ARGUMENT, "%s is a directory, not an archive", p->path);
	if (S_ISREG(st.st_mode)) {
		off_t at = lseek(p->fd, 0, SEEK_CUR);

		p->total = st.st_size > at && at >= 0 ? (uint64_t)(st.st_size - at) : 0;
		posix_fadvise(p->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	}
	return 0;
}

int push_archive(struct cli *cli, const char *path, Capsule__V1__ImagePushResponse **ret_reply, struct error *err)
{
	struct push p = { .path = path, .fd = -1 };
	struct client_feed feed = { push_start, push_writable, push_stop, &p };
	int r = push_open(&p, err);

	if (r == 0) {
		p.chunk = malloc(CHUNK);
		if (!p.chunk)
			r = error_errno(err, ENOMEM, "cannot send %s", p.path);
	}
	if (r == 0) {
		progress_init(&p.progress);
		r = client_upload(cli, &image_push, &feed, ret_reply, err);
	}
	cleanup_closep(&p.fd);
	free(p.chunk);
	return r;
}
