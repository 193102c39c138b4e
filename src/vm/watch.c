/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/watch.h"

#include <fcntl.h>
#include <unistd.h>

struct watch {
	uv_poll_t poll;
	int fd;
	int events;
	watch_fn fn;
	void *arg;
};

struct watch *watch_new(uv_loop_t *loop, int fd, watch_fn fn, void *arg)
{
	struct watch *w = calloc(1, sizeof *w);
	int flags = fcntl(fd, F_GETFL);

	if (!w || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || uv_poll_init(loop, &w->poll, fd) < 0) {
		free(w);
		close(fd);
		return NULL;
	}
	w->poll.data = w;
	w->fd = fd;
	w->fn = fn;
	w->arg = arg;
	return w;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct watch *w = poll->data;

	/* libuv stops on an error. */
	if (status < 0) {
		events = w->events;
		w->events = 0;
	}
	w->fn(w->fd, events, w->arg);
}

void watch_set(struct watch *w, int events)
{
	if (w->events == events)
		return;
	w->events = events;
	if (events)
		uv_poll_start(&w->poll, events, on_poll);
	else
		uv_poll_stop(&w->poll);
}

int watch_fd(const struct watch *w)
{
	return w->fd;
}

/* libuv lets go of a descriptor before it is closed. */
static void on_closed(uv_handle_t *handle)
{
	struct watch *w = handle->data;

	close(w->fd);
	free(w);
}

void watch_close(struct watch *w)
{
	if (w)
		uv_close((uv_handle_t *)&w->poll, on_closed);
}
