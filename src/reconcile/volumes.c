/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "reconcile/volumes.h"

#include "reconcile/spec.h"

/* Each volume knows where it is. */
static int attach(const struct reconciler_host *host, const Capsule__V1__VolumeMount *mount, char **ret_device, int *ret_fd,
		  struct error *err)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };
	struct volume_backend *backend;

	if (store_volume_get(host->store, mount->volume_name, &v, err) < 0)
		return -1;
	backend = volume_backend_find(host->volumes, v.backend, err);
	if (!backend)
		return error_wrap(err, "volume %s", v.name);
	return backend->ops->attach(backend, v.name, mount->read_only, ret_device, ret_fd, err);
}

int volumes_attach(const struct reconciler_host *host, const Capsule__V1__Workload *spec, struct volumes *v,
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
		if (attach(host, mounts[i], &v->devices[i], &v->fds[i], err) < 0)
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
