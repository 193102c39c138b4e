/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * EROFS on a disk, as far as we write it: no compression, one device, what every kernel since 5.4 reads (kernel:
 * filesystems/erofs.rst and fs/erofs/erofs_fs.h). Numbers are little endian.
 *
 * An inode has a number, its offset in units of 32 bytes, and begins with struct erofs_inode. Behind that are its
 * extended attributes, if it has any: struct erofs_xattrs and entries. Its content is in blocks one behind the other;
 * but the rest of a last block that is not full may be right behind the attributes instead, where it must not cross a
 * block's end ("inline").
 *
 * A directory's content is blocks too, each with its entries, sorted, and behind them their names.
 */
#ifndef CAPSULE_IMAGER_EROFS_FORMAT_H
#define CAPSULE_IMAGER_EROFS_FORMAT_H

#include <assert.h>
#include <stdint.h>

#define EROFS_BLOCK_BITS 12
#define EROFS_BLOCK (1u << EROFS_BLOCK_BITS)
#define EROFS_SUPER_OFFSET 1024
#define EROFS_MAGIC 0xE0F5E1E2u
#define EROFS_COMPAT_MTIME 2u /* inodes have times of modification, not of change */
#define EROFS_NID_BITS 5

struct erofs_super {
	uint32_t magic, checksum, feature_compat;
	uint8_t block_bits, extension_slots;
	uint16_t root_nid;
	uint64_t inodes, build_time;
	uint32_t build_time_nsec, blocks, meta_block, xattr_block;
	uint8_t uuid[16], volume_name[16];
	uint32_t feature_incompat;
	uint8_t unused[44];
};

#define EROFS_FORMAT_EXTENDED 1u /* the inode is this struct, not a shorter one */
#define EROFS_FORMAT_INLINE (2u << 1)
#define EROFS_NO_BLOCK UINT32_MAX

struct erofs_inode {
	uint16_t format;
	uint16_t xattr_count; /* 0: none; else 1 + a quarter of what is behind struct erofs_xattrs */
	uint16_t mode, unused;
	uint64_t size;
	uint32_t block_or_device; /* the first block of the content, or a device's number as new_encode_dev() has it */
	uint32_t ino, uid, gid;
	uint64_t mtime;
	uint32_t mtime_nsec, nlink;
	uint8_t unused2[16];
};

struct erofs_xattrs {
	uint32_t name_filter;
	uint8_t shared_count, unused[7];
};

/* Behind it: name without its prefix, value, and what makes a multiple of 4 of it. */
struct erofs_xattr {
	uint8_t name_len, prefix;
	uint16_t value_size;
};

enum {
	EROFS_XATTR_USER = 1,
	EROFS_XATTR_ACL_ACCESS = 2,
	EROFS_XATTR_ACL_DEFAULT = 3,
	EROFS_XATTR_SECURITY = 6,
};

struct erofs_entry {
	uint64_t nid;
	uint16_t name_offset;
	uint8_t type, unused;
} __attribute__((packed));

enum {
	EROFS_TYPE_FILE = 1,
	EROFS_TYPE_DIRECTORY,
	EROFS_TYPE_CHARACTER_DEVICE,
	EROFS_TYPE_BLOCK_DEVICE,
	EROFS_TYPE_FIFO,
	EROFS_TYPE_SOCKET,
	EROFS_TYPE_SYMLINK,
};

static_assert(sizeof(struct erofs_super) == 128, "as on the disk");
static_assert(sizeof(struct erofs_inode) == 64, "as on the disk");
static_assert(sizeof(struct erofs_xattrs) == 12, "as on the disk");
static_assert(sizeof(struct erofs_xattr) == 4, "as on the disk");
static_assert(sizeof(struct erofs_entry) == 12, "as on the disk");

#endif
