/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsuled/down.h"

#include "base/fs.h"
#include "base/log.h"
#include "reconcile/reconcile.h"
#include "reconcile/spec.h"
#include "runtime/shim_client.h"
#include "shim/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct ending {
	const struct down_host *host;
	struct error first; /* of what failed */
	size_t running;
};

/* A workload's. */
struct run {
	struct ending *ending;
	const struct store_workload *record;
	struct shim_client *shim; /* asked to stop it; NULL where nothing runs */
	bool silent;              /* its holder did not say soon whether it runs */
	uint64_t generation;
	int64_t started_at_ns;
};

/* Hands over an error; it is dropped if there was one before. */
static void note(struct ending *ending, struct error *err)
{
	(void)error_move(ending->first.message ? NULL : &ending->first, err);
}

static int64_t grace_ms(const struct ending *ending, const Capsule__V1__Workload *spec)
{
	if (spec->stop_grace_case == CAPSULE__V1__WORKLOAD__STOP_GRACE_STOP_GRACE_PERIOD_SECONDS)
		return (int64_t)spec->stop_grace_period_seconds * 1000;
	return ending->host->stop_grace_ms;
}

static void keep_end(struct run *run, const struct driver_instance *instance)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (reconciler_keep_end(run->ending->host->store, run->record, instance, &err) < 0)
		note(run->ending, &err);
}

/* It may have ended before it was asked to. */
static void on_exit_event(const struct shim_exit *exit, void *arg)
{
	struct run *run = arg;
	struct driver_instance instance = {
		.generation = run->generation,
		.started_at_ns = run->started_at_ns,
		.shim_fd = -1,
		.ended = true,
		.exit_code = exit->exit_code,
		.oom_killed = exit->oom_killed,
		.finished_at_ns = exit->finished_at_ns,
	};

	run->ending->running--;
	if (!exit->known || exit->stopped)
		return;
	snprintf(instance.reason, sizeof instance.reason, "%s", exit->reason);
	keep_end(run, &instance);
}

/* With patience a holder is waited for that does not say soon whether its payload runs. */
static void stop(struct run *run, bool patient)
{
	struct ending *ending = run->ending;
	const Capsule__V1__Workload *spec = run->record->spec;
	struct driver *driver = spec_is_container(spec) ? ending->host->container : ending->host->micro_vm;
	struct driver_instance instance = { .shim_fd = -1 };
	_cleanup_error_ struct error err = ERROR_INIT;

	run->silent = false;
	if (driver->ops->recover(driver, spec->name, patient, &instance, &err) < 0) {
		note(ending, &err);
		return;
	}
	if (instance.ended) {
		keep_end(run, &instance);
	} else if (instance.shim_fd >= 0) {
		log_info("workload %s: stopping", spec->name);
		run->generation = instance.generation;
		run->started_at_ns = instance.started_at_ns;
		run->shim = shim_client_new(ending->host->loop, steal_fd(&instance.shim_fd), on_exit_event, run);
		ending->running++;
		if (shim_client_stop(run->shim, 0, grace_ms(ending, spec), &err) < 0)
			note(ending, &err);
	}
	run->silent = instance.starting;
	driver_instance_release(&instance);
}

static void stop_all(struct ending *ending, const struct store_workload *records, size_t n)
{
	_cleanup_free_ struct run *runs = calloc(n + 1, sizeof *runs);
	_cleanup_error_ struct error err = ERROR_INIT;

	if (!runs) {
		error_errno(&err, ENOMEM, "cannot stop the workloads");
		note(ending, &err);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		runs[i] = (struct run){ .ending = ending, .record = &records[i] };
		stop(&runs[i], false);
	}
	/* A holder that is silent starts its payload, or waits for its turn on a busy host: its payload is due its grace, too. */
	for (size_t i = 0; i < n; i++)
		if (runs[i].silent)
			stop(&runs[i], true);
	while (ending->running)
		uv_run(ending->host->loop, UV_RUN_ONCE);
	for (size_t i = 0; i < n; i++)
		shim_client_free(runs[i].shim);
}

static void clean_up(const char *name, void *arg)
{
	struct ending *ending = arg;
	struct driver *driver = ending->host->container; /* cleans up after both kinds */
	_cleanup_error_ struct error err = ERROR_INIT;

	if (driver->ops->cleanup(driver, name, &err) < 0)
		note(ending, &err);
}

/* ---- the cgroup parent ---- */

static int note_path(const struct driver_options *o, char **ret, struct error *err)
{
	*ret = fs_path("%s/cgroup-parent", o->run);
	return *ret ? 0 : error_errno(err, ENOMEM, "cannot note whose the cgroup %s is", o->cgroup_parent);
}

int down_note_parent(const struct driver_options *o, struct error *err)
{
	_cleanup_free_ char *path = NULL;

	if (cgroup_exists(o->cgroup_parent))
		return 0;
	if (note_path(o, &path, err) < 0)
		return -1;
	return fs_write_replace(AT_FDCWD, path, o->cgroup_parent, strlen(o->cgroup_parent), 0600, err);
}

/* What is above it may be others'. */
static int remove_parent(const struct driver_options *o, struct error *err)
{
	_cleanup_free_ char *path = NULL, *noted = NULL;
	_cleanup_error_ struct error why = ERROR_INIT;

	if (note_path(o, &path, err) < 0)
		return -1;
	if (fs_read(AT_FDCWD, path, PATH_MAX, &noted, NULL, &why) < 0)
		return why.code == ERR_NOT_FOUND ? 0 : error_move(err, &why);
	if (strcmp(noted, o->cgroup_parent) != 0)
		return 0;
	cgroup_remove_empty(o->cgroup_parent);
	if (!cgroup_exists(o->cgroup_parent))
		(void)unlink(path);
	return 0;
}

int down(const struct down_host *host, struct error *err)
{
	struct ending ending = { .host = host, .first = ERROR_INIT };
	_cleanup_error_ struct error e = ERROR_INIT;
	struct store_workload *records;
	size_t n;

	if (store_list(host->store, &records, &n, err) < 0)
		return -1;
	stop_all(&ending, records, n);
	for (size_t i = 0; i < n; i++)
		store_workload_release(&records[i]);
	free(records);
	if (driver_enumerate(host->driver_options, clean_up, &ending, &e) < 0)
		note(&ending, &e);
	if (net_recover(host->net, NULL, 0, NULL, &e) < 0)
		note(&ending, &e);
	if (remove_parent(host->driver_options, &e) < 0)
		note(&ending, &e);
	return ending.first.message ? error_move(err, &ending.first) : 0;
}
