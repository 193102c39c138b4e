/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/push.h"

#include "capsulectl/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

static void begin(struct rpc_call *call, const struct upload *upload)
{
	Capsule__V1__ImagePushRequest request = CAPSULE__V1__IMAGE_PUSH_REQUEST__INIT;
	Capsule__V1__ImagePushMetadata metadata = CAPSULE__V1__IMAGE_PUSH_METADATA__INIT;

	metadata.total_bytes = upload->total;
	request.msg_case = CAPSULE__V1__IMAGE_PUSH_REQUEST__MSG_METADATA;
	request.metadata = &metadata;
	rpc_call_send(call, &request.base);
}

static void send_chunk(struct rpc_call *call, uint8_t *data, size_t len)
{
	Capsule__V1__ImagePushRequest request = CAPSULE__V1__IMAGE_PUSH_REQUEST__INIT;

	request.msg_case = CAPSULE__V1__IMAGE_PUSH_REQUEST__MSG_CHUNK;
	request.chunk.data = data;
	request.chunk.len = len;
	rpc_call_send(call, &request.base);
}

static int open_archive(struct upload *u, const char *path, struct error *err)
{
	struct stat st;

	if (strcmp(path, "-") == 0) {
		u->name = "standard input";
		u->fd = dup(STDIN_FILENO);
		if (u->fd >= 0 && isatty(u->fd))
			return cli_usage(err, "standard input is a terminal; pipe an archive into it or name a file");
	} else {
		u->fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (u->fd < 0 || fstat(u->fd, &st) < 0)
		return error_errno(err, errno, "cannot open %s", u->name);
	if (S_ISDIR(st.st_mode))
		return error_set(err, ERR_INVALID_ARGUMENT, "%s is a directory, not an archive", u->name);
	if (S_ISREG(st.st_mode)) {
		off_t at = lseek(u->fd, 0, SEEK_CUR);

		u->total = st.st_size > at && at >= 0 ? (uint64_t)(st.st_size - at) : 0;
		posix_fadvise(u->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	}
	return 0;
}

int push_archive(struct cli *cli, const char *path, Capsule__V1__ImagePushResponse **ret_reply, struct error *err)
{
	struct upload upload = { .method = &image_push, .fd = -1, .name = path, .begin = begin, .send = send_chunk };
	int r = open_archive(&upload, path, err);

	if (r == 0)
		r = upload_run(cli, &upload, ret_reply, err);
	cleanup_closep(&upload.fd);
	return r;
}
