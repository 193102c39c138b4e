/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/conn.h"

struct method_table {
	const struct rpc_method *methods;
	size_t n;
};

struct rpc_services {
	struct method_table *tables;
	size_t n;
};

struct rpc_services *rpc_services_new(void)
{
	return calloc(1, sizeof(struct rpc_services));
}

void rpc_services_free(struct rpc_services *services)
{
	if (!services)
		return;
	free(services->tables);
	free(services);
}

int rpc_services_add(struct rpc_services *services, const struct rpc_method *methods, size_t n)
{
	struct method_table *tables;

	tables = reallocarray(services->tables, services->n + 1, sizeof(*tables));
	if (!tables)
		return -1;
	tables[services->n] = (struct method_table){ methods, n };
	services->tables = tables;
	services->n++;
	return 0;
}

/* A few dozen methods in all: a scan costs less than a hash of the path. */
const struct rpc_method *rpc_services_find(const struct rpc_services *services, const char *path, size_t len)
{
	for (size_t i = 0; i < services->n; i++) {
		for (size_t k = 0; k < services->tables[i].n; k++) {
			const struct rpc_method *m = &services->tables[i].methods[k];

			if (strlen(m->path) == len && memcmp(m->path, path, len) == 0)
				return m;
		}
	}
	return NULL;
}

void rpc_services_each(const struct rpc_services *services, void (*fn)(const struct rpc_method *method, void *arg),
		       void *arg)
{
	for (size_t i = 0; i < services->n; i++)
		for (size_t k = 0; k < services->tables[i].n; k++)
			fn(&services->tables[i].methods[k], arg);
}
