/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The OCI bundle of a workload (runtime-spec/config.md), run by an OCI runtime on this host or in a microVM's guest:
 * config.json and the files that are mounted over the image's /etc. How image and manifest combine into a process is
 * Kubernetes' way: command replaces the entrypoint and drops the image's Cmd, args replaces Cmd. What a workload may do by
 * default is written down in docs/runtime.md.
 *
 * Threads: any; reads and writes the disk.
 */
#ifndef CAPSULE_RUNTIME_CONTAINER_BUNDLE_H
#define CAPSULE_RUNTIME_CONTAINER_BUNDLE_H

#include "runtime/container/oci_runtime.h"
#include "runtime/driver.h"

#include <jansson.h>

/* What the manifests of both kinds say of the payload's process. Borrowed from the spec. */
struct bundle_payload {
	const char *section; /* of the manifest, for messages */
	char *const *command, *const *args;
	size_t n_command, n_args;
	Capsule__V1__ContainerSpec__EnvEntry *const *env;
	size_t n_env;
	bool privileged, host_pid, host_ipc, host_mount;
	char *const *host_bind_paths;
	size_t n_host_bind_paths;
};

struct bundle_payload bundle_of_container(const Capsule__V1__ContainerSpec *spec);
struct bundle_payload bundle_of_micro_vm(const Capsule__V1__MicroVMSpec *spec);

struct bundle {
	const struct driver_plan *plan;
	const struct bundle_payload *payload;
	const struct oci_runtime *runtime; /* that will read it */
	const char *run_dir;     /* of the workload: where it is written */
	/* Where the runtime finds the bundle's files and, by their names, the mounted volumes. */
	const char *files_dir, *volumes_dir;
	const char *upper_dir;   /* what the last run wrote over the image; NULL: not to be seen from here */
	const char *cgroup_path;
	bool cgroup_namespace;   /* the runtime has cgroups of version 2 */
	bool counts_swap;        /* its kernel limits memory and swap together */
};

/* config.json. A new reference, or NULL with the error. */
json_t *bundle_config(const struct bundle *b, struct error *err);

/* Writes config.json, hosts, hostname and resolv.conf into run_dir, which exists. */
int bundle_write(const struct bundle *b, struct error *err);

#endif
