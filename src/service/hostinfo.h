/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What GetInfo tells of the host. Reads /proc, /sys and the state root: task threads only.
 */
#ifndef CAPSULE_SERVICE_HOSTINFO_H
#define CAPSULE_SERVICE_HOSTINFO_H

#include "store/store.h"

#include "capsule.pb-c.h"

/* Fills the message, which must be fresh; its strings come from malloc(). What this host does not have stays empty or
 * 0. On failure the message may be filled in part; free it in any case. */
int hostinfo_fill(struct store *store, const char *state_root, Capsule__V1__GetInfoResponse *info, struct error *err);

/* The id of this state root: 32 hexadecimal digits, made at the first call and kept in the store. Caller frees. */
int hostinfo_id(struct store *store, char **ret, struct error *err);

#endif
