/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/archive_legacy.h"

#include "base/fs.h"
#include "image/layout.h"
#include "image/oci.h"

#include <errno.h>
#include <string.h>

#define REPOSITORIES_KEY "repositories"
#define ID_LEN ((size_t)64)

/* A walk through all images. */
struct walk {
	const struct legacy *legacy;
	json_t *parents; /* ID to its parent's, "" if it has none: no text is parsed again for each image above it */
	legacy_found found;
	void *arg;
};

void legacy_release(struct legacy *l)
{
	json_decref(l->texts);
	*l = (struct legacy){ 0 };
}

bool legacy_is_text(const char *key)
{
	char id[ID_LEN + 1];

	if (!strcmp(key, REPOSITORIES_KEY))
		return true;
	snprintf(id, sizeof id, "%s", key);
	return layout_hex_valid(id) && !strcmp(key + ID_LEN, "/json");
}

void legacy_add(struct legacy *l, const char *key, const char *text, size_t len)
{
	bool kept = text && len <= LEGACY_TEXTS_MAX - l->len;

	if (!l->texts)
		l->texts = json_object();
	if (json_object_size(l->texts) >= LEGACY_FILES_MAX)
		return;
	json_object_set_new(l->texts, key, kept ? json_stringn_nocheck(text, len) : json_null());
	l->len += kept ? len : 0;
}

bool legacy_has_layers(const struct legacy *l)
{
	return json_object_size(l->texts) > (json_object_get(l->texts, REPOSITORIES_KEY) ? 1u : 0u);
}

static int out_of_memory(struct error *err)
{
	return error_errno(err, ENOMEM, "cannot read the archive");
}

/* ---- documents ---- */

static int parse(const struct legacy *l, const char *key, json_t **ret, struct error *err)
{
	const json_t *text = json_object_get(l->texts, key);
	json_error_t why;

	if (!text)
		return error_set(err, ERR_INVALID_ARGUMENT, "the archive does not hold the file \"%s\"", key);
	if (!json_is_string(text))
		return error_set(err, ERR_RESOURCE_EXHAUSTED,
				 "the file \"%s\" is larger than the limit of %u bytes, or with the others than %u",
				 key, LEGACY_TEXT_MAX, LEGACY_TEXTS_MAX);
	*ret = json_loadb(json_string_value(text), json_string_length(text), JSON_REJECT_DUPLICATES, &why);
	if (!*ret)
		return error_set(err, ERR_INVALID_ARGUMENT, "the file \"%s\" is not valid JSON: %s", key, why.text);
	return 0;
}

static int parse_layer(const struct legacy *l, const char *id, json_t **ret, struct error *err)
{
	_cleanup_free_ char *key = fs_path("%s/json", id);

	return key ? parse(l, key, ret, err) : out_of_memory(err);
}

/* The parent of a layer, "" if it has none. NULL fills err. */
static const char *parent_of(struct walk *w, const char *id, struct error *err)
{
	const json_t *known = json_object_get(w->parents, id);
	_cleanup_json_ json_t *layer = NULL;
	const char *parent;

	if (known)
		return json_string_value(known);
	if (parse_layer(w->legacy, id, &layer, err) < 0)
		return NULL;
	parent = json_string_value(json_object_get(layer, "parent"));
	if (parent && *parent && !layout_hex_valid(parent)) {
		error_set(err, ERR_INVALID_ARGUMENT, "the parent \"%.80s\" of the layer %s is no layer's ID", parent,
			  id);
		return NULL;
	}
	if (json_object_set_new(w->parents, id, json_string(parent ? parent : "")) < 0) {
		out_of_memory(err);
		return NULL;
	}
	return json_string_value(json_object_get(w->parents, id));
}

/* ---- images ---- */

/* The files of the layers from the topmost one down, lowest first. */
static int collect_layers(struct walk *w, const char *top, json_t *layers, struct error *err)
{
	_cleanup_json_ json_t *seen = json_object();

	for (const char *id = top; *id;) {
		_cleanup_free_ char *key = fs_path("%s/layer.tar", id);

		if (json_object_get(seen, id))
			return error_set(err, ERR_INVALID_ARGUMENT,
					 "the parents of its layers form a circle, by way of %s", id);
		if (json_array_size(layers) >= OCI_LAYERS_MAX)
			return error_set(err, ERR_RESOURCE_EXHAUSTED, "it has more than the limit of %d layers",
					 OCI_LAYERS_MAX);
		if (!key || json_array_insert_new(layers, 0, json_string(key)) < 0 ||
		    json_object_set_new(seen, id, json_true()) < 0)
			return out_of_memory(err);
		id = parent_of(w, id, err);
		if (!id)
			return -1;
	}
	return 0;
}

/* The rest of the topmost layer's description is about the layer, or about the container that it was made of. */
static json_t *config_of(const json_t *top)
{
	static const char *const fields[] = { "created", "author", "architecture", "os", "config" };
	json_t *config = json_object();

	for (size_t i = 0; config && i < sizeof fields / sizeof fields[0]; i++) {
		json_t *value = json_object_get(top, fields[i]);

		if (value && json_object_set(config, fields[i], value) < 0) {
			json_decref(config);
			return NULL;
		}
	}
	return config;
}

static int read_image(struct walk *w, const char *top, json_t *tags, struct error *err)
{
	_cleanup_json_ json_t *layers = json_array(), *layer = NULL, *config = NULL;

	if (collect_layers(w, top, layers, err) < 0 || parse_layer(w->legacy, top, &layer, err) < 0)
		return error_wrap(err, "image %.256s", json_string_value(json_array_get(tags, 0)));
	config = config_of(layer);
	if (!config)
		return out_of_memory(err);
	return w->found(&(struct legacy_image){ tags, layers, config }, w->arg, err);
}

/* Adds NAME:TAG to what the layer is the topmost one of. */
static int add_tag(json_t *tops, const char *name, const char *tag, const char *id, struct error *err)
{
	_cleanup_free_ char *reference = fs_path("%s:%s", name, tag);
	json_t *tags;

	if (!id || !layout_hex_valid(id))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "the archive's file \"" REPOSITORIES_KEY "\" names no layer for the image %.256s:%.128s",
				 name, tag);
	tags = json_object_get(tops, id);
	if (!tags) {
		tags = json_array();
		if (json_object_set_new(tops, id, tags) < 0)
			return out_of_memory(err);
	}
	return reference && json_array_append_new(tags, json_string(reference)) == 0 ? 0 : out_of_memory(err);
}

/* The topmost layers by ID, each with the names of its image. */
static int read_tops(const struct legacy *l, json_t *tops, struct error *err)
{
	_cleanup_json_ json_t *repositories = NULL;
	const char *name, *tag;
	json_t *tags, *id;

	if (!json_object_get(l->texts, REPOSITORIES_KEY))
		return 0; /* images were saved by ID */
	if (parse(l, REPOSITORIES_KEY, &repositories, err) < 0)
		return -1;
	json_object_foreach(repositories, name, tags)
		json_object_foreach(tags, tag, id)
			if (add_tag(tops, name, tag, json_string_value(id), err) < 0)
				return -1;
	return 0;
}

int legacy_images(const struct legacy *l, legacy_found found, void *arg, struct error *err)
{
	_cleanup_json_ json_t *tops = json_object(), *parents = json_object();
	struct walk w = { l, parents, found, arg };
	const char *top;
	json_t *tags;

	if (!tops || !parents)
		return out_of_memory(err);
	if (read_tops(l, tops, err) < 0)
		return -1;
	json_object_foreach(tops, top, tags)
		if (read_image(&w, top, tags, err) < 0)
			return -1;
	return 0;
}
