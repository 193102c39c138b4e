/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Where volumes live. A backend makes, grows and removes block storage with an ext4 file system on it and attaches it as
 * a block device. It does not know who uses a volume; the store decides that.
 *
 * `name` is a volume's name, or for a snapshot what volume_snapshot_key() makes of it: a snapshot is storage like a
 * volume's that nobody attaches.
 *
 * All operations block (mke2fs, resize2fs, the disk): task threads only. All are idempotent: doing again what was cut
 * off by a crash completes it.
 */
#ifndef CAPSULE_VOLUME_BACKEND_H
#define CAPSULE_VOLUME_BACKEND_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VOLUME_SIZE_MIN (16ull << 20)
#define VOLUME_SIZE_DEFAULT (1ull << 30)

/* Between a volume's name and a snapshot's, neither of which can hold it. */
#define VOLUME_SNAPSHOT_MARK '+'

#define VOLUME_WARNING_MAX 1024

struct volume_backend;

/* The storage that volumes share. */
struct volume_room {
	uint64_t pool_total_bytes, pool_used_bytes; /* of a pool of their own; 0: there is none */
	char warning[VOLUME_WARNING_MAX];           /* what its owner should know and do, a sentence; "": nothing */
};

struct volume_backend_ops {
	const char *name; /* "file", "lvm" */

	/* Makes the storage and its file system. RESOURCE_EXHAUSTED, and nothing is left, when there is no room. */
	int (*create)(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err);
	/* Makes the storage alone, which reads as zeros, for what is imported; errors as for create. finish() makes a
	 * volume of it. */
	int (*allocate)(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err);
	/* Syncs what was written to allocated storage and checks it: DATA_LOSS if it is no sound file system. */
	int (*finish)(struct volume_backend *b, const char *name, struct error *err);
	/* Makes `to`, which must not exist, a copy of `from`: at once where the storage can, by reading otherwise. A volume
	 * that is mounted is frozen meanwhile (freeze.h); held: somebody else holds it still. Errors as for create. */
	int (*copy)(struct volume_backend *b, const char *from, const char *to, bool held, struct error *err);
	/* Gives the volume, detached, the content of a snapshot of it, grown to size_bytes. It has the old content or the new. */
	int (*restore)(struct volume_backend *b, const char *name, const char *snapshot, uint64_t size_bytes, struct error *err);
	/* Grows storage and file system, detached, after checking the file system. UNAVAILABLE: it was begun, and the same call leads
	 * on; after any other error all is as it was. */
	int (*grow)(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err);
	/* Missing: success. */
	int (*remove)(struct volume_backend *b, const char *name, struct error *err);

	/* Makes a block device of the volume. *ret_device is owned by the caller ("/dev/loop7"). *ret_fd (owned) keeps the
	 * device until something has mounted it: close it after that. The device goes with its last user. */
	int (*attach)(struct volume_backend *b, const char *name, bool read_only, char **ret_device, int *ret_fd,
		      struct error *err);

	/* The bytes of the storage itself, for reading or for writing too. *ret_fd is the caller's. */
	int (*open)(struct volume_backend *b, const char *name, bool writable, int *ret_fd, struct error *err);
	/* What the storage takes of the disk below now. */
	int (*usage)(struct volume_backend *b, const char *name, uint64_t *ret_bytes, struct error *err);
	int (*room)(struct volume_backend *b, struct volume_room *ret, struct error *err);

	/* A descriptor, the caller's, that is readable (POLLIN) when the room may have changed; it is armed again before each
	 * look at the room. Neither blocks; both are NULL where nothing tells of it. */
	int (*events_open)(struct error *err);
	int (*events_arm)(int fd, struct error *err);

	/* The file or device that holds the volume; caller frees. NULL without memory. */
	char *(*host_path)(struct volume_backend *b, const char *name);

	/* Whether its file system has met errors that were not repaired yet, or is none. */
	bool (*has_errors)(struct volume_backend *b, const char *name);

	/* Whether something stands where the volume would come: 1 or 0. */
	int (*exists)(struct volume_backend *b, const char *name, struct error *err);

	/* For the daemon's start: completes what a crash cut off, and calls fn for every volume and snapshot found in
	 * storage, so that the owner can tell which of them nobody knows. */
	int (*enumerate)(struct volume_backend *b, void (*fn)(const char *name, void *arg), void *arg, struct error *err);

	void (*free)(struct volume_backend *b);
};

struct volume_backend {
	const struct volume_backend_ops *ops;
};

/* "data+before"; NULL without memory. Caller frees. snapshot "": what is exported now, see service/volume_transfer.c. */
char *volume_snapshot_key(const char *volume, const char *snapshot);

/* How messages call it: "volume data", "snapshot before of volume data". NULL without memory. Caller frees. */
char *volume_text(const char *name);

/* ---- the backends ---- */

/* Volumes as sparse ext4 images in a directory. worker: the program capsule-volume, copied. */
int volume_file_backend_new(const char *directory, const char *worker, struct volume_backend **ret, struct error *err);

/* Volumes in a thin pool, "VG/POOL", which must exist. */
int volume_lvm_backend_new(const char *pool, struct volume_backend **ret, struct error *err);

/* All that the daemon has; the first is where a volume is made that does not say. */
struct volume_backends {
	struct volume_backend *items[2];
	size_t n;
};

/* name "" is the first. INVALID_ARGUMENT for one that is none, FAILED_PRECONDITION for one that the daemon was not
 * started with: the volumes there are out of reach. */
struct volume_backend *volume_backend_find(const struct volume_backends *backends, const char *name, struct error *err);

void volume_backends_free(struct volume_backends *backends);

#endif
