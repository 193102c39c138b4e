/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/manifest.h"
#include "manifest/mistake.h"
#include "manifest/read.h"
#include "manifest/scalar.h"
#include "manifest/tree.h"

#include <string.h>

static void object_release(struct manifest_object *o)
{
	if (o->workload)
		capsule__v1__workload__free_unpacked(o->workload, NULL);
	if (o->volume)
		capsule__v1__volume_create_request__free_unpacked(o->volume, NULL);
}

void manifest_release(struct manifest *m)
{
	for (size_t i = 0; i < m->n; i++)
		object_release(&m->objects[i]);
	free(m->objects);
	*m = (struct manifest){ 0 };
}

/* ---- the rules' mistakes get their places ---- */

/* Whether the reader has spoken about the path or what is above it: the rule only saw the gap that this left. */
static bool is_known(const struct manifest_mistakes *m, size_t first, size_t end, const char *path)
{
	for (size_t i = first; i < end; i++) {
		const char *known = m->items[i].path;
		size_t n = strlen(known);

		if (n && strncmp(path, known, n) == 0 && (path[n] == '\0' || path[n] == '.' || path[n] == '['))
			return true;
	}
	return false;
}

static void add_checked(const struct node *root, const struct manifest_mistakes *checked, size_t first,
			struct manifest_mistakes *m)
{
	size_t read = m->n;

	for (size_t i = 0; i < checked->n && !mistakes_full(m); i++) {
		const char *path = checked->items[i].path;
		unsigned line, column;

		if (is_known(m, first, read, path))
			continue;
		read_locate(root, path, &line, &column);
		mistake_add_at(m, path, line, column, checked->items[i].message);
	}
	m->out_of_memory |= checked->out_of_memory;
}

static void check_object(const struct node *root, struct manifest_object *o, size_t first, struct manifest_mistakes *m)
{
	struct manifest_mistakes checked = { 0 };

	if (o->kind == MANIFEST_WORKLOAD) {
		manifest_normalize_workload(o->workload);
		manifest_check_workload(o->workload, &checked);
	} else {
		manifest_check_volume(o->volume, &checked);
	}
	add_checked(root, &checked, first, m);
	manifest_mistakes_release(&checked);
}

/* ---- documents to objects ---- */

static const char *object_name(const struct manifest_object *o)
{
	return o->kind == MANIFEST_VOLUME ? o->volume->name : o->workload->name;
}

static void check_repeated(const struct manifest *manifest, const struct manifest_object *o, const struct node *root,
			   struct manifest_mistakes *m)
{
	struct path name = path_field(NULL, "name");
	unsigned line, column;

	for (size_t i = 0; i < manifest->n; i++) {
		const struct manifest_object *before = &manifest->objects[i];

		if (before->kind != o->kind || !*object_name(o) || strcmp(object_name(before), object_name(o)) != 0)
			continue;
		read_locate(root, "name", &line, &column);
		mistake_add(m, &name, line, column, "the document in line %u has the same name", before->line);
		return;
	}
}

static int add_object(struct manifest *manifest, const struct manifest_object *o)
{
	struct manifest_object *objects;

	if ((manifest->n & (manifest->n - 1)) == 0) {
		objects = realloc(manifest->objects, (manifest->n ? 2 * manifest->n : 1) * sizeof *objects);
		if (!objects)
			return -1;
		manifest->objects = objects;
	}
	manifest->objects[manifest->n++] = *o;
	return 0;
}

static bool is_empty(const struct node *root)
{
	return root->type == NODE_SCALAR && root->plain && !root->refused &&
	       scalar_resolve(root->text, root->len) == SCALAR_NULL;
}

static void parse_document(struct documents *d, struct node *root, struct manifest *manifest,
			   struct manifest_mistakes *m)
{
	struct manifest_object object = { 0 };
	size_t first = m->n;

	if (read_object(d, root, &object, m) < 0) {
		object_release(&object);
		return;
	}
	check_object(root, &object, first, m);
	check_repeated(manifest, &object, root, m);
	if (add_object(manifest, &object) < 0) {
		m->out_of_memory = true;
		object_release(&object);
	}
}

static void parse_documents(struct documents *d, struct manifest *manifest, struct manifest_mistakes *m)
{
	struct node *root;
	size_t n = 0;

	while (!mistakes_full(m) && documents_next(d, &root, m) > 0) {
		if (is_empty(root))
			continue;
		if (n++ == MANIFEST_DOCUMENTS_MAX) {
			mistake_add(m, NULL, root->line, root->column, "there are more than %d documents",
				    MANIFEST_DOCUMENTS_MAX);
			return;
		}
		parse_document(d, root, manifest, m);
	}
	if (n == 0 && m->n == 0)
		mistake_add(m, NULL, 1, 1, "there is no manifest in it");
}

int manifest_parse(const char *text, size_t len, struct manifest *ret, struct manifest_mistakes *ret_mistakes)
{
	_cleanup_(manifest_release) struct manifest manifest = { 0 };
	_cleanup_documents_ struct documents *documents = NULL;

	*ret_mistakes = (struct manifest_mistakes){ 0 };
	if (len > MANIFEST_SIZE_MAX)
		return mistake_add(ret_mistakes, NULL, 0, 0, "has %zu bytes; %u are allowed", len, MANIFEST_SIZE_MAX);
	documents = documents_open(text, len, ret_mistakes);
	if (!documents)
		return -1;
	parse_documents(documents, &manifest, ret_mistakes);
	mistakes_sort(ret_mistakes);
	if (ret_mistakes->n || ret_mistakes->out_of_memory)
		return -1;
	*ret = manifest;
	manifest = (struct manifest){ 0 };
	return 0;
}
