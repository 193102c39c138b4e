/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The pull: from a reference to an image in the store (distribution-spec, "Pulling").
 *
 * Manifest, config and layers are checked against their digests as they come; a reference that holds a digest gives
 * that content or nothing. Layers are fetched REGISTRY_PARALLEL at a time and unpacked while they download. What is in
 * the store already is not fetched.
 *
 * Threads: uses some of its own; returns when they have ended.
 */
#ifndef CAPSULE_IMAGER_REGISTRY_H
#define CAPSULE_IMAGER_REGISTRY_H

#include "base/error.h"
#include "imager/content.h"

#define REGISTRY_PARALLEL 3

/* registries_file: see registries.h; NULL: defaults. Reports progress and the image (content.h). */
int registry_pull(struct content *content, const char *reference, const char *registries_file, struct error *err);

#endif
