/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * For tests that run real containers: a machine in a temporary directory, with a root and a run directory, a cgroup parent and
 * an image of one layer made of Debian's busybox-static. Everything goes with fixture_release().
 */
#ifndef CAPSULE_TESTS_CONTAINER_FIXTURE_H
#define CAPSULE_TESTS_CONTAINER_FIXTURE_H

#include "runtime/driver.h"

struct fixture {
	char dir[64], root[80], run[80], layer[96], cgroup[64], shim[4096];
	struct driver_options options;
	struct driver *driver;
	struct image image;
	char *layers[1];
	char *none[1];
	char *path_env[2];
};

/* The name of what is missing, or NULL when real containers can run here. */
const char *fixture_missing(void);

/* runtime: "auto", "crun", "runc". */
void fixture_init(struct fixture *f, const char *runtime);
void fixture_release(struct fixture *f);

/* A workload that runs `sh -c script`; freed by fixture_workload_free(). */
Capsule__V1__Workload *fixture_workload(const char *name, const char *script);
void fixture_workload_free(Capsule__V1__Workload *w);

int fixture_start(struct fixture *f, const Capsule__V1__Workload *w, struct driver_instance *ret, struct error *err);

/* Waits on an instance's connection until the run is over. */
struct shim_result;
void fixture_wait(struct driver_instance *i, struct shim_result *ret);
void fixture_stop(const struct driver_instance *i, int sig, int64_t grace_ms);

/* The payload's output from the log, records joined. Caller frees. */
char *fixture_output(struct fixture *f, const char *name);

#endif
