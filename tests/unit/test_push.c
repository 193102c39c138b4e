/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Pushed archives in all their forms, and pushes that meet each other, a collection, or their end. */
#include "base/fs.h"
#include "image/store.h"
#include "imager/archive.h"
#include "imager/content_internal.h"
#include "imager/digest.h"
#include "tar.h"

#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define CONFIG_TYPE "application/vnd.oci.image.config.v1+json"

static char root[] = "/tmp/capsule-push-XXXXXX";
static struct tar archive, layer;
static char config[512], config_digest[DIGEST_TEXT], layer_digest[DIGEST_TEXT];

static void digest_text(const void *data, size_t len, char ret[DIGEST_TEXT])
{
	struct digest *d = digest_new();

	digest_add(d, data, len);
	digest_finish(d, ret);
	digest_free(d);
}

static void setup(void)
{
	/* Results go to standard output, which is the test's. */
	ck_assert_ptr_nonnull(freopen("/dev/null", "w", stdout));
	ck_assert_ptr_nonnull(mkdtemp(root));
	tar_begin(&archive);
	tar_begin(&layer);
	tar_file(&layer, "bin/hello", "hello");
	tar_file(&layer, "etc/.wh.gone", "");
	tar_end(&layer);
	digest_text(layer.data, layer.len, layer_digest);
	snprintf(config, sizeof config, "{\"config\":{\"Cmd\":[\"hello\"]},\"rootfs\":{\"diff_ids\":[\"%s\"]}}",
		 layer_digest);
	digest_text(config, strlen(config), config_digest);
}

static void teardown(void)
{
	tar_release(&archive);
	tar_release(&layer);
	fs_remove_tree(AT_FDCWD, root, NULL);
}

static void add_bytes(const char *path, const void *data, size_t len)
{
	tar_add(&archive, (struct tar_entry){ .path = path, .type = AE_IFREG, .mode = 0644, .data = data, .len = len });
}

static void add_blob(const void *data, size_t len, char ret_digest[DIGEST_TEXT])
{
	char path[PATH_MAX];

	digest_text(data, len, ret_digest);
	snprintf(path, sizeof path, "blobs/sha256/%s", ret_digest + 7);
	add_bytes(path, data, len);
}

static int push(const void *data, size_t len, struct error *err)
{
	struct content *content;
	int fd = memfd_create("archive", MFD_CLOEXEC), r;

	ck_assert_int_eq(fs_write_all(fd, data, len), 0);
	ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
	r = content_open(root, NULL, &content, err);
	if (r == 0) {
		r = archive_push(content, fd, err);
		content_close(content);
	}
	close(fd);
	return r;
}

static struct image_store *pushed(void)
{
	struct error err = ERROR_INIT;
	struct image_store *store;

	tar_end(&archive);
	ck_assert_msg(push(archive.data, archive.len, &err) == 0, "%s", error_message(&err));
	ck_assert_int_eq(image_store_open(root, &store, NULL), 0);
	return store;
}

static void resolve(struct image_store *store, const char *reference, size_t n_layers, struct image *ret)
{
	struct error err = ERROR_INIT;

	ck_assert_msg(image_store_resolve(store, reference, ret, &err) == 0, "%s", error_message(&err));
	ck_assert_uint_eq(ret->n_layers, n_layers);
}

static void check_image(struct image_store *store, const char *reference, size_t n_layers)
{
	struct image image;

	resolve(store, reference, n_layers, &image);
	for (size_t i = 0; i < n_layers; i++) {
		_cleanup_free_ char *path = fs_path("%s/bin/hello", image.layers[i]);

		ck_assert_int_eq(access(path, F_OK), 0);
	}
	image_release(&image);
}

#define AT_REST 5 /* entries of images/: .lock, .spare, oci-layout, index.json, blobs */

static unsigned count(const char *sub)
{
	_cleanup_free_ char *path = fs_path("%s/%s", root, sub);
	_cleanup_closedir_ DIR *dir = opendir(path);
	struct dirent *entry;
	unsigned n = 0;

	while (dir && (entry = readdir(dir)))
		n += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
	return n;
}

/* Nothing is in the index, and what is unreferenced goes with the next collection. */
static void refused(const void *data, size_t len, enum error_code code, const char *text)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct image_store *store;
	struct image *images;
	size_t n;

	ck_assert_int_lt(push(data, len, &err), 0);
	ck_assert_msg(err.code == code, "%s: %s", error_code_name(err.code), error_message(&err));
	ck_assert_msg(strstr(error_message(&err), text) != NULL, "\"%s\" is not in: %s", text, error_message(&err));
	ck_assert_int_eq(image_store_open(root, &store, NULL), 0);
	ck_assert_int_eq(image_store_list(store, &images, &n, NULL), 0);
	ck_assert_uint_eq(n, 0);
	ck_assert_int_eq(image_store_collect(store, NULL, 0, NULL, NULL), 0);
	ck_assert_uint_eq(count("layers"), 0);
	ck_assert_uint_eq(count("images/blobs/sha256"), 0);
	ck_assert_uint_eq(count("images"), AT_REST);
	free(images);
	image_store_free(store);
}

static void refused_archive(const char *text)
{
	tar_end(&archive);
	refused(archive.data, archive.len, ERR_INVALID_ARGUMENT, text);
}

static const char DOCKER_MANIFEST[] = "[{\"Config\":\"config.json\",\"RepoTags\":[\"hello:1\",\"hello:latest\"],"
				      "\"Layers\":[\"1/layer.tar\"]}]";

#define OLD_ID "0000000000000000000000000000000000000000000000000000000000000001"
#define OLD_TOP "0000000000000000000000000000000000000000000000000000000000000002"

/* ---- forms ---- */

/* The manifest at either end, with what old Docker adds, which does not count. */
START_TEST(docker_archive)
{
	struct image_store *store;

	if (_i == 0)
		tar_file(&archive, "manifest.json", DOCKER_MANIFEST);
	tar_file(&archive, "1/VERSION", "1.0");
	tar_file(&archive, "1/json", "{}");
	tar_file(&archive, OLD_ID "/json", "no JSON");
	add_bytes("1/layer.tar", layer.data, layer.len);
	tar_file(&archive, "config.json", config);
	if (_i == 1)
		tar_file(&archive, "./manifest.json", DOCKER_MANIFEST);
	tar_file(&archive, "repositories", "no JSON");
	store = pushed();
	check_image(store, "hello:1", 1);
	check_image(store, "docker.io/library/hello", 1);
	ck_assert_uint_eq(count("images/blobs/sha256"), 3);
	image_store_free(store);
}
END_TEST

/* Two names are those of the upper layer, one is that of the lower, empty one. */
START_TEST(docker_archive_from_before_manifests)
{
	struct image_store *store;
	struct image image, base;

	tar_file(&archive, "repositories",
		 "{\"hello\":{\"1\":\"" OLD_TOP "\",\"latest\":\"" OLD_TOP "\"},"
		 "\"localhost:5000/base\":{\"1\":\"" OLD_ID "\"}}");
	tar_file(&archive, OLD_TOP "/json", "{\"parent\":\"" OLD_ID "\",\"config\":{\"Cmd\":[\"hello\"]}}");
	add_bytes(OLD_TOP "/layer.tar", layer.data, layer.len);
	tar_file(&archive, OLD_ID "/json", "{\"config\":null}");
	add_bytes(OLD_ID "/layer.tar", (const char[1024]){ 0 }, 1024);
	store = pushed();
	resolve(store, "localhost:5000/base:1", 1, &base);
	resolve(store, "hello:1", 2, &image);
	image_release(&image);
	resolve(store, "hello:latest", 2, &image);
	ck_assert_str_eq(image.layers[0], base.layers[0]);
	ck_assert_str_eq(image.config.cmd[0], "hello");
	image_release(&image);
	image_release(&base);
	image_store_free(store);
}
END_TEST

START_TEST(docker_archive_with_links_for_equal_layers)
{
	struct image_store *store;
	char two[512];

	snprintf(two, sizeof two, "{\"rootfs\":{\"diff_ids\":[\"%s\",\"%s\",\"%s\"]}}", layer_digest, layer_digest,
		 layer_digest);
	tar_add(&archive, (struct tar_entry){ .path = "0/layer.tar", .type = AE_IFLNK, .link = "../1/layer.tar" });
	add_bytes("1/layer.tar", layer.data, layer.len);
	tar_add(&archive, (struct tar_entry){ .path = "2/layer.tar", .hardlink = "0/layer.tar" });
	tar_file(&archive, "config.json", two);
	tar_file(&archive, "manifest.json", "[{\"Config\":\"config.json\",\"RepoTags\":[\"localhost/hello:1\"],"
					    "\"Layers\":[\"0/layer.tar\",\"1/layer.tar\",\"2/layer.tar\"]}]");
	store = pushed();
	check_image(store, "localhost/hello:1", 1); /* three times the same, which an overlay takes once */
	image_store_free(store);
}
END_TEST

/* An OCI layout; the image is named in different ways, and lies behind an index for several platforms. */
static void add_oci(const char *annotations, const char *architecture, bool nested)
{
	char digest[DIGEST_TEXT], text[2048], type[128] = "manifest";

	add_blob(layer.data, layer.len, layer_digest);
	add_blob(config, strlen(config), config_digest);
	snprintf(text, sizeof text,
		 "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"" CONFIG_TYPE "\",\"digest\":\"%s\",\"size\":%zu},"
		 "\"layers\":[{\"digest\":\"%s\",\"size\":%zu}]}", config_digest, strlen(config), layer_digest,
			 layer.len);
	add_blob(text, strlen(text), digest);
	if (nested) {
		snprintf(text, sizeof text, "{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"%s\",\"size\":1,"
			 "\"platform\":{\"os\":\"linux\",\"architecture\":\"%s\"}}]}", digest, architecture);
		add_blob(text, strlen(text), digest);
		snprintf(type, sizeof type, "index");
	}
	snprintf(text, sizeof text,
		 "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.%s.v1+json\","
		 "\"digest\":\"%s\",\"size\":1,\"annotations\":{%s}}]}", type, digest, annotations);
	tar_file(&archive, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
	tar_file(&archive, "index.json", text);
}

#if defined(__x86_64__)
#define ARCH "amd64"
#else
#define ARCH "arm64"
#endif

static const struct {
	const char *annotations, *reference;
	bool nested;
} OCI[] = {
	{ "\"org.opencontainers.image.ref.name\":\"hello\"", "hello:latest", false },
	{ "\"org.opencontainers.image.ref.name\":\"quay.io/a/hello:2\"", "quay.io/a/hello:2", true },
	{ "\"org.opencontainers.image.ref.name\":\"2\",\"io.containerd.image.name\":\"docker.io/a/hello:2\"",
	 "a/hello:2", true },
};

START_TEST(oci_archive)
{
	struct image_store *store;

	add_oci(OCI[_i].annotations, ARCH, OCI[_i].nested);
	store = pushed();
	check_image(store, OCI[_i].reference, 1);
	image_store_free(store);
}
END_TEST

START_TEST(oci_archive_for_another_platform)
{
	add_oci("\"org.opencontainers.image.ref.name\":\"hello\"", "s390x", true);
	tar_end(&archive);
	refused(archive.data, archive.len, ERR_FAILED_PRECONDITION, "it has: linux/s390x");
}
END_TEST

START_TEST(oci_names_only_in_manifest_json)
{
	struct image_store *store;
	char text[1024];

	add_oci("", ARCH, false);
	snprintf(text, sizeof text,
		 "[{\"Config\":\"blobs/sha256/%s\",\"RepoTags\":[\"hello:9\"],\"Layers\":[\"blobs/sha256/%s\"]}]",
		 config_digest + 7, layer_digest + 7);
	tar_file(&archive, "manifest.json", text);
	store = pushed();
	check_image(store, "hello:9", 1);
	image_store_free(store);
}
END_TEST

START_TEST(compressed_outside_and_inside)
{
	static const char *const how[] = { "gzip", "zstd" };
	struct image_store *store;
	struct tar packed, outer;

	tar_compress(&layer, how[_i], 0, layer.len, &packed);
	add_bytes("1/layer.tar", packed.data, packed.len);
	tar_file(&archive, "config.json", config);
	tar_file(&archive, "manifest.json", DOCKER_MANIFEST);
	tar_end(&archive);
	tar_compress(&archive, how[1 - _i], 0, archive.len, &outer);
	tar_release(&archive);
	archive = outer;
	store = pushed();
	check_image(store, "hello", 1);
	tar_release(&packed);
	image_store_free(store);
}
END_TEST

/* Pushed twice, the second time from another form: the layer is the same one. */
START_TEST(layers_are_shared)
{
	struct image_store *store;

	add_oci("\"org.opencontainers.image.ref.name\":\"first\"", ARCH, false);
	image_store_free(pushed());
	tar_release(&archive);
	tar_begin(&archive);
	add_bytes("1/layer.tar", layer.data, layer.len);
	tar_file(&archive, "config.json", config);
	tar_file(&archive, "manifest.json", DOCKER_MANIFEST);
	store = pushed();
	check_image(store, "first", 1);
	check_image(store, "hello", 1);
	ck_assert_uint_eq(count("layers"), 1);
	image_store_free(store);
}
END_TEST

/* ---- refused ---- */

static const struct {
	const char *manifest; /* NULL: none */
	const char *text;
} BAD_DOCKER[] = {
	{ NULL, "neither a manifest.json nor an index.json" },
	{ "[", "not valid JSON" },
	{ "{}", "not a list of images" },
	{ "[]", "holds no image" },
	{ "[{\"Config\":\"config.json\",\"RepoTags\":null,\"Layers\":[\"1/layer.tar\"]}]", "has no name: tag it" },
	{ "[{\"Config\":\"config.json\",\"RepoTags\":[],\"Layers\":[\"1/layer.tar\"]}]", "has no name: tag it" },
	{ "[{\"Config\":\"config.json\",\"RepoTags\":[\"UPPER\"],\"Layers\":[\"1/layer.tar\"]}]",
	 "image name \"UPPER\"" },
	{ "[{\"Config\":\"config.json\",\"RepoTags\":[7],\"Layers\":[\"1/layer.tar\"]}]", "image name" },
	{ "[{\"Config\":\"none.json\",\"RepoTags\":[\"a:1\"],\"Layers\":[\"1/layer.tar\"]}]",
	 "does not hold the file \"none.json\"" },
	{ "[{\"Config\":\"config.json\",\"RepoTags\":[\"a:1\"],\"Layers\":[\"2/layer.tar\"]}]",
	 "does not hold the file \"2/layer.tar\"" },
	{ "[{\"Config\":\"config.json\",\"RepoTags\":[\"a:1\"],\"Layers\":[\"loop\"]}]",
	 "does not hold the file \"loop\"" },
	{ "[{\"Config\":\"config.json\",\"RepoTags\":[\"a:1\"],\"Layers\":[\"config.json\"]}]",
	 "is not a tar archive" },
	{ "[{\"Config\":\"config.json\",\"RepoTags\":[\"a:1\"],\"Layers\":[]}]", "names 1 layers and the manifest 0" },
	{ "[{\"Config\":\"1/layer.tar\",\"RepoTags\":[\"a:1\"],\"Layers\":[\"1/layer.tar\"]}]", "not valid JSON" },
	{ "[{\"Config\":\"wrong.json\",\"RepoTags\":[\"a:1\"],\"Layers\":[\"1/layer.tar\"]}]", "really is" },
};

START_TEST(bad_docker_archives)
{
	add_bytes("1/layer.tar", layer.data, layer.len);
	tar_add(&archive, (struct tar_entry){ .path = "loop", .type = AE_IFLNK, .link = "loop" });
	tar_file(&archive, "config.json", config);
	tar_file(&archive, "wrong.json", "{\"rootfs\":{\"diff_ids\":["
					 "\"sha256:1111111111111111111111111111111111111111111111111111111111111111\"]}}");
	if (BAD_DOCKER[_i].manifest)
		tar_file(&archive, "manifest.json", BAD_DOCKER[_i].manifest);
	refused_archive(BAD_DOCKER[_i].text);
}
END_TEST

static const struct {
	const char *index, *text;
} BAD_OCI[] = {
	{ "{}", "not an OCI image index" },
	{ "{\"manifests\":[{\"annotations\":{\"org.opencontainers.image.ref.name\":\"a\"}}]}",
	 "without a SHA-256 digest" },
	{ "{\"manifests\":[{\"annotations\":{\"org.opencontainers.image.ref.name\":\"a\"},\"digest\":"
	  "\"sha256:1111111111111111111111111111111111111111111111111111111111111111\"}]}", "is missing" },
	{ "{\"manifests\":[{\"annotations\":{\"org.opencontainers.image.ref.name\":\"a\"},"
	  "\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"digest\":"
	  "\"sha256:1111111111111111111111111111111111111111111111111111111111111111\"}]}", "does not hold the blob" },
	{ "{\"manifests\":[{\"digest\":\"sha256:1111111111111111111111111111111111111111111111111111111111111111\"}]}",
	  "has no name" },
};

START_TEST(bad_oci_archives)
{
	tar_file(&archive, "index.json", BAD_OCI[_i].index);
	tar_end(&archive);
	refused(archive.data, archive.len, ERR_INVALID_ARGUMENT, BAD_OCI[_i].text);
}
END_TEST

START_TEST(blobs_must_be_what_their_name_says)
{
	add_bytes("blobs/sha256/1111111111111111111111111111111111111111111111111111111111111111", layer.data,
		  layer.len);
	tar_end(&archive);
	refused(archive.data, archive.len, ERR_INVALID_ARGUMENT, "should be sha256:1111");
}
END_TEST

START_TEST(hostile_layers_name_the_entry)
{
	struct tar evil;

	tar_begin(&evil);
	tar_file(&evil, "../../evil", "");
	tar_end(&evil);
	add_bytes("1/layer.tar", evil.data, evil.len);
	refused_archive("archive entry \"1/layer.tar\": entry \"../../evil\": the path with \"..\" is refused");
	tar_release(&evil);
}
END_TEST

START_TEST(what_is_no_archive)
{
	static const char text[] = "This is not an archive, though it is longer than the few bytes that tell what something is.";

	refused("", 0, ERR_INVALID_ARGUMENT, "the archive is empty");
	refused("x", 1, ERR_INVALID_ARGUMENT, "not a tar archive");
	refused(text, sizeof text, ERR_INVALID_ARGUMENT, "not a tar archive");
	add_bytes("1/layer.tar", layer.data, layer.len);
	tar_end(&archive);
	refused(archive.data, layer.len, ERR_INVALID_ARGUMENT, "damaged");
}
END_TEST

START_TEST(huge_documents_are_refused)
{
	size_t len = (4 << 20) + 1;
	char *text = malloc(len);

	memset(text, ' ', len);
	add_bytes("manifest.json", text, len);
	tar_end(&archive);
	refused(archive.data, archive.len, ERR_RESOURCE_EXHAUSTED, "larger than the limit");
	free(text);
}
END_TEST

/* ---- together ---- */

/* A process that pushes what is written to *ret_to. */
static pid_t push_in_child(int *ret_to)
{
	int ends[2];
	pid_t pid;

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	*ret_to = ends[1];
	pid = fork();
	if (pid == 0) {
		int from = dup2(ends[0], 100), r;
		struct content *content;

		/* The writing ends, its own and others', must not stay open here. */
		close_range(3, 99, 0);
		r = content_open(root, NULL, &content, NULL);
		if (r == 0) {
			r = archive_push(content, from, NULL);
			content_close(content);
		}
		_exit(r < 0);
	}
	ck_assert_int_gt(pid, 0);
	close(ends[0]);
	return pid;
}

/* Two pushes of the same archive, written to both in turn, so that they run at the same time from end to end. */
START_TEST(two_pushes_at_once)
{
	struct image_store *store;
	int to[2], status;
	pid_t pids[2];

	add_bytes("1/layer.tar", layer.data, layer.len);
	tar_file(&archive, "config.json", config);
	tar_file(&archive, "manifest.json", DOCKER_MANIFEST);
	tar_end(&archive);
	for (int i = 0; i < 2; i++)
		pids[i] = push_in_child(&to[i]);
	for (size_t at = 0; at < archive.len; at += 1000)
		for (int i = 0; i < 2; i++)
			ck_assert_int_eq(fs_write_all(to[i], archive.data + at,
						      archive.len - at < 1000 ? archive.len - at : 1000), 0);
	close(to[0]);
	close(to[1]);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
		ck_assert_int_eq(status, 0);
	}
	ck_assert_int_eq(image_store_open(root, &store, NULL), 0);
	check_image(store, "hello", 1);
	ck_assert_uint_eq(count("images"), AT_REST);
	ck_assert_uint_eq(count("layers"), 1);
	image_store_free(store);
}
END_TEST

START_TEST(a_killed_push_is_swept)
{
	struct image_store *store;
	int to, status;
	char *zeros = calloc(1, 4 << 20);
	struct tar big;
	pid_t pid;

	tar_begin(&big);
	for (int i = 0; i < 4; i++) {
		char name[8];

		snprintf(name, sizeof name, "f%d", i);
		tar_add(&big, (struct tar_entry){ .path = name, .type = AE_IFREG, .data = zeros, .len = 4 << 20 });
	}
	tar_end(&big);
	add_bytes("1/layer.tar", big.data, big.len);
	tar_end(&archive);
	pid = push_in_child(&to);
	/* More than the pipe and the queues hold: when this is written, the layer is being unpacked. */
	ck_assert_int_eq(fs_write_all(to, archive.data, 14 << 20), 0);
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));
	close(to);
	ck_assert_uint_eq(count("images"), AT_REST + 1);
	ck_assert_int_eq(image_store_open(root, &store, NULL), 0);
	ck_assert_uint_eq(count("images"), AT_REST);
	ck_assert_uint_eq(count("layers"), 0);
	ck_assert_uint_eq(count("images/blobs/sha256"), 0);
	image_store_free(store);
	tar_release(&big);
	free(zeros);
}
END_TEST

/* A collection that runs while a push is between its layer and its end takes nothing from it. */
START_TEST(a_collection_leaves_a_push_alone)
{
	struct image_store *store;
	struct content *content;
	struct blob_writer *w;
	char digest[DIGEST_TEXT], manifest[DIGEST_TEXT], text[1024];

	ck_assert_int_eq(image_store_open(root, &store, NULL), 0);
	ck_assert_int_eq(content_open(root, NULL, &content, NULL), 0);
	ck_assert_int_eq(blob_begin(content, BLOB_LAYER, NULL, NULL, &w, NULL), 0);
	ck_assert_int_eq(blob_write(w, layer.data, layer.len, NULL), 0);
	ck_assert_int_eq(image_store_collect(store, NULL, 0, NULL, NULL), 0);
	ck_assert_int_eq(blob_commit(w, digest, NULL, NULL, NULL), 0);
	ck_assert_int_eq(image_store_collect(store, NULL, 0, NULL, NULL), 0);
	snprintf(text, sizeof text, "{\"schemaVersion\":2,\"config\":{\"digest\":\"%s\",\"size\":%zu},"
		 "\"layers\":[{\"digest\":\"%s\",\"size\":%zu}]}", config_digest, strlen(config), digest, layer.len);
	ck_assert_int_eq(blob_begin(content, BLOB_PLAIN, config_digest, NULL, &w, NULL), 0);
	ck_assert_int_eq(blob_write(w, config, strlen(config), NULL), 0);
	ck_assert_int_eq(blob_commit(w, NULL, NULL, NULL, NULL), 0);
	ck_assert_int_eq(blob_begin(content, BLOB_PLAIN, NULL, NULL, &w, NULL), 0);
	ck_assert_int_eq(blob_write(w, text, strlen(text), NULL), 0);
	ck_assert_int_eq(blob_commit(w, manifest, NULL, NULL, NULL), 0);
	ck_assert_int_eq(image_store_collect(store, NULL, 0, NULL, NULL), 0);
	ck_assert_int_eq(content_register(content, "docker.io/library/hello:latest", manifest, NULL), 0);
	content_close(content);
	ck_assert_int_eq(image_store_collect(store, NULL, 0, NULL, NULL), 0);
	check_image(store, "hello", 1);
	image_store_free(store);
}
END_TEST

#define N(table) ((int)(sizeof(table) / sizeof *(table)))

int main(void)
{
	Suite *suite = suite_create("push");
	TCase *tc = tcase_create("push");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, docker_archive, 0, 2);
	tcase_add_test(tc, docker_archive_from_before_manifests);
	tcase_add_test(tc, docker_archive_with_links_for_equal_layers);
	tcase_add_loop_test(tc, oci_archive, 0, N(OCI));
	tcase_add_test(tc, oci_archive_for_another_platform);
	tcase_add_test(tc, oci_names_only_in_manifest_json);
	tcase_add_loop_test(tc, compressed_outside_and_inside, 0, 2);
	tcase_add_test(tc, layers_are_shared);
	tcase_add_loop_test(tc, bad_docker_archives, 0, N(BAD_DOCKER));
	tcase_add_loop_test(tc, bad_oci_archives, 0, N(BAD_OCI));
	tcase_add_test(tc, blobs_must_be_what_their_name_says);
	tcase_add_test(tc, hostile_layers_name_the_entry);
	tcase_add_test(tc, what_is_no_archive);
	tcase_add_test(tc, huge_documents_are_refused);
	tcase_add_test(tc, two_pushes_at_once);
	tcase_add_test(tc, a_killed_push_is_swept);
	tcase_add_test(tc, a_collection_leaves_a_push_alone);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
