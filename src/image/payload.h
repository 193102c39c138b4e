/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Payloads: an image flattened once into a read-only EROFS file, <root>/payloads/<hex of the manifest's digest>.erofs, which
 * all microVMs of the image boot from. It goes with the image (image_store_collect()).
 *
 * Everybody may read it and nobody writes it; its directory is root's own.
 *
 * It is made in a stage of the image store (layout.h), synced and renamed: what has its name is whole, and what a crash
 * cut off is swept like a transfer that was. Those who want the same one at the same time wait for one maker.
 *
 * The maker is a process of its own (`capsule-image flatten`), and ends with the daemon.
 *
 * Threads: any; payload_ensure() blocks for as long as the image takes: task threads only.
 */
#ifndef CAPSULE_IMAGE_PAYLOAD_H
#define CAPSULE_IMAGE_PAYLOAD_H

#include "image/store.h"

#define PAYLOAD_SUFFIX ".erofs"
#define PAYLOAD_FD 3 /* of the maker: the file that it fills */

struct payloads;

/* root: the state root. worker: the program capsule-image. Both are copied. */
int payloads_new(const char *root, const char *worker, struct payloads **ret, struct error *err);
void payloads_free(struct payloads *p); /* NULL is fine */

/* The payload of a resolved image, made if it is not there. *ret_path is the caller's. RESOURCE_EXHAUSTED when the disk is
 * full. */
int payload_ensure(struct payloads *p, const struct image *image, char **ret_path, struct error *err);

#endif
