/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Where volumes live. A backend makes, grows and removes block storage with an ext4 file system on it and attaches it as
 * a block device. It does not know who uses a volume; the store decides that.
 *
 * All operations block (mke2fs, resize2fs, the disk): task threads only. All are idempotent: doing again what was cut
 * off by a crash completes it.
 */
#ifndef CAPSULE_VOLUME_BACKEND_H
#define CAPSULE_VOLUME_BACKEND_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define VOLUME_SIZE_MIN (16ull << 20)
#define VOLUME_SIZE_DEFAULT (1ull << 30)

struct volume_backend;

struct volume_backend_ops {
	const char *name; /* "file" */

	/* Makes the storage and its file system. RESOURCE_EXHAUSTED, and nothing is left, when there is no room. */
	int (*create)(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err);
	/* Grows storage and file system, detached, after checking the file system. */
	int (*grow)(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err);
	/* Missing: success. */
	int (*remove)(struct volume_backend *b, const char *name, struct error *err);

	/* Makes a block device of the volume. *ret_device is owned by the caller ("/dev/loop7"). *ret_fd (owned) keeps the
	 * device until something has mounted it: close it after that. The device goes with its last user. */
	int (*attach)(struct volume_backend *b, const char *name, bool read_only, char **ret_device, int *ret_fd,
		      struct error *err);

	/* The file or device that holds the volume; caller frees. NULL without memory. */
	char *(*host_path)(struct volume_backend *b, const char *name);

	/* Calls fn for every volume found in storage, so that the owner can remove those that nobody knows. */
	int (*enumerate)(struct volume_backend *b, void (*fn)(const char *name, void *arg), void *arg, struct error *err);

	void (*free)(struct volume_backend *b);
};

struct volume_backend {
	const struct volume_backend_ops *ops;
};

/* Volumes as sparse ext4 images in a directory. */
int volume_file_backend_new(const char *directory, struct volume_backend **ret, struct error *err);

#endif
