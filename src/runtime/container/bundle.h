/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The OCI bundle of a container (runtime-spec/config.md): config.json and the files that are mounted over the image's
 * /etc. How image and manifest combine into a process is Kubernetes' way: command replaces the entrypoint and drops the
 * image's Cmd, args replaces Cmd. What a workload may do by default is written down in docs/runtime.md.
 *
 * Threads: any; reads and writes the disk.
 */
#ifndef CAPSULE_RUNTIME_CONTAINER_BUNDLE_H
#define CAPSULE_RUNTIME_CONTAINER_BUNDLE_H

#include "runtime/container/oci_runtime.h"
#include "runtime/driver.h"

#include <jansson.h>

struct bundle {
	const struct driver_plan *plan;
	const struct oci_runtime *runtime;
	const char *run_dir;     /* of the workload: where the bundle is */
	const char *upper_dir;
	const char *cgroup_path;
};

/* config.json. A new reference, or NULL with the error. */
json_t *bundle_config(const struct bundle *b, struct error *err);

/* Writes config.json, hosts, hostname and resolv.conf into run_dir, which exists. */
int bundle_write(const struct bundle *b, struct error *err);

#endif
