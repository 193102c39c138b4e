/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * gzip by ISA-L at its fastest level, for layers that come without compression. The same input, cut in the same way, gives
 * the same output. One thread an object.
 */
#ifndef CAPSULE_IMAGER_COMPRESS_H
#define CAPSULE_IMAGER_COMPRESS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct compress;

/* Takes the compressed bytes as they come; negative ends the compression with the sink's error. */
typedef int (*compress_sink)(void *arg, const void *data, size_t len, struct error *err);

int compress_new(compress_sink sink, void *arg, struct compress **ret, struct error *err);
void compress_free(struct compress *c);
DEFINE_CLEANUP(struct compress *, compress_free)

int compress_add(struct compress *c, const void *data, size_t len, struct error *err);
int compress_finish(struct compress *c, struct error *err);

#endif
