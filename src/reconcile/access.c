/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "reconcile/access.h"

#include "reconcile/internal.h"
#include "reconcile/volumes.h"

#include <string.h>
#include <utlist.h>

struct reconciler_access {
	struct workload *w; /* NULL: the reconciler is gone */
	const struct reconciler_host *host;
	struct access_callbacks callbacks;
	struct store_workload record;
	bool waiting;       /* in turn; nothing has begun */
	bool preparing;     /* the task is under way; what follows belongs to it */
	pid_t pid;          /* 0: the workload does not run */
	bool ended, revoked;
	struct error err;
	struct driver_root root;
	struct volumes volumes;
	struct reconciler_access *prev, *next;
};

static void access_free(struct reconciler_access *a)
{
	struct workload *w = a->w;

	driver_root_release(&a->root);
	volumes_release(&a->volumes);
	store_workload_release(&a->record);
	error_release(&a->err);
	if (w)
		DL_DELETE(w->accesses, a);
	free(a);
	if (!w)
		return;
	workload_advance(w);
	workload_changed(w);
}

static int prepare(struct reconciler_access *a)
{
	struct driver *driver = driver_of(a->host, a->record.spec);
	Capsule__V1__VolumeMount **mounts;

	if (driver->ops->root(driver, a->record.spec->name, a->pid, a->record.generation, &a->root, &a->err) < 0)
		return -1;
	if (a->pid || spec_mounts(a->record.spec, &mounts) == 0)
		return 0;
	if (store_claim_at_rest(a->host->store, a->record.spec->name, &a->err) < 0)
		return -1;
	return volumes_attach(a->host, a->record.spec, &a->volumes, &a->err);
}

static void prepare_work(void *arg)
{
	(void)prepare(arg);
}

static void prepare_done(void *arg)
{
	struct reconciler_access *a = arg;
	const struct access_place place = { &a->root, a->volumes.items, a->volumes.n };

	a->preparing = false;
	/* The claim of a workload at rest gives up what a former run had. */
	if (a->w && !a->pid)
		reconciler_port_freed(a->w->owner);
	if (a->ended)
		access_free(a);
	else if (a->err.code != ERR_OK)
		a->callbacks.ready(NULL, &a->err, a->callbacks.arg);
	else
		a->callbacks.ready(&place, NULL, a->callbacks.arg);
}

static void start(struct reconciler_access *a)
{
	struct workload *w = a->w;

	a->waiting = false;
	a->preparing = true;
	a->pid = w->state == STATE_RUNNING ? w->pid : 0;
	record_copy(&w->record, &a->record);
	/* Claims are taken for it. */
	if (!a->pid)
		w->holds = true;
	task_start(a->host->tasks, prepare_work, prepare_done, a);
}

struct reconciler_access *reconciler_access_begin(struct reconciler *r, const char *name,
						  const struct access_callbacks *callbacks, struct error *err)
{
	struct reconciler_access *a;
	struct workload *w;

	HASH_FIND_STR(r->workloads, name, w);
	if (!w) {
		error_set(err, ERR_NOT_FOUND, "there is no workload %s", name);
		return NULL;
	}
	if (w->record.spec->desired_state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING) {
		error_set(err, ERR_FAILED_PRECONDITION, "workload %s is being deleted", w->name);
		return NULL;
	}
	a = calloc(1, sizeof *a);
	if (!a)
		abort();
	a->w = w;
	a->host = &r->host;
	a->callbacks = *callbacks;
	a->root = DRIVER_ROOT_NONE;
	a->waiting = true;
	DL_APPEND(w->accesses, a);
	access_admit(w);
	return a;
}

void reconciler_access_end(struct reconciler_access *a)
{
	a->ended = true;
	if (!a->preparing)
		access_free(a);
}

/* ---- for the machine ---- */

bool access_is_active(const struct workload *w)
{
	const struct reconciler_access *a;

	DL_FOREACH(w->accesses, a)
		if (!a->waiting)
			return true;
	return false;
}

void access_admit(struct workload *w)
{
	struct reconciler_access *a;

	switch (w->state) {
	case STATE_RUNNING:
		DL_FOREACH(w->accesses, a)
			if (a->waiting)
				start(a);
		break;
	case STATE_DOWN:
	case STATE_WAITING:
	case STATE_PULLING:
		/* What is to be cleaned up may use its files yet. */
		if (w->accesses && !w->clean_due && !access_is_active(w))
			start(w->accesses);
		break;
	default:
		break;
	}
}

static struct reconciler_access *first_to_revoke(struct workload *w, bool waiting_too)
{
	struct reconciler_access *a;

	DL_FOREACH(w->accesses, a)
		if (!a->ended && !a->revoked && (waiting_too || !a->waiting))
			return a;
	return NULL;
}

void access_revoke(struct workload *w, bool waiting_too)
{
	struct reconciler_access *a;

	/* The end of one may lead back here. */
	while ((a = first_to_revoke(w, waiting_too))) {
		a->revoked = true;
		a->callbacks.revoked(a->callbacks.arg);
	}
}

void access_orphan(struct workload *w)
{
	struct reconciler_access *a;

	DL_FOREACH(w->accesses, a)
		a->w = NULL;
}

size_t access_layers(const struct workload *w, const char **layers, size_t max)
{
	const struct reconciler_access *a;
	size_t n = 0;

	DL_FOREACH(w->accesses, a)
		for (size_t i = 0; !a->waiting && !a->preparing && i < a->root.n_layers; i++, n++)
			if (n < max)
				layers[n] = a->root.layers[i];
	return n;
}
