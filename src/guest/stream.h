/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The byte stream to the host: a connection to its vsock port GUEST_VSOCK_PORT, where it listens before the guest boots, or
 * else the virtio-serial port GUEST_PORT_NAME. There is one in the life of a guest.
 *
 * Threads: the loop's. Nothing is polled: the kernel tells of a port that appears, and of a host at its other end.
 */
#ifndef CAPSULE_GUEST_STREAM_H
#define CAPSULE_GUEST_STREAM_H

#include "base/error.h"

#include <uv.h>

/* The connected descriptor is the callee's. */
typedef void (*stream_found_fn)(int fd, void *arg);

struct stream {
	uv_loop_t *loop;
	stream_found_fn found;
	void *arg;
	int uevent_fd, port_fd, port_epoll_fd; /* -1: closed */
	uv_poll_t uevents, port;
};

/* The stream may be found before it returns. */
int stream_open(struct stream *s, uv_loop_t *loop, stream_found_fn found, void *arg, struct error *err);

#endif
