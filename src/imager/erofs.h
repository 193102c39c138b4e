/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Writes an EROFS file system: what layers show together, as one file that a kernel mounts (erofs_format.h).
 *
 * The same layers give the same bytes. Files' blocks are copied by the kernel (copy_file_range(2)), shared where the
 * file system can do that; holes of sparse files stay holes. Writing to the disk begins at once, so that an fsync(2)
 * at the end finds little to do.
 *
 * Layout: the super block, then all inodes, a directory's beside each other, then all blocks in the same order.
 */
#ifndef CAPSULE_IMAGER_EROFS_H
#define CAPSULE_IMAGER_EROFS_H

#include "imager/layers.h"

/* fd: an empty file, open for reading and writing; it is not synced. The layers have been read. ABORTED: a layer has
 * changed meanwhile. Blocks on the disk. */
int erofs_write(int fd, const struct layers *l, struct error *err);

#endif
