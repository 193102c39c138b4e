/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Start-up: look at what there is, take up what is wanted, remove what belongs to nobody. The ordinary state machine does
 * the rest. Runs once, before the loop, and may block.
 */
#include "reconcile/internal.h"

#include "base/log.h"
#include "base/timeutil.h"
#include "base/utf8.h"
#include "reconcile/volumes.h"

#include <string.h>

static void take_result(struct workload *w, const struct driver_instance *instance)
{
	struct run_result result = {
		.valid = true,
		.lost = instance->exit_code == 255 && !instance->finished_at_ns,
		.oom_killed = instance->oom_killed,
		.exit_code = instance->exit_code,
		.finished_at_ns = instance->finished_at_ns ? instance->finished_at_ns : time_realtime_ns(),
	};

	snprintf(result.reason, sizeof result.reason, "%s", instance->reason);
	utf8_trim(result.reason);
	w->run_generation = instance->generation;
	w->started_at_ns = instance->started_at_ns;
	log_info("workload %s: ended with exit code %d while the daemon was away", w->name, result.exit_code);
	workload_note_end(w, &result, instance->stopped);
}

/* The state machine decides, about a workload that nothing else knows of. */
int reconciler_keep_end(struct store *store, const struct store_workload *record, const struct driver_instance *instance,
			struct error *err)
{
	struct reconciler nobody = { 0 };
	struct workload w = { .owner = &nobody, .record = *record };

	snprintf(w.name, sizeof w.name, "%s", record->spec->name);
	take_result(&w, instance);
	if (!w.completed)
		return 0;
	return store_set_completed(store, w.name, w.run_generation, w.result.exit_code, w.result.finished_at_ns, err);
}

void workload_found(struct workload *w, struct driver_instance *instance)
{
	if (instance->ended) {
		take_result(w, instance);
		w->clean_due = true;
	} else if (instance->shim_fd >= 0) {
		workload_adopt(w, instance);
		log_info("workload %s: still running, pid %d", w->name, (int)w->pid);
	}
	driver_instance_release(instance);
}

static void recover_run(struct workload *w)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct driver *driver = driver_of(&w->owner->host, w->record.spec);
	struct driver_instance instance = { .shim_fd = -1 };

	if (driver->ops->recover(driver, w->name, false, &instance, &err) < 0) {
		/* Nothing is known: whatever is there goes before it is started again. */
		log_warn("workload %s: cannot take up its last run: %s", w->name, error_message(&err));
		w->clean_due = true;
		return;
	}
	if (instance.starting)
		step_take_up(w);
	else
		workload_found(w, &instance);
}

static int load(struct reconciler *r, struct error *err)
{
	struct store_workload *records;
	size_t n;

	if (store_list(r->host.store, &records, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct workload *w = workload_new(r, records[i].spec->name);

		w->record = records[i];
		w->holds = true;
		if (w->record.completed) {
			w->completed = true;
			w->run_generation = w->record.generation;
			w->result = (struct run_result){ .valid = true, .exit_code = w->record.exit_code,
							 .finished_at_ns = w->record.finished_at_ns };
		}
		recover_run(w);
	}
	free(records);
	return 0;
}

/* ---- the network ---- */

struct endpoints {
	struct net_endpoint *items;
	struct workload **owners;
	struct net_port **ports;
	struct store_workload *formers; /* of runs of a former spec, which have what that names */
	bool *present;
	size_t n;
};

static void endpoints_release(struct endpoints *e)
{
	for (size_t i = 0; i < e->n; i++) {
		free(e->ports[i]);
		store_workload_release(&e->formers[i]);
	}
	free(e->items);
	free(e->owners);
	free(e->ports);
	free(e->formers);
	free(e->present);
}

static int add_endpoint(struct endpoints *e, struct workload *w, struct error *err)
{
	struct store_workload *former = &e->formers[e->n];
	const struct store_workload *record;

	if (store_get_former(w->owner->host.store, w->name, former, err) < 0)
		return -1;
	record = former->spec ? former : &w->record;
	if (!record->address) {
		store_workload_release(former);
		return 0;
	}
	if (endpoint_of(record, &e->items[e->n], &e->ports[e->n]) < 0)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	e->owners[e->n++] = w;
	return 0;
}

static int list_endpoints(struct reconciler *r, struct endpoints *e, struct error *err)
{
	size_t max = HASH_COUNT(r->workloads) + 1;
	struct workload *w, *next;

	e->items = calloc(max, sizeof *e->items);
	e->owners = calloc(max, sizeof(*e->owners));
	e->ports = calloc(max, sizeof(*e->ports));
	e->formers = calloc(max, sizeof *e->formers);
	e->present = calloc(max, sizeof *e->present);
	if (!e->items || !e->owners || !e->ports || !e->formers || !e->present)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	HASH_ITER(hh, r->workloads, w, next)
		if ((w->state == STATE_RUNNING || w->state == STATE_STARTING) && add_endpoint(e, w, err) < 0)
			return -1;
	return 0;
}

static int recover_net(struct reconciler *r, struct error *err)
{
	_cleanup_(endpoints_release) struct endpoints e = { 0 };
	struct bridge_look look;

	if (list_endpoints(r, &e, err) < 0 || net_recover(r->host.net, e.items, e.n, e.present, err) < 0)
		return -1;
	if (e.n > 0) {
		bridge_look(r->host.net, &look);
		bridge_note(r, &look);
	}
	for (size_t i = 0; i < e.n; i++) {
		if (e.present[i])
			continue;
		log_warn("workload %s: lost its link to the bridge; restarting it", e.owners[i]->name);
		e.owners[i]->restart_requested = true;
	}
	return 0;
}

/* ---- what belongs to nobody ---- */

static void remove_stranger(const char *name, void *arg)
{
	struct reconciler *r = arg;
	struct driver *driver = r->host.container;
	_cleanup_error_ struct error err = ERROR_INIT;
	struct workload *w;

	HASH_FIND_STR(r->workloads, name, w);
	if (w)
		return;
	log_info("removing what is left of workload %s, which is not in the store", name);
	if (driver->ops->remove(driver, name, &err) < 0)
		log_warn("workload %s: %s", name, error_message(&err));
}

int reconciler_recover(struct reconciler *r, struct error *err)
{
	struct workload *w, *next;

	if (load(r, err) < 0 || recover_net(r, err) < 0 ||
	    driver_enumerate(r->host.driver_options, remove_stranger, r, err) < 0 || volumes_recover(&r->host, err) < 0)
		return error_wrap(err, "cannot take up what is on this host");
	storage_look(r);
	HASH_ITER(hh, r->workloads, w, next)
		workload_advance(w);
	return 0;
}
