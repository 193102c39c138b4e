/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/read.h"
#include "manifest/fields.h"
#include "manifest/mistake.h"
#include "manifest/scalar.h"
#include "manifest/schema.h"
#include "manifest/suggest.h"

#include "base/timeutil.h"

#include <inttypes.h>
#include <string.h>

#define EXPLANATION_MAX 1024

struct reader {
	struct documents *documents; /* keeps what is added to the tree */
	struct manifest_mistakes *mistakes;
};

/* ---- places and types of nodes ---- */

void node_place(const struct node *node, unsigned *ret_line, unsigned *ret_column)
{
	if (node->key && (node->type != NODE_SCALAR || (node->plain && node->len == 0)))
		node = node->key;
	*ret_line = node->line;
	*ret_column = node->column;
}

#define mistake_at(r, node, path, ...)                                                                                \
	do {                                                                                                          \
		unsigned line_, column_;                                                                              \
                                                                                                                      \
		node_place((node), &line_, &column_);                                                                 \
		mistake_add((r)->mistakes, (path), line_, column_, __VA_ARGS__);                                      \
	} while (0)

static enum scalar node_scalar(const struct node *node)
{
	return node->plain ? scalar_resolve(node->text, node->len) : SCALAR_STRING;
}

static bool node_is_null(const struct node *node)
{
	return node->type == NODE_SCALAR && !node->refused && node_scalar(node) == SCALAR_NULL;
}

static const char *node_type_name(const struct node *node)
{
	if (node->type == NODE_MAP)
		return "a mapping";
	if (node->type == NODE_LIST)
		return "a list";
	switch (node_scalar(node)) {
	case SCALAR_NULL:
		return "empty";
	case SCALAR_BOOL:
		return "a boolean";
	case SCALAR_INT:
	case SCALAR_FLOAT:
		return "a number";
	default:
		return "a string";
	}
}

/* Whether the node is of the type; else the mistake is reported. */
static bool expect(struct reader *r, const struct node *node, enum node_type type, const char *what,
		   const struct path *path)
{
	if (node->refused)
		mistake_at(r, node, path, "%s", node->refused);
	else if (node->type != type)
		mistake_at(r, node, path, "must be %s, not %s", what, node_type_name(node));
	else
		return true;
	return false;
}

/* ---- scalars ---- */

/* NULL when the node is not a string. The text may be longer than strlen() says: then it is refused here. */
static const char *read_text(struct reader *r, const struct node *node, const struct path *path)
{
	struct excerpt e;

	if (!expect(r, node, NODE_SCALAR, "a string", path))
		return NULL;
	if (node_scalar(node) == SCALAR_NULL)
		mistake_at(r, node, path, "must be a string; write \"\" for an empty one");
	else if (node_scalar(node) != SCALAR_STRING)
		mistake_at(r, node, path, "must be a string, not %s; write it in quotes: %s", node_type_name(node),
			   excerpt(&e, node->text, node->len));
	else if (memchr(node->text, '\0', node->len))
		mistake_at(r, node, path, "must not hold a NUL character");
	else
		return node->text;
	return NULL;
}

static int set_string(struct reader *r, char **member, const char *text)
{
	char *copy = strdup(text);

	if (!copy) {
		r->mistakes->out_of_memory = true;
		return -1;
	}
	if (*member != (const char *)protobuf_c_empty_string)
		free(*member);
	*member = copy;
	return 0;
}

static int read_string(struct reader *r, const struct node *node, char **member, const struct path *path)
{
	const char *text = read_text(r, node, path);

	return text ? set_string(r, member, text) : -1;
}

static int read_duration(struct reader *r, const struct node *node, char **member, const struct path *path)
{
	struct excerpt e;
	int64_t ns;

	if (!expect(r, node, NODE_SCALAR, "a duration such as 10s", path))
		return -1;
	if (strlen(node->text) == node->len && time_parse_duration(node->text, &ns) == 0)
		return set_string(r, member, node->text);
	mistake_at(r, node, path, "must be a duration such as 10s, 1m30s or 500ms, not %s",
		   excerpt(&e, node->text, node->len));
	return -1;
}

static int read_bool(struct reader *r, const struct node *node, protobuf_c_boolean *member, const struct path *path)
{
	struct excerpt e;

	if (!expect(r, node, NODE_SCALAR, "true or false", path))
		return -1;
	if (node_scalar(node) != SCALAR_BOOL) {
		mistake_at(r, node, path, "must be true or false, not %s%s", excerpt(&e, node->text, node->len),
			   node->plain ? "" : " in quotes");
		return -1;
	}
	*member = scalar_bool(node->text);
	return 0;
}

static int read_uint32(struct reader *r, const struct node *node, uint32_t *member, bool not_zero,
		       const struct path *path)
{
	struct excerpt e;
	uint64_t value;
	bool negative;

	if (!expect(r, node, NODE_SCALAR, "a whole number", path))
		return -1;
	if (node_scalar(node) != SCALAR_INT) {
		mistake_at(r, node, path, "must be a whole number, not %s%s", excerpt(&e, node->text, node->len),
			   node->plain ? "" : " in quotes");
		return -1;
	}
	if (scalar_int(node->text, node->len, &negative, &value) < 0 || (value > UINT32_MAX && !negative)) {
		mistake_at(r, node, path, "must be at most %" PRIu32, UINT32_MAX);
		return -1;
	}
	if (negative || (not_zero && value == 0)) {
		mistake_at(r, node, path, "must %s", not_zero ? "be at least 1" : "not be negative");
		return -1;
	}
	*member = (uint32_t)value;
	return 0;
}

static int read_enum(struct reader *r, const struct node *node, const ProtobufCEnumDescriptor *descriptor, int *member,
		     const struct path *path)
{
	_cleanup_buf_ struct buf why = BUF_INIT(EXPLANATION_MAX);

	if (!expect(r, node, NODE_SCALAR, "a word", path))
		return -1;
	if (strlen(node->text) == node->len && enum_parse(descriptor, node->text, member) == 0)
		return 0;
	schema_explain_enum(descriptor, node->text, node->len, &why);
	mistake_at(r, node, path, "%s", buf_str(&why));
	return -1;
}

/* A size for people into MiB, rounded up. */
static int read_size(struct reader *r, const struct node *node, uint64_t *member, bool in_mib, const struct path *path)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	uint64_t bytes;

	if (!expect(r, node, NODE_SCALAR, "a size such as 10GiB", path))
		return -1;
	if (memchr(node->text, '\0', node->len)) {
		mistake_at(r, node, path, "must not hold a NUL character");
		return -1;
	}
	if (manifest_parse_size(node->text, &bytes, &err) < 0) {
		mistake_at(r, node, path, "%s", error_message(&err));
		return -1;
	}
	if (bytes == 0) {
		mistake_at(r, node, path, "must not be 0");
		return -1;
	}
	*member = in_mib ? (bytes >> 20) + ((bytes & ((1u << 20) - 1)) != 0) : bytes;
	return 0;
}

/* "1.5", or thousandths: "1500m". */
static int parse_cpus(const char *text, size_t len, double *ret)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text)
		return -1;
	if (*end == 'm') {
		value /= 1000;
		end++;
	}
	if (end != text + len)
		return -1;
	*ret = value;
	return 0;
}

static int read_cpus(struct reader *r, const struct node *node, double *member, const struct path *path)
{
	struct excerpt e;

	if (!expect(r, node, NODE_SCALAR, "a number of processors", path))
		return -1;
	if (parse_cpus(node->text, node->len, member) < 0)
		mistake_at(r, node, path, "must be a number of processors such as 1.5 or 500m, not %s",
			   excerpt(&e, node->text, node->len));
	else if (*member == 0)
		mistake_at(r, node, path, "must be at least %g; leave it out for no limit", MANIFEST_CPUS_MIN);
	else
		return 0;
	return -1;
}

/* ---- messages ---- */

static void read_fields(struct reader *r, struct node *node, ProtobufCMessage *message, const struct path *path);

static ProtobufCMessage *message_new(struct reader *r, const ProtobufCMessageDescriptor *descriptor)
{
	ProtobufCMessage *message = malloc(descriptor->sizeof_message);

	if (message)
		protobuf_c_message_init(descriptor, message);
	else
		r->mistakes->out_of_memory = true;
	return message;
}

static int read_message(struct reader *r, struct node *node, const ProtobufCMessageDescriptor *descriptor,
			ProtobufCMessage **member, const struct path *path)
{
	*member = message_new(r, descriptor);
	if (!*member)
		return -1;
	if (!expect(r, node, NODE_MAP, "a mapping of fields", path))
		return -1;
	read_fields(r, node, *member, path);
	return 0;
}

static int read_value(struct reader *r, struct node *node, const struct schema_field *schema, void *member,
		      const struct path *path)
{
	const ProtobufCFieldDescriptor *field = schema->field;

	if (schema->is_size || schema->is_mib)
		return read_size(r, node, member, schema->is_mib, path);
	if (schema->is_cpus)
		return read_cpus(r, node, member, path);
	if (schema->is_duration)
		return read_duration(r, node, member, path);
	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING:
		return read_string(r, node, member, path);
	case PROTOBUF_C_TYPE_BOOL:
		return read_bool(r, node, member, path);
	case PROTOBUF_C_TYPE_UINT32:
		return read_uint32(r, node, member, schema->not_zero, path);
	case PROTOBUF_C_TYPE_ENUM:
		return read_enum(r, node, field->descriptor, member, path);
	case PROTOBUF_C_TYPE_MESSAGE:
		return read_message(r, node, field->descriptor, member, path);
	default:
		mistake_at(r, node, path, "cannot be set in a manifest");
		return -1;
	}
}

/* Makes room for the children of a node in a repeated field; the elements are pointers. */
static void **repeated_new(struct reader *r, const struct node *node, ProtobufCMessage *message,
			   const ProtobufCFieldDescriptor *field)
{
	void **items = calloc(node->n ? node->n : 1, sizeof *items);

	if (!items) {
		r->mistakes->out_of_memory = true;
		return NULL;
	}
	*(void ***)field_member(message, field) = items;
	return items;
}

static size_t *repeated_count(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
	return (size_t *)((char *)message + field->quantifier_offset);
}

/* An element that cannot be read keeps its place, so that the others keep their index. */
static void read_list(struct reader *r, struct node *node, const struct schema_field *schema, ProtobufCMessage *message,
		      const struct path *path)
{
	bool strings = schema->field->type == PROTOBUF_C_TYPE_STRING;
	size_t *n = repeated_count(message, schema->field);
	void **items;

	if (!expect(r, node, NODE_LIST, strings ? "a list of strings" : "a list of mappings", path))
		return;
	items = repeated_new(r, node, message, schema->field);
	if (!items)
		return;
	for (struct node *child = node->first; child && !mistakes_full(r->mistakes); child = child->next, ++*n) {
		struct path at = path_index(path, *n);

		if (strings)
			items[*n] = strdup("");
		read_value(r, child, schema, &items[*n], &at);
		if (!items[*n]) {
			r->mistakes->out_of_memory = true;
			return;
		}
	}
}

/* ---- env and other maps: a mapping, or a list of {name, value} ---- */

static void read_map_pair(struct reader *r, struct node *child, ProtobufCMessage *entry, const struct path *path)
{
	const ProtobufCFieldDescriptor *fields = entry->descriptor->fields;
	struct path at = path_field(path, child->key->text);
	char **key = field_member(entry, &fields[0]);
	char *copy;

	copy = strdup(child->key->text);
	if (!copy) {
		r->mistakes->out_of_memory = true;
		return;
	}
	*key = copy;
	read_string(r, child, field_member(entry, &fields[1]), &at);
}

static int compare_places(const struct node *a, const struct node *b)
{
	int order = (a->line > b->line) - (a->line < b->line);

	return order ? order : (a->column > b->column) - (a->column < b->column);
}

static const struct node *find_child(const struct node *node, const char *name)
{
	for (const struct node *child = node->first; child; child = child->next)
		if (!child->key->refused && !child->duplicate && strcmp(child->key->text, name) == 0)
			return child;
	return NULL;
}

/* The name that an entry of the list form has, or NULL. */
static const char *entry_name(const struct node *entry)
{
	const struct node *name = entry->type == NODE_MAP ? find_child(entry, "name") : NULL;

	return name && name->type == NODE_SCALAR && !name->refused ? name->text : NULL;
}

struct named {
	const char *name;
	struct node *entry;
};

static int compare_named(const void *a, const void *b)
{
	const struct named *x = a, *y = b;
	int order = strcmp(x->name, y->name);

	return order ? order : compare_places(x->entry, y->entry);
}

/* In the list form. */
static void find_duplicate_entries(struct reader *r, const struct node *node, const struct path *path)
{
	_cleanup_free_ struct named *sorted = calloc(node->n + 1, sizeof *sorted);
	size_t n = 0;

	if (!sorted) {
		r->mistakes->out_of_memory = true;
		return;
	}
	for (struct node *child = node->first; child; child = child->next) {
		sorted[n] = (struct named){ entry_name(child), child };
		n += sorted[n].name != NULL;
	}
	qsort(sorted, n, sizeof *sorted, compare_named);
	for (size_t i = 1; i < n; i++) {
		struct path at = path_field(path, sorted[i].name);

		if (strcmp(sorted[i - 1].name, sorted[i].name) != 0)
			continue;
		sorted[i].entry->duplicate = true;
		mistake_at(r, sorted[i].entry, &at, "is given twice (first in line %u)", sorted[i - 1].entry->line);
	}
}

static void find_duplicates(struct reader *r, struct node *node, const struct path *path);

static void read_map(struct reader *r, struct node *node, const ProtobufCFieldDescriptor *field,
		     ProtobufCMessage *message, const struct path *path)
{
	size_t *n = repeated_count(message, field), i = 0;
	void **items;

	if (node->refused || node->type == NODE_SCALAR) {
		expect(r, node, NODE_MAP, "a mapping of names to values or a list of {name, value}", path);
		return;
	}
	items = repeated_new(r, node, message, field);
	if (!items)
		return;
	if (node->type == NODE_LIST)
		find_duplicate_entries(r, node, path);
	else
		find_duplicates(r, node, path);
	for (struct node *child = node->first; child && !mistakes_full(r->mistakes); child = child->next, i++) {
		struct path at = path_index(path, i);

		if (child->duplicate || (child->key && child->key->refused))
			continue;
		if (node->type == NODE_LIST && !expect(r, child, NODE_MAP, "a mapping of name and value", &at))
			continue;
		items[*n] = message_new(r, field->descriptor);
		if (!items[*n])
			return;
		if (node->type == NODE_LIST)
			read_fields(r, child, items[*n], &at);
		else
			read_map_pair(r, child, items[*n], path);
		++*n;
	}
}

/* ---- the fields of a mapping ---- */

static int compare_keys(const void *a, const void *b)
{
	const struct node *x = *(const struct node *const *)a, *y = *(const struct node *const *)b;
	size_t n = x->key->len < y->key->len ? x->key->len : y->key->len;
	int order = memcmp(x->key->text, y->key->text, n);

	if (order == 0)
		order = (x->key->len > y->key->len) - (x->key->len < y->key->len);
	return order ? order : compare_places(x->key, y->key);
}

/* Reports keys that cannot be used, and marks what is given more than once. */
static void find_duplicates(struct reader *r, struct node *node, const struct path *path)
{
	_cleanup_free_ struct node **sorted = calloc(node->n + 1, sizeof *sorted);
	size_t n = 0;

	if (!sorted) {
		r->mistakes->out_of_memory = true;
		return;
	}
	for (struct node *child = node->first; child; child = child->next) {
		struct node *key = child->key;

		if (!key->refused && memchr(key->text, '\0', key->len))
			key->refused = "a key must not hold a NUL character";
		if (key->refused)
			mistake_add(r->mistakes, path, key->line, key->column, "%s", key->refused);
		else
			sorted[n++] = child;
	}
	qsort(sorted, n, sizeof *sorted, compare_keys);
	for (size_t i = 1; i < n; i++) {
		const struct node *key = sorted[i]->key, *before = sorted[i - 1]->key;
		struct path at = path_field(path, key->text);

		if (key->len != before->len || memcmp(key->text, before->text, key->len) != 0)
			continue;
		sorted[i]->duplicate = true;
		mistake_add(r->mistakes, &at, key->line, key->column, "is given twice (first in line %u)",
			    before->line);
	}
}

/* Whether the value could be that of the field: a guess at a misspelt name needs more than its letters. */
static bool has_form_of(const struct node *node, const ProtobufCFieldDescriptor *field)
{
	if (field_is_map(field))
		return node->type != NODE_SCALAR;
	if (field->label == PROTOBUF_C_LABEL_REPEATED)
		return node->type == NODE_LIST;
	return node->type == (field->type == PROTOBUF_C_TYPE_MESSAGE ? NODE_MAP : NODE_SCALAR);
}

/* Reports an unknown field. 0 when it is clear which one was meant: then it is read under that name. */
static int find_misspelt(struct reader *r, const struct node *node, struct node *child, const ProtobufCMessage *message,
			 struct schema_field *ret, const struct path *at)
{
	_cleanup_buf_ struct buf why = BUF_INIT(EXPLANATION_MAX);
	char meant[FIELD_NAME_MAX];

	schema_explain_field(message->descriptor, child->key->text, child->key->len, &why, meant);
	mistake_add(r->mistakes, at, child->key->line, child->key->column, "%s", buf_str(&why));
	if (!*meant || find_child(node, meant) || schema_find(message->descriptor, meant, ret) < 0 ||
	    !has_form_of(child, ret->field))
		return -1;
	child->key->text = documents_keep(r->documents, meant);
	return 0;
}

/* The members of a oneof share their place: only one of them may ever be read into it. */
static void read_choice(struct reader *r, struct node *child, const struct schema_field *schema,
			ProtobufCMessage *message, const struct path *at)
{
	const ProtobufCFieldDescriptor *field = schema->field;
	uint32_t *chosen = (uint32_t *)((char *)message + field->quantifier_offset);
	void *member = field_member(message, field);
	char other[FIELD_NAME_MAX];

	if (*chosen) {
		field_json_name(protobuf_c_message_descriptor_get_field(message->descriptor, *chosen)->name, other);
		mistake_add(r->mistakes, at, child->key->line, child->key->column, "cannot stand beside \"%s\"", other);
		return;
	}
	/* A message is there even when what it should hold could not be read. */
	if (read_value(r, child, schema, member, at) == 0 ||
	    (field->type == PROTOBUF_C_TYPE_MESSAGE && field_message(member)))
		*chosen = field->id;
}

static void read_field(struct reader *r, struct node *child, const struct schema_field *schema,
		       ProtobufCMessage *message, const struct path *at)
{
	const ProtobufCFieldDescriptor *field = schema->field;

	if (!at->up && strcmp(schema->name, "kind") == 0)
		return; /* has been read: it chose the message */
	if (schema->refused) {
		mistake_add(r->mistakes, at, child->key->line, child->key->column, "%s", schema->refused);
		return;
	}
	if (node_is_null(child))
		return; /* as if it were not there */
	if (field_is_map(field))
		read_map(r, child, field, message, at);
	else if (field->label == PROTOBUF_C_LABEL_REPEATED)
		read_list(r, child, schema, message, at);
	else if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		read_choice(r, child, schema, message, at);
	else
		read_value(r, child, schema, field_member(message, field), at);
}

static void read_fields(struct reader *r, struct node *node, ProtobufCMessage *message, const struct path *path)
{
	find_duplicates(r, node, path);
	for (struct node *child = node->first; child && !mistakes_full(r->mistakes); child = child->next) {
		struct path at = path_field(path, child->key->text);
		struct schema_field schema;

		if (child->duplicate || child->key->refused)
			continue;
		if (!path && strcmp(child->key->text, "kind") == 0)
			continue;
		if (schema_find(message->descriptor, child->key->text, &schema) < 0 &&
		    find_misspelt(r, node, child, message, &schema, &at) < 0)
			continue;
		read_field(r, child, &schema, message, &at);
	}
}

/* ---- the object ---- */

/* A document without a (known) kind is read as what it looks like. */
static enum schema_kind guess_kind(const struct node *root)
{
	if (find_child(root, "container"))
		return SCHEMA_CONTAINER;
	if (find_child(root, "microVm"))
		return SCHEMA_MICRO_VM;
	return find_child(root, "size") ? SCHEMA_VOLUME : SCHEMA_KIND_NONE;
}

/* "Kind" will be reported as an unknown field; it still says which kind is meant. */
static const struct node *find_misspelt_kind(const struct node *root)
{
	for (const struct node *child = root->first; child; child = child->next)
		if (!child->key->refused && suggest_is_same(child->key->text, "kind"))
			return child;
	return NULL;
}

static enum schema_kind read_kind(struct reader *r, const struct node *root)
{
	_cleanup_buf_ struct buf why = BUF_INIT(EXPLANATION_MAX);
	struct path path = path_field(NULL, "kind");
	const struct node *node = find_child(root, "kind");
	enum schema_kind kind = SCHEMA_KIND_NONE;

	if (!node)
		node = find_misspelt_kind(root);
	if (!node || node_is_null(node)) {
		unsigned line = root->line, column = root->column;

		if (node)
			node_place(node, &line, &column);
		mistake_add(r->mistakes, &path, line, column, "is required: Container, MicroVM or Volume");
		return guess_kind(root);
	}
	if (expect(r, node, NODE_SCALAR, "Container, MicroVM or Volume", &path)) {
		kind = strlen(node->text) == node->len ? schema_kind_parse(node->text) : SCHEMA_KIND_NONE;
		if (kind == SCHEMA_KIND_NONE) {
			kind = schema_explain_kind(node->text, node->len, &why);
			mistake_at(r, node, &path, "%s", buf_str(&why));
		}
	}
	return kind != SCHEMA_KIND_NONE ? kind : guess_kind(root);
}

static int read_volume(struct reader *r, struct node *root, struct manifest_object *ret)
{
	ProtobufCMessage *message = message_new(r, &capsule__v1__volume_create_request__descriptor);
	struct path path = path_field(NULL, "size");
	const struct node *size = find_child(root, "size");

	if (!message)
		return -1;
	ret->kind = MANIFEST_VOLUME;
	ret->volume = (Capsule__V1__VolumeCreateRequest *)message;
	read_fields(r, root, message, NULL);
	/* The daemon has a default for those who ask it directly; what is declared should say what it is. */
	if (!size || node_is_null(size)) {
		unsigned line = root->line, column = root->column;

		if (size)
			node_place(size, &line, &column);
		mistake_add(r->mistakes, &path, line, column, "is required, for example 10GiB");
	}
	return 0;
}

static int read_workload(struct reader *r, struct node *root, enum schema_kind kind, struct manifest_object *ret)
{
	ProtobufCMessage *message = message_new(r, &capsule__v1__workload__descriptor);

	if (!message)
		return -1;
	ret->kind = MANIFEST_WORKLOAD;
	ret->workload = (Capsule__V1__Workload *)message;
	if (kind == SCHEMA_CONTAINER)
		ret->workload->kind = CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_CONTAINER;
	else if (kind == SCHEMA_MICRO_VM)
		ret->workload->kind = CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_MICRO_VM;
	read_fields(r, root, message, NULL);
	return 0;
}

int read_object(struct documents *documents, struct node *root, struct manifest_object *ret,
		struct manifest_mistakes *mistakes)
{
	struct reader r = { .documents = documents, .mistakes = mistakes };
	enum schema_kind kind;

	if (!expect(&r, root, NODE_MAP, "a mapping with name, kind and what belongs to the kind", NULL))
		return -1;
	*ret = (struct manifest_object){ .line = root->line };
	kind = read_kind(&r, root);
	return kind == SCHEMA_VOLUME ? read_volume(&r, root, ret) : read_workload(&r, root, kind, ret);
}

/* ---- from a path back to a place ---- */

/* The rest of the path behind the link, or NULL if the path begins otherwise. */
static const char *match_link(const struct path *link, const char *path)
{
	_cleanup_buf_ struct buf text = BUF_INIT(MANIFEST_SIZE_MAX);

	path_print_link(link, &text);
	if (text.failed || strncmp(path, buf_str(&text), text.len) != 0)
		return NULL;
	path += text.len;
	return *path == '\0' || *path == '.' || *path == '[' ? path : NULL;
}

/* The rest of the path behind a child. An entry of env has two names: its index and what it sets. */
static const char *match_child(const struct node *child, size_t index, bool root, const char *path)
{
	struct path above = { 0 }, link;
	const char *name, *rest = NULL;

	if (child->duplicate || (child->key && child->key->refused))
		return NULL;
	name = child->key ? child->key->text : entry_name(child);
	if (!child->key) {
		link = path_index(&above, index);
		rest = match_link(&link, path);
	}
	if (!rest && name) {
		link = path_field(root ? NULL : &above, name);
		rest = match_link(&link, path);
	}
	return rest;
}

static const struct node *descend(const struct node *node, bool root, const char **path)
{
	size_t i = 0;

	for (const struct node *child = node->first; child; child = child->next, i++) {
		const char *rest = match_child(child, i, root, *path);

		if (rest) {
			*path = rest;
			return child;
		}
	}
	return NULL;
}

void read_locate(const struct node *root, const char *path, unsigned *ret_line, unsigned *ret_column)
{
	const struct node *node = root, *next;

	while (*path && node->type != NODE_SCALAR) {
		next = descend(node, node == root, &path);
		if (!next)
			break;
		node = next;
	}
	node_place(node, ret_line, ret_column);
}
