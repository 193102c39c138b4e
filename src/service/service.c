/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "service/unary.h"

#include <string.h>

#define TABLES_MAX 16

struct services {
	struct rpc_method *tables[TABLES_MAX];
	size_t n;
};

int service_add(struct rpc_server *server, struct service_host *host, const struct rpc_method *methods, size_t n)
{
	struct services *s = host->services;
	struct rpc_method *table = calloc(n, sizeof *table);

	if (!table || s->n == TABLES_MAX) {
		free(table);
		return -1;
	}
	memcpy(table, methods, n * sizeof *table);
	for (size_t i = 0; i < n; i++)
		table[i].arg = host;
	s->tables[s->n++] = table;
	return rpc_server_add_methods(server, table, n);
}

int services_register(struct rpc_server *server, struct service_host *host, struct error *err)
{
	host->services = calloc(1, sizeof *host->services);
	if (!host->services || workload_service_register(server, host) < 0 || workload_stream_register(server, host) < 0 ||
	    copy_service_register(server, host) < 0 || volume_service_register(server, host) < 0 || image_service_register(server, host) < 0 ||
	    capsule_service_register(server, host) < 0)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot register the services: out of memory");
	return 0;
}

void services_free(struct services *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++)
		free(s->tables[i]);
	free(s);
}
