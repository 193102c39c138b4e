/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a container may do: the default profile, and the privileged one, as parts of the OCI config. docs/runtime.md says
 * it for users. Functions that return json_t give a new reference, or NULL without memory.
 */
#ifndef CAPSULE_RUNTIME_CONTAINER_SECURITY_H
#define CAPSULE_RUNTIME_CONTAINER_SECURITY_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* process.capabilities: the default set or all, as far as the daemon has them itself: nobody can give away more. */
json_t *security_capabilities(bool privileged);

/* The capabilities that a list in there names, as bits: 1 << CAP_... */
uint64_t security_capability_bits(const json_t *names);

/* linux.resources.devices */
json_t *security_device_rules(bool privileged);

/* Adds maskedPaths, readonlyPaths and, if asked for, the seccomp profile to `linux_part`; for a privileged container the
 * host's devices instead. */
int security_confine(json_t *linux_part, bool privileged, bool seccomp_json, struct error *err);

#endif
