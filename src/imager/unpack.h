/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A layer's tar stream into a directory, as overlayfs wants it below a container's root (image-spec/layer.md).
 *
 * What tree/extract.h promises, and the meaning of a layer's marks: a whiteout ".wh.x" becomes a character device
 * 0:0, an opaque marker the attribute trusted.overlay.opaque.
 */
#ifndef CAPSULE_IMAGER_UNPACK_H
#define CAPSULE_IMAGER_UNPACK_H

#include "tree/extract.h"

int unpack_layer(int dirfd, const struct extract_source *source, const struct extract_limits *limits,
		 struct error *err);

#endif
