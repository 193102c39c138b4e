/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A change of a running container's limits reaches its cgroup, and its process stays. Setting them may block, so it is a
 * task, which may be under way in any state; no step begins meanwhile, so that it meets the cgroup of this run only and
 * the workload is not freed.
 */
#include "reconcile/internal.h"

#include "base/log.h"

#include <string.h>

struct limiting {
	struct workload *w; /* for the loop's side only */
	const char *cgroup_parent;
	char name[64];
	struct limits limits;
	struct error err;
};

static void limits_work(void *arg)
{
	struct limiting *l = arg;

	(void)limits_set(l->cgroup_parent, l->name, &l->limits, &l->err);
}

static void limits_done(void *arg)
{
	struct limiting *l = arg;
	struct workload *w = l->w;

	w->limiting = false;
	w->limits_failure = l->err.code == ERR_OK ? NULL : strdup(error_message(&l->err));
	if (l->err.code != ERR_OK)
		log_warn("workload %s: %s", w->name, error_message(&l->err));
	error_release(&l->err);
	free(l);
	workload_advance(w);
	workload_changed(w);
}

void limits_follow(struct workload *w)
{
	struct limits wanted = limits_of(w->record.spec->resources);
	struct limiting *l;

	if (w->state != STATE_RUNNING || w->limiting || !spec_is_container(w->record.spec) ||
	    (w->limits_known && limits_equal(&w->limits, &wanted)))
		return;
	l = calloc(1, sizeof *l);
	if (!l)
		abort();
	l->w = w;
	l->cgroup_parent = w->owner->host.driver_options->cgroup_parent;
	snprintf(l->name, sizeof l->name, "%s", w->name);
	l->limits = wanted;
	limits_note(w, &wanted);
	w->limiting = true;
	task_start(w->owner->host.tasks, limits_work, limits_done, l);
}

void limits_note(struct workload *w, const struct limits *limits)
{
	w->limits = *limits;
	w->limits_known = true;
	free(steal_ptr(&w->limits_failure));
}
