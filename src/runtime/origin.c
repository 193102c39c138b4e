/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/origin.h"

#include "base/fs.h"
#include "shim/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>

#define FILE_MAX (1u << 20)

static char *path_of(const char *state_dir)
{
	return fs_path("%s/origin.json", state_dir);
}

static const char *digest_of(const struct origin *origin)
{
	return origin->image ? origin->image : "";
}

static json_t *load(const char *state_dir)
{
	_cleanup_free_ char *path = path_of(state_dir), *text = NULL;

	if (!path || fs_read(AT_FDCWD, path, FILE_MAX, &text, NULL, NULL) < 0)
		return NULL;
	return json_loads(text, 0, NULL);
}

/* A record that says the same stays as it is: it was synced when it was written. */
static bool is_written(const char *path, const char *text)
{
	_cleanup_free_ char *there = NULL;

	return fs_read(AT_FDCWD, path, FILE_MAX, &there, NULL, NULL) == 0 && !strcmp(there, text);
}

bool origin_matches(const char *state_dir, const struct origin *origin)
{
	json_t *record = load(state_dir), *generation = json_object_get(record, "generation");
	const char *digest = json_string_value(json_object_get(record, "image"));
	bool same = json_is_integer(generation) && (uint64_t)json_integer_value(generation) == origin->generation && digest &&
		    !strcmp(digest, digest_of(origin));

	json_decref(record);
	return same;
}

int origin_write(const char *state_dir, const struct origin *origin, struct error *err)
{
	_cleanup_free_ char *path = path_of(state_dir), *text = NULL;
	json_t *layers = json_array(), *record;

	for (size_t i = 0; i < origin->n_layers; i++)
		json_array_append_new(layers, json_string(origin->layers[i]));
	record = json_pack("{s:I, s:s, s:o, s:b}", "generation", (json_int_t)origin->generation, "image", digest_of(origin),
			   "layers", layers, "emulated", origin->emulated);
	text = record ? json_dumps(record, JSON_COMPACT) : NULL;
	json_decref(record);
	if (!path || !text)
		return error_errno(err, ENOMEM, "cannot record the origin of the writable layer");
	if (is_written(path, text))
		return 0;
	return fs_write_atomic(AT_FDCWD, path, text, strlen(text), 0600, err);
}

/* -1 without memory or for a record that is not one of ours. */
static int layers_of(const json_t *record, char ***ret, size_t *ret_n)
{
	const json_t *layers = json_object_get(record, "layers"), *value;
	size_t n = json_array_size(layers), i;
	char **items = n && n <= SHIM_LAYERS_MAX ? calloc(n, sizeof *items) : NULL;

	if (!items)
		return -1;
	*ret = items;
	*ret_n = 0;
	json_array_foreach(layers, i, value) {
		char *layer = strdup(json_is_string(value) ? json_string_value(value) : "");

		if (layer)
			items[(*ret_n)++] = layer;
	}
	return 0;
}

int origin_layers(const char *state_dir, uint64_t generation, char ***ret, size_t *ret_n)
{
	json_t *record = load(state_dir), *recorded = json_object_get(record, "generation");
	bool same = json_is_integer(recorded) && (uint64_t)json_integer_value(recorded) == generation;
	int r = same ? layers_of(record, ret, ret_n) : -1;

	json_decref(record);
	return r;
}

void origin_read(const char *state_dir, struct driver_instance *instance)
{
	json_t *record = load(state_dir);
	const char *digest = json_string_value(json_object_get(record, "image"));

	if (!instance->generation)
		instance->generation = (uint64_t)json_integer_value(json_object_get(record, "generation"));
	if (digest && layers_of(record, &instance->layers, &instance->n_layers) == 0)
		instance->image_digest = strdup(digest);
	instance->emulated = json_is_true(json_object_get(record, "emulated"));
	json_decref(record);
}
