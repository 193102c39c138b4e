/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Which OCI runtime runs containers: a program that was named, or, for "auto", crun and else runc. It is found and asked
 * for its version once per process. Threads: any; the first call runs the program.
 *
 * Before they run a container, crun and runc copy themselves into a sealed memory file and execute that, so that no container
 * can overwrite the program through /proc/PID/exe (CVE-2019-5736); not when they find that they are such a copy. One copy,
 * made here and made anew when the program on disk changes, serves all starts.
 */
#ifndef CAPSULE_RUNTIME_CONTAINER_OCI_RUNTIME_H
#define CAPSULE_RUNTIME_CONTAINER_OCI_RUNTIME_H

#include "base/error.h"

#include <stdbool.h>

struct oci_runtime {
	const char *program; /* absolute path; valid for the life of the process */
	bool is_crun;        /* understands crun's annotations and refuses hybrid cgroups */
	int sealed_fd;       /* the sealed copy; owned; -1 where the kernel has no executable memory files */
};

void oci_runtime_release(struct oci_runtime *r);
#define _cleanup_oci_runtime_ _cleanup_(oci_runtime_release)

/* FAILED_PRECONDITION with what to install when there is none. A failure is not remembered. */
int oci_runtime_find(const char *choice, struct oci_runtime *ret, struct error *err);

/* Puts an OCI runtime's words about a failed start into the user's terms. */
void oci_runtime_clarify(struct error *err);

#endif
