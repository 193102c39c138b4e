/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What workloads compete for: addresses, host ports, volumes; private to this folder.
 *
 * Every function runs inside the caller's transaction (db.h): when one of them refuses, the whole apply is undone.
 */
#ifndef CAPSULE_STORE_RESOURCE_H
#define CAPSULE_STORE_RESOURCE_H

#include "store/db.h"

/* What a spec asks for, read out of the kind that it is. The arrays belong to the spec. */
struct resource_wish {
	bool address;
	Capsule__V1__PortMapping **ports; /* on the host; none with the host's own network */
	size_t n_ports;
	Capsule__V1__VolumeMount **mounts;
	size_t n_mounts;
};

struct resource_wish resource_wish(const Capsule__V1__Workload *spec);

/* Keeps the lease that the workload has, gives it one or takes it away; what a process may still use becomes a former one.
 * *ret_address is 0 without one. A lease outside the subnet counts as none. */
int resource_lease(struct store *store, const char *name, bool wanted, const struct store_subnet *subnet,
		   uint32_t *ret_address, struct error *err);

/* Forgets which ports the workload publishes and which volumes its spec names. Claims stay, and as former ones the ports
 * that a process may still publish. */
int resource_forget(struct store *store, const char *name, struct error *err);

/* Takes the host ports that the workload publishes. One that a former run of another workload has is taken, too, but not had
 * before resource_await_ports() succeeds. */
int resource_publish(struct store *store, const char *name, const struct resource_wish *wish, struct error *err);

/* ABORTED: another workload's run has a port of this one. */
int resource_await_ports(struct store *store, const char *name, struct error *err);

/* Notes the volumes that the workload's spec names; each must exist. */
int resource_name_volumes(struct store *store, const char *name, const struct resource_wish *wish, struct error *err);

/* A process is to come: claims every volume that the workload's spec names. */
int resource_claim(struct store *store, const char *name, struct error *err);

/* FAILED_PRECONDITION: "volume data is in use by workload web; ...". Returns -1. */
int resource_in_use(const char *volume, const char *holder, struct error *err);

#endif
