/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Which OCI runtime runs containers: a program that was named, or, for "auto", crun and else runc. It is found and asked
 * for its version once per process. Threads: any; the first call runs the program.
 */
#ifndef CAPSULE_RUNTIME_CONTAINER_OCI_RUNTIME_H
#define CAPSULE_RUNTIME_CONTAINER_OCI_RUNTIME_H

#include "base/error.h"

#include <stdbool.h>

struct oci_runtime {
	const char *program; /* absolute path; valid for the life of the process */
	bool is_crun;        /* understands crun's annotations and refuses hybrid cgroups */
};

/* FAILED_PRECONDITION with what to install when there is none. A failure is not remembered. */
int oci_runtime_find(const char *choice, struct oci_runtime *ret, struct error *err);

#endif
