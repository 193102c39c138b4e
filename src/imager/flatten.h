/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Layers as one EROFS file system (mkfs.erofs), the way the overlay of a container shows them: what a microVM boots from
 * (image/payload.h).
 */
#ifndef CAPSULE_IMAGER_FLATTEN_H
#define CAPSULE_IMAGER_FLATTEN_H

#include "base/error.h"

#include <stddef.h>

/* Becomes mkfs.erofs, which writes to PAYLOAD_FD (image/payload.h). The layers, lowest first, are absolute paths. stage: a directory of the
 * caller's, whose empty subdirectories "root" and "base" are used. Returns only when it failed. */
int flatten(const char *stage, char *const *layers, size_t n_layers, struct error *err);

#endif
