/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The gRPC services. A service checks what it is asked, records the wish in the store and hands it to the reconciler; it
 * never acts on a workload itself.
 *
 * Threads: the loop's. Whatever may block runs in a task (unary.h).
 */
#ifndef CAPSULE_SERVICE_SERVICE_H
#define CAPSULE_SERVICE_SERVICE_H

#include "reconcile/reconcile.h"
#include "rpc/uv.h"

/* What the services work on. All borrowed; outlives the server. */
struct service_host {
	uv_loop_t *loop;
	struct task_runner *tasks;
	struct store *store;
	struct store_subnet subnet;
	struct image_store *images;
	struct puller *puller;
	const struct transfer_options *transfer;
	const char *copy_worker; /* capsule-copy */
	const char *volume_worker; /* capsule-volume */
	struct volume_backends *volumes;
	struct driver *micro_vm;
	struct reconciler *reconciler;
	struct net *net;
	struct history *history;
	const char *cgroup_parent;
	const char *root;      /* the state root */
	const char *log_file;  /* the daemon's own log */
	struct services *services; /* set by services_register() */
};

struct services;

/* Adds all methods to the server. The host must not move. Returns -1 without memory. */
int services_register(struct rpc_server *server, struct service_host *host, struct error *err);

/* How often each method was called. */
void services_each_method(const struct services *services, void (*fn)(const char *path, uint64_t calls, void *arg),
			  void *arg);

/* After the server is closed. NULL is fine. */
void services_free(struct services *services);

#endif
