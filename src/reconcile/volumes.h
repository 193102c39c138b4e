/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The volumes of a workload, attached. The devices live until something has mounted them or this is released.
 * Blocks. */
#ifndef CAPSULE_RECONCILE_VOLUMES_H
#define CAPSULE_RECONCILE_VOLUMES_H

#include "runtime/driver.h"
#include "volume/backend.h"

struct volumes {
	struct driver_volume *items; /* in the order of the spec, whose strings they borrow */
	char **devices;
	int *fds;
	size_t n;
};

/* On failure, too, to be released. */
int volumes_attach(struct volume_backend *backend, const Capsule__V1__Workload *spec, struct volumes *ret,
		   struct error *err);
void volumes_release(struct volumes *v);

#endif
