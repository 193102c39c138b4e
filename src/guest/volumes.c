/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Tells of volumes whose file system has met an error (volume/error_watch.h). */
#include "guest/guest.h"

#include "base/fs.h"
#include "guest/protocol.h"
#include "volume/error_watch.h"

#include <stdio.h>

static void on_closed(uv_handle_t *handle)
{
	struct watched_volume *v = handle->data;

	close(steal_fd(&v->fd));
}

static void end_watch(struct watched_volume *v)
{
	if (v->fd >= 0 && !uv_is_closing((uv_handle_t *)&v->poll))
		uv_close((uv_handle_t *)&v->poll, on_closed);
}

static void on_error(uv_poll_t *poll, int status, int events)
{
	struct watched_volume *v = poll->data;

	end_watch(v);
	payload_tell_volume_failed(&v->guest->payload, v->name);
}

static void watch(struct watched_volume *v)
{
	_cleanup_free_ char *path = fs_path(GUEST_VOLUMES "/%s", v->name);

	if (!path)
		guest_die("out of memory");
	v->fd = error_watch_open(path);
	if (v->fd < 0)
		return;
	if (uv_poll_init(&v->guest->loop, &v->poll, v->fd) < 0)
		guest_die("cannot watch a volume");
	v->poll.data = v;
	uv_poll_start(&v->poll, UV_READABLE, on_error);
}

void volumes_note(struct guest *g, const Capsule__Guest__V1__RunRequest *request)
{
	for (size_t i = 0; i < request->n_volumes && g->n_volumes < SHIM_VOLUMES_MAX; i++) {
		struct watched_volume *v = &g->volumes[g->n_volumes];

		if (request->volumes[i]->read_only)
			continue;
		v->guest = g;
		v->fd = -1;
		snprintf(v->name, sizeof v->name, "%s", request->volumes[i]->name);
		g->n_volumes++;
	}
}

void volumes_watch(struct guest *g)
{
	for (size_t i = 0; i < g->n_volumes; i++)
		watch(&g->volumes[i]);
}

void volumes_end(struct guest *g)
{
	for (size_t i = 0; i < g->n_volumes; i++)
		end_watch(&g->volumes[i]);
}
