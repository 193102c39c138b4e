/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Sends a file, or standard input ("-"), as a stream of requests, and shows how far it is. */
#ifndef CAPSULE_CAPSULECTL_UPLOAD_H
#define CAPSULE_CAPSULECTL_UPLOAD_H

#include "capsulectl/cli.h"
#include "capsulectl/client.h"

struct upload {
	const struct method *method;
	const char *what; /* "an archive", for messages */
	/* Sends the request that comes first; total 0: unknown. */
	void (*first)(struct rpc_call *call, uint64_t total, void *arg);
	void (*chunk)(struct rpc_call *call, const uint8_t *data, size_t len);
	void *arg;
};

/* ret_reply as for client_call(). */
int upload_file(struct cli *cli, const struct upload *upload, const char *path, void *ret_reply, struct error *err);

#endif
