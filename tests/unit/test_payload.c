/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Images flattened, and looked at as a guest does: mounted. */
#include "image/payload.h"

#include "base/fs.h"
#include "base/overlay.h"
#include "base/process.h"
#include "image/layout.h"
#include "volume/loop.h"

#include "runner.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define DIGEST "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static char root[64];
static struct image_store *store;
static struct layout layout = LAYOUT_INIT;
static struct payloads *payloads;
static char *layers[2];
static struct image image;

#define OK(call)                                                                                                      \
	do {                                                                                                          \
		struct error err = ERROR_INIT;                                                                        \
		ck_assert_msg((call) >= 0, "%s: %s", #call, error_message(&err));                                     \
	} while (0)

static char *in_layer(int layer, const char *name)
{
	return fs_path("%s/%s", layers[layer], name);
}

static void put_file(int layer, const char *name, const char *text)
{
	_cleanup_free_ char *path = in_layer(layer, name);

	OK(fs_write_atomic(AT_FDCWD, path, text, strlen(text), 0644, &err));
}

/* Two layers: the upper one replaces a file, hides another with a whiteout, and adds one of a user's, with a time. */
static void make_layers(void)
{
	_cleanup_free_ char *hidden = NULL, *owned = NULL;
	const struct timespec times[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000, .tv_nsec = 5 } };

	for (int i = 0; i < 2; i++) {
		layers[i] = fs_path("%s/layers/%064d", root, i + 1);
		OK(fs_mkdir_all(AT_FDCWD, layers[i], 0755, &err));
	}
	put_file(0, "kept", "lower");
	put_file(0, "replaced", "lower");
	put_file(0, "hidden", "lower");
	put_file(1, "replaced", "upper");
	put_file(1, "owned", "upper");
	hidden = in_layer(1, "hidden");
	owned = in_layer(1, "owned");
	ck_assert_int_eq(mknod(hidden, S_IFCHR, makedev(0, 0)), 0);
	ck_assert_int_eq(chown(owned, 1000, 2000), 0);
	ck_assert_int_eq(chmod(owned, 04750), 0);
	ck_assert_int_eq(utimensat(AT_FDCWD, owned, times, 0), 0);
	image = (struct image){ .reference = (char *)"test", .digest = (char *)DIGEST, .layers = layers, .n_layers = 2 };
}

static void setup(void)
{
	snprintf(root, sizeof root, "/var/tmp/capsule-payload-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
	OK(image_store_open(root, &store, &err));
	OK(layout_open(root, &layout, &err));
	OK(payloads_new(root, getenv("CAPSULE_IMAGE"), &payloads, &err));
	make_layers();
}

static void teardown(void)
{
	payloads_free(payloads);
	layout_release(&layout);
	image_store_free(store);
	for (int i = 0; i < 2; i++)
		free(layers[i]);
	OK(fs_remove_tree(AT_FDCWD, root, &err));
}

static char *content(int dirfd, const char *name)
{
	char *text = NULL;

	(void)fs_read(dirfd, name, 100, &text, NULL, NULL);
	return text;
}

static void assert_content(int dirfd, const char *name, const char *expected)
{
	_cleanup_free_ char *text = content(dirfd, name);

	ck_assert_ptr_nonnull(text);
	ck_assert_str_eq(text, expected);
}

START_TEST(a_payload_shows_what_an_overlay_of_the_layers_shows)
{
	_cleanup_loop_ struct loop loop = LOOP_INIT;
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int dirfd = -1;
	struct stat st;

	OK(payload_ensure(payloads, &image, &path, &err));
	OK(overlay_own_namespace(&err));
	OK(loop_attach(path, true, &loop, &err));
	ck_assert_msg(mount(loop.device, "/mnt", "erofs", MS_RDONLY, NULL) == 0, "%s", strerror(errno));
	dirfd = open("/mnt", O_RDONLY | O_DIRECTORY);
	assert_content(dirfd, "kept", "lower");
	assert_content(dirfd, "replaced", "upper");
	ck_assert_ptr_null(content(dirfd, "hidden"));
	ck_assert_int_eq(fstatat(dirfd, "hidden", &st, 0), -1);
	ck_assert_int_eq(fstatat(dirfd, "owned", &st, 0), 0);
	ck_assert(st.st_uid == 1000 && st.st_gid == 2000 && (st.st_mode & 07777) == 04750);
	ck_assert(st.st_mtim.tv_sec == 1000000000 && st.st_mtim.tv_nsec == 5);
	close(steal_fd(&dirfd));
	ck_assert_int_eq(umount("/mnt"), 0);
}
END_TEST

static void *ensure(void *arg)
{
	char *path = NULL;

	OK(payload_ensure(payloads, &image, &path, &err));
	ck_assert_int_eq(stat(path, arg), 0);
	free(path);
	return NULL;
}

START_TEST(those_who_want_it_at_once_share_one)
{
	struct stat seen[4], later;
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, ensure, &seen[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	ensure(&later);
	for (int i = 0; i < 4; i++)
		ck_assert(seen[i].st_ino == later.st_ino && seen[i].st_ctim.tv_nsec == later.st_ctim.tv_nsec);
	/* Its readers run as users of their own. */
	ck_assert_uint_eq(later.st_mode & 07777, 0444);
}
END_TEST

START_TEST(it_goes_when_nobody_needs_it)
{
	_cleanup_free_ char *path = NULL;
	const char *pinned[1];

	OK(payload_ensure(payloads, &image, &path, &err));
	pinned[0] = path;
	OK(image_store_collect(store, pinned, 1, NULL, &err));
	ck_assert_int_eq(access(path, F_OK), 0);
	OK(image_store_collect(store, NULL, 0, NULL, &err));
	ck_assert_int_lt(access(path, F_OK), 0);
}
END_TEST

/* No payload, and no half-made one, in the place. */
static void assert_nothing_left(void)
{
	_cleanup_free_ char *images = fs_path("%s/images", root), *made = fs_path("%s/payloads", root);
	const char *const argv[] = { "find", images, made, "-name", ".tmp-*", "-o", "-name", "*.erofs", NULL };
	struct process_result result = { 0 };
	const struct process_run run = { .spawn = { .argv = argv }, .timeout_ms = 10000 };

	OK(process_run(&run, &result, &err));
	ck_assert_str_eq(result.output, "");
	process_result_release(&result);
}

START_TEST(a_maker_that_fails_leaves_nothing)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	_cleanup_free_ char *path = NULL;
	struct payloads *broken = NULL;

	OK(payloads_new(root, "/bin/false", &broken, &err));
	ck_assert_int_lt(payload_ensure(broken, &image, &path, &why), 0);
	ck_assert_str_eq(error_message(&why), "cannot flatten the image test into a disk: its maker exited 1");
	assert_nothing_left();
	payloads_free(broken);
}
END_TEST

START_TEST(a_missing_layer_is_told)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	_cleanup_free_ char *path = NULL;

	OK(fs_remove_tree(AT_FDCWD, layers[0], &err));
	ck_assert_int_lt(payload_ensure(payloads, &image, &path, &why), 0);
	ck_assert_ptr_nonnull(strstr(error_message(&why), "cannot find the unpacked layer"));
	assert_nothing_left();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("payload");
	TCase *c = tcase_create("payload");

	tcase_set_timeout(c, 60);
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, a_payload_shows_what_an_overlay_of_the_layers_shows);
	tcase_add_test(c, those_who_want_it_at_once_share_one);
	tcase_add_test(c, it_goes_when_nobody_needs_it);
	tcase_add_test(c, a_maker_that_fails_leaves_nothing);
	tcase_add_test(c, a_missing_layer_is_told);
	suite_add_tcase(suite, c);
	return run_suite(suite);
}
