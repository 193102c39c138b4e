/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

#include "capsulectl/push.h"

#include "capsulectl/client.h"
#include "capsulectl/input.h"
#include "capsulectl/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

struct push {
	const char *path;
	int fd;
	struct rpc_call *call;
	struct input input;
	uint64_t sent, total;
	struct progress progress;
	struct error error; /* of the start */
};

static void push_data(const uint8_t *data, size_t len, void *arg)
{
	Capsule__V1__ImagePushRequest request = CAPSULE__V1__IMAGE_PUSH_REQUEST__INIT;
	struct push *p = arg;

	request.msg_case = CAPSULE__V1__IMAGE_PUSH_REQUEST__MSG_CHUNK;
	request.chunk.data = (uint8_t *)(uintptr_t)data;
	request.chunk.len = len;
	rpc_call_send(p->call, &request.base);
	p->sent += len;
	progress_bytes(&p->progress, NULL, p->sent, p->total);
}

static void push_end(void *arg)
{
	struct push *p = arg;

	rpc_call_half_close(p->call);
	progress_text(&p->progress, "all is sent; the daemon is at work on it");
}

static void push_writable(struct rpc_call *call, void *arg)
{
	struct push *p = arg;

	input_writable(&p->input);
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
	p->input = (struct input){ .data = push_data, .end = push_end, .arg = p, .name = p->path, .fd = p->fd };
	if (input_start(&p->input, loop, call, &p->error) < 0)
		rpc_call_cancel(call);
}

static void push_stop(void *arg, struct error *err)
{
	struct push *p = arg;

	progress_clear(&p->progress);
	if (p->error.message)
		error_move(err, &p->error);
	input_stop(&p->input, err);
}

static int push_open(struct push *p, struct error *err)
{
	struct stat st;

	if (strcmp(p->path, "-") == 0) {
		p->path = "standard input";
		p->fd = input_standard();
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
		progress_init(&p.progress);
		r = client_upload(cli, &image_push, &feed, ret_reply, err);
	}
	cleanup_closep(&p.fd);
	return r;
}
