/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* IPv4 arithmetic in host byte order, and whether a subnet is free on this host. Private to this folder. */
#ifndef CAPSULE_NET_SUBNET_H
#define CAPSULE_NET_SUBNET_H

#include "base/error.h"
#include "net/netlink.h"

#include <stdbool.h>
#include <stdint.h>

#define SUBNET_TEXT_MAX sizeof("255.255.255.255")

uint32_t subnet_mask(unsigned prefix);
bool subnet_overlaps(uint32_t a, unsigned a_prefix, uint32_t b, unsigned b_prefix);

/* "172.20.254.1". Returns out. */
const char *subnet_text(uint32_t address, char out[SUBNET_TEXT_MAX]);

/* FAILED_PRECONDITION, naming the interface, if a route of the host's main table overlaps. */
int subnet_check_free(struct nl *nl, uint32_t address, unsigned prefix, struct error *err);

#endif
