/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A thin pool: how full it is, what LVM will still add to it by itself, and what is wrong with it (lvmthin(7)).
 *
 * Where lvm.conf says so (thin_pool_autoextend_threshold) and dmeventd watches the pool, LVM extends it from what is free in
 * the volume group, a step at a time. What those steps can come to counts as room.
 *
 * A pool without room for data lets writers wait, for a minute unless the host says otherwise, and then gives them errors.
 * One without room for metadata gives them at once. Either goes on when it was extended.
 *
 * Blocks: task threads only.
 */
#ifndef CAPSULE_VOLUME_LVM_POOL_H
#define CAPSULE_VOLUME_LVM_POOL_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum lvm_pool_health {
	LVM_POOL_SOUND,
	LVM_POOL_OUT_OF_DATA,
	LVM_POOL_OUT_OF_METADATA,
	LVM_POOL_DAMAGED,
};

struct lvm_pool {
	enum lvm_pool_health health;
	bool zeroes; /* what its volumes have not written reads as zeros, not as what another one had there */
	uint64_t size_bytes;
	double data_percent, metadata_percent; /* used */
	double data_percent_extended, metadata_percent_extended; /* used of what LVM can still make it */
};

/* FAILED_PRECONDITION if there is no such thin pool. */
int lvm_pool_look(const char *vg, const char *name, struct lvm_pool *ret, struct error *err);

/* RESOURCE_EXHAUSTED, with the figures and what to do, if nothing more may be begun in it: what runs needs the rest. `what`
 * is what there is no room for. */
int lvm_pool_check_room(const char *vg, const char *name, const char *what, struct error *err);

/* What its owner should know, a sentence with what to do; "" if nothing. */
void lvm_pool_warning(const char *vg, const char *name, const struct lvm_pool *pool, char *out, size_t size);

/* What `size` becomes when it grows by `percent` of itself, rounded up to extents, as often as `free_bytes` allow; an
 * extent_bytes of 0 is none. */
uint64_t lvm_pool_extended(uint64_t size, unsigned percent, uint64_t extent_bytes, uint64_t free_bytes);

#endif
