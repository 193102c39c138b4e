/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The default seccomp profile: an allow list of system calls; everything else fails with EPERM, clone3 with ENOSYS (the C
 * library then uses clone, whose flags a filter can see). It leaves out what administers the machine (mount, swap, modules,
 * time, reboot, kexec), what reaches into the kernel's innards (bpf, perf, userfaultfd, keyrings, io_uring), and new
 * user namespaces. A capability that a workload has does not widen it: a workload that needs more is privileged and has
 * none.
 *
 * The filter is compiled once per process and shared. Threads: any.
 */
#ifndef CAPSULE_RUNTIME_CONTAINER_SECCOMP_H
#define CAPSULE_RUNTIME_CONTAINER_SECCOMP_H

#include "base/error.h"

#include <jansson.h>
#include <stddef.h>

/* The profile as classic BPF (an array of struct sock_filter). Valid for the life of the process. */
int seccomp_profile_bpf(const void **ret_code, size_t *ret_len, struct error *err);

/* The same in base64, as crun takes it in the annotation run.oci.seccomp_bpf_data. */
int seccomp_profile_base64(const char **ret_text, struct error *err);

/* The same as the OCI config's linux.seccomp. A new reference, or NULL without memory. */
json_t *seccomp_profile_json(void);

#endif
