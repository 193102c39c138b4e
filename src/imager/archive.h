/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A pushed archive into the image store. It may be what `docker save` writes, or did before version 25
 * (manifest.json, with layers in <id>/layer.tar) or before 1.10 (archive_legacy.h), an OCI image layout in a tar
 * (index.json and blobs/), or both in one; with several images; plain or compressed with gzip or zstd.
 *
 * It is read once, front to back, as it arrives: the order of its entries does not matter, and what each of them
 * means is only known when the last has been seen. So whatever looks like a layer is unpacked while it passes
 * (content.h), and the documents decide at the end what becomes an image. All images of an archive are entered, or
 * none.
 */
#ifndef CAPSULE_IMAGER_ARCHIVE_H
#define CAPSULE_IMAGER_ARCHIVE_H

#include "imager/content.h"

/* Reads the archive from the descriptor up to its end and reports progress and images. INVALID_ARGUMENT for what is
 * not an archive of images, one that is damaged or incomplete, or one whose images have no name; FAILED_PRECONDITION
 * for images of other platforms. */
int archive_push(struct content *content, int fd, struct error *err);

#endif
