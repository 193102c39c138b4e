/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/content_internal.h"

#include "base/fs.h"
#include "image/oci.h"
#include "imager/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static const struct content_limits DEFAULT_LIMITS = {
	.blob_max = UINT64_C(64) << 30,
	.unpacked_max = UINT64_C(64) << 30,
	.entries_max = 4000000,
};

int content_open(const char *root, const struct content_limits *limits, struct content **ret, struct error *err)
{
	struct content *c = calloc(1, sizeof *c);

	if (!c)
		return error_errno(err, ENOMEM, "cannot open the image store");
	c->layout = (struct layout)LAYOUT_INIT;
	c->stage = (struct layout_stage)LAYOUT_STAGE_INIT;
	c->limits = limits ? *limits : DEFAULT_LIMITS;
	c->diff_ids = json_object();
	pthread_mutex_init(&c->lock, NULL);
	if (!c->diff_ids)
		error_errno(err, ENOMEM, "cannot open the image store");
	if (!c->diff_ids || layout_open(root, &c->layout, err) < 0 || layout_sweep(&c->layout, err) < 0 ||
	    layout_stage_open(&c->layout, &c->stage, err) < 0) {
		content_close(c);
		return -1;
	}
	*ret = c;
	return 0;
}

void content_close(struct content *c)
{
	if (!c)
		return;
	/* What cannot be removed now is swept by the next one. */
	layout_stage_remove(&c->layout, &c->stage, NULL, NULL);
	layout_release(&c->layout);
	json_decref(c->diff_ids);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

/* Looks and pins at once: what is seen stays until this process ends. */
static bool has_pinned(struct content *c, int dirfd, const char *digest)
{
	const char *hex = layout_digest_hex(digest);
	_cleanup_close_ int lock = hex ? layout_lock(&c->layout, false, NULL) : -1;

	return lock >= 0 && faccessat(dirfd, hex, F_OK, 0) == 0 && layout_stage_pin(&c->stage, hex, NULL) == 0;
}

bool content_has_blob(struct content *c, const char *digest)
{
	return has_pinned(c, c->layout.blobs, digest);
}

bool content_has_layer(struct content *c, const char *diff_id)
{
	return has_pinned(c, c->layout.layers, diff_id);
}

int content_read_blob(struct content *c, const char *digest, size_t max, char **ret, size_t *ret_len, struct error *err)
{
	_cleanup_(digest_freep) struct digest *sum = digest_new();
	_cleanup_free_ char *data = NULL;
	const char *hex = layout_digest_hex(digest);
	char found[DIGEST_TEXT];
	size_t len;

	if (!hex)
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%.80s\" is not a SHA-256 digest", digest);
	if (!sum)
		return error_errno(err, ENOMEM, "cannot read %s", digest);
	if (fs_read(c->layout.blobs, hex, max, &data, &len, err) < 0)
		return -1;
	digest_add(sum, data, len);
	digest_finish(sum, found);
	if (strcmp(found, digest) != 0)
		return error_set(err, ERR_DATA_LOSS, "the blob %s in the image store is damaged", digest);
	*ret = steal_ptr(&data);
	if (ret_len)
		*ret_len = len;
	return 0;
}

static int hash_blob(struct content *c, const char *hex, char ret[DIGEST_TEXT], struct error *err)
{
	_cleanup_close_ int fd = openat(c->layout.blobs, hex, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	_cleanup_(digest_freep) struct digest *sum = digest_new();
	char data[65536];
	ssize_t n;

	if (fd < 0 || !sum)
		return error_errno(err, fd < 0 ? errno : ENOMEM, "cannot read the blob %s", hex);
	while ((n = read(fd, data, sizeof data)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(err, errno, "cannot read the blob %s", hex);
		digest_add(sum, data, (size_t)n);
	}
	digest_finish(sum, ret);
	return 0;
}

/* ---- registration ---- */

static int read_document(struct content *c, const char *digest, json_t **ret, struct error *err)
{
	_cleanup_free_ char *data = NULL;
	json_error_t why;
	size_t len;

	if (!content_has_blob(c, digest))
		return error_set(err, ERR_NOT_FOUND, "the blob %s is missing", digest);
	if (content_read_blob(c, digest, OCI_DOCUMENT_MAX, &data, &len, err) < 0)
		return -1;
	*ret = json_loadb(data, len, JSON_REJECT_DUPLICATES, &why);
	return *ret ? 0 : error_set(err, ERR_INVALID_ARGUMENT, "%s is not valid JSON: %s", digest, why.text);
}

/* The size is not what the manifest says: either the manifest lies, or the disk has damaged the blob. A damaged one
 * is thrown away, so that the next transfer brings it anew. */
static int wrong_size(struct content *c, const struct oci_descriptor *d, int64_t size, struct error *err)
{
	const char *hex = layout_digest_hex(d->digest);
	char found[DIGEST_TEXT];

	if (hash_blob(c, hex, found, err) < 0)
		return -1;
	if (!strcmp(found, d->digest))
		return error_set(err, ERR_INVALID_ARGUMENT, "the blob %s has %lld bytes and the manifest says %lld",
				 d->digest, (long long)size, (long long)d->size);
	if (unlinkat(c->layout.blobs, hex, 0) < 0)
		return error_errno(err, errno, "cannot remove the damaged blob %s", d->digest);
	return error_set(err, ERR_DATA_LOSS, "the blob %s in the image store was damaged and is removed: try again",
			 d->digest);
}

static int check_blob(struct content *c, const struct oci_descriptor *d, struct error *err)
{
	struct stat st;

	if (!content_has_blob(c, d->digest) || fstatat(c->layout.blobs, layout_digest_hex(d->digest), &st, 0) < 0)
		return error_set(err, ERR_NOT_FOUND, "the blob %s is missing", d->digest);
	if (st.st_size != d->size)
		return wrong_size(c, d, st.st_size, err);
	return 0;
}

/* The layer must be here unpacked and, if its blob passed through this process, be the one that was in the blob. */
static int check_layer(struct content *c, const char *digest, const char *diff_id, struct error *err)
{
	_cleanup_free_ char *passed = NULL;
	const char *known;

	pthread_mutex_lock(&c->lock);
	known = json_string_value(json_object_get(c->diff_ids, layout_digest_hex(digest)));
	passed = known ? strdup(known) : NULL;
	pthread_mutex_unlock(&c->lock);
	if (passed && strcmp(passed, diff_id) != 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "the config says %s of the layer %s, which really is %s",
				 diff_id, digest, passed);
	if (content_has_layer(c, diff_id))
		return 0;
	return blob_unpack(c, digest, diff_id, err);
}

static int check_image(struct content *c, const char *manifest_digest, json_t **ret_manifest, struct error *err)
{
	_cleanup_json_ json_t *manifest = NULL, *config = NULL;
	_cleanup_oci_manifest_ struct oci_manifest m = { 0 };
	const json_t *diff_ids;

	if (read_document(c, manifest_digest, &manifest, err) < 0 || oci_manifest_parse(manifest, &m, err) < 0)
		return error_wrap(err, "manifest");
	if (check_blob(c, &m.config, err) < 0 || read_document(c, m.config.digest, &config, err) < 0 ||
	    oci_config_check_platform(config, err) < 0 ||
	    oci_config_diff_ids(config, m.n_layers, &diff_ids, err) < 0)
		return error_wrap(err, "config");
	for (size_t i = 0; i < m.n_layers; i++) {
		const char *diff_id = json_string_value(json_array_get(diff_ids, i));

		if (check_blob(c, &m.layers[i], err) < 0 || check_layer(c, m.layers[i].digest, diff_id, err) < 0)
			return error_wrap(err, "layer %zu", i + 1);
	}
	*ret_manifest = steal_ptr(&manifest);
	return 0;
}

/* The index entry of an image. NULL without memory. */
static json_t *make_entry(struct content *c, const struct content_image *image, const json_t *manifest)
{
	const char *type = json_string_value(json_object_get(manifest, "mediaType"));
	struct stat st;

	if (fstatat(c->layout.blobs, layout_digest_hex(image->manifest_digest), &st, 0) < 0)
		return NULL;
	return json_pack("{s:s, s:s, s:I, s:{s:s}}", "mediaType", type ? type : OCI_MANIFEST, "digest",
			 image->manifest_digest,
			 "size", (json_int_t)st.st_size, "annotations", LAYOUT_REF_NAME, image->reference);
}

/* Takes the entry's reference whether it succeeds or not. */
static int replace_entry(json_t *index, const char *reference, json_t *entry, struct error *err)
{
	json_t *manifests = json_object_get(index, "manifests");

	for (size_t i = json_array_size(manifests); i-- > 0;) {
		const json_t *annotations = json_object_get(json_array_get(manifests, i), "annotations");
		const char *name = json_string_value(json_object_get(annotations, LAYOUT_REF_NAME));

		if (name && !strcmp(name, reference))
			json_array_remove(manifests, i);
	}
	if (!entry || json_array_append_new(manifests, entry) < 0)
		return error_errno(err, ENOMEM, "cannot enter the image in the index");
	return 0;
}

static int enter_images(struct content *c, const struct content_image *images, json_t *const *manifests, size_t n,
			struct error *err)
{
	_cleanup_close_ int lock = layout_lock(&c->layout, true, err);
	_cleanup_json_ json_t *index = NULL;

	if (lock < 0 || layout_index_read(&c->layout, &index, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (replace_entry(index, images[i].reference, make_entry(c, &images[i], manifests[i]), err) < 0)
			return -1;
	return layout_index_write(&c->layout, index, err);
}

int content_register_all(struct content *c, const struct content_image *images, size_t n, struct error *err)
{
	_cleanup_free_ json_t **manifests = calloc(n + 1, sizeof(json_t *));
	int r = manifests ? 0 : error_errno(err, ENOMEM, "cannot register an image");

	for (size_t i = 0; r == 0 && i < n; i++) {
		r = check_image(c, images[i].manifest_digest, &manifests[i], err);
		if (r < 0)
			error_wrap(err, "image %s", images[i].reference);
	}
	/* Once for everything: blobs, layers and the renames that gave them their names. */
	if (r == 0 && syncfs(c->layout.images) < 0)
		r = error_errno(err, errno, "cannot write the image to the disk");
	if (r == 0)
		r = enter_images(c, images, manifests, n, err);
	for (size_t i = 0; manifests && i < n; i++)
		json_decref(manifests[i]);
	return r;
}

int content_register(struct content *c, const char *reference, const char *manifest_digest, struct error *err)
{
	const struct content_image image = { reference, manifest_digest };

	return content_register_all(c, &image, 1, err);
}
