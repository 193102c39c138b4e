/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

#include "capsulectl/upload.h"

#include "capsulectl/input.h"
#include "capsulectl/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

struct sending {
	const struct upload *upload;
	const char *path;
	int fd;
	struct rpc_call *call;
	struct input input;
	uint64_t sent, total;
	struct progress progress;
	struct error error; /* of the start */
};

static void send_data(const uint8_t *data, size_t len, void *arg)
{
	struct sending *s = arg;

	s->upload->chunk(s->call, data, len);
	s->sent += len;
	progress_bytes(&s->progress, NULL, s->sent, s->total);
}

static void send_end(void *arg)
{
	struct sending *s = arg;

	rpc_call_half_close(s->call);
	progress_text(&s->progress, "all is sent; the daemon is at work on it");
}

static void writable(struct rpc_call *call, void *arg)
{
	struct sending *s = arg;

	input_writable(&s->input);
}

static void start(struct rpc_call *call, uv_loop_t *loop, void *arg)
{
	struct sending *s = arg;

	s->call = call;
	s->upload->first(call, s->total, s->upload->arg);
	s->input = (struct input){ .data = send_data, .end = send_end, .arg = s, .name = s->path, .fd = s->fd };
	if (input_start(&s->input, loop, call, &s->error) < 0)
		rpc_call_cancel(call);
}

static void stop(void *arg, struct error *err)
{
	struct sending *s = arg;

	progress_clear(&s->progress);
	if (s->error.message)
		error_move(err, &s->error);
	input_stop(&s->input, err);
}

static int open_input(struct sending *s, struct error *err)
{
	struct stat st;

	if (strcmp(s->path, "-") == 0) {
		s->path = "standard input";
		s->fd = input_standard();
		if (s->fd >= 0 && isatty(s->fd))
			return cli_usage(err, "standard input is a terminal; pipe %s into it or name a file",
					 s->upload->what);
	} else {
		s->fd = open(s->path, O_RDONLY | O_CLOEXEC);
	}
	if (s->fd < 0 || fstat(s->fd, &st) < 0)
		return error_errno(err, errno, "cannot open %s", s->path);
	if (S_ISDIR(st.st_mode))
		return error_set(err, ERR_INVALID_ARGUMENT, "%s is a directory, not %s", s->path,
				 s->upload->what);
	if (S_ISREG(st.st_mode)) {
		off_t at = lseek(s->fd, 0, SEEK_CUR);

		s->total = st.st_size > at && at >= 0 ? (uint64_t)(st.st_size - at) : 0;
		posix_fadvise(s->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	}
	return 0;
}

int upload_file(struct cli *cli, const struct upload *upload, const char *path, void *ret_reply, struct error *err)
{
	struct sending s = { .upload = upload, .path = path, .fd = -1 };
	struct client_feed feed = { start, writable, stop, &s };
	int r = open_input(&s, err);

	if (r == 0) {
		progress_init(&s.progress);
		r = client_upload(cli, upload->method, &feed, ret_reply, err);
	}
	cleanup_closep(&s.fd);
	return r;
}
