/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "reconcile/internal.h"

#include "base/log.h"
#include "image/reference.h"
#include "manifest/manifest.h"

#include <string.h>
#include <utlist.h>

int reconciler_new(const struct reconciler_host *host, struct reconciler **ret, struct error *err)
{
	struct reconciler *r = calloc(1, sizeof *r);

	if (!r)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	r->host = *host;
	bridge_init(r);
	storage_init(r);
	*ret = r;
	return 0;
}

/* ---- what was removed ---- */

static void forget_removed(struct reconciler *r)
{
	struct removed *removed, *next;

	HASH_ITER(hh, r->removed, removed, next) {
		HASH_DEL(r->removed, removed);
		free(removed);
	}
}

void reconciler_note_removed(struct reconciler *r, const char *name, uint64_t revision)
{
	struct removed *removed;

	if (task_runner_active(r->host.tasks) == 0) {
		forget_removed(r);
		return;
	}
	HASH_FIND_STR(r->removed, name, removed);
	if (!removed) {
		removed = calloc(1, sizeof *removed);
		if (!removed)
			abort();
		snprintf(removed->name, sizeof removed->name, "%s", name);
		HASH_ADD_STR(r->removed, name, removed);
	}
	removed->revision = revision;
}

static bool is_of_the_past(struct reconciler *r, const struct workload *w, const struct store_workload *record)
{
	struct removed *removed;

	if (w)
		return record->revision < w->record.revision;
	HASH_FIND_STR(r->removed, record->spec->name, removed);
	return removed && record->revision <= removed->revision;
}

/* ---- life ---- */

void reconciler_free(struct reconciler *r)
{
	struct workload *w, *next;

	if (!r)
		return;
	HASH_ITER(hh, r->workloads, w, next)
		workload_free(w);
	/* Closed timers still call back into the workloads' owner. */
	while (r->closing)
		uv_run(r->host.loop, UV_RUN_ONCE);
	forget_removed(r);
	storage_release(r);
	bridge_release(r);
	free(r);
}

void reconciler_halt(struct reconciler *r)
{
	struct workload *w, *next;

	r->halted = true;
	r->host.container->ops->leave(r->host.container);
	r->host.micro_vm->ops->leave(r->host.micro_vm);
	HASH_ITER(hh, r->workloads, w, next) {
		health_end(w);
		ephemeral_end(w);
	}
}

static struct workload *find(struct reconciler *r, const char *name)
{
	struct workload *w;

	HASH_FIND_STR(r->workloads, name, w);
	return w;
}

/* What the new record asks for, against the present one. */
static void record_wish(struct workload *w, const struct store_workload *record, bool anew)
{
	Capsule__V1__DesiredState wish = record->spec->desired_state;

	if (anew)
		workload_happened(w, APPLIED, "created");
	else if (record->generation != w->record.generation)
		workload_happened(w, APPLIED, "changed");
	else if (wish != w->record.spec->desired_state)
		workload_happened(w, APPLIED, "%s",
				  wish == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_STOPPED ? "to be stopped" :
				  wish == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING ? "to be deleted" : "to run");
	else if (record->revision != w->record.revision)
		workload_happened(w, APPLIED, "changed; the process may stay");
}

void reconciler_submit(struct reconciler *r, struct store_workload *record)
{
	struct workload *w = find(r, record->spec->name);
	bool anew = !w;

	if (is_of_the_past(r, w, record)) {
		store_workload_release(record);
		return;
	}
	if (!w)
		w = workload_new(r, record->spec->name);
	record_wish(w, record, anew);
	if (anew || record->generation != w->record.generation ||
	    record->spec->desired_state != w->record.spec->desired_state)
		workload_reset(w);
	store_workload_release(&w->record);
	w->record = *record;
	memset(record, 0, sizeof *record);
	/* The store took claims for it. */
	if (w->record.spec->desired_state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING)
		w->holds = true;
	workload_advance(w);
	workload_changed(w);
}

int reconciler_restart(struct reconciler *r, const char *name, struct error *err)
{
	struct workload *w = find(r, name);

	if (!w)
		return error_set(err, ERR_NOT_FOUND, "there is no workload %s", name);
	if (w->record.spec->desired_state != CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING)
		return error_set(err, ERR_FAILED_PRECONDITION, "workload %s is %s; start it with: capsulectl workload start %s",
				 name,
				 w->record.spec->desired_state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING ?
					 "being deleted" : "stopped",
				 name);
	workload_reset(w);
	w->restart_requested = true;
	workload_advance(w);
	workload_changed(w);
	return 0;
}

void reconciler_start(struct reconciler *r, const char *name)
{
	struct workload *w = find(r, name);

	if (!w || !(w->completed || w->state == STATE_WAITING))
		return;
	workload_reset(w);
	workload_advance(w);
	workload_changed(w);
}

static bool names_image(const struct workload *w, const char *reference)
{
	_cleanup_free_ char *full = NULL;

	return reference_normalize(spec_image(w->record.spec), &full, NULL) == 0 && !strcmp(full, reference);
}

void reconciler_image_arrived(struct reconciler *r, const char *reference)
{
	struct workload *w, *next;

	HASH_ITER(hh, r->workloads, w, next)
		if ((w->state == STATE_PULLING || (w->state == STATE_WAITING && w->failed)) && names_image(w, reference)) {
			workload_reset(w);
			workload_advance(w);
			workload_changed(w);
		}
}

/* ---- reading ---- */

Capsule__V1__Workload *reconciler_get(struct reconciler *r, const char *name)
{
	struct workload *w = find(r, name);
	struct status_view view;

	if (!w)
		return NULL;
	status_fill(w, &view);
	return (Capsule__V1__Workload *)message_copy(&view.workload.base);
}

struct driver *reconciler_running(struct reconciler *r, const char *name, pid_t *ret_pid, struct error *err)
{
	struct workload *w = find(r, name);
	struct status_view view;

	if (!w) {
		error_set(err, ERR_NOT_FOUND, "there is no workload %s", name);
		return NULL;
	}
	if (w->state != STATE_RUNNING) {
		status_fill(w, &view);
		error_set(err, ERR_FAILED_PRECONDITION, "workload %s is not running%s%s%s", name, *view.message ? " (" : "",
			  view.message, *view.message ? ")" : "");
		return NULL;
	}
	*ret_pid = w->pid;
	return driver_of(&r->host, w->record.spec);
}

static int by_name(const struct workload *a, const struct workload *b)
{
	return strcmp(a->name, b->name);
}

void reconciler_each(struct reconciler *r, void (*fn)(const Capsule__V1__Workload *workload, void *arg), void *arg)
{
	struct workload *w, *next;

	HASH_SORT(r->workloads, by_name);
	HASH_ITER(hh, r->workloads, w, next) {
		struct status_view view;

		status_fill(w, &view);
		fn(&view.workload, arg);
	}
}

bool reconciler_is_down(struct reconciler *r, const char *name)
{
	struct workload *w = find(r, name);

	return !w || (!w->holds && (w->state == STATE_DOWN || w->state == STATE_WAITING));
}

bool reconciler_is_wanted(struct reconciler *r, const char *name)
{
	struct workload *w = find(r, name);

	return w && w->record.spec->desired_state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING;
}

const char *reconciler_image_user(struct reconciler *r, const char *reference)
{
	struct workload *w, *next;

	HASH_ITER(hh, r->workloads, w, next)
		if (names_image(w, reference))
			return w->name;
	return NULL;
}

static void add_layers(char **list, size_t *n, const char *const *layers, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		list[*n] = strdup(layers[i]);
		if (list[*n])
			(*n)++;
	}
}

int reconciler_layers_in_use(struct reconciler *r, char ***ret, size_t *ret_n)
{
	struct workload *w, *next;
	size_t n = 0, max = 0;
	char **layers;

	HASH_ITER(hh, r->workloads, w, next)
		max += w->n_layers + access_layers(w, NULL, 0);
	layers = calloc(max ? max : 1, sizeof *layers);
	if (!layers)
		return -1;
	HASH_ITER(hh, r->workloads, w, next) {
		const char *accessed[SHIM_LAYERS_MAX];

		add_layers(layers, &n, (const char *const *)w->layers, w->n_layers);
		add_layers(layers, &n, accessed, access_layers(w, accessed, SHIM_LAYERS_MAX));
	}
	*ret = layers;
	*ret_n = n;
	return 0;
}

size_t reconciler_count(struct reconciler *r)
{
	return HASH_COUNT(r->workloads);
}

/* ---- watching ---- */

void reconciler_watch_add(struct reconciler *r, struct reconciler_watch *watch)
{
	DL_APPEND(r->watches, watch);
}

void reconciler_watch_remove(struct reconciler *r, struct reconciler_watch *watch)
{
	if (r->watch_cursor == watch)
		r->watch_cursor = watch->next;
	DL_DELETE(r->watches, watch);
}
