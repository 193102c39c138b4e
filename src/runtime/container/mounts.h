/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The mounts of a container beside its root file system: the kernel's, the files over /etc, volumes, host paths. */
#ifndef CAPSULE_RUNTIME_CONTAINER_MOUNTS_H
#define CAPSULE_RUNTIME_CONTAINER_MOUNTS_H

#include "runtime/container/bundle.h"

/* The OCI config's mounts. A new reference, or NULL with the error. */
json_t *mounts_json(const struct bundle *b, struct error *err);

#endif
