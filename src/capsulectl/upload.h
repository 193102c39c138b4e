/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* A call that sends what can be read from a file or a pipe, with the progress on a terminal. */
#ifndef CAPSULE_CAPSULECTL_UPLOAD_H
#define CAPSULE_CAPSULECTL_UPLOAD_H

#include "capsulectl/client.h"

struct upload {
	const struct method *method;
	int fd;
	const char *name;   /* of what is read, for messages */
	uint64_t total;     /* bytes; 0: not known */
	/* Sends the message that comes before the bytes. */
	void (*begin)(struct rpc_call *call, const struct upload *upload);
	/* Sends some of the bytes. */
	void (*send)(struct rpc_call *call, uint8_t *data, size_t len);
	/* At the end of the bytes: 0, or -1 if they are not all there should be; then the call is cancelled. err may be left
	 * unset if the user has been told. NULL: they always are. */
	int (*finish)(void *arg, struct error *err);
	void *arg;
};

int upload_run(struct cli *cli, const struct upload *upload, void *ret_reply, struct error *err);

#endif
