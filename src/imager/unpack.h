/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A layer's tar stream into a directory, as overlayfs wants it below a container's root (image-spec/layer.md).
 *
 * Exact: owners by number, modes with set-user-ID and sticky bits, times of everything, hard and symbolic links,
 * devices, fifos, holes of sparse files, extended attributes with file capabilities, names up to PATH_MAX. A whiteout
 * ".wh.x" becomes a character device 0:0, an opaque marker the attribute trusted.overlay.opaque.
 *
 * Safe: the stream is not trusted. Every path is resolved by the kernel below the layer's directory (openat2,
 * RESOLVE_IN_ROOT), the last component is never followed, and hard link targets obey the same rules. A name that is
 * absolute or contains ".." is refused, not repaired. The stream cannot set overlayfs's own attributes. Bytes,
 * entries, name lengths and (in libarchive, 1 MiB) pax headers are limited. Memory does not depend on the stream.
 *
 * Errors: INVALID_ARGUMENT for a bad stream, RESOURCE_EXHAUSTED for a limit or a full disk. What was unpacked until
 * then is the caller's to remove. One call a thread; blocks on the disk.
 *
 * The process must stay in the "C" locale it starts in: under a UTF-8 one, libarchive composes the characters of pax
 * names (Unicode NFC), so that a name would not be the one that was packed, and two could become one. In "C" it finds
 * that it cannot convert them and hands out the bytes as they are, with a warning, which is what is wanted.
 */
#ifndef CAPSULE_IMAGER_UNPACK_H
#define CAPSULE_IMAGER_UNPACK_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct unpack_limits {
	uint64_t bytes_max;   /* of file content */
	uint64_t entries_max;
};

/* Where the stream comes from. read() points *ret_data at the next bytes, valid until the next call, and returns
 * their number, 0 at the end, or -1 with err set. */
struct unpack_source {
	ssize_t (*read)(void *arg, const void **ret_data, struct error *err);
	void *arg;
};

int unpack_layer(int dirfd, const struct unpack_source *source, const struct unpack_limits *limits, struct error *err);

/* Whether the bytes at the beginning of a stream (512 of them, or all there are) are those of a tar archive. */
int unpack_is_tar(const uint8_t *first, size_t len);

#endif
