/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A descriptor whose bytes feed a call, as fast as the call takes them.
 *
 * A regular file is read where the call has room: the kernel reads ahead of us, so it does not block for long. A pipe or a
 * terminal may block for as long as its writer likes, and meanwhile the daemon may end the call: it is read when the loop
 * finds it readable.
 */
#ifndef CAPSULE_CAPSULECTL_INPUT_H
#define CAPSULE_CAPSULECTL_INPUT_H

#include "rpc/rpc.h"

#include <uv.h>

/* Below the size (128 KiB) from which malloc() takes fresh memory of the kernel for each piece: the daemon keeps a few copies of
 * every chunk for a moment. */
#define INPUT_CHUNK (64u << 10)

struct input {
	/* Sends a chunk; says that there is no more (and what then is to be said to the call). */
	void (*data)(const uint8_t *data, size_t len, void *arg);
	void (*end)(void *arg);
	void *arg;
	const char *name; /* for the error */
	int fd;           /* the caller's */

	/* Private. */
	struct rpc_call *call;
	struct error error;
	uv_poll_t *poll; /* NULL: the fd cannot be polled */
	uint8_t *chunk;
	int flags;       /* of the fd before the loop made it non-blocking */
	bool ended;
};

/* Standard input as a descriptor of our own: what the loop does to it is not seen by others who share a pipe or a terminal,
 * where the kernel allows that. -1 with errno. */
int input_standard(void);

/* Begins to read. 0, or -1 without memory. */
int input_start(struct input *in, uv_loop_t *loop, struct rpc_call *call, struct error *err);

/* The call has room again. */
void input_writable(struct input *in);

/* The call has ended. Fails with err where reading failed, which had cancelled the call. */
void input_stop(struct input *in, struct error *err);

#endif
