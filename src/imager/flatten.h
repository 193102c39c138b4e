/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Layers as one EROFS file system, the way the overlay of a container shows them: what a microVM boots from
 * (image/payload.h).
 */
#ifndef CAPSULE_IMAGER_FLATTEN_H
#define CAPSULE_IMAGER_FLATTEN_H

#include "base/error.h"

#include <stddef.h>

/* Writes it to PAYLOAD_FD (image/payload.h). The layers, lowest first, are absolute paths. stage: a directory that
 * holds nothing of interest, which becomes the process's root. */
int flatten(const char *stage, char *const *layers, size_t n_layers, struct error *err);

#endif
