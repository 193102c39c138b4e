/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a container's and a microVM's spec have in common, read the same way. Everything returned belongs to the
 * workload. Pure.
 */
#ifndef CAPSULE_RECONCILE_SPEC_H
#define CAPSULE_RECONCILE_SPEC_H

#include "workload.pb-c.h"

#include <stdbool.h>

static inline bool spec_is_container(const Capsule__V1__Workload *w)
{
	return w->kind == CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_CONTAINER && w->container;
}

static inline const char *spec_image(const Capsule__V1__Workload *w)
{
	return spec_is_container(w) ? w->container->image : w->micro_vm ? w->micro_vm->image : "";
}

/* A kernel and a root file system of the user's own: nothing of ours runs in it. */
static inline bool spec_is_own_system(const Capsule__V1__Workload *w)
{
	return w->micro_vm && *w->micro_vm->kernel_path;
}

static inline bool spec_on_bridge(const Capsule__V1__Workload *w)
{
	return !spec_is_container(w) ||
	       w->container->network_mode != CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_HOST;
}

static inline size_t spec_mounts(const Capsule__V1__Workload *w, Capsule__V1__VolumeMount ***ret)
{
	if (spec_is_container(w)) {
		*ret = w->container->mounts;
		return w->container->n_mounts;
	}
	*ret = w->micro_vm ? w->micro_vm->mounts : NULL;
	return w->micro_vm ? w->micro_vm->n_mounts : 0;
}

static inline size_t spec_ports(const Capsule__V1__Workload *w, Capsule__V1__PortMapping ***ret)
{
	if (spec_is_container(w)) {
		*ret = w->container->ports;
		return w->container->n_ports;
	}
	*ret = w->micro_vm ? w->micro_vm->ports : NULL;
	return w->micro_vm ? w->micro_vm->n_ports : 0;
}

static inline bool spec_port_is_udp(const Capsule__V1__PortMapping *p)
{
	return p->protocol && p->protocol[0] == 'u';
}

#endif
