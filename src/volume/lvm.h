/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Logical volumes of one volume group, through LVM's commands. Every command is a process with a time limit; what LVM says
 * is read as JSON (lvmreport(7)).
 *
 * Blocks: task threads only. Thread-safe: LVM locks the volume group.
 */
#ifndef CAPSULE_VOLUME_LVM_H
#define CAPSULE_VOLUME_LVM_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define LVM_NAME_MAX 128 /* LVM's own limit, with the NUL */

struct lvm_volume {
	bool exists;
	bool ours;           /* has our tag */
	bool in_use;         /* the device is open: mounted, or used by a virtual machine */
	bool is_pool;        /* a thin pool */
	uint64_t size_bytes;
	double data_percent; /* used of it */
	char name[LVM_NAME_MAX];
	/* Of a pool. */
	double metadata_percent;
	uint64_t metadata_bytes;
	bool monitored;      /* dmeventd watches it */
	bool check_needed;
	bool zeroes;         /* what it newly gives to a volume reads as zeros */
	char health[32];     /* lv_health_status of lvs(8); "": sound */
	char profile[LVM_NAME_MAX]; /* of settings of its own (lvmprofile in lvm.conf(5)); "": none */
	/* Of its volume group. */
	uint64_t vg_free_bytes, vg_extent_bytes;
};

/* When and by how much LVM extends a pool (thin_pool_autoextend_* in lvm.conf(5)). */
struct lvm_autoextend {
	unsigned threshold; /* percent used; 100: never */
	unsigned percent;   /* of its size */
};

/* A volume that is not there is no error. */
int lvm_find(const char *vg, const char *name, struct lvm_volume *ret, struct error *err);

/* Calls fn for each volume that has our tag. fn may change volumes. After one that fails it goes on; the first error is
 * returned. */
int lvm_each(const char *vg, int (*fn)(const struct lvm_volume *v, void *arg, struct error *err), void *arg,
	     struct error *err);

/* The settings that hold for a pool with this profile; "": the host's. */
int lvm_autoextend(const char *profile, struct lvm_autoextend *ret, struct error *err);

/* Runs one of LVM's commands; one that fails is an error with what it said. ENOSPC of any kind: RESOURCE_EXHAUSTED. */
int lvm_run(const char *const *argv, struct error *err);

/* The tag of what the daemon has made. */
#define LVM_TAG "capsule"

#endif
