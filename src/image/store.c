/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The locks are described in layout.h. Reading takes none: the index is replaced whole, and what it names is whole. */
#include "image/store.h"

#include "base/fs.h"
#include "base/timeutil.h"
#include "image/layout.h"
#include "image/oci.h"
#include "image/payload.h"
#include "image/reference.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define DIGEST_PREFIX_MIN 12 /* hex digits of a digest that name an image */

struct image_store {
	struct layout layout;
	char *layers_path; /* absolute */
};

int image_store_open(const char *root, struct image_store **ret, struct error *err)
{
	struct image_store *store = calloc(1, sizeof *store);
	_cleanup_free_ char *absolute = NULL;

	if (!store)
		return error_errno(err, ENOMEM, "cannot open the image store");
	store->layout = (struct layout)LAYOUT_INIT;
	if (layout_open(root, &store->layout, err) < 0 || layout_sweep(&store->layout, err) < 0) {
		image_store_free(store);
		return -1;
	}
	absolute = realpath(root, NULL);
	store->layers_path = absolute ? fs_path("%s/layers", absolute) : NULL;
	if (!store->layers_path) {
		error_errno(err, errno, "cannot find %s", root);
		image_store_free(store);
		return -1;
	}
	*ret = store;
	return 0;
}

void image_store_free(struct image_store *store)
{
	if (!store)
		return;
	layout_release(&store->layout);
	free(store->layers_path);
	free(store);
}

/* ---- images ---- */

static void strings_free(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

void image_release(struct image *image)
{
	free(image->reference);
	free(image->digest);
	strings_free(image->config.entrypoint);
	strings_free(image->config.cmd);
	strings_free(image->config.env);
	free(image->config.working_dir);
	free(image->config.user);
	free(image->config.stop_signal);
	for (size_t i = 0; i < image->n_layers; i++)
		free(image->layers[i]);
	free(image->layers);
	*image = (struct image){ 0 };
}

/* NULL when absent or empty; what is not a string is an error. */
static int take_string(const json_t *process, const char *name, char **ret, struct error *err)
{
	const json_t *value = json_object_get(process, name);

	if (!value || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0))
		return 0;
	if (!json_is_string(value))
		return error_set(err, ERR_DATA_LOSS, "the config's %s is not a string", name);
	*ret = strdup(json_string_value(value));
	return *ret ? 0 : error_errno(err, ENOMEM, "cannot read the config");
}

static int take_strings(const json_t *process, const char *name, char ***ret, struct error *err)
{
	const json_t *value = json_object_get(process, name), *item;
	size_t i;

	if (value && !json_is_null(value) && !json_is_array(value))
		return error_set(err, ERR_DATA_LOSS, "the config's %s is not a list", name);
	*ret = calloc(json_array_size(value) + 1, sizeof **ret);
	if (!*ret)
		return error_errno(err, ENOMEM, "cannot read the config");
	json_array_foreach(value, i, item) {
		if (!json_is_string(item))
			return error_set(err, ERR_DATA_LOSS, "the config's %s holds what is not a string", name);
		(*ret)[i] = strdup(json_string_value(item));
		if (!(*ret)[i])
			return error_errno(err, ENOMEM, "cannot read the config");
	}
	return 0;
}

static int take_config(const json_t *config, struct image_config *ret, struct error *err)
{
	const json_t *process = json_object_get(config, "config");

	if (take_strings(process, "Entrypoint", &ret->entrypoint, err) < 0 ||
	    take_strings(process, "Cmd", &ret->cmd, err) < 0 || take_strings(process, "Env", &ret->env, err) < 0)
		return -1;
	if (take_string(process, "WorkingDir", &ret->working_dir, err) < 0 ||
	    take_string(process, "User", &ret->user, err) < 0)
		return -1;
	return take_string(process, "StopSignal", &ret->stop_signal, err);
}

/* Fills size_bytes and looks whether the blobs are there with the size that the manifest names. */
static int check_blobs(const struct image_store *store, const struct oci_manifest *m, struct image *image,
		       struct error *err)
{
	struct stat st;

	if (fstatat(store->layout.blobs, layout_digest_hex(image->digest), &st, 0) < 0)
		return error_errno(err, errno, "cannot find the manifest");
	image->size_bytes = st.st_size;
	for (size_t i = 0; i <= m->n_layers; i++) {
		const struct oci_descriptor *d = i ? &m->layers[i - 1] : &m->config;

		if (fstatat(store->layout.blobs, layout_digest_hex(d->digest), &st, 0) < 0)
			return error_errno(err, errno, "cannot find the blob %s", d->digest);
		if (st.st_size != d->size)
			return error_set(err, ERR_DATA_LOSS, "the blob %s has %lld bytes instead of %lld", d->digest,
					 (long long)st.st_size, (long long)d->size);
		image->size_bytes += st.st_size;
	}
	return 0;
}

/* Whether the same layer lies further up as well. */
static bool comes_again(const json_t *diff_ids, size_t i)
{
	const char *diff_id = json_string_value(json_array_get(diff_ids, i));

	while (++i < json_array_size(diff_ids))
		if (!strcmp(json_string_value(json_array_get(diff_ids, i)), diff_id))
			return true;
	return false;
}

/* Of a layer that is there several times (as the empty ones of old Docker are) only the topmost counts: it hides all
 * that the lower ones hold, and an overlay takes no directory twice. */
static int take_layers(const struct image_store *store, const json_t *config, size_t n, struct image *image,
		       struct error *err)
{
	const json_t *diff_ids;

	if (oci_config_diff_ids(config, n, &diff_ids, err) < 0)
		return -1;
	image->layers = calloc(n + 1, sizeof *image->layers);
	if (!image->layers)
		return error_errno(err, ENOMEM, "cannot read the config");
	for (size_t i = 0; i < n; i++) {
		const char *diff_id = json_string_value(json_array_get(diff_ids, i));
		const char *hex = layout_digest_hex(diff_id);

		if (comes_again(diff_ids, i))
			continue;
		if (faccessat(store->layout.layers, hex, F_OK, 0) < 0)
			return error_errno(err, errno, "cannot find the unpacked layer %s", diff_id);
		image->layers[image->n_layers] = fs_path("%s/%s", store->layers_path, hex);
		if (!image->layers[image->n_layers])
			return error_errno(err, ENOMEM, "cannot read the config");
		image->n_layers++;
	}
	return 0;
}

static int load_documents(const struct image_store *store, bool whole, struct image *image, struct error *err)
{
	_cleanup_json_ json_t *manifest = NULL, *config = NULL;
	_cleanup_oci_manifest_ struct oci_manifest m = { 0 };
	const char *created;
	int64_t ns;

	if (layout_read_json(&store->layout, image->digest, &manifest, err) < 0 ||
	    oci_manifest_parse(manifest, &m, err) < 0 || check_blobs(store, &m, image, err) < 0 ||
	    layout_read_json(&store->layout, m.config.digest, &config, err) < 0)
		return -1;
	created = json_string_value(json_object_get(config, "created"));
	if (created && time_parse_rfc3339(created, &ns) == 0)
		image->created_unix = ns / NSEC_PER_SEC;
	if (!whole)
		return 0;
	return take_config(config, &image->config, err) < 0 || take_layers(store, config, m.n_layers, image, err) < 0 ?
		       -1 : 0;
}

static const char *entry_reference(const json_t *entry)
{
	return json_string_value(json_object_get(json_object_get(entry, "annotations"), LAYOUT_REF_NAME));
}

/* whole: with config and layers, and any damage is an error. */
static int load_image(const struct image_store *store, const json_t *entry, bool whole, struct image *ret,
		      struct error *err)
{
	_cleanup_image_ struct image image = { 0 };
	_cleanup_error_ struct error why = ERROR_INIT;
	const char *reference = entry_reference(entry);

	image.reference = strdup(reference ? reference : "");
	image.digest = strdup(json_string_value(json_object_get(entry, "digest")));
	if (!image.reference || !image.digest)
		return error_errno(err, ENOMEM, "cannot read the image");
	if (load_documents(store, whole, &image, &why) < 0 && whole)
		return error_set(err, ERR_DATA_LOSS, "the image %s is damaged: %s; pull or push it again",
				 image.reference, error_message(&why));
	*ret = image;
	image = (struct image){ 0 };
	return 0;
}

/* ---- look-up ---- */

/* The entry under the full reference; failing that, if the reference has a digest, the entry of the same repository
 * whose manifest has it. Borrowed from the index. */
static const json_t *find_entry(const json_t *index, const char *full, const struct reference *wanted)
{
	const json_t *manifests = json_object_get(index, "manifests"), *entry;
	size_t i;

	json_array_foreach(manifests, i, entry) {
		const char *reference = entry_reference(entry);

		if (reference && !strcmp(reference, full))
			return entry;
	}
	if (!wanted->digest)
		return NULL;
	json_array_foreach(manifests, i, entry) {
		_cleanup_reference_ struct reference have = { 0 };
		const char *reference = entry_reference(entry);

		if (reference && !strcmp(json_string_value(json_object_get(entry, "digest")), wanted->digest) &&
		    reference_parse(reference, &have, NULL) == 0 && !strcmp(have.registry, wanted->registry) &&
		    !strcmp(have.repository, wanted->repository))
			return entry;
	}
	return NULL;
}

int image_store_resolve(struct image_store *store, const char *reference, struct image *ret, struct error *err)
{
	_cleanup_reference_ struct reference wanted = { 0 };
	_cleanup_json_ json_t *index = NULL;
	_cleanup_free_ char *full = NULL;
	const json_t *entry;

	if (reference_parse(reference, &wanted, err) < 0)
		return -1;
	full = reference_format(&wanted);
	if (!full)
		return error_errno(err, ENOMEM, "cannot resolve %s", reference);
	if (layout_index_read(&store->layout, &index, err) < 0)
		return -1;
	entry = find_entry(index, full, &wanted);
	if (!entry)
		return error_set(err, ERR_NOT_FOUND, "there is no image %s here", full);
	return load_image(store, entry, true, ret, err);
}

static int compare_images(const void *a, const void *b)
{
	return strcmp(((const struct image *)a)->reference, ((const struct image *)b)->reference);
}

int image_store_list(struct image_store *store, struct image **ret, size_t *ret_n, struct error *err)
{
	_cleanup_json_ json_t *index = NULL;
	const json_t *manifests, *entry;
	struct image *images;
	size_t i, n = 0;

	if (layout_index_read(&store->layout, &index, err) < 0)
		return -1;
	manifests = json_object_get(index, "manifests");
	images = calloc(json_array_size(manifests) + 1, sizeof *images);
	if (!images)
		return error_errno(err, ENOMEM, "cannot list the images");
	json_array_foreach(manifests, i, entry) {
		if (!entry_reference(entry)) /* not ours: without a name it cannot be used or deleted here */
			continue;
		if (load_image(store, entry, false, &images[n], err) < 0)
			goto failed;
		n++;
	}
	qsort(images, n, sizeof *images, compare_images);
	*ret = images;
	*ret_n = n;
	return 0;
failed:
	while (n)
		image_release(&images[--n]);
	free(images);
	return -1;
}

/* ---- removal ---- */

/* The hex digits of text if it is a digest or the beginning of one, else NULL. */
static const char *digest_prefix(const char *text)
{
	const char *hex = strncmp(text, "sha256:", 7) == 0 ? text + 7 : text;
	size_t len = strspn(hex, "0123456789abcdef");

	return hex[len] == '\0' && len >= DIGEST_PREFIX_MIN && len <= 64 ? hex : NULL;
}

static int find_by_digest(const json_t *index, const char *text, const char *hex, size_t *ret, struct error *err)
{
	const json_t *manifests = json_object_get(index, "manifests"), *entry;
	size_t i, found = 0, at = 0;

	json_array_foreach(manifests, i, entry) {
		const char *digest = layout_digest_hex(json_string_value(json_object_get(entry, "digest")));

		if (strncmp(digest, hex, strlen(hex)) == 0) {
			at = i;
			found++;
		}
	}
	if (found == 0)
		return error_set(err, ERR_NOT_FOUND, "there is no image %s here", text);
	if (found > 1)
		return error_set(err, ERR_FAILED_PRECONDITION, "%zu images have the digest %s: give a reference", found,
				 text);
	*ret = at;
	return 0;
}

static int find_named(const json_t *index, const char *text, size_t *ret, struct error *err)
{
	const json_t *manifests = json_object_get(index, "manifests"), *entry;
	_cleanup_free_ char *full = NULL;
	const char *hex = digest_prefix(text), *reference;
	size_t i;

	if (!strncmp(text, "sha256:", 7)) {
		if (!hex)
			return error_set(err, ERR_INVALID_ARGUMENT,
					 "\"%.80s\" is not a digest or at least %d hex digits of one",
					 text, DIGEST_PREFIX_MIN);
		return find_by_digest(index, text, hex, ret, err);
	}
	if (reference_normalize(text, &full, hex ? NULL : err) < 0 && !hex)
		return -1;
	json_array_foreach(manifests, i, entry) {
		reference = entry_reference(entry);
		if (full && reference && !strcmp(reference, full)) {
			*ret = i;
			return 0;
		}
	}
	if (hex)
		return find_by_digest(index, text, hex, ret, err);
	return error_set(err, ERR_NOT_FOUND, "there is no image %s here", full);
}

int image_store_identify(struct image_store *store, const char *reference, char **ret_reference, struct error *err)
{
	_cleanup_json_ json_t *index = NULL;
	const char *name;
	char *found;
	size_t at;

	if (layout_index_read(&store->layout, &index, err) < 0 || find_named(index, reference, &at, err) < 0)
		return -1;
	name = entry_reference(json_array_get(json_object_get(index, "manifests"), at));
	found = strdup(name ? name : reference);
	if (!found)
		return error_errno(err, ENOMEM, "cannot look up %s", reference);
	*ret_reference = found;
	return 0;
}

int image_store_delete(struct image_store *store, const char *reference, char **ret_reference, struct error *err)
{
	_cleanup_close_ int lock = layout_lock(&store->layout, true, err);
	_cleanup_json_ json_t *index = NULL;
	_cleanup_free_ char *removed = NULL;
	const char *name;
	json_t *manifests;
	size_t at;

	if (lock < 0 || layout_index_read(&store->layout, &index, err) < 0 ||
	    find_named(index, reference, &at, err) < 0)
		return -1;
	manifests = json_object_get(index, "manifests");
	name = entry_reference(json_array_get(manifests, at));
	removed = strdup(name ? name : reference);
	if (!removed || json_array_remove(manifests, at) < 0)
		return error_errno(err, ENOMEM, "cannot delete %s", reference);
	if (layout_index_write(&store->layout, index, err) < 0)
		return error_wrap(err, "cannot delete %s", reference);
	*ret_reference = steal_ptr(&removed);
	return 0;
}

/* ---- collection ---- */

static int keep(json_t *set, const char *hex)
{
	return json_object_set_new(set, hex, json_true());
}

static void keep_descriptor(const json_t *descriptor, json_t *set)
{
	const char *digest = json_string_value(json_object_get(descriptor, "digest"));

	if (digest && layout_digest_hex(digest))
		keep(set, layout_digest_hex(digest));
}

/* Marks what a manifest, or an index that another tool put here, needs. A document that cannot be read keeps nothing
 * alive: its image is damaged already and cannot be used. */
static void keep_image(const struct layout *l, const json_t *descriptor, unsigned depth, json_t *set)
{
	_cleanup_json_ json_t *document = NULL, *config = NULL;
	const char *digest = json_string_value(json_object_get(descriptor, "digest"));
	const json_t *entry, *diff_id;
	size_t i;

	keep_descriptor(descriptor, set);
	if (!digest || layout_read_json(l, digest, &document, NULL) < 0)
		return;
	json_array_foreach(json_object_get(document, "manifests"), i, entry)
		if (depth)
			keep_image(l, entry, depth - 1, set);
	json_array_foreach(json_object_get(document, "layers"), i, entry)
		keep_descriptor(entry, set);
	entry = json_object_get(document, "config");
	digest = json_string_value(json_object_get(entry, "digest"));
	keep_descriptor(entry, set);
	if (!digest || layout_read_json(l, digest, &config, NULL) < 0)
		return;
	json_array_foreach(json_object_get(json_object_get(config, "rootfs"), "diff_ids"), i, diff_id) {
		const char *text = json_string_value(diff_id);

		if (text && layout_digest_hex(text))
			keep(set, layout_digest_hex(text));
	}
}

static int find_needed(const struct layout *l, const char *const *pinned, size_t n_pinned, json_t *set,
		       struct error *err)
{
	_cleanup_json_ json_t *index = NULL;
	const json_t *entry;
	size_t i;

	if (layout_index_read(l, &index, err) < 0 || layout_pins(l, set, err) < 0)
		return -1;
	json_array_foreach(json_object_get(index, "manifests"), i, entry)
		keep_image(l, entry, 2, set);
	for (i = 0; i < n_pinned; i++) {
		const char *slash = strrchr(pinned[i], '/');

		if (keep(set, slash ? slash + 1 : pinned[i]) < 0)
			return error_errno(err, ENOMEM, "cannot collect");
	}
	return 0;
}

/* Whether the name is of content, and nobody needs it. A payload is needed by its own name or its image's digest. */
static bool is_unneeded(const char *name, const char *suffix, const json_t *set)
{
	size_t len = strlen(name), suffix_len = strlen(suffix);
	char hex[65];

	if (len != 64 + suffix_len || strcmp(name + 64, suffix) != 0)
		return false;
	snprintf(hex, sizeof hex, "%s", name);
	return layout_hex_valid(hex) && !json_object_get(set, hex) && !json_object_get(set, name);
}

/* Moves what nobody needs out of the store's directory `from` into the stage. */
static int take_out(int from, const char *prefix, const char *suffix, const json_t *set,
		    const struct layout_stage *stage, struct error *err)
{
	_cleanup_closedir_ DIR *dir = NULL;
	struct dirent *entry;
	int fd = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		cleanup_closep(&fd);
		return error_errno(err, errno, "cannot read the image store");
	}
	while ((entry = readdir(dir))) {
		char to[96];

		if (!is_unneeded(entry->d_name, suffix, set))
			continue;
		snprintf(to, sizeof to, "%s-%s", prefix, entry->d_name);
		if (renameat(from, entry->d_name, stage->fd, to) < 0)
			return error_errno(err, errno, "cannot remove %s from the image store", entry->d_name);
	}
	return 0;
}

static int collect_into(const struct layout *l, const char *const *pinned, size_t n_pinned,
			const struct layout_stage *stage, struct error *err)
{
	_cleanup_close_ int lock = layout_lock(l, true, err);
	_cleanup_json_ json_t *set = json_object();

	if (lock < 0)
		return -1;
	if (!set)
		return error_errno(err, ENOMEM, "cannot collect");
	if (find_needed(l, pinned, n_pinned, set, err) < 0 || take_out(l->blobs, "blob", "", set, stage, err) < 0 ||
	    take_out(l->layers, "layer", "", set, stage, err) < 0)
		return -1;
	return take_out(l->payloads, "payload", PAYLOAD_SUFFIX, set, stage, err);
}

int image_store_collect(struct image_store *store, const char *const *pinned, size_t n_pinned, uint64_t *ret_freed,
			struct error *err)
{
	struct layout_stage stage = LAYOUT_STAGE_INIT;
	int r;

	if (layout_sweep(&store->layout, err) < 0 || layout_stage_open(&store->layout, &stage, err) < 0)
		return -1;
	r = collect_into(&store->layout, pinned, n_pinned, &stage, err);
	if (layout_stage_remove(&store->layout, &stage, ret_freed, r < 0 ? NULL : err) < 0)
		r = -1;
	return r;
}
