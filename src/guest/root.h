/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What the payload stands on: its disks, volumes, bundle, network. Blocks on the disks, so it is called in children.
 */
#ifndef CAPSULE_GUEST_ROOT_H
#define CAPSULE_GUEST_ROOT_H

#include "base/error.h"

#include "guest.pb-c.h"

/* All of it. The error says which step failed. What was mounted before stays mounted. */
int root_make(const Capsule__Guest__V1__RunRequest *request, struct error *err);

/* Ends what is left in the cgroup (NULL: there is none), unmounts, and writes to the disks what is not there yet. */
int root_release(const char *cgroup, struct error *err);

#endif
