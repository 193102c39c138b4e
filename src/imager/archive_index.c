/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/archive_index.h"

#include "image/layout.h"
#include "image/reference.h"
#include "imager/archive_legacy.h"

#include <errno.h>
#include <string.h>

#define INDEX_KEY "index.json"
#define MANIFEST_KEY "manifest.json"
#define BLOB_PREFIX "blobs/sha256/"
#define CONTAINERD_NAME "io.containerd.image.name"
#define LINKS_MAX 8       /* links that lead to links */
#define INDEX_DEPTH_MAX 4 /* indexes in indexes */

struct named_image {
	char *reference;
	char digest[DIGEST_TEXT];
};

struct archive_index {
	struct content *content;
	json_t *files;               /* key to {"digest", "size", "type", "diff_id"} or {"link": key} */
	json_t *oci, *docker;        /* index.json, manifest.json; NULL: not seen */
	struct legacy legacy;
	struct named_image *images;
	size_t n_images, n_unnamed;
};

/* ---- keys and roles ---- */

char *archive_key(const char *from, const char *path)
{
	const char *slash = *path == '/' ? NULL : strrchr(from, '/');
	size_t base = slash ? (size_t)(slash - from) : 0, len = base;
	char *key = malloc(base + strlen(path) + 2);

	if (!key)
		return NULL;
	memcpy(key, from, base);
	while (*path) {
		size_t n = strcspn(path, "/");

		if (n == 2 && path[0] == '.' && path[1] == '.') {
			while (len && key[len - 1] != '/')
				len--;
			if (len)
				len--;
		} else if (n && !(n == 1 && path[0] == '.')) {
			if (len)
				key[len++] = '/';
			memcpy(key + len, path, n);
			len += n;
		}
		path += n;
		path += strspn(path, "/");
	}
	key[len] = '\0';
	return key;
}

enum archive_role archive_role(const char *key)
{
	const char *slash = strrchr(key, '/'), *name = slash ? slash + 1 : key;

	if (!strcmp(key, INDEX_KEY) || !strcmp(key, MANIFEST_KEY))
		return ARCHIVE_DOCUMENT;
	if (legacy_is_text(key))
		return ARCHIVE_LEGACY;
	if (!strcmp(key, "oci-layout") || (slash && (!strcmp(name, "json") || !strcmp(name, "VERSION"))))
		return ARCHIVE_IGNORED;
	return ARCHIVE_BLOB;
}

const char *archive_index_digest_of(const char *key)
{
	static _Thread_local char digest[DIGEST_TEXT];

	if (strncmp(key, BLOB_PREFIX, sizeof BLOB_PREFIX - 1) != 0 || !layout_hex_valid(key + sizeof BLOB_PREFIX - 1))
		return NULL;
	snprintf(digest, sizeof digest, "sha256:%s", key + sizeof BLOB_PREFIX - 1);
	return digest;
}

const char *archive_layer_type(enum compression compression)
{
	switch (compression) {
	case COMPRESSION_GZIP:
		return OCI_LAYER_GZIP;
	case COMPRESSION_ZSTD:
		return OCI_LAYER_ZSTD;
	case COMPRESSION_NONE:
		break;
	}
	return OCI_LAYER;
}

/* ---- collecting ---- */

int archive_index_new(struct content *content, struct archive_index **ret, struct error *err)
{
	struct archive_index *index = calloc(1, sizeof *index);

	if (!index || !(index->files = json_object())) {
		free(index);
		return error_errno(err, ENOMEM, "cannot read the archive");
	}
	index->content = content;
	*ret = index;
	return 0;
}

void archive_index_free(struct archive_index *index)
{
	if (!index)
		return;
	json_decref(index->files);
	json_decref(index->oci);
	json_decref(index->docker);
	legacy_release(&index->legacy);
	for (size_t i = 0; i < index->n_images; i++)
		free(index->images[i].reference);
	free(index->images);
	free(index);
}

/* Takes the reference to the file. A key that comes twice means its last file, as in any tar. */
static int add_file(struct archive_index *index, const char *key, json_t *file, struct error *err)
{
	if (json_object_size(index->files) >= ARCHIVE_FILES_MAX) {
		json_decref(file);
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the archive has more than the limit of %d files",
				 ARCHIVE_FILES_MAX);
	}
	/* The one reason beside memory: the name or the link's target is not UTF-8, as no name in an image archive
	 * should be. */
	if (!file || json_object_set_new(index->files, key, file) < 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "its name is not valid UTF-8");
	return 0;
}

int archive_index_add_blob(struct archive_index *index, const char *key, const struct archive_blob *blob,
			   struct error *err)
{
	json_t *file = json_pack("{s:s, s:I}", "digest", blob->digest, "size", (json_int_t)blob->size);

	if (file && blob->is_layer)
		json_object_set_new(file, "type", json_string(blob->media_type));
	if (file && *blob->diff_id)
		json_object_set_new(file, "diff_id", json_string(blob->diff_id));
	return add_file(index, key, file, err);
}

int archive_index_add_link(struct archive_index *index, const char *key, const char *from, const char *target,
			   struct error *err)
{
	_cleanup_free_ char *to = archive_key(from, target);

	if (!to)
		return error_errno(err, ENOMEM, "cannot read the archive");
	return add_file(index, key, json_pack("{s:s}", "link", to), err);
}

int archive_index_add_document(struct archive_index *index, const char *key, const char *text, size_t len,
			       struct error *err)
{
	json_t **slot = strcmp(key, INDEX_KEY) ? &index->docker : &index->oci;
	json_error_t why;
	json_t *document = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);

	if (!document)
		return error_set(err, ERR_INVALID_ARGUMENT, "it is not valid JSON: %s (line %d)", why.text, why.line);
	json_decref(*slot);
	*slot = document;
	return 0;
}

void archive_index_add_legacy(struct archive_index *index, const char *key, const char *text, size_t len)
{
	legacy_add(&index->legacy, key, text, len);
}

/* ---- images ---- */

static int add_image(struct archive_index *index, const char *name, const char *digest, struct error *err)
{
	struct named_image *images;
	char *reference;

	if (index->n_images >= ARCHIVE_IMAGES_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the archive has more than the limit of %d images",
				 ARCHIVE_IMAGES_MAX);
	images = reallocarray(index->images, index->n_images + 1, sizeof *images);
	if (!images)
		return error_errno(err, ENOMEM, "cannot read the archive");
	index->images = images;
	if (reference_normalize(name, &reference, err) < 0)
		return error_wrap(err, "the archive's image name \"%.256s\"", name);
	images[index->n_images].reference = reference;
	snprintf(images[index->n_images].digest, sizeof images->digest, "%s", digest);
	index->n_images++;
	return 0;
}

static int read_index_blob(struct archive_index *index, const char *digest, json_t **ret, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	json_error_t why;
	size_t len;

	if (!content_has_blob(index->content, digest))
		return error_set(err, ERR_INVALID_ARGUMENT, "the archive does not hold the blob %s that it names",
				 digest);
	if (content_read_blob(index->content, digest, OCI_DOCUMENT_MAX, &text, &len, err) < 0)
		return -1;
	*ret = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
	return *ret ? 0 : error_set(err, ERR_INVALID_ARGUMENT, "%s is not valid JSON: %s", digest, why.text);
}

/* Down through indexes to the manifest for this machine. */
static int find_manifest(struct archive_index *index, const json_t *descriptor, unsigned depth, char ret[DIGEST_TEXT],
			 struct error *err)
{
	const char *digest = json_string_value(json_object_get(descriptor, "digest"));
	_cleanup_json_ json_t *document = NULL;
	const json_t *chosen;

	if (!digest || !layout_digest_hex(digest))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "the archive's index.json names an image without a SHA-256 digest");
	if (!oci_is_index(json_string_value(json_object_get(descriptor, "mediaType")))) {
		snprintf(ret, DIGEST_TEXT, "%s", digest);
		return 0;
	}
	if (depth == 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "the archive has more than %d indexes in each other",
				 INDEX_DEPTH_MAX);
	if (read_index_blob(index, digest, &document, err) < 0 || oci_index_select(document, &chosen, err) < 0)
		return -1;
	return find_manifest(index, chosen, depth - 1, ret, err);
}

static const char *image_name(const json_t *descriptor)
{
	const json_t *annotations = json_object_get(descriptor, "annotations");
	const char *name = json_string_value(json_object_get(annotations, CONTAINERD_NAME));

	return name ? name : json_string_value(json_object_get(annotations, LAYOUT_REF_NAME));
}

static int add_oci_images(struct archive_index *index, struct error *err)
{
	const json_t *manifests = json_object_get(index->oci, "manifests"), *descriptor;
	char digest[DIGEST_TEXT];
	size_t i;

	if (!json_is_array(manifests))
		return error_set(err, ERR_INVALID_ARGUMENT, "the archive's index.json is not an OCI image index");
	json_array_foreach(manifests, i, descriptor) {
		const char *name = image_name(descriptor);

		if (!name) {
			index->n_unnamed++;
			continue;
		}
		if (find_manifest(index, descriptor, INDEX_DEPTH_MAX, digest, err) < 0)
			return error_wrap(err, "image %.256s", name);
		if (add_image(index, name, digest, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- Docker's manifest.json ---- */

/* The file that a path means, through links. NULL fills err. */
static const json_t *find_file(const struct archive_index *index, const json_t *path, struct error *err)
{
	_cleanup_free_ char *key = json_is_string(path) ? archive_key("", json_string_value(path)) : NULL;
	const json_t *file = key ? json_object_get(index->files, key) : NULL;

	for (unsigned i = 0; file && i < LINKS_MAX; i++) {
		const char *link = json_string_value(json_object_get(file, "link"));

		if (!link)
			return file;
		file = json_object_get(index->files, link);
	}
	error_set(err, ERR_INVALID_ARGUMENT,
		  "the archive does not hold the file \"%.256s\" that its %s", key ? key : "",
		  index->docker ? "manifest.json names" : "image is made of");
	return NULL;
}

static json_t *make_descriptor(const json_t *file, const char *media_type)
{
	return json_pack("{s:s, s:O, s:O}", "mediaType", media_type, "digest", json_object_get(file, "digest"), "size",
			 json_object_get(file, "size"));
}

/* The OCI manifest that manifest.json's entry amounts to. */
static int make_manifest(struct archive_index *index, const json_t *entry, json_t **ret, struct error *err)
{
	const json_t *config = find_file(index, json_object_get(entry, "Config"), err);
	const json_t *layers = json_object_get(entry, "Layers"), *path;
	_cleanup_json_ json_t *list = json_array(), *manifest = NULL;
	size_t i;

	if (!config)
		return -1;
	json_array_foreach(layers, i, path) {
		const json_t *file = find_file(index, path, err);
		const char *type = json_string_value(json_object_get(file, "type"));

		if (!file)
			return -1;
		if (!type)
			return error_set(err, ERR_INVALID_ARGUMENT, "the layer \"%.256s\" is not a tar archive",
					 json_string_value(path));
		json_array_append_new(list, make_descriptor(file, type));
	}
	manifest = json_pack("{s:i, s:s, s:o, s:O}", "schemaVersion", 2, "mediaType", OCI_MANIFEST, "config",
			     make_descriptor(config, OCI_CONFIG), "layers", list);
	if (!manifest || json_array_size(list) != json_array_size(layers))
		return error_errno(err, ENOMEM, "cannot make a manifest");
	*ret = steal_ptr(&manifest);
	return 0;
}

static int store_document(struct archive_index *index, const json_t *document, struct archive_blob *ret,
			  struct error *err)
{
	_cleanup_free_ char *text = json_dumps(document, JSON_COMPACT);
	struct blob_writer *w;

	if (!text)
		return error_errno(err, ENOMEM, "cannot make a manifest");
	if (blob_begin(index->content, BLOB_PLAIN, NULL, NULL, &w, err) < 0)
		return -1;
	if (blob_write(w, text, strlen(text), err) < 0) {
		blob_abort(w);
		return -1;
	}
	*ret = (struct archive_blob){ 0 };
	return blob_commit(w, ret->digest, &ret->size, NULL, err);
}

/* One entry of manifest.json. */
static int add_docker_image(struct archive_index *index, const json_t *entry, struct error *err)
{
	const json_t *tags = json_object_get(entry, "RepoTags"), *tag;
	_cleanup_json_ json_t *manifest = NULL;
	struct archive_blob stored;
	size_t i;

	if (json_array_size(tags) == 0) {
		index->n_unnamed++;
		return 0;
	}
	if (make_manifest(index, entry, &manifest, err) < 0 || store_document(index, manifest, &stored, err) < 0)
		return -1;
	json_array_foreach(tags, i, tag)
		if (add_image(index, json_is_string(tag) ? json_string_value(tag) : "", stored.digest, err) < 0)
			return -1;
	return 0;
}

static int add_docker_images(struct archive_index *index, struct error *err)
{
	const json_t *entry;
	size_t i;

	if (!json_is_array(index->docker))
		return error_set(err, ERR_INVALID_ARGUMENT, "the archive's manifest.json is not a list of images");
	json_array_foreach(index->docker, i, entry)
		if (add_docker_image(index, entry, err) < 0)
			return -1;
	return 0;
}

/* ---- from before manifest.json ---- */

static int collect_diff_ids(const struct archive_index *index, const json_t *layers, json_t *ret, struct error *err)
{
	const json_t *path;
	size_t i;

	json_array_foreach(layers, i, path) {
		const json_t *file = find_file(index, path, err);
		json_t *diff_id = json_object_get(file, "diff_id");

		if (!file)
			return -1;
		if (!diff_id)
			return error_set(err, ERR_INVALID_ARGUMENT, "the layer \"%.256s\" is not a tar archive",
					 json_string_value(path));
		if (json_array_append(ret, diff_id) < 0)
			return error_errno(err, ENOMEM, "cannot make a configuration");
	}
	return 0;
}

/* Writes the configuration that such an image lacks and goes on as if a manifest.json had named it. */
static int add_legacy_image(const struct legacy_image *image, void *arg, struct error *err)
{
	_cleanup_json_ json_t *config = json_copy(image->config), *diff_ids = json_array(), *entry = NULL;
	struct archive_index *index = arg;
	struct archive_blob stored;

	if (!config || !diff_ids ||
	    json_object_set_new(config, "rootfs", json_pack("{s:s, s:O}", "type", "layers", "diff_ids", diff_ids)) < 0)
		return error_errno(err, ENOMEM, "cannot make a configuration");
	if (collect_diff_ids(index, image->layers, diff_ids, err) < 0 ||
	    store_document(index, config, &stored, err) < 0 ||
	    archive_index_add_blob(index, stored.digest, &stored, err) < 0)
		return -1;
	entry = json_pack("{s:s, s:O, s:O}", "Config", stored.digest, "RepoTags", image->tags, "Layers", image->layers);
	return entry ? add_docker_image(index, entry, err) : error_errno(err, ENOMEM, "cannot make a configuration");
}

/* ---- registration ---- */

static int find_images(struct archive_index *index, struct error *err)
{
	bool legacy = !index->oci && !index->docker && legacy_has_layers(&index->legacy);

	if (!index->oci && !index->docker && !legacy)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "the archive holds no image: it has neither a manifest.json nor an index.json");
	if (index->oci && add_oci_images(index, err) < 0)
		return -1;
	/* An archive that is both says the same twice, though not always with names in both. */
	if (index->n_images == 0 && index->docker && add_docker_images(index, err) < 0)
		return -1;
	if (legacy && legacy_images(&index->legacy, add_legacy_image, index, err) < 0)
		return -1;
	if (index->n_images == 0 && (index->n_unnamed || legacy))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "the archive's image has no name: tag it before it is saved, as in "
				 "docker save NAME:TAG");
	if (index->n_images == 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "the archive holds no image");
	return 0;
}

int archive_index_register(struct archive_index *index, struct error *err)
{
	_cleanup_free_ struct content_image *images = NULL;

	if (find_images(index, err) < 0)
		return -1;
	images = calloc(index->n_images, sizeof *images);
	if (!images)
		return error_errno(err, ENOMEM, "cannot register the images");
	for (size_t i = 0; i < index->n_images; i++)
		images[i] = (struct content_image){ index->images[i].reference, index->images[i].digest };
	if (content_register_all(index->content, images, index->n_images, err) < 0)
		return -1;
	for (size_t i = 0; i < index->n_images; i++)
		report_image(images[i].reference, images[i].manifest_digest);
	return 0;
}
