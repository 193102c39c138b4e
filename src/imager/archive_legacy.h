/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What `docker save` wrote before Docker 1.10 (docker's image/spec/v1.md, "Combined Image JSON + Filesystem Changeset
 * Format"): no manifest.json, but
 *
 *   repositories     {"NAME": {"TAG": "ID"}}: the topmost layer of each image
 *   ID/json          what the layer is: its parent's ID and, in the topmost one, the image's configuration
 *   ID/layer.tar     the layer
 *   ID/VERSION       1.0
 *
 * Newer Dockers write these files beside manifest.json, where they mean nothing. So they are kept as text while the
 * archive passes, within a limit, and whatever is wrong with them is an error only for who asks for the images.
 *
 * One thread. Errors are INVALID_ARGUMENT, or RESOURCE_EXHAUSTED beyond a limit.
 */
#ifndef CAPSULE_IMAGER_ARCHIVE_LEGACY_H
#define CAPSULE_IMAGER_ARCHIVE_LEGACY_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define LEGACY_TEXT_MAX (4u << 20)   /* bytes of one file... */
#define LEGACY_TEXTS_MAX (16u << 20) /* ...and of all that are kept */
#define LEGACY_FILES_MAX 32768       /* further ones are not kept */

struct legacy {
	json_t *texts; /* key to the file's text; null: beyond the limit. NULL: no file was seen */
	size_t len;
};

void legacy_release(struct legacy *l);

/* Whether the archive's file is one of these: `repositories` or ID/json. */
bool legacy_is_text(const char *key);

/* Keeps the file's text. NULL: it was longer than LEGACY_TEXT_MAX. */
void legacy_add(struct legacy *l, const char *key, const char *text, size_t len);

bool legacy_has_layers(const struct legacy *l);

/* One image: what its entry in a manifest.json would say of RepoTags and Layers, and its configuration without the
 * layers' digests. Valid during the call; a reference may be kept. */
struct legacy_image {
	json_t *tags, *layers; /* layers: keys of the archive's files, lowest first */
	json_t *config;
};

typedef int (*legacy_found)(const struct legacy_image *image, void *arg, struct error *err);

/* Calls found() for each image, one after another, until it fails. */
int legacy_images(const struct legacy *l, legacy_found found, void *arg, struct error *err);

#endif
