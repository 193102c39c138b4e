/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/fields.h"
#include "manifest/manifest.h"
#include "manifest/mistake.h"
#include "manifest/schema.h"

#include <string.h>

#define PATH_MAX_BYTES (256u << 10) /* a variable's name may be long, but its excerpt is not */
#define VALUE_MAX_BYTES (8u << 20)

struct diff {
	Capsule__V1__FieldChange **changes;
	size_t n, room;
	bool failed;
};

static int diff_grow(struct diff *d)
{
	size_t room = d->room ? 2 * d->room : 16;
	Capsule__V1__FieldChange **changes;

	if (d->n < d->room)
		return 0;
	changes = realloc(d->changes, room * sizeof *changes);
	if (!changes)
		return -1;
	d->changes = changes;
	d->room = room;
	return 0;
}

/* Takes both values; an empty one is absent. */
static void diff_add(struct diff *d, const struct path *path, struct buf *old_value, struct buf *new_value)
{
	_cleanup_buf_ struct buf where = BUF_INIT(PATH_MAX_BYTES);
	Capsule__V1__FieldChange *change = diff_grow(d) < 0 ? NULL : malloc(sizeof *change);

	if (!change) {
		d->failed = true;
		return;
	}
	capsule__v1__field_change__init(change);
	path_print(path, &where);
	change->path = buf_steal(&where);
	change->old_value = buf_steal(old_value);
	change->new_value = buf_steal(new_value);
	if (!change->path || !change->old_value || !change->new_value)
		d->failed = true;
	d->changes[d->n++] = change;
}

/* ---- values ---- */

static void list_to_json(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, struct buf *out)
{
	buf_addc(out, '[');
	for (size_t i = 0; i < field_count(message, field); i++) {
		if (i)
			buf_addc(out, ',');
		value_to_json(field, field_item(message, field, i), out);
	}
	buf_addc(out, ']');
}

/* Nothing for what is absent. Where the message is there, a number or a boolean at its default is a value too, unless it
 * stands for nothing. */
static void field_to_json(const ProtobufCMessage *message, const struct schema_field *schema, struct buf *out)
{
	const ProtobufCFieldDescriptor *field = schema->field;

	if (!message)
		return;
	if (field_is_set(message, field)) {
		if (field->label == PROTOBUF_C_LABEL_REPEATED)
			list_to_json(message, field, out);
		else
			value_to_json(field, field_member(message, field), out);
		return;
	}
	if (schema->not_zero || field->label == PROTOBUF_C_LABEL_REPEATED || (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
		return;
	if (field->type == PROTOBUF_C_TYPE_BOOL || field->type == PROTOBUF_C_TYPE_UINT32)
		value_to_json(field, field_member(message, field), out);
}

static bool field_differs(const ProtobufCMessage *from, const ProtobufCMessage *to,
			  const struct schema_field *schema, struct buf *old_value, struct buf *new_value)
{
	if (!(from && field_is_set(from, schema->field)) && !(to && field_is_set(to, schema->field)))
		return false;
	field_to_json(from, schema, old_value);
	field_to_json(to, schema, new_value);
	return strcmp(buf_str(old_value), buf_str(new_value)) != 0;
}

static void diff_value(struct diff *d, const ProtobufCMessage *from, const ProtobufCMessage *to,
		       const struct schema_field *schema, const struct path *path)
{
	_cleanup_buf_ struct buf old_value = BUF_INIT(VALUE_MAX_BYTES), new_value = BUF_INIT(VALUE_MAX_BYTES);

	if (field_differs(from, to, schema, &old_value, &new_value))
		diff_add(d, path, &old_value, &new_value);
}

/* ---- messages ---- */

static void diff_message(struct diff *d, const ProtobufCMessage *from, const ProtobufCMessage *to,
			 const struct path *path);

static const ProtobufCMessage *item_at(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, size_t i)
{
	return message && i < field_count(message, field) ? field_message(field_item(message, field, i)) : NULL;
}

/* An element that is only on one side is one change. */
static void diff_item(struct diff *d, const ProtobufCMessage *from, const ProtobufCMessage *to, const struct path *path)
{
	_cleanup_buf_ struct buf old_value = BUF_INIT(VALUE_MAX_BYTES), new_value = BUF_INIT(VALUE_MAX_BYTES);

	if (from && to) {
		diff_message(d, from, to, path);
		return;
	}
	if (from)
		message_to_json(from, 0, &old_value);
	if (to)
		message_to_json(to, 0, &new_value);
	diff_add(d, path, &old_value, &new_value);
}

static void diff_list(struct diff *d, const ProtobufCMessage *from, const ProtobufCMessage *to,
		      const ProtobufCFieldDescriptor *field, const struct path *path)
{
	for (size_t i = 0;; i++) {
		const ProtobufCMessage *a = item_at(from, field, i), *b = item_at(to, field, i);
		struct path at = path_index(path, i);

		if (!a && !b)
			return;
		diff_item(d, a, b, &at);
	}
}

/* Both are sorted by key: one pass finds what is on one side only. */
static void diff_map(struct diff *d, const ProtobufCMessage *from, const ProtobufCMessage *to,
		     const ProtobufCFieldDescriptor *field, const struct path *path)
{
	char key_a[FIELD_NAME_MAX], key_b[FIELD_NAME_MAX];
	size_t i = 0, j = 0;

	for (;;) {
		const ProtobufCMessage *a = item_at(from, field, i), *b = item_at(to, field, j);
		const char *x = a ? map_key(a, key_a) : NULL, *y = b ? map_key(b, key_b) : NULL;
		int order = !a ? 1 : !b ? -1 : strcmp(x, y);
		_cleanup_buf_ struct buf old_value = BUF_INIT(VALUE_MAX_BYTES), new_value = BUF_INIT(VALUE_MAX_BYTES);
		const ProtobufCFieldDescriptor *value;
		const void *member;
		struct path at;

		if (!a && !b)
			return;
		at = path_field(path, order <= 0 ? x : y);
		if (order <= 0) {
			value = map_value(a, &member);
			value_to_json(value, member, &old_value);
			i++;
		}
		if (order >= 0) {
			value = map_value(b, &member);
			value_to_json(value, member, &new_value);
			j++;
		}
		if (strcmp(buf_str(&old_value), buf_str(&new_value)) != 0)
			diff_add(d, &at, &old_value, &new_value);
	}
}

static void diff_field(struct diff *d, const ProtobufCMessage *from, const ProtobufCMessage *to,
		       const struct schema_field *schema, const struct path *path)
{
	const ProtobufCFieldDescriptor *field = schema->field;

	if (field_is_map(field))
		diff_map(d, from, to, field, path);
	else if (field->type != PROTOBUF_C_TYPE_MESSAGE)
		diff_value(d, from, to, schema, path);
	else if (field->label == PROTOBUF_C_LABEL_REPEATED)
		diff_list(d, from, to, field, path);
	else
		diff_message(d, from ? field_message(field_member(from, field)) : NULL,
			     to ? field_message(field_member(to, field)) : NULL, path);
}

/* A message that is absent on one side is compared with one that holds nothing. */
static void diff_message(struct diff *d, const ProtobufCMessage *from, const ProtobufCMessage *to,
			 const struct path *path)
{
	const ProtobufCMessage *any = from ? from : to;

	if (!any)
		return;
	for (unsigned i = 0; i < any->descriptor->n_fields; i++) {
		struct schema_field schema;
		struct path at;

		schema_field_at(any->descriptor, i, &schema);
		at = path_field(path, schema.name);
		diff_field(d, from, to, &schema, &at);
	}
}

/* What is reported and not declared does not count. */
static Capsule__V1__Workload declared(const Capsule__V1__Workload *workload)
{
	Capsule__V1__Workload w;

	if (!workload) {
		capsule__v1__workload__init(&w);
		return w;
	}
	w = *workload;
	w.status = NULL;
	w.created_at_unix = 0;
	return w;
}

int manifest_diff(const Capsule__V1__Workload *from, const Capsule__V1__Workload *to,
		  Capsule__V1__FieldChange ***ret_changes, size_t *ret_n)
{
	Capsule__V1__Workload a = declared(from), b = declared(to);
	struct diff d = { 0 };

	/* An apply without a desired state keeps the stored one. */
	if (from && to && b.desired_state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_UNSPECIFIED)
		b.desired_state = a.desired_state;
	diff_message(&d, from ? &a.base : NULL, to ? &b.base : NULL, NULL);
	if (d.failed) {
		manifest_changes_free(d.changes, d.n);
		return -1;
	}
	*ret_changes = d.changes;
	*ret_n = d.n;
	return 0;
}

void manifest_changes_free(Capsule__V1__FieldChange **changes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		capsule__v1__field_change__free_unpacked(changes[i], NULL);
	free(changes);
}
