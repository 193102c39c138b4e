/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/shim_client.h"

#include <errno.h>

struct shim_client {
	uv_poll_t poll;
	int fd;
	void (*on_exit)(const struct shim_exit *exit, void *arg); /* NULL once it was called, or after the free */
	void (*on_volume)(const char *volume, void *arg); /* these two NULL: nobody asks */
	void (*on_ending)(void *arg);
	void *arg;
};

static void on_closed(uv_handle_t *handle)
{
	struct shim_client *c = handle->data;

	close(c->fd);
	free(c);
}

static void report(struct shim_client *c, const struct shim_exit *exit)
{
	void (*on_exit)(const struct shim_exit *, void *) = c->on_exit;

	uv_poll_stop(&c->poll);
	c->on_exit = NULL;
	if (on_exit)
		on_exit(exit, c->arg);
}

static void on_readable(uv_poll_t *handle, int status, int events)
{
	struct shim_client *c = handle->data;
	struct shim_exit exit = { .known = false, .exit_code = 255 };
	struct shim_message m;
	int r;

	/* Until the socket is empty or the client is gone, which happens in the callback at the latest. */
	for (;;) {
		r = status < 0 ? status : shim_receive(c->fd, &m);
		if (r == -EAGAIN)
			return;
		if (r <= 0)
			break;
		if (m.type == SHIM_EXIT) {
			const struct shim_result *result = &m.body.result;

			exit = (struct shim_exit){
				.known = true, .exit_code = result->exit_code, .oom_killed = result->oom_killed,
				.stopped = result->stopped, .finished_at_ns = result->finished_at_ns,
			};
			snprintf(exit.reason, sizeof exit.reason, "%s", result->reason);
			break;
		}
		if (m.type == SHIM_VOLUME_FAILED && c->on_volume)
			c->on_volume(m.body.volume_failed.volume, c->arg);
		else if (m.type == SHIM_ENDING && c->on_ending)
			c->on_ending(c->arg);
		/* What a newer shim has to say that this daemon does not know is passed over. */
	}
	report(c, &exit);
}

struct shim_client *shim_client_new(uv_loop_t *loop, int fd, void (*on_exit)(const struct shim_exit *exit, void *arg),
				    void *arg)
{
	struct shim_client *c = calloc(1, sizeof *c);

	if (!c)
		goto fail;
	c->fd = fd;
	c->on_exit = on_exit;
	c->arg = arg;
	c->poll.data = c;
	if (uv_poll_init(loop, &c->poll, fd) < 0)
		goto fail;
	if (uv_poll_start(&c->poll, UV_READABLE, on_readable) < 0) {
		uv_close((uv_handle_t *)&c->poll, on_closed);
		return NULL;
	}
	return c;
fail:
	free(c);
	close(fd);
	return NULL;
}

void shim_client_watch(struct shim_client *c, void (*on_volume)(const char *volume, void *arg), void (*on_ending)(void *arg))
{
	c->on_volume = on_volume;
	c->on_ending = on_ending;
}

void shim_client_free(struct shim_client *c)
{
	if (!c)
		return;
	c->on_exit = NULL;
	uv_poll_stop(&c->poll);
	uv_close((uv_handle_t *)&c->poll, on_closed);
}

int shim_client_stop(struct shim_client *c, int signal, int64_t grace_ms, struct error *err)
{
	struct shim_stop stop = { .grace_ms = grace_ms, .signal = signal };
	int r = shim_send(c->fd, SHIM_STOP, &stop, sizeof stop);

	/* A shim that is gone has said so, or the loop is about to see it: nothing is left to stop. */
	if (r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN)
		return 0;
	return r < 0 ? error_errno(err, -r, "cannot ask the shim to stop the workload") : 0;
}
