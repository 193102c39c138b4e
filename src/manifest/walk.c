/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/walk.h"

static void walk_value(const ProtobufCFieldDescriptor *field, const void *member, const struct message_visitor *v,
		       void *arg)
{
	if (field->type == PROTOBUF_C_TYPE_MESSAGE)
		message_walk(field_message(member), v, arg);
	else
		v->value(arg, field, member);
}

static void walk_map(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
		     const struct message_visitor *v, void *arg)
{
	char key[FIELD_NAME_MAX];

	v->object_begin(arg, false);
	for (size_t i = 0; i < field_count(message, field); i++) {
		const ProtobufCMessage *entry = field_message(field_item(message, field, i));
		const void *member;
		const ProtobufCFieldDescriptor *value = map_value(entry, &member);

		v->key(arg, map_key(entry, key));
		walk_value(value, member, v, arg);
	}
	v->object_end(arg, false);
}

static void walk_list(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
		      const struct message_visitor *v, void *arg)
{
	v->list_begin(arg);
	for (size_t i = 0; i < field_count(message, field); i++) {
		v->item(arg);
		walk_value(field, field_item(message, field, i), v, arg);
	}
	v->list_end(arg);
}

static bool is_empty(const ProtobufCMessage *message)
{
	for (unsigned i = 0; i < message->descriptor->n_fields; i++)
		if (field_is_set(message, &message->descriptor->fields[i]))
			return false;
	return true;
}

void message_walk(const ProtobufCMessage *message, const struct message_visitor *v, void *arg)
{
	bool empty = is_empty(message);
	char name[FIELD_NAME_MAX];

	v->object_begin(arg, empty);
	for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];

		if (!field_is_set(message, field))
			continue;
		v->key(arg, field_json_name(field->name, name));
		if (field_is_map(field))
			walk_map(message, field, v, arg);
		else if (field->label == PROTOBUF_C_LABEL_REPEATED)
			walk_list(message, field, v, arg);
		else
			walk_value(field, field_member(message, field), v, arg);
	}
	v->object_end(arg, empty);
}
