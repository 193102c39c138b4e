/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The volumes of a workload, attached, and all volumes at start. The devices live until something has mounted them or
 * this is released. Blocks. */
#ifndef CAPSULE_RECONCILE_VOLUMES_H
#define CAPSULE_RECONCILE_VOLUMES_H

#include "reconcile/reconcile.h"

struct volumes {
	struct driver_volume *items; /* in the order of the spec, whose strings they borrow */
	char **devices;
	int *fds;
	size_t n;
};

/* On failure, too, to be released. */
int volumes_attach(const struct reconciler_host *host, const Capsule__V1__Workload *spec, struct volumes *ret,
		   struct error *err);
void volumes_release(struct volumes *v);

/* Removes what storage holds of a volume, its snapshots first; missing: success. While it fails the store must keep the volume. */
int volumes_remove(struct store *store, struct volume_backend *backend, const char *name, struct error *err);

/* At start: completes or undoes what a crash cut off, and tells of what is in storage and in no store. */
int volumes_recover(const struct reconciler_host *host, struct error *err);

#endif
