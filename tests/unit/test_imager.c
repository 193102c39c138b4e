/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What capsule-image makes of layers: unpacked exactly, or refused with nothing left. Archives: test_push.c. */
#include "base/fs.h"
#include "image/store.h"
#include "imager/content.h"
#include "imager/content_internal.h"
#include "imager/decompress.h"
#include "tar.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static char root[] = "/tmp/capsule-imager-XXXXXX";
static struct content *content;
static struct tar tar;

static void setup(void)
{
	const struct content_limits limits = { .blob_max = 32 << 20, .unpacked_max = 8 << 20, .entries_max = 1000 };

	ck_assert_ptr_nonnull(mkdtemp(root));
	ck_assert_int_eq(content_open(root, &limits, &content, NULL), 0);
	tar_begin(&tar);
}

static void teardown(void)
{
	tar_release(&tar);
	content_close(content);
	fs_remove_tree(AT_FDCWD, root, NULL);
}

static int push_bytes(const void *data, size_t len, const char *digest, const char *diff_id,
		      char ret_diff_id[DIGEST_TEXT], struct error *err)
{
	struct blob_writer *w;

	if (blob_begin(content, BLOB_LAYER, digest, diff_id, &w, err) < 0)
		return -1;
	/* In odd pieces, as a network would bring them. */
	for (size_t at = 0; at < len; at += 100003)
		if (blob_write(w, (const char *)data + at, len - at < 100003 ? len - at : 100003, err) < 0) {
			blob_abort(w);
			return -1;
		}
	return blob_commit(w, NULL, NULL, ret_diff_id, err);
}

/* Pushes the tar, which must be taken, and opens the unpacked layer. */
static int unpacked(void)
{
	struct error err = ERROR_INIT;
	char diff_id[DIGEST_TEXT];
	int fd;

	tar_end(&tar);
	ck_assert_msg(push_bytes(tar.data, tar.len, NULL, NULL, diff_id, &err) == 0, "%s", error_message(&err));
	fd = openat(content->layout.layers, diff_id + 7, O_RDONLY | O_DIRECTORY);
	ck_assert_int_ge(fd, 0);
	return fd;
}

static unsigned count_entries(int dirfd)
{
	_cleanup_closedir_ DIR *dir = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY));
	struct dirent *entry;
	unsigned n = 0;

	while ((entry = readdir(dir)))
		n += entry->d_name[0] != '.' && strncmp(entry->d_name, "pin-", 4) != 0;
	return n;
}

/* Pushes what must be refused with this code and a message that contains this text; nothing may stay. */
static void refused(const void *data, size_t len, enum error_code code, const char *text)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_int_lt(push_bytes(data, len, NULL, NULL, NULL, &err), 0);
	ck_assert_msg(err.code == code, "%s: %s", error_code_name(err.code), error_message(&err));
	ck_assert_msg(strstr(error_message(&err), text) != NULL, "\"%s\" is not in: %s", text, error_message(&err));
	ck_assert_uint_eq(count_entries(content->layout.layers), 0);
	ck_assert_uint_eq(count_entries(content->layout.blobs), 0);
	ck_assert_uint_eq(count_entries(content->stage.fd), 0);
}

static void refused_tar(const char *text)
{
	tar_end(&tar);
	refused(tar.data, tar.len, ERR_INVALID_ARGUMENT, text);
}

static struct stat stat_of(int fd, const char *path)
{
	struct stat st;

	ck_assert_msg(fstatat(fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0, "%s is missing", path);
	return st;
}

static void check_content(int fd, const char *path, const char *text)
{
	_cleanup_free_ char *found = NULL;

	ck_assert_int_eq(fs_read(fd, path, 1 << 20, &found, NULL, NULL), 0);
	ck_assert_str_eq(found, text);
}

/* ---- exact ---- */

START_TEST(owners_modes_and_times)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	tar_add(&tar, (struct tar_entry){ .path = "./", .type = AE_IFDIR, .mode = 0711, .mtime = 1000 });
	tar_add(&tar, (struct tar_entry){ .path = "./bin/", .type = AE_IFDIR, .mode = 02755, .uid = 3, .gid = 4,
					 .mtime = 2000 });
	tar_add(&tar, (struct tar_entry){ .path = "./bin/su", .type = AE_IFREG, .mode = 04755, .uid = 1, .gid = 70000,
					 .mtime = 3000,
					  .nsec = 123456789, .data = "su" });
	/* Its directory and the process would give it another group and another mode. */
	tar_add(&tar, (struct tar_entry){ .path = "./bin/all", .type = AE_IFREG, .mode = 0666, .data = "" });
	tar_add(&tar, (struct tar_entry){ .path = "./tmp", .type = AE_IFDIR, .mode = 01777, .mtime = -5 });
	tar_add(&tar, (struct tar_entry){ .path = "./bin/sh", .type = AE_IFLNK, .link = "su", .uid = 9,
					 .mtime = 4000 });
	tar_add(&tar, (struct tar_entry){ .path = "./none", .type = AE_IFREG, .mode = 0, .mtime = 0, .data = "" });
	fd = unpacked();
	st = stat_of(fd, ".");
	ck_assert_uint_eq(st.st_mode, S_IFDIR | 0711);
	ck_assert_int_eq(st.st_mtime, 1000);
	st = stat_of(fd, "bin");
	ck_assert_uint_eq(st.st_mode, S_IFDIR | 02755);
	ck_assert(st.st_uid == 3 && st.st_gid == 4);
	ck_assert_int_eq(st.st_mtime, 2000);
	st = stat_of(fd, "bin/su");
	ck_assert_uint_eq(st.st_mode, S_IFREG | 04755);
	ck_assert(st.st_uid == 1 && st.st_gid == 70000);
	ck_assert(st.st_mtim.tv_sec == 3000 && st.st_mtim.tv_nsec == 123456789);
	st = stat_of(fd, "bin/all");
	ck_assert_uint_eq(st.st_mode, S_IFREG | 0666);
	ck_assert(st.st_uid == 0 && st.st_gid == 0);
	st = stat_of(fd, "tmp");
	ck_assert_uint_eq(st.st_mode, S_IFDIR | 01777);
	ck_assert_int_eq(st.st_mtime, -5);
	st = stat_of(fd, "bin/sh");
	ck_assert(st.st_uid == 9 && st.st_mtime == 4000);
	ck_assert_uint_eq(stat_of(fd, "none").st_mode, S_IFREG);
}
END_TEST

START_TEST(links_devices_and_fifos)
{
	_cleanup_close_ int fd = -1;
	char target[16] = "";
	struct stat st;

	tar_add(&tar, (struct tar_entry){ .path = "a", .type = AE_IFREG, .mode = 0644, .data = "one" });
	tar_add(&tar, (struct tar_entry){ .path = "deep/er/b", .hardlink = "./a" });
	tar_add(&tar, (struct tar_entry){ .path = "a", .hardlink = "deep/er/b" });
	tar_add(&tar, (struct tar_entry){ .path = "link", .type = AE_IFLNK, .link = "/../../x" });
	tar_add(&tar, (struct tar_entry){ .path = "link2", .hardlink = "link" });
	tar_add(&tar, (struct tar_entry){ .path = "null", .type = AE_IFCHR, .mode = 0666, .major = 1, .minor = 3 });
	tar_add(&tar, (struct tar_entry){ .path = "disk", .type = AE_IFBLK, .mode = 0660, .uid = 6, .major = 259,
					 .minor = 70000 });
	tar_add(&tar, (struct tar_entry){ .path = "fifo", .type = AE_IFIFO, .mode = 0622, .mtime = 77 });
	fd = unpacked();
	ck_assert_uint_eq(stat_of(fd, "a").st_ino, stat_of(fd, "deep/er/b").st_ino);
	check_content(fd, "a", "one");
	ck_assert_uint_eq(stat_of(fd, "deep/er").st_mode, S_IFDIR | 0755);
	ck_assert_int_eq(readlinkat(fd, "link2", target, sizeof target - 1), 8);
	ck_assert_str_eq(target, "/../../x");
	st = stat_of(fd, "null");
	ck_assert(st.st_mode == (S_IFCHR | 0666) && st.st_rdev == makedev(1, 3));
	st = stat_of(fd, "disk");
	ck_assert(st.st_mode == (S_IFBLK | 0660) && st.st_rdev == makedev(259, 70000) && st.st_uid == 6);
	st = stat_of(fd, "fifo");
	ck_assert(st.st_mode == (S_IFIFO | 0622) && st.st_mtime == 77);
}
END_TEST

START_TEST(extended_attributes)
{
	static const uint8_t capability[20] = { 1, 0, 0, 2, 0, 4 }; /* revision 2, effective, CAP_NET_BIND_SERVICE */
	_cleanup_close_ int fd = -1, file = -1;
	char value[64];

	tar_add(&tar, (struct tar_entry){ .path = "ping", .type = AE_IFREG, .mode = 0755, .uid = 5, .data = "x",
					  .xattr = "security.capability", .value = capability,
						  .value_len = sizeof capability });
	tar_add(&tar, (struct tar_entry){ .path = "dir", .type = AE_IFDIR, .mode = 0755, .xattr = "user.note",
					 .value = "hello",
					  .value_len = 5 });
	tar_add(&tar, (struct tar_entry){ .path = "evil", .type = AE_IFDIR, .mode = 0755,
					 .xattr = "trusted.overlay.redirect",
					  .value = "/etc", .value_len = 4 });
	fd = unpacked();
	file = openat(fd, "ping", O_RDONLY);
	ck_assert_int_eq(fgetxattr(file, "security.capability", value, sizeof value), sizeof capability);
	ck_assert_mem_eq(value, capability, sizeof capability);
	close(file);
	file = openat(fd, "dir", O_RDONLY | O_DIRECTORY);
	ck_assert_int_eq(fgetxattr(file, "user.note", value, sizeof value), 5);
	close(file);
	file = openat(fd, "evil", O_RDONLY | O_DIRECTORY);
	ck_assert_int_lt(fgetxattr(file, "trusted.overlay.redirect", value, sizeof value), 0);
}
END_TEST

static bool is_opaque(int dirfd, const char *path)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY);
	char value[4];

	return fgetxattr(fd, "trusted.overlay.opaque", value, sizeof value) == 1 && value[0] == 'y';
}

START_TEST(whiteouts)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	tar_file(&tar, "dir/.wh.gone", "");
	tar_file(&tar, "new/.wh..wh..opq", "");
	tar_file(&tar, "new/kept", "kept");
	tar_file(&tar, ".wh..wh.plnk/1.2", "");
	tar_file(&tar, ".wh..wh.aufs", "");
	tar_file(&tar, "both", "stays");
	tar_file(&tar, ".wh.both", "");
	tar_file(&tar, ".wh.again", "");
	tar_file(&tar, "again/file", "below a directory that replaces a lower one");
	tar_file(&tar, "later/file", "");
	tar_file(&tar, ".wh.later", "");
	fd = unpacked();
	st = stat_of(fd, "dir/gone");
	ck_assert(S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0));
	ck_assert(is_opaque(fd, "new") && is_opaque(fd, "again") && is_opaque(fd, "later") && !is_opaque(fd, "dir"));
	ck_assert_int_lt(faccessat(fd, "new/.wh..wh..opq", F_OK, 0), 0);
	ck_assert_int_lt(faccessat(fd, ".wh..wh.aufs", F_OK, 0), 0);
	check_content(fd, "both", "stays");
	stat_of(fd, "again/file");
	stat_of(fd, "later/file");
}
END_TEST

START_TEST(sparse_files)
{
	_cleanup_close_ int fd = -1, file = -1;
	struct stat st;
	char c;

	tar_sparse(&tar, "sparse", 64 << 20, 32 << 20, "middle"); /* more than the limit, were it not for the hole */
	tar_end(&tar);
	ck_assert_uint_lt(tar.len, 10000);
	fd = unpacked();
	st = stat_of(fd, "sparse");
	ck_assert_int_eq(st.st_size, 64 << 20);
	ck_assert_int_lt(st.st_blocks * 512, 1 << 20);
	file = openat(fd, "sparse", O_RDONLY);
	ck_assert_int_eq(pread(file, &c, 1, 32 << 20), 1);
	ck_assert_int_eq(c, 'm');
}
END_TEST

START_TEST(names_are_kept_as_they_are)
{
	/* Composed and decomposed, not UTF-8, and long: pax, GNU and ustar forms. */
	static const char *const names[] = { "caf\xc3\xa9", "cafe\xcc\x81", "\xff\xfe raw", "tab\tnew\nline",
					    " blank ", "\\x41", "..." };
	_cleanup_free_ char *deep = malloc(4000);
	_cleanup_close_ int fd = -1;
	size_t len = 0;

	while (len < 3800)
		len += (size_t)snprintf(deep + len, 200, "%0*d/", 100 + (int)(len % 50), (int)len);
	snprintf(deep + len, 100, "end");
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		tar_file(&tar, names[i], names[i]);
	tar_file(&tar, deep, "deep");
	fd = unpacked();
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		check_content(fd, names[i], names[i]);
	check_content(fd, deep, "deep");
	ck_assert_uint_eq(count_entries(fd), sizeof names / sizeof *names); /* "..." is not counted, the deep one is */
}
END_TEST

/* The forms that tools write pax names in: said to be UTF-8, and not to be composed or judged. */
START_TEST(pax_names_are_kept_as_they_are)
{
	static const char *const names[] = { "cafe\xcc\x81", "caf\xc3\xa9", "\xff\xfe" };
	_cleanup_close_ int fd = -1;

	for (size_t i = 0; i < 3; i++)
		tar_raw_pax(&tar, "path", names[i]);
	fd = unpacked();
	ck_assert_uint_eq(count_entries(fd), 3);
	for (size_t i = 0; i < 3; i++)
		check_content(fd, names[i], "");
}
END_TEST

START_TEST(later_entries_replace_earlier_ones)
{
	_cleanup_close_ int fd = -1;

	tar_file(&tar, "file", "old");
	tar_file(&tar, "file", "new");
	tar_file(&tar, "tree/a/b", "");
	tar_file(&tar, "tree", "a file now");
	tar_file(&tar, "dir", "a file");
	tar_add(&tar, (struct tar_entry){ .path = "dir", .type = AE_IFDIR, .mode = 0700 });
	tar_file(&tar, "dir/in", "in");
	tar_add(&tar, (struct tar_entry){ .path = "dir", .type = AE_IFDIR, .mode = 0750 });
	tar_file(&tar, "target", "untouched");
	tar_add(&tar, (struct tar_entry){ .path = "link", .type = AE_IFLNK, .link = "target" });
	tar_file(&tar, "link", "a file of its own");
	fd = unpacked();
	check_content(fd, "file", "new");
	check_content(fd, "tree", "a file now");
	check_content(fd, "dir/in", "in");
	ck_assert_uint_eq(stat_of(fd, "dir").st_mode, S_IFDIR | 0750);
	check_content(fd, "target", "untouched");
	check_content(fd, "link", "a file of its own");
}
END_TEST

START_TEST(parents_that_are_links_lead_inside_the_layer)
{
	_cleanup_close_ int fd = -1;

	tar_file(&tar, "etc/keep", "");
	tar_add(&tar, (struct tar_entry){ .path = "absolute", .type = AE_IFLNK, .link = "/etc" });
	tar_add(&tar, (struct tar_entry){ .path = "up", .type = AE_IFLNK, .link = "../../../../etc" });
	tar_file(&tar, "absolute/one", "1");
	tar_file(&tar, "up/sub/two", "2");
	fd = unpacked();
	check_content(fd, "etc/one", "1");
	check_content(fd, "etc/sub/two", "2");
}
END_TEST

START_TEST(an_empty_layer)
{
	_cleanup_close_ int fd = unpacked();

	ck_assert_uint_eq(count_entries(fd), 0);
}
END_TEST

/* ---- compression ---- */

START_TEST(all_compressions_give_the_same_layer)
{
	struct tar gzip, zstd, two;
	char diff_id[4][DIGEST_TEXT];

	tar_file(&tar, "file", "content");
	tar_end(&tar);
	tar_compress(&tar, "gzip", 0, tar.len, &gzip);
	tar_compress(&tar, "zstd", 0, tar.len, &zstd);
	/* Two members one after the other, then zeros. */
	tar_compress(&tar, "gzip", 0, 700, &two);
	{
		struct tar second;

		tar_compress(&tar, "gzip", 700, tar.len - 700, &second);
		two.data = realloc(two.data, two.len + second.len + 512);
		memcpy(two.data + two.len, second.data, second.len);
		memset(two.data + two.len + second.len, 0, 512);
		two.len += second.len + 512;
		tar_release(&second);
	}
	ck_assert_int_eq(push_bytes(gzip.data, gzip.len, NULL, NULL, diff_id[0], NULL), 0);
	ck_assert_int_eq(push_bytes(zstd.data, zstd.len, NULL, NULL, diff_id[1], NULL), 0);
	ck_assert_int_eq(push_bytes(two.data, two.len, NULL, NULL, diff_id[2], NULL), 0);
	ck_assert_int_eq(push_bytes(tar.data, tar.len, NULL, NULL, diff_id[3], NULL), 0);
	for (int i = 1; i < 4; i++)
		ck_assert_str_eq(diff_id[0], diff_id[i]);
	ck_assert_uint_eq(count_entries(content->layout.layers), 1);
	ck_assert_uint_eq(count_entries(content->layout.blobs), 4);
	tar_release(&gzip);
	tar_release(&zstd);
	tar_release(&two);
}
END_TEST

START_TEST(damaged_streams)
{
	static const char *const how[] = { "gzip", "zstd" };
	struct tar packed;
	char text[20000];

	for (size_t i = 0; i < sizeof text - 1; i++)
		text[i] = (char)('a' + (i * i / 7) % 26);
	text[sizeof text - 1] = '\0';
	tar_file(&tar, "file", text);
	tar_end(&tar);
	refused(tar.data, 700, ERR_INVALID_ARGUMENT, "damaged");
	tar_compress(&tar, how[_i], 0, tar.len, &packed);
	refused(packed.data, packed.len / 2, ERR_INVALID_ARGUMENT, "stream");
	refused(packed.data, packed.len - 3, ERR_INVALID_ARGUMENT, "stops in the middle");
	packed.data[packed.len - 6] ^= 0x55; /* the CRC of gzip, the checksum or the last block of zstd */
	refused(packed.data, packed.len, ERR_INVALID_ARGUMENT, "damaged");
	packed.data[packed.len - 6] ^= 0x55;
	packed.data = realloc(packed.data, packed.len + 4);
	memcpy(packed.data + packed.len, "junk", 4);
	refused(packed.data, packed.len + 4, ERR_INVALID_ARGUMENT, "stream");
	tar_release(&packed);
}
END_TEST

START_TEST(digests_are_checked)
{
	static const char wrong[] = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
	_cleanup_error_ struct error err = ERROR_INIT;

	tar_file(&tar, "file", "content");
	tar_end(&tar);
	ck_assert_int_lt(push_bytes(tar.data, tar.len, wrong, NULL, NULL, &err), 0);
	ck_assert_int_eq(err.code, ERR_DATA_LOSS);
	ck_assert_int_lt(push_bytes(tar.data, tar.len, NULL, wrong, NULL, &err), 0);
	ck_assert_int_eq(err.code, ERR_DATA_LOSS);
	ck_assert_int_lt(push_bytes(tar.data, tar.len, "sha256:../../etc/passwd", NULL, NULL, &err), 0);
	ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
	ck_assert_uint_eq(count_entries(content->layout.layers), 0);
	ck_assert_uint_eq(count_entries(content->layout.blobs), 0);
}
END_TEST

START_TEST(an_aborted_layer_leaves_nothing)
{
	struct blob_writer *w;
	struct tar packed;

	for (int i = 0; i < 500; i++) {
		char name[32];

		snprintf(name, sizeof name, "dir%d/file", i);
		tar_file(&tar, name, name);
	}
	tar_end(&tar);
	tar_compress(&tar, "gzip", 0, tar.len, &packed);
	ck_assert_int_eq(blob_begin(content, BLOB_LAYER, NULL, NULL, &w, NULL), 0);
	ck_assert_int_eq(blob_write(w, packed.data, packed.len / 2, NULL), 0);
	ck_assert_uint_eq(blob_offset(w), packed.len / 2);
	blob_abort(w);
	ck_assert_int_eq(blob_begin(content, BLOB_LAYER, NULL, NULL, &w, NULL), 0);
	ck_assert_int_eq(blob_write(w, tar.data, tar.len, NULL), 0);
	blob_abort(w);
	ck_assert_uint_eq(count_entries(content->stage.fd), 0);
	ck_assert_uint_eq(count_entries(content->layout.layers), 0);
	tar_release(&packed);
}
END_TEST

/* ---- hostile ---- */

static const struct {
	struct tar_entry entries[3];
	const char *text; /* in the message */
} HOSTILE[] = {
	{ { { .path = "/etc/passwd", .type = AE_IFREG } }, "absolute path is refused" },
	{ { { .path = "../outside", .type = AE_IFREG } }, "\"..\" is refused" },
	{ { { .path = "a/../../outside", .type = AE_IFREG } }, "\"..\" is refused" },
	{ { { .path = "a/..", .type = AE_IFDIR } }, "\"..\" is refused" },
	{ { { .path = "a/.wh...", .type = AE_IFREG } }, "whiteout of nothing" },
	{ { { .path = ".wh..", .type = AE_IFREG } }, "whiteout of nothing" },
	{ { { .path = "a/.wh.", .type = AE_IFREG } }, "whiteout of nothing" },
	{ { { .path = "x", .type = AE_IFLNK, .link = "../../../tmp" }, { .path = "x/file", .type = AE_IFREG } },
	  "parent x is not a directory" },
	{ { { .path = "x", .type = AE_IFLNK, .link = "/proc/self/root" }, { .path = "x/file", .type = AE_IFREG } },
	  "parent x is not a directory" },
	{ { { .path = "x", .type = AE_IFLNK, .link = "x" }, { .path = "x/file", .type = AE_IFREG } }, "parent" },
	{ { { .path = "f", .type = AE_IFREG }, { .path = "f/file", .type = AE_IFREG } },
	 "parent f is not a directory" },
	{ { { .path = "h", .hardlink = "/etc/passwd" } }, "absolute path is refused" },
	{ { { .path = "h", .hardlink = "../../../../etc/passwd" } }, "\"..\" is refused" },
	{ { { .path = "x", .type = AE_IFLNK, .link = "/etc" }, { .path = "h", .hardlink = "x/passwd" } },
	 "no such file before it" },
	{ { { .path = "x", .type = AE_IFLNK, .link = "../../../etc" }, { .path = "h", .hardlink = "x/passwd" } },
	  "no such file before it" },
	{ { { .path = "h", .hardlink = "later" }, { .path = "later", .type = AE_IFREG } }, "no such file before it" },
	{ { { .path = "d", .type = AE_IFDIR, .mode = 0755 }, { .path = "h", .hardlink = "d" } },
	 "no such file before it" },
	{ { { .path = "h", .hardlink = "." } }, "no such file before it" },
	{ { { .path = ".", .type = AE_IFREG } }, "root is not a directory" },
	{ { { .path = "./", .type = AE_IFLNK, .link = "/" } }, "root is not a directory" },
	{ { { .path = "u", .type = AE_IFREG, .uid = 0xffffffff } }, "out of range" },
	{ { { .path = "u", .type = AE_IFREG, .gid = (int64_t)1 << 40 } }, "out of range" },
};

START_TEST(hostile_entries_are_refused)
{
	_cleanup_free_ char *outside = fs_path("%s/outside", root);

	for (size_t i = 0; i < 3 && HOSTILE[_i].entries[i].path; i++)
		tar_add(&tar, HOSTILE[_i].entries[i]);
	refused_tar(HOSTILE[_i].text);
	ck_assert_int_lt(access(outside, F_OK), 0);
	ck_assert_int_lt(access("/tmp/file", F_OK), 0);
}
END_TEST

START_TEST(long_names_are_refused)
{
	char name[5000];

	memset(name, 'n', sizeof name);
	if (_i == 0) {
		name[NAME_MAX + 1] = '\0';
	} else {
		for (size_t i = 99; i < sizeof name; i += 100)
			name[i] = '/';
		name[sizeof name - 1] = '\0';
	}
	tar_file(&tar, name, "");
	refused_tar(_i == 0 ? "name in the path is longer" : "path is longer");
}
END_TEST

/* A pax header that says how long it is and does not end. */
START_TEST(huge_headers_are_refused)
{
	tar_release(&tar);
	tar_raw_header(&tar, "huge", 'x', (uint64_t)4 << 30);
	refused(tar.data, tar.len, ERR_INVALID_ARGUMENT, "damaged");
	tar_release(&tar);
	tar_raw_header(&tar, "huge", 'L', (uint64_t)4 << 30);
	refused(tar.data, tar.len, ERR_INVALID_ARGUMENT, "damaged");
}
END_TEST

START_TEST(bombs_are_stopped_at_the_limits)
{
	_cleanup_free_ char *zeros = calloc(1, 9 << 20);
	struct tar packed;

	tar_add(&tar, (struct tar_entry){ .path = "zeros", .type = AE_IFREG, .data = zeros, .len = 9 << 20 });
	tar_end(&tar);
	tar_compress(&tar, "gzip", 0, tar.len, &packed);
	ck_assert_uint_lt(packed.len, 100000);
	refused(packed.data, packed.len, ERR_RESOURCE_EXHAUSTED, "limit of 8388608 bytes");
	tar_release(&packed);
	tar_release(&tar);
	tar_begin(&tar);
	for (int i = 0; i < 1001; i++) {
		char name[16];

		snprintf(name, sizeof name, "%d", i);
		tar_file(&tar, name, "");
	}
	tar_end(&tar);
	refused(tar.data, tar.len, ERR_RESOURCE_EXHAUSTED, "limit of 1000 entries");
}
END_TEST

START_TEST(blobs_are_limited)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *zeros = calloc(1, 1 << 20);
	struct blob_writer *w;
	int r = 0;

	ck_assert_int_eq(blob_begin(content, BLOB_PLAIN, NULL, NULL, &w, NULL), 0);
	for (int i = 0; r == 0 && i < 33; i++)
		r = blob_write(w, zeros, 1 << 20, &err);
	ck_assert_int_eq(err.code, ERR_RESOURCE_EXHAUSTED);
	blob_abort(w);
}
END_TEST

/* ---- registration ---- */

static void put(const char *text, char ret_digest[DIGEST_TEXT])
{
	struct blob_writer *w;

	ck_assert_int_eq(blob_begin(content, BLOB_PLAIN, NULL, NULL, &w, NULL), 0);
	ck_assert_int_eq(blob_write(w, text, strlen(text), NULL), 0);
	ck_assert_int_eq(blob_commit(w, ret_digest, NULL, NULL, NULL), 0);
}

/* The layer is the tar; the config names diff_id (NULL: the right one). */
static void put_image(const char *diff_id, char ret_manifest[DIGEST_TEXT], char ret_layer[DIGEST_TEXT])
{
	_cleanup_free_ char *config = NULL, *manifest = NULL;
	char config_digest[DIGEST_TEXT];

	tar_file(&tar, "file", "content");
	tar_end(&tar);
	ck_assert_int_eq(push_bytes(tar.data, tar.len, NULL, NULL, ret_layer, NULL), 0);
	config = fs_path("{\"rootfs\":{\"diff_ids\":[\"%s\"]}}", diff_id ? diff_id : ret_layer);
	put(config, config_digest);
	manifest = fs_path("{\"schemaVersion\":2,\"config\":{\"digest\":\"%s\",\"size\":%zu},"
			   "\"layers\":[{\"digest\":\"%s\",\"size\":%zu}]}", config_digest, strlen(config), ret_layer,
				   tar.len);
	put(manifest, ret_manifest);
}

START_TEST(register_checks_what_the_config_says)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	char manifest[DIGEST_TEXT], layer[DIGEST_TEXT];

	put_image("sha256:1111111111111111111111111111111111111111111111111111111111111111", manifest, layer);
	ck_assert_int_lt(content_register(content, "docker.io/library/x:1", manifest, &err), 0);
	ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
	ck_assert_ptr_nonnull(strstr(error_message(&err), "really is"));
}
END_TEST

START_TEST(register_repairs_what_is_missing)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	char manifest[DIGEST_TEXT], layer[DIGEST_TEXT];
	struct image_store *store;
	struct image image;

	put_image(NULL, manifest, layer);
	ck_assert_int_eq(fs_remove_tree(content->layout.layers, layer + 7, NULL), 0);
	ck_assert_msg(content_register(content, "docker.io/library/x:1", manifest, &err) == 0, "%s",
		      error_message(&err));
	ck_assert_int_eq(image_store_open(root, &store, NULL), 0);
	ck_assert_int_eq(image_store_resolve(store, "x:1", &image, &err), 0);
	ck_assert_uint_eq(image.n_layers, 1);
	image_release(&image);
	/* A blob that the disk damaged is thrown away, so that the next transfer brings it anew. */
	ck_assert_int_eq(fs_write_atomic(content->layout.blobs, layer + 7, "short", 5, 0644, NULL), 0);
	ck_assert_int_lt(content_register(content, "docker.io/library/x:1", manifest, &err), 0);
	ck_assert_int_eq(err.code, ERR_DATA_LOSS);
	ck_assert(!content_has_blob(content, layer));
	ck_assert_int_eq(push_bytes(tar.data, tar.len, NULL, NULL, NULL, NULL), 0);
	ck_assert_int_eq(content_register(content, "docker.io/library/x:1", manifest, NULL), 0);
	image_store_free(store);
}
END_TEST

START_TEST(register_replaces_the_same_name)
{
	char first[DIGEST_TEXT], second[DIGEST_TEXT], layer[DIGEST_TEXT];
	struct image_store *store;
	struct image *images;
	size_t n;

	put_image(NULL, first, layer);
	ck_assert_int_eq(content_register(content, "docker.io/library/x:1", first, NULL), 0);
	tar_release(&tar);
	tar_begin(&tar);
	tar_file(&tar, "other", "other");
	put_image(NULL, second, layer);
	ck_assert_int_eq(content_register(content, "docker.io/library/x:1", second, NULL), 0);
	ck_assert_int_eq(image_store_open(root, &store, NULL), 0);
	ck_assert_int_eq(image_store_list(store, &images, &n, NULL), 0);
	ck_assert_uint_eq(n, 1);
	ck_assert_str_eq(images[0].digest, second);
	image_release(&images[0]);
	free(images);
	image_store_free(store);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("imager");
	TCase *tc = tcase_create("imager");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, owners_modes_and_times);
	tcase_add_test(tc, links_devices_and_fifos);
	tcase_add_test(tc, extended_attributes);
	tcase_add_test(tc, whiteouts);
	tcase_add_test(tc, sparse_files);
	tcase_add_test(tc, names_are_kept_as_they_are);
	tcase_add_test(tc, pax_names_are_kept_as_they_are);
	tcase_add_test(tc, later_entries_replace_earlier_ones);
	tcase_add_test(tc, parents_that_are_links_lead_inside_the_layer);
	tcase_add_test(tc, an_empty_layer);
	tcase_add_test(tc, all_compressions_give_the_same_layer);
	tcase_add_loop_test(tc, damaged_streams, 0, 2);
	tcase_add_test(tc, digests_are_checked);
	tcase_add_test(tc, an_aborted_layer_leaves_nothing);
	tcase_add_loop_test(tc, hostile_entries_are_refused, 0, (int)(sizeof HOSTILE / sizeof *HOSTILE));
	tcase_add_loop_test(tc, long_names_are_refused, 0, 2);
	tcase_add_test(tc, huge_headers_are_refused);
	tcase_add_test(tc, bombs_are_stopped_at_the_limits);
	tcase_add_test(tc, blobs_are_limited);
	tcase_add_test(tc, register_checks_what_the_config_says);
	tcase_add_test(tc, register_repairs_what_is_missing);
	tcase_add_test(tc, register_replaces_the_same_name);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
