/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What is wrong with the storage that volumes share, a thin pool that gets full, stands in the status of every workload that
 * holds a volume there. It is looked at when the kernel says that something has happened to it, and when a workload with
 * volumes has started.
 */
#include "reconcile/internal.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <string.h>

#define RETRY_FIRST_MS 1000
#define RETRY_MAX_MS 30000

/* One look, as a task. */
struct storage_look {
	struct reconciler *r;
	struct volume_backend *backend;
	int events; /* borrowed */
	bool armed, ok;
	struct volume_room room;
	struct store_volume *volumes; /* all there are */
	size_t n_volumes;
};

static bool is_held_by(const struct store_volume *v, const char *backend, const char *workload)
{
	return v->claimed_by && !strcmp(v->claimed_by, workload) && !strcmp(v->backend, backend);
}

static bool holds_volume(const struct storage_look *look, const char *workload)
{
	for (size_t i = 0; i < look->n_volumes; i++)
		if (is_held_by(&look->volumes[i], look->backend->ops->name, workload))
			return true;
	return false;
}

static void look_work(void *arg)
{
	struct storage_look *look = arg;
	_cleanup_error_ struct error err = ERROR_INIT;

	look->armed = look->backend->ops->events_arm(look->events, &err) == 0;
	look->ok = look->armed && look->backend->ops->room(look->backend, &look->room, &err) == 0 &&
		   store_volume_list(look->r->host.store, &look->volumes, &look->n_volumes, &err) == 0;
	if (!look->ok)
		log_warn("%s volumes: %s", look->backend->ops->name, error_message(&err));
}

/* "" takes the warning back. */
static void note(struct workload *w, const char *warning)
{
	const char *present = w->storage_warning ? w->storage_warning : "";

	if (!strcmp(present, warning))
		return;
	free(w->storage_warning);
	w->storage_warning = *warning ? strdup(warning) : NULL;
	workload_changed(w);
}

static void tell_workloads(const struct storage_look *look)
{
	struct workload *w, *next;

	HASH_ITER(hh, look->r->workloads, w, next)
		note(w, holds_volume(look, w->name) ? look->room.warning : "");
}

static void on_retry_due(uv_timer_t *timer)
{
	storage_look(timer->data);
}

/* A look that fails has used up the event that it was for, and is taken again, at longer and longer intervals. */
static void retry_later(struct storage *storage)
{
	uint64_t ms = storage->retry_ms ? storage->retry_ms * 2 : RETRY_FIRST_MS;

	storage->retry_ms = ms > RETRY_MAX_MS ? RETRY_MAX_MS : ms;
	uv_timer_start(&storage->retry, on_retry_due, storage->retry_ms, 0);
}

/* It stays readable from an event to the beginning of the look that follows. */
static void on_event(uv_poll_t *poll, int status, int events)
{
	uv_poll_stop(poll);
	storage_look(poll->data);
}

static void look_done(void *arg)
{
	struct storage_look *look = arg;
	struct reconciler *r = look->r;

	r->storage.looking = false;
	if (look->ok) {
		tell_workloads(look);
		if (*look->room.warning && strcmp(r->storage.warning, look->room.warning) != 0)
			log_warn("%s", look->room.warning);
		snprintf(r->storage.warning, sizeof r->storage.warning, "%s", look->room.warning);
		r->storage.retry_ms = 0;
	} else if (!r->halted) {
		retry_later(&r->storage);
	}
	if (look->armed && !r->halted)
		uv_poll_start(&r->storage.poll, UV_READABLE, on_event);
	for (size_t i = 0; i < look->n_volumes; i++)
		store_volume_release(&look->volumes[i]);
	free(look->volumes);
	free(look);
	if (r->storage.again)
		storage_look(r);
}

void storage_look(struct reconciler *r)
{
	struct storage *storage = &r->storage;
	struct storage_look *look;

	if (storage->events < 0 || r->halted)
		return;
	storage->again = storage->looking;
	if (storage->looking)
		return;
	look = calloc(1, sizeof *look);
	if (!look)
		abort();
	storage->looking = true;
	uv_timer_stop(&storage->retry);
	look->r = r;
	look->backend = storage->backend;
	look->events = storage->events;
	task_start(r->host.tasks, look_work, look_done, look);
}

/* ---- its life ---- */

void storage_init(struct reconciler *r)
{
	const struct volume_backends *backends = r->host.volumes;
	_cleanup_error_ struct error err = ERROR_INIT;
	struct storage *storage = &r->storage;

	*storage = (struct storage){ .events = -1 };
	for (size_t i = 0; i < backends->n; i++)
		if (backends->items[i]->ops->events_open)
			storage->backend = backends->items[i];
	if (!storage->backend)
		return;
	storage->events = storage->backend->ops->events_open(&err);
	if (storage->events < 0) {
		log_warn("%s volumes: %s", storage->backend->ops->name, error_message(&err));
		return;
	}
	if (uv_poll_init(r->host.loop, &storage->poll, storage->events) < 0)
		abort();
	storage->poll.data = r;
	uv_unref((uv_handle_t *)&storage->poll);
	uv_timer_init(r->host.loop, &storage->retry);
	storage->retry.data = r;
	uv_unref((uv_handle_t *)&storage->retry);
}

static void on_closed(uv_handle_t *handle)
{
	struct reconciler *r = handle->data;

	close(steal_fd(&r->storage.events));
}

void storage_release(struct reconciler *r)
{
	if (r->storage.events < 0)
		return;
	uv_close((uv_handle_t *)&r->storage.retry, NULL);
	uv_close((uv_handle_t *)&r->storage.poll, on_closed);
	while (r->storage.events >= 0)
		uv_run(r->host.loop, UV_RUN_ONCE);
}
