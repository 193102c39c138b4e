/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* SHA-256 digests in the form that image documents use, "sha256:" and 64 hex digits. One thread an object. */
#ifndef CAPSULE_IMAGER_DIGEST_H
#define CAPSULE_IMAGER_DIGEST_H

#include "base/error.h"
#include "imager/content.h"

struct digest;

struct digest *digest_new(void); /* NULL without memory */
void digest_free(struct digest *d);
DEFINE_CLEANUP(struct digest *, digest_free)

void digest_add(struct digest *d, const void *data, size_t len);
/* To be called once, last. */
void digest_finish(struct digest *d, char ret[DIGEST_TEXT]);

/* All at once. */
void digest_of(const void *data, size_t len, char ret[DIGEST_TEXT]);

#endif
