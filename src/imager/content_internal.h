/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What content.c and blob.c share. */
#ifndef CAPSULE_IMAGER_CONTENT_INTERNAL_H
#define CAPSULE_IMAGER_CONTENT_INTERNAL_H

#include "image/layout.h"
#include "imager/content.h"

#include <pthread.h>
#include <stdatomic.h>

struct content {
	struct layout layout;
	struct layout_stage stage;
	struct content_limits limits;
	atomic_uint serial; /* of names in the stage */
	pthread_mutex_t lock;
	json_t *diff_ids;   /* under lock: hex of a layer's blob to its diff id, for the layers that passed */
};

/* Unpacks a layer that is here only as a blob. diff_id is what it must turn out to be. */
int blob_unpack(struct content *c, const char *digest, const char *diff_id, struct error *err);

#endif
