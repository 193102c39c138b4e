/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Workloads that somebody made for the time of a call, like the container of `capsulectl capsule debug`. Whoever made one
 * may be killed at any moment, and so may the daemon; so it is not the maker that lets it go, but time: when it is on its way
 * to nothing that is wanted and no process is run in it, it is deleted after a while.
 */
#include "reconcile/internal.h"

#include "base/log.h"

#include <string.h>
#include <utlist.h>

/* From the start of the workload to the first process in it, and from one to the next. */
#define UNUSED_MS 10000

struct ephemeral {
	struct workload *workload;
	uv_timer_t timer;
};

/* ---- the deletion ---- */

struct deletion {
	struct reconciler *reconciler;
	struct store *store;
	char name[64];
	struct store_workload record;
	struct error err;
};

static void delete_work(void *arg)
{
	struct deletion *d = arg;

	(void)store_set_desired(d->store, d->name, CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING, &d->record, &d->err);
}

static void delete_done(void *arg)
{
	struct deletion *d = arg;

	if (d->err.code == ERR_OK)
		reconciler_submit(d->reconciler, &d->record);
	else if (d->err.code != ERR_NOT_FOUND)
		log_warn("workload %s: cannot delete it: %s", d->name, error_message(&d->err));
	error_release(&d->err);
	free(d);
}

static void on_unused(uv_timer_t *timer)
{
	struct ephemeral *e = timer->data;
	struct reconciler *r = e->workload->owner;
	struct deletion *d = calloc(1, sizeof *d);

	if (!d)
		abort();
	log_info("workload %s: nobody uses it any more; deleting it", e->workload->name);
	d->reconciler = r;
	d->store = r->host.store;
	snprintf(d->name, sizeof d->name, "%s", e->workload->name);
	task_start(r->host.tasks, delete_work, delete_done, d);
}

/* ---- life ---- */

static void on_timer_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void ephemeral_begin(struct workload *w)
{
	struct ephemeral *e = calloc(1, sizeof *e);

	if (!e)
		abort();
	e->workload = w;
	uv_timer_init(w->owner->host.loop, &e->timer);
	e->timer.data = e;
	uv_update_time(w->owner->host.loop);
	/* Again and again, as a deletion may fail. */
	uv_timer_start(&e->timer, on_unused, UNUSED_MS, UNUSED_MS);
	w->ephemeral = e;
}

void ephemeral_end(struct workload *w)
{
	struct ephemeral *e = steal_ptr(&w->ephemeral);

	if (e)
		uv_close((uv_handle_t *)&e->timer, on_timer_closed);
}

/* One that is on its way to run may have a long pull before it. */
static bool is_unused(const struct workload *w)
{
	const Capsule__V1__Workload *spec = w->record.spec;

	return spec->ephemeral && !w->holds_of_calls &&
	       spec->desired_state != CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING &&
	       (w->state == STATE_RUNNING || !workload_wants_run(w));
}

void ephemeral_follow(struct workload *w)
{
	if (!is_unused(w))
		ephemeral_end(w);
	else if (!w->ephemeral)
		ephemeral_begin(w);
}

/* ---- holds ---- */

void reconciler_hold(struct reconciler *r, const char *name, struct reconciler_hold *hold)
{
	HASH_FIND_STR(r->workloads, name, hold->workload);
	if (!hold->workload)
		return;
	DL_APPEND(hold->workload->holds_of_calls, hold);
	ephemeral_follow(hold->workload);
}

void reconciler_let_go(struct reconciler_hold *hold)
{
	struct workload *w = hold->workload;

	if (!w)
		return;
	hold->workload = NULL;
	DL_DELETE(w->holds_of_calls, hold);
	if (!w->owner->halted)
		ephemeral_follow(w);
}

void ephemeral_orphan(struct workload *w)
{
	struct reconciler_hold *hold;

	ephemeral_end(w);
	DL_FOREACH(w->holds_of_calls, hold)
		hold->workload = NULL;
}
