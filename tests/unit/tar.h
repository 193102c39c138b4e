/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Tar archives in memory for tests, good ones and bad ones. Failures end the test. */
#ifndef CAPSULE_TESTS_TAR_H
#define CAPSULE_TESTS_TAR_H

#include <archive.h>
#include <archive_entry.h>
#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct tar {
	uint8_t *data;
	size_t len;
	struct archive *archive; /* NULL once ended */
};

struct tar_entry {
	const char *path;
	unsigned type, mode; /* AE_IFREG and so on */
	int64_t uid, gid;
	int64_t mtime;
	long nsec;
	const char *link, *hardlink;
	const void *data;
	size_t len; /* 0: data is a string */
	unsigned major, minor;
	const char *xattr;
	const void *value;
	size_t value_len;
};

static la_ssize_t tar_on_write(struct archive *a, void *arg, const void *data, size_t len)
{
	struct tar *tar = arg;

	(void)a;
	tar->data = realloc(tar->data, tar->len + len);
	ck_assert_ptr_nonnull(tar->data);
	memcpy(tar->data + tar->len, data, len);
	tar->len += len;
	return (la_ssize_t)len;
}

static inline void tar_begin(struct tar *tar)
{
	*tar = (struct tar){ NULL, 0, archive_write_new() };
	archive_write_set_format_pax(tar->archive);
	archive_write_set_format_option(tar->archive, "pax", "hdrcharset", "BINARY");
	archive_write_set_bytes_per_block(tar->archive, 0);
	ck_assert_int_eq(archive_write_open(tar->archive, tar, NULL, tar_on_write, NULL), ARCHIVE_OK);
}

static inline void tar_end(struct tar *tar)
{
	if (tar->archive)
		ck_assert_int_eq(archive_write_free(tar->archive), ARCHIVE_OK);
	tar->archive = NULL;
}

static inline void tar_release(struct tar *tar)
{
	if (tar->archive)
		archive_write_free(tar->archive);
	free(tar->data);
	*tar = (struct tar){ NULL, 0, NULL };
}

static inline void tar_add(struct tar *tar, struct tar_entry e)
{
	struct archive_entry *entry = archive_entry_new();
	size_t len = e.len ? e.len : e.data ? strlen(e.data) : 0;

	archive_entry_copy_pathname(entry, e.path);
	archive_entry_set_filetype(entry, e.hardlink ? AE_IFREG : e.type);
	archive_entry_set_perm(entry, e.mode);
	archive_entry_set_uid(entry, e.uid);
	archive_entry_set_gid(entry, e.gid);
	archive_entry_set_mtime(entry, e.mtime, e.nsec);
	if (e.hardlink)
		archive_entry_copy_hardlink(entry, e.hardlink);
	if (e.link)
		archive_entry_copy_symlink(entry, e.link);
	archive_entry_set_rdevmajor(entry, e.major);
	archive_entry_set_rdevminor(entry, e.minor);
	if (e.xattr)
		archive_entry_xattr_add_entry(entry, e.xattr, e.value, e.value_len);
	if (e.type == AE_IFREG && !e.hardlink)
		archive_entry_set_size(entry, (int64_t)len);
	ck_assert_msg(archive_write_header(tar->archive, entry) >= ARCHIVE_WARN, "%s",
		      archive_error_string(tar->archive));
	if (e.type == AE_IFREG && !e.hardlink && len)
		ck_assert_int_eq(archive_write_data(tar->archive, e.data, len), (la_ssize_t)len);
	archive_entry_free(entry);
}

static inline void tar_file(struct tar *tar, const char *path, const char *text)
{
	tar_add(tar, (struct tar_entry){ .path = path, .type = AE_IFREG, .mode = 0644, .data = text });
}

/* A file of zeros, kept as a hole, but for the text at an offset. */
static inline void tar_sparse(struct tar *tar, const char *path, int64_t size, int64_t offset, const char *text)
{
	struct archive_entry *entry = archive_entry_new();
	char *content = calloc(1, (size_t)size);

	archive_entry_copy_pathname(entry, path);
	archive_entry_set_filetype(entry, AE_IFREG);
	memcpy(content + offset, text, strlen(text));
	archive_entry_set_perm(entry, 0644);
	archive_entry_set_size(entry, size);
	archive_entry_sparse_add_entry(entry, offset, (int64_t)strlen(text));
	ck_assert_int_eq(archive_write_header(tar->archive, entry), ARCHIVE_OK);
	ck_assert_int_eq(archive_write_data(tar->archive, content, (size_t)size), (la_ssize_t)size);
	free(content);
	archive_entry_free(entry);
}

static inline void tar_raw(struct tar *tar, const void *data, size_t len)
{
	tar_on_write(NULL, tar, data, len);
}

/* A ustar header of any type and size, without what it announces. */
static inline void tar_raw_header(struct tar *tar, const char *name, char type, uint64_t size)
{
	uint8_t h[512] = { 0 };
	unsigned sum = 0;

	snprintf((char *)h, 100, "%s", name);
	memcpy(h + 100, "0000644", 8);
	memcpy(h + 108, "0000000", 8);
	memcpy(h + 116, "0000000", 8);
	h[124] = 0x80; /* the size in base 256 */
	for (int i = 0; i < 8; i++)
		h[135 - i] = (uint8_t)(size >> (8 * i));
	memcpy(h + 136, "00000000000", 12);
	memset(h + 148, ' ', 8);
	h[156] = (uint8_t)type;
	memcpy(h + 257, "ustar", 6);
	memcpy(h + 263, "00", 2);
	for (int i = 0; i < 512; i++)
		sum += h[i];
	snprintf((char *)h + 148, 8, "%06o", sum);
	tar_raw(tar, h, sizeof h);
}

/* An empty file with one pax record. */
static inline void tar_raw_pax(struct tar *tar, const char *key, const char *value)
{
	char block[512] = { 0 };
	int len = (int)(strlen(key) + strlen(value) + 3), digits = len + 1 < 10 ? 1 : 2;

	len += digits;
	snprintf(block, sizeof block, "%d %s=%s\n", len, key, value);
	tar_raw_header(tar, "pax", 'x', (uint64_t)len);
	tar_raw(tar, block, sizeof block);
	tar_raw_header(tar, "file", '0', 0);
}

/* A part of the archive through "gzip" or "zstd"; the result is to be released. */
static inline void tar_compress(const struct tar *tar, const char *how, size_t from, size_t len, struct tar *ret)
{
	struct archive_entry *entry = archive_entry_new();

	*ret = (struct tar){ NULL, 0, archive_write_new() };
	archive_write_set_format_raw(ret->archive);
	ck_assert_int_eq(archive_write_add_filter_by_name(ret->archive, how), ARCHIVE_OK);
	archive_write_set_bytes_per_block(ret->archive, 0);
	ck_assert_int_eq(archive_write_open(ret->archive, ret, NULL, tar_on_write, NULL), ARCHIVE_OK);
	archive_entry_set_filetype(entry, AE_IFREG);
	ck_assert_int_eq(archive_write_header(ret->archive, entry), ARCHIVE_OK);
	ck_assert_int_eq(archive_write_data(ret->archive, tar->data + from, len), (la_ssize_t)len);
	archive_entry_free(entry);
	tar_end(ret);
}

#endif
