/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* WorkloadService: Stats. */
#include "service/stats.h"

#include "base/timeutil.h"
#include "runtime/usage.h"
#include "service/unary.h"

#include <string.h>

/* ---- the list ---- */

struct listing {
	Capsule__V1__WorkloadStatsResponse *stats;
	char *const *names;
	size_t n_names;
	bool *seen; /* by index of names */
};

static bool listing_wants(struct listing *listing, const char *name)
{
	bool wanted = listing->n_names == 0;

	for (size_t i = 0; i < listing->n_names; i++)
		if (!strcmp(listing->names[i], name))
			wanted = listing->seen[i] = true;
	return wanted;
}

static void list_one(const Capsule__V1__Workload *workload, void *arg)
{
	struct listing *listing = arg;
	Capsule__V1__WorkloadStats *one;

	if (!listing_wants(listing, workload->name) || !workload->status->pid)
		return;
	one = malloc(sizeof *one);
	if (!one)
		abort();
	capsule__v1__workload_stats__init(one);
	one->name = strdup(workload->name);
	if (!one->name)
		abort();
	one->health = workload->status->health;
	listing->stats->stats[listing->stats->n_stats++] = one;
}

Capsule__V1__WorkloadStatsResponse *stats_list(const struct service_host *host, char *const *names, size_t n,
					       struct error *err)
{
	Capsule__V1__WorkloadStatsResponse *stats = malloc(sizeof *stats);
	_cleanup_free_ bool *seen = calloc(n + 1, sizeof *seen);
	struct listing listing = { stats, names, n, seen };

	if (!stats || !seen)
		abort();
	capsule__v1__workload_stats_response__init(stats);
	stats->stats = calloc(reconciler_count(host->reconciler) + 1, sizeof *stats->stats);
	if (!stats->stats)
		abort();
	reconciler_each(host->reconciler, list_one, &listing);
	for (size_t i = 0; i < n; i++)
		if (!seen[i]) {
			error_set(err, ERR_NOT_FOUND, "there is no workload %s", names[i]);
			capsule__v1__workload_stats_response__free_unpacked(stats, NULL);
			return NULL;
		}
	return stats;
}

/* ---- the figures ---- */

static void measure_one(const struct service_host *host, Capsule__V1__WorkloadStats *one)
{
	struct net_traffic traffic = { 0 };
	struct usage usage = { 0 };

	(void)usage_read(host->cgroup_parent, one->name, &usage);
	(void)net_traffic(host->net, one->name, &traffic, NULL);
	one->cpu_time_ns = usage.cpu_time_ns;
	one->memory_bytes = usage.memory_bytes;
	one->memory_limit_bytes = usage.memory_limit_bytes;
	one->block_read_bytes = usage.block_read_bytes;
	one->block_written_bytes = usage.block_written_bytes;
	one->network_received_bytes = traffic.received_bytes;
	one->network_sent_bytes = traffic.sent_bytes;
	one->pids = usage.pids;
	one->pids_limit = usage.pids_limit;
}

void stats_measure(const struct service_host *host, Capsule__V1__WorkloadStatsResponse *stats)
{
	stats->time_unix_ns = time_realtime_ns();
	for (size_t i = 0; i < stats->n_stats; i++)
		measure_one(host, stats->stats[i]);
}

/* ---- the method ---- */

static void stats_work(struct unary *u)
{
	stats_measure(u->host, (Capsule__V1__WorkloadStatsResponse *)u->request);
	u->reply = steal_ptr(&u->request);
}

static void stats_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__WorkloadStatsRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;
	Capsule__V1__WorkloadStatsResponse *list;

	for (size_t i = 0; i < request->n_names; i++)
		if (!call_name_valid(call, "workload name", request->names[i]))
			return;
	list = stats_list(call_host(call), request->names, request->n_names, &err);
	if (!list) {
		rpc_call_fail(call, &err);
		return;
	}
	/* What the work starts from is the list, not the request. */
	unary_start(call, &list->base, stats_work, unary_answer);
	capsule__v1__workload_stats_response__free_unpacked(list, NULL);
}

int workload_stats_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		{ .path = "/capsule.v1.WorkloadService/Stats",
		  .receives = &capsule__v1__workload_stats_request__descriptor,
		  .receives_one = true,
		  .message = stats_message,
		  .close = unary_on_close },
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
