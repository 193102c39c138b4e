/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The guest's network: the loopback link and, where there is one, eth0 with its address and route (netdevice(7)). */
#ifndef CAPSULE_GUEST_NETWORK_H
#define CAPSULE_GUEST_NETWORK_H

#include "base/error.h"

#include <stdint.h>

int network_up_loopback(struct error *err);

/* gateway: "" for none. */
int network_set_address(const char *address, uint32_t prefix, const char *gateway, struct error *err);

#endif
