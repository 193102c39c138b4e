/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/lvm_pool.h"

#include "volume/lvm.h"

#include <stdio.h>
#include <string.h>

#define WARN_PERCENT 85.0
#define FULL_PERCENT 95.0

/* ---- autoextend ---- */

uint64_t lvm_pool_extended(uint64_t size, unsigned percent, uint64_t extent_bytes, uint64_t free_bytes)
{
	uint64_t step, extents;

	if (!extent_bytes)
		return size;
	for (;;) {
		extents = (size / 100 * percent + extent_bytes - 1) / extent_bytes;
		step = extents * extent_bytes;
		/* LVM does not make a last, smaller step. */
		if (!step || step > free_bytes)
			return size;
		size += step;
		free_bytes -= step;
	}
}

/* dmeventd extends data and metadata alike; the metadata is small against the data. */
static int look_beyond(const struct lvm_volume *v, struct lvm_pool *pool, struct error *err)
{
	struct lvm_autoextend extend;
	uint64_t data, metadata;

	if (!v->monitored || !v->vg_free_bytes)
		return 0;
	if (lvm_autoextend(v->profile, &extend, err) < 0)
		return -1;
	/* As lvm.conf(5) has it, 100 is "never". */
	if (extend.threshold >= 100)
		return 0;
	data = lvm_pool_extended(v->size_bytes, extend.percent, v->vg_extent_bytes, v->vg_free_bytes);
	metadata = lvm_pool_extended(v->metadata_bytes, extend.percent, v->vg_extent_bytes, v->vg_free_bytes);
	if (data)
		pool->data_percent_extended *= (double)v->size_bytes / (double)data;
	if (metadata)
		pool->metadata_percent_extended *= (double)v->metadata_bytes / (double)metadata;
	return 0;
}

/* ---- what is there ---- */

/* As lvs(8) calls it. */
static enum lvm_pool_health health_of(const struct lvm_volume *v)
{
	if (!strcmp(v->health, "failed") || v->check_needed)
		return LVM_POOL_DAMAGED;
	if (!strcmp(v->health, "metadata_read_only"))
		return LVM_POOL_OUT_OF_METADATA;
	return strcmp(v->health, "out_of_data") ? LVM_POOL_SOUND : LVM_POOL_OUT_OF_DATA;
}

int lvm_pool_look(const char *vg, const char *name, struct lvm_pool *ret, struct error *err)
{
	struct lvm_volume v;

	if (lvm_find(vg, name, &v, err) < 0)
		return -1;
	if (!v.exists || !v.is_pool)
		return error_set(err, ERR_FAILED_PRECONDITION, "there is no thin pool %s/%s; make it with lvcreate --type thin-pool",
				 vg, name);
	*ret = (struct lvm_pool){
		.health = health_of(&v),
		.zeroes = v.zeroes,
		.size_bytes = v.size_bytes,
		.data_percent = v.data_percent,
		.metadata_percent = v.metadata_percent,
		.data_percent_extended = v.data_percent,
		.metadata_percent_extended = v.metadata_percent,
	};
	return look_beyond(&v, ret, err);
}

/* ---- what follows ---- */

static bool is_above(const struct lvm_pool *pool, double percent)
{
	return pool->data_percent_extended >= percent || pool->metadata_percent_extended >= percent;
}

static void describe(const char *vg, const char *name, const struct lvm_pool *pool, char *out, size_t size)
{
	switch (pool->health) {
	case LVM_POOL_DAMAGED:
		snprintf(out, size, "the metadata of thin pool %s/%s is damaged; stop what uses its volumes and repair it, see "
				    "\"Metadata check and repair\" in lvmthin(7)", vg, name);
		break;
	case LVM_POOL_OUT_OF_METADATA:
		snprintf(out, size, "thin pool %s/%s has no room for metadata, and what is written to its volumes fails; extend it with "
				    "lvextend --poolmetadatasize +SIZE %s/%s, then restart workloads that had errors", vg, name, vg, name);
		break;
	case LVM_POOL_OUT_OF_DATA:
		snprintf(out, size, "thin pool %s/%s is full, and what is written to its volumes waits or fails; extend it with "
				    "lvextend --size +SIZE %s/%s, then restart workloads that had errors", vg, name, vg, name);
		break;
	case LVM_POOL_SOUND:
		snprintf(out, size, "thin pool %s/%s is nearly full (data %.1f %%, metadata %.1f %%); extend it with lvextend, or delete "
				    "snapshots or volumes", vg, name, pool->data_percent, pool->metadata_percent);
		break;
	}
}

void lvm_pool_warning(const char *vg, const char *name, const struct lvm_pool *pool, char *out, size_t size)
{
	*out = '\0';
	if (pool->health != LVM_POOL_SOUND || is_above(pool, WARN_PERCENT))
		describe(vg, name, pool, out, size);
}

int lvm_pool_check_room(const char *vg, const char *name, const char *what, struct error *err)
{
	struct lvm_pool pool;
	char why[1024];

	if (lvm_pool_look(vg, name, &pool, err) < 0)
		return -1;
	if (pool.health == LVM_POOL_SOUND && !is_above(&pool, FULL_PERCENT))
		return 0;
	describe(vg, name, &pool, why, sizeof why);
	return error_set(err, ERR_RESOURCE_EXHAUSTED, "there is no room for %s: %s", what, why);
}
