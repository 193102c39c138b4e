/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsuled/down.h"

#include "base/log.h"
#include "runtime/shim_client.h"

#include <errno.h>
#include <stdlib.h>

struct ending {
	const struct down_host *host;
	struct error first; /* of what failed */
	size_t running;
};

/* Hands over an error; it is dropped if there was one before. */
static void note(struct ending *ending, struct error *err)
{
	(void)error_move(ending->first.message ? NULL : &ending->first, err);
}

static void on_exit_event(const struct shim_exit *exit, void *arg)
{
	struct ending *ending = arg;

	ending->running--;
}

static int64_t grace_ms(const struct ending *ending, const Capsule__V1__Workload *spec)
{
	if (spec->stop_grace_case == CAPSULE__V1__WORKLOAD__STOP_GRACE_STOP_GRACE_PERIOD_SECONDS)
		return (int64_t)spec->stop_grace_period_seconds * 1000;
	return ending->host->stop_grace_ms;
}

/* The shim of a running workload, asked to stop it; NULL where nothing runs, or where its holder does not say soon whether it does
 * (ret_silent). With patience that is waited for. */
static struct shim_client *stop(struct ending *ending, const Capsule__V1__Workload *spec, bool patient, bool *ret_silent)
{
	struct driver *driver = ending->host->driver;
	struct driver_instance instance = { .shim_fd = -1 };
	_cleanup_error_ struct error err = ERROR_INIT;
	struct shim_client *shim = NULL;

	*ret_silent = false;
	if (driver->ops->recover(driver, spec->name, patient, &instance, &err) < 0) {
		note(ending, &err);
		return NULL;
	}
	if (instance.shim_fd >= 0) {
		log_info("workload %s: stopping", spec->name);
		shim = shim_client_new(ending->host->loop, steal_fd(&instance.shim_fd), on_exit_event, ending);
		ending->running++;
		if (shim_client_stop(shim, 0, grace_ms(ending, spec), &err) < 0)
			note(ending, &err);
	}
	*ret_silent = instance.starting;
	driver_instance_release(&instance);
	return shim;
}

static void stop_all(struct ending *ending, struct store_workload *records, size_t n)
{
	_cleanup_free_ struct shim_client **shims = calloc(n + 1, sizeof *shims);
	_cleanup_free_ bool *silent = calloc(n + 1, sizeof *silent);
	_cleanup_error_ struct error err = ERROR_INIT;

	if (!shims || !silent) {
		error_errno(&err, ENOMEM, "cannot stop the workloads");
		note(ending, &err);
		return;
	}
	for (size_t i = 0; i < n; i++)
		shims[i] = stop(ending, records[i].spec, false, &silent[i]);
	/* A holder that is silent starts its payload, or waits for its turn on a busy host: its payload is due its grace, too. */
	for (size_t i = 0; i < n; i++)
		if (silent[i])
			shims[i] = stop(ending, records[i].spec, true, &silent[i]);
	while (ending->running)
		uv_run(ending->host->loop, UV_RUN_ONCE);
	for (size_t i = 0; i < n; i++)
		shim_client_free(shims[i]);
}

static void clean_up(const char *name, void *arg)
{
	struct ending *ending = arg;
	struct driver *driver = ending->host->driver;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (driver->ops->cleanup(driver, name, &err) < 0)
		note(ending, &err);
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
	return ending.first.message ? error_move(err, &ending.first) : 0;
}
