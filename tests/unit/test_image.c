/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The image store as the daemon sees it: resolve, list, delete, collect, and what a crash leaves. */
#include "base/fs.h"
#include "base/timeutil.h"
#include "image/layout.h"
#include "image/oci.h"
#include "image/store.h"

#include "runner.h"

#include <check.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char root[] = "/tmp/capsule-image-XXXXXX";
static struct image_store *store;
static struct layout layout;

static void setup(void)
{
	struct error err = ERROR_INIT;

	ck_assert_ptr_nonnull(mkdtemp(root));
	ck_assert_msg(image_store_open(root, &store, &err) == 0, "%s", error_message(&err));
	ck_assert_int_eq(layout_open(root, &layout, &err), 0);
}

static void teardown(void)
{
	image_store_free(store);
	layout_release(&layout);
	fs_remove_tree(AT_FDCWD, root, NULL);
}

/* "sha256:" and 64 times one digit: the store does not hash what it only reads. */
static const char *digest_of(char digit)
{
	static char text[4][OCI_DIGEST_TEXT];
	static unsigned at;
	char *s = text[at++ % 4];

	memcpy(s, "sha256:", 7);
	memset(s + 7, digit, 64);
	s[71] = '\0';
	return s;
}

static void put_blob(char digit, const char *text)
{
	ck_assert_int_eq(fs_write_atomic(layout.blobs, digest_of(digit) + 7, text, strlen(text), 0644, NULL), 0);
}

static void put_layer(char digit)
{
	_cleanup_free_ char *path = fs_path("%s/usr/share", digest_of(digit) + 7);

	ck_assert_int_eq(fs_mkdir_all(layout.layers, path, 0755, NULL), 0);
}

/* An image with one layer: manifest digit m, config c, layer blob l, unpacked layer d. */
static void put_image(const char *reference, char m, char c, char l, char d)
{
	_cleanup_json_ json_t *index = NULL;
	_cleanup_free_ char *config = NULL, *manifest = NULL;

	config = fs_path("{\"created\":\"2026-01-02T03:04:05Z\",\"config\":{\"Entrypoint\":[\"/bin/sh\",\"-c\"],\"Cmd\":null,"
			 "\"Env\":[\"A=1\"],\"User\":\"web\",\"WorkingDir\":\"\",\"StopSignal\":\"SIGQUIT\"},"
			 "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"%s\"]}}", digest_of(d));
	manifest = fs_path("{\"schemaVersion\":2,\"config\":{\"digest\":\"%s\",\"size\":%zu},"
			   "\"layers\":[{\"digest\":\"%s\",\"size\":5}]}", digest_of(c), strlen(config), digest_of(l));
	put_blob(m, manifest);
	put_blob(c, config);
	put_blob(l, "layer");
	put_layer(d);
	ck_assert_int_eq(layout_index_read(&layout, &index, NULL), 0);
	json_array_append_new(json_object_get(index, "manifests"),
			      json_pack("{s:s, s:s, s:i, s:{s:s}}", "mediaType", OCI_MANIFEST, "digest", digest_of(m),
					"size", (int)strlen(manifest), "annotations", LAYOUT_REF_NAME, reference));
	ck_assert_int_eq(layout_index_write(&layout, index, NULL), 0);
}

static bool exists(int dirfd, char digit)
{
	return faccessat(dirfd, digest_of(digit) + 7, F_OK, 0) == 0;
}

START_TEST(open_makes_an_oci_layout)
{
	_cleanup_free_ char *text = NULL;

	ck_assert_int_eq(fs_read(layout.images, "oci-layout", 100, &text, NULL, NULL), 0);
	ck_assert_ptr_nonnull(strstr(text, "\"imageLayoutVersion\":\"1.0.0\""));
}
END_TEST

START_TEST(resolve_reads_the_config)
{
	struct error err = ERROR_INIT;
	struct image image;

	put_image("docker.io/library/web:latest", '1', '2', '3', '4');
	ck_assert_msg(image_store_resolve(store, "web", &image, &err) == 0, "%s", error_message(&err));
	ck_assert_str_eq(image.reference, "docker.io/library/web:latest");
	ck_assert_str_eq(image.digest, digest_of('1'));
	ck_assert_int_eq(image.created_unix, 1767323045);
	ck_assert_int_gt(image.size_bytes, 5);
	ck_assert_str_eq(image.config.entrypoint[1], "-c");
	ck_assert_ptr_null(image.config.entrypoint[2]);
	ck_assert_ptr_null(image.config.cmd[0]);
	ck_assert_str_eq(image.config.env[0], "A=1");
	ck_assert_str_eq(image.config.user, "web");
	ck_assert_ptr_null(image.config.working_dir);
	ck_assert_str_eq(image.config.stop_signal, "SIGQUIT");
	ck_assert_uint_eq(image.n_layers, 1);
	ck_assert_int_eq(image.layers[0][0], '/');
	ck_assert_int_eq(access(image.layers[0], F_OK), 0);
	image_release(&image);
}
END_TEST

START_TEST(resolve_by_digest)
{
	_cleanup_free_ char *good = fs_path("web@%s", digest_of('1')), *other = fs_path("other@%s", digest_of('1'));
	struct error err = ERROR_INIT;
	struct image image;

	put_image("docker.io/library/web:latest", '1', '2', '3', '4');
	ck_assert_int_eq(image_store_resolve(store, good, &image, NULL), 0);
	image_release(&image);
	ck_assert_int_lt(image_store_resolve(store, other, &image, &err), 0);
	ck_assert_int_eq(err.code, ERR_NOT_FOUND);
	error_release(&err);
}
END_TEST

START_TEST(resolve_says_what_is_missing)
{
	struct error err = ERROR_INIT;
	struct image image;

	ck_assert_int_lt(image_store_resolve(store, "web", &image, &err), 0);
	ck_assert_int_eq(err.code, ERR_NOT_FOUND);
	ck_assert_int_lt(image_store_resolve(store, "no such:name:at all", &image, &err), 0);
	ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
	put_image("docker.io/library/web:latest", '1', '2', '3', '4');
	ck_assert_int_eq(fs_remove_tree(layout.layers, digest_of('4') + 7, NULL), 0);
	ck_assert_int_lt(image_store_resolve(store, "web", &image, &err), 0);
	ck_assert_int_eq(err.code, ERR_DATA_LOSS);
	put_layer('4');
	put_blob('3', "layer that grew");
	ck_assert_int_lt(image_store_resolve(store, "web", &image, &err), 0);
	ck_assert_int_eq(err.code, ERR_DATA_LOSS);
	put_blob('3', "layer");
	put_blob('2', "{ not JSON");
	ck_assert_int_lt(image_store_resolve(store, "web", &image, &err), 0);
	ck_assert_int_eq(err.code, ERR_DATA_LOSS);
	error_release(&err);
}
END_TEST

/* It is on the way of every start. The limit is that of the best of many runs, so that a busy machine does not fail
 * it. */
START_TEST(resolve_takes_less_than_a_millisecond)
{
	int64_t best = INT64_MAX;
	struct image image;

	for (char m = 'a'; m <= 'f'; m++)
		put_image("docker.io/library/other:latest", m, '2', '3', '4');
	put_image("docker.io/library/web:latest", '1', '2', '3', '4');
	for (int i = 0; i < 200; i++) {
		int64_t start = time_monotonic_ns();

		ck_assert_int_eq(image_store_resolve(store, "web", &image, NULL), 0);
		if (time_monotonic_ns() - start < best)
			best = time_monotonic_ns() - start;
		image_release(&image);
	}
	ck_assert_int_lt(best, NSEC_PER_MSEC);
}
END_TEST

START_TEST(list_is_sorted_and_shows_damaged_images)
{
	struct image *images;
	size_t n;

	put_image("docker.io/library/web:2", '5', '2', '3', '4');
	put_image("docker.io/library/web:1", '1', '2', '3', '4');
	ck_assert_int_eq(unlinkat(layout.blobs, digest_of('5') + 7, 0), 0);
	ck_assert_int_eq(image_store_list(store, &images, &n, NULL), 0);
	ck_assert_uint_eq(n, 2);
	ck_assert_str_eq(images[0].reference, "docker.io/library/web:1");
	ck_assert_int_gt(images[0].size_bytes, 0);
	ck_assert_str_eq(images[1].reference, "docker.io/library/web:2");
	for (size_t i = 0; i < n; i++)
		image_release(&images[i]);
	free(images);
}
END_TEST

START_TEST(delete_then_collect_keeps_what_others_need)
{
	_cleanup_free_ char *removed = NULL;
	struct error err = ERROR_INIT;
	uint64_t freed;

	put_image("docker.io/library/web:1", '1', '2', '3', '4');
	put_image("docker.io/library/web:2", '5', '6', '3', '4');
	put_blob('7', "of nobody");
	ck_assert_int_eq(image_store_delete(store, "web:1", &removed, &err), 0);
	ck_assert_str_eq(removed, "docker.io/library/web:1");
	ck_assert_int_eq(image_store_collect(store, NULL, 0, &freed, &err), 0);
	ck_assert_uint_ge(freed, 3 * 4096);
	ck_assert(!exists(layout.blobs, '1') && !exists(layout.blobs, '2') && !exists(layout.blobs, '7'));
	ck_assert(exists(layout.blobs, '5') && exists(layout.blobs, '6') && exists(layout.blobs, '3'));
	ck_assert(exists(layout.layers, '4'));
	ck_assert_int_lt(image_store_delete(store, "web:1", &removed, &err), 0);
	ck_assert_int_eq(err.code, ERR_NOT_FOUND);
	error_release(&err);
}
END_TEST

START_TEST(delete_by_digest)
{
	char *removed = NULL;
	struct error err = ERROR_INIT;

	put_image("docker.io/library/web:1", '1', '2', '3', '4');
	put_image("docker.io/library/same:1", '5', '2', '3', '4');
	put_image("docker.io/library/same:2", '5', '2', '3', '4');
	ck_assert_int_lt(image_store_delete(store, "555555555555", &removed, &err), 0);
	ck_assert_int_eq(err.code, ERR_FAILED_PRECONDITION);
	ck_assert_int_lt(image_store_delete(store, "sha256:11111111111", &removed, &err), 0);
	ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
	ck_assert_int_eq(image_store_identify(store, "111111111111", &removed, NULL), 0);
	ck_assert_str_eq(removed, "docker.io/library/web:1");
	free(removed);
	ck_assert_int_eq(image_store_delete(store, "111111111111", &removed, NULL), 0);
	ck_assert_str_eq(removed, "docker.io/library/web:1");
	free(removed);
	ck_assert_int_lt(image_store_delete(store, digest_of('1'), &removed, &err), 0);
	ck_assert_int_eq(err.code, ERR_NOT_FOUND);
	error_release(&err);
}
END_TEST

START_TEST(collect_spares_layers_in_use)
{
	_cleanup_free_ char *path = fs_path("%s/layers/%s", root, digest_of('4') + 7);
	const char *const pinned[] = { path };

	put_layer('4');
	put_layer('8');
	ck_assert_int_eq(image_store_collect(store, pinned, 1, NULL, NULL), 0);
	ck_assert(exists(layout.layers, '4') && !exists(layout.layers, '8'));
	ck_assert_int_eq(image_store_collect(store, NULL, 0, NULL, NULL), 0);
	ck_assert(!exists(layout.layers, '4'));
}
END_TEST

/* An index that another tool put into the layout: what it leads to stays. */
START_TEST(collect_understands_indexes)
{
	_cleanup_free_ char *index = fs_path("{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"%s\",\"size\":1}]}",
					     digest_of('1'));
	_cleanup_json_ json_t *top = NULL;

	put_image("docker.io/library/web:1", '1', '2', '3', '4');
	put_blob('9', index);
	top = json_pack("{s:i, s:[{s:s, s:s}]}", "schemaVersion", 2, "manifests", "mediaType", OCI_INDEX, "digest",
			digest_of('9'));
	ck_assert_int_eq(layout_index_write(&layout, top, NULL), 0);
	ck_assert_int_eq(image_store_collect(store, NULL, 0, NULL, NULL), 0);
	ck_assert(exists(layout.blobs, '9') && exists(layout.blobs, '1') && exists(layout.blobs, '2') &&
		  exists(layout.blobs, '3'));
	ck_assert(exists(layout.layers, '4'));
}
END_TEST

static unsigned count_tmp(void)
{
	_cleanup_closedir_ DIR *dir = fdopendir(openat(layout.images, ".", O_RDONLY | O_DIRECTORY));
	struct dirent *entry;
	unsigned n = 0;

	while ((entry = readdir(dir)))
		n += strncmp(entry->d_name, FS_TMP_PREFIX, strlen(FS_TMP_PREFIX)) == 0;
	return n;
}

/* A process makes a stage with content and is killed; another one lives. Only the dead one's is swept. */
START_TEST(sweep_takes_only_what_the_dead_left)
{
	struct layout_stage own = LAYOUT_STAGE_INIT;
	int ready[2], status;
	char c;
	pid_t pid;

	ck_assert_int_eq(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		struct layout_stage stage;

		if (layout_stage_open(&layout, &stage, NULL) < 0 || fs_mkdir_all(stage.fd, "layer-0/a/b", 0700,
										 NULL) < 0 ||
		    write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	ck_assert_int_eq(read(ready[0], &c, 1), 1);
	ck_assert_int_eq(layout_stage_open(&layout, &own, NULL), 0);
	ck_assert_int_eq(layout_sweep(&layout, NULL), 0);
	ck_assert_uint_eq(count_tmp(), 2);
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));
	/* half an index */
	ck_assert_int_eq(fs_write_replace(layout.images, FS_TMP_PREFIX "1-1", "x", 1, 0600, NULL), 0);
	ck_assert_int_eq(layout_sweep(&layout, NULL), 0);
	ck_assert_uint_eq(count_tmp(), 1);
	ck_assert_int_eq(layout_stage_remove(&layout, &own, NULL, NULL), 0);
	ck_assert_uint_eq(count_tmp(), 0);
}
END_TEST

START_TEST(collect_spares_what_a_transfer_has_pinned)
{
	struct layout_stage stage = LAYOUT_STAGE_INIT;

	put_blob('1', "seen by a transfer");
	put_layer('2');
	ck_assert_int_eq(layout_stage_open(&layout, &stage, NULL), 0);
	ck_assert_int_eq(layout_stage_pin(&stage, digest_of('1') + 7, NULL), 0);
	ck_assert_int_eq(layout_stage_pin(&stage, digest_of('2') + 7, NULL), 0);
	ck_assert_int_eq(image_store_collect(store, NULL, 0, NULL, NULL), 0);
	ck_assert(exists(layout.blobs, '1') && exists(layout.layers, '2'));
	ck_assert_int_eq(layout_stage_remove(&layout, &stage, NULL, NULL), 0);
	ck_assert_int_eq(image_store_collect(store, NULL, 0, NULL, NULL), 0);
	ck_assert(!exists(layout.blobs, '1') && !exists(layout.layers, '2'));
}
END_TEST

/* Deeper than the number of descriptors a process may have. */
START_TEST(collect_removes_very_deep_layers)
{
	int fd = openat(layout.layers, ".", O_RDONLY | O_DIRECTORY), next;

	ck_assert_int_eq(mkdirat(fd, digest_of('3') + 7, 0755), 0);
	next = openat(fd, digest_of('3') + 7, O_RDONLY | O_DIRECTORY);
	for (int i = 0; i < 3000; i++) {
		close(fd);
		fd = next;
		ck_assert_int_eq(mkdirat(fd, "d", 0755), 0);
		next = openat(fd, "d", O_RDONLY | O_DIRECTORY);
		ck_assert_int_ge(next, 0);
	}
	close(fd);
	close(next);
	ck_assert_int_eq(image_store_collect(store, NULL, 0, NULL, NULL), 0);
	ck_assert(!exists(layout.layers, '3'));
	ck_assert_uint_eq(count_tmp(), 0);
}
END_TEST

static const char *const BAD_MANIFESTS[] = {
	"{}",
	"[]",
	"{\"schemaVersion\":1,\"layers\":[]}",
	"{\"schemaVersion\":2}",
	"{\"schemaVersion\":2,\"layers\":[],\"config\":{\"digest\":\"sha256:../../etc/passwd\",\"size\":1}}",
	"{\"schemaVersion\":2,\"layers\":{},\"config\":{}}",
	"{\"schemaVersion\":2,\"layers\":[7],"
	"\"config\":{\"size\":1,\"digest\":\"sha256:1111111111111111111111111111111111111111111111111111111111111111\"}}",
	"{\"schemaVersion\":2,\"layers\":[],"
	"\"config\":{\"size\":-1,\"digest\":\"sha256:1111111111111111111111111111111111111111111111111111111111111111\"}}",
	"{\"schemaVersion\":2,\"layers\":[],"
	"\"config\":{\"size\":1,\"digest\":\"sha256:A111111111111111111111111111111111111111111111111111111111111111\"}}",
};

START_TEST(bad_manifests_are_refused)
{
	_cleanup_json_ json_t *json = json_loads(BAD_MANIFESTS[_i], 0, NULL);
	struct error err = ERROR_INIT;
	struct oci_manifest m;

	ck_assert_ptr_nonnull(json);
	ck_assert_int_lt(oci_manifest_parse(json, &m, &err), 0);
	ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
	error_release(&err);
}
END_TEST

START_TEST(index_selects_by_platform)
{
	_cleanup_json_ json_t *good = NULL, *bad = NULL;
	struct error err = ERROR_INIT;
	const json_t *chosen;

#if defined(__x86_64__)
	const char *arch = "amd64";
#else
	const char *arch = "arm64";
#endif
	good = json_pack("{s:[{s:s,s:{s:s,s:s}},{s:s,s:{s:s,s:s}}]}", "manifests", "digest", "first", "platform",
			 "os", "linux",
			 "architecture", "s390x", "digest", "second", "platform", "os", "linux", "architecture", arch);
	bad = json_pack("{s:[{s:{s:s,s:s}},{s:{s:s,s:s,s:s}},{s:{s:s,s:s}}]}", "manifests", "platform", "os", "linux",
			"architecture", "s390x", "platform", "os", "linux", "architecture", "arm", "variant", "v7",
				"platform", "os",
			"unknown", "architecture", "unknown");
	ck_assert_int_eq(oci_index_select(good, &chosen, NULL), 0);
	ck_assert_str_eq(json_string_value(json_object_get(chosen, "digest")), "second");
	ck_assert_int_lt(oci_index_select(bad, &chosen, &err), 0);
	ck_assert_int_eq(err.code, ERR_FAILED_PRECONDITION);
	ck_assert_ptr_nonnull(strstr(error_message(&err), "it has: linux/s390x, linux/arm/v7"));
	error_release(&err);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("image");
	TCase *tc = tcase_create("image");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, open_makes_an_oci_layout);
	tcase_add_test(tc, resolve_reads_the_config);
	tcase_add_test(tc, resolve_by_digest);
	tcase_add_test(tc, resolve_says_what_is_missing);
	tcase_add_test(tc, resolve_takes_less_than_a_millisecond);
	tcase_add_test(tc, list_is_sorted_and_shows_damaged_images);
	tcase_add_test(tc, delete_then_collect_keeps_what_others_need);
	tcase_add_test(tc, delete_by_digest);
	tcase_add_test(tc, collect_spares_layers_in_use);
	tcase_add_test(tc, collect_understands_indexes);
	tcase_add_test(tc, sweep_takes_only_what_the_dead_left);
	tcase_add_test(tc, collect_spares_what_a_transfer_has_pinned);
	tcase_add_test(tc, collect_removes_very_deep_layers);
	tcase_add_loop_test(tc, bad_manifests_are_refused, 0, (int)(sizeof BAD_MANIFESTS / sizeof *BAD_MANIFESTS));
	tcase_add_test(tc, index_selects_by_platform);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
