/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The content of one file as that of another: shared where the file system can (FICLONE, at once), else read and written
 * without the holes. Blocks on the disk. */
#ifndef CAPSULE_VOLUME_COPY_H
#define CAPSULE_VOLUME_COPY_H

#include "base/error.h"

#include <stdint.h>

/* `to` is empty, and has the length of `from` afterwards. `what` names it in messages. */
int copy_content(const char *what, int from, int to, struct error *err);

#endif
