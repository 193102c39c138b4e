/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "reconcile/volumes.h"

#include "reconcile/spec.h"

int volumes_attach(struct volume_backend *backend, const Capsule__V1__Workload *spec, struct volumes *v,
		   struct error *err)
{
	Capsule__V1__VolumeMount **mounts;
	size_t n = spec_mounts(spec, &mounts);

	v->items = calloc(n ? n : 1, sizeof *v->items);
	v->devices = calloc(n ? n : 1, sizeof *v->devices);
	v->fds = calloc(n ? n : 1, sizeof *v->fds);
	if (!v->items || !v->devices || !v->fds)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	for (size_t i = 0; i < n; i++) {
		v->fds[i] = -1;
		v->n = i + 1;
		if (backend->ops->attach(backend, mounts[i]->volume_name, mounts[i]->read_only, &v->devices[i],
					 &v->fds[i], err) < 0)
			return -1;
		v->items[i] = (struct driver_volume){ mounts[i]->volume_name, v->devices[i], mounts[i]->read_only,
						      mounts[i]->mount_path };
	}
	return 0;
}

void volumes_release(struct volumes *v)
{
	for (size_t i = 0; i < v->n; i++) {
		free(v->devices[i]);
		cleanup_closep(&v->fds[i]);
	}
	free(v->items);
	free(v->devices);
	free(v->fds);
}
