/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "service/unary.h"

#include <string.h>

#define TABLES_MAX 16

struct table {
	struct rpc_method *methods;
	uint64_t *calls; /* of each */
	size_t n;
};

struct services {
	struct table tables[TABLES_MAX];
	size_t n;
};

int service_add(struct rpc_server *server, struct service_host *host, const struct rpc_method *methods, size_t n)
{
	struct services *s = host->services;
	struct table table = { calloc(n, sizeof *table.methods), calloc(n, sizeof *table.calls), n };

	if (!table.methods || !table.calls || s->n == TABLES_MAX) {
		free(table.methods);
		free(table.calls);
		return -1;
	}
	memcpy(table.methods, methods, n * sizeof *methods);
	for (size_t i = 0; i < n; i++) {
		table.methods[i].arg = host;
		table.methods[i].calls = &table.calls[i];
	}
	s->tables[s->n++] = table;
	return rpc_server_add_methods(server, table.methods, n);
}

void services_each_method(const struct services *s, void (*fn)(const char *path, uint64_t calls, void *arg), void *arg)
{
	for (size_t i = 0; i < s->n; i++)
		for (size_t k = 0; k < s->tables[i].n; k++)
			fn(s->tables[i].methods[k].path, s->tables[i].calls[k], arg);
}

int services_register(struct rpc_server *server, struct service_host *host, struct error *err)
{
	host->services = calloc(1, sizeof *host->services);
	if (!host->services || workload_service_register(server, host) < 0 || workload_stream_register(server, host) < 0 ||
	    workload_events_register(server, host) < 0 || workload_stats_register(server, host) < 0 ||
	    workload_exec_register(server, host) < 0 || workload_copy_register(server, host) < 0 ||
	    volume_service_register(server, host) < 0 || image_service_register(server, host) < 0 ||
	    capsule_service_register(server, host) < 0)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot register the services: out of memory");
	return 0;
}

void services_free(struct services *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++) {
		free(s->tables[i].methods);
		free(s->tables[i].calls);
	}
	free(s);
}
