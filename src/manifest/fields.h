/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Names and values of message fields, by protobuf-c's descriptors. Everything here is for proto3: no required fields,
 * no defaults but zero, presence for messages and members of a oneof only. A map arrives as a repeated message whose
 * name ends in "Entry" and which has the fields key = 1 and value = 2 and no others.
 */
#ifndef CAPSULE_MANIFEST_FIELDS_H
#define CAPSULE_MANIFEST_FIELDS_H

#include "base/buf.h"

#include <protobuf-c/protobuf-c.h>

/* ---- names ---- */

#define FIELD_NAME_MAX 64

/* "host_port" to "hostPort". Returns out. */
char *field_json_name(const char *name, char out[FIELD_NAME_MAX]);

const ProtobufCFieldDescriptor *field_find(const ProtobufCMessageDescriptor *descriptor, const char *name);

/* ---- enums: a value has a full name (NETWORK_MODE_HOST) and two short ones (HOST, Host) ---- */

enum enum_style { ENUM_FULL, ENUM_UPPER, ENUM_CAMEL, ENUM_STYLES };

/* NULL when the enum has no such value. Returns a constant or out. */
const char *enum_name(const ProtobufCEnumDescriptor *descriptor, int value, enum enum_style style,
		      char out[FIELD_NAME_MAX]);

/* In any of the styles; the value 0 (..._UNSPECIFIED) has no name that a user may write. 0, or -1. */
int enum_parse(const ProtobufCEnumDescriptor *descriptor, const char *text, int *ret_value);

/* ---- values ---- */

/* The field of a message: the pointer to its value, or to the pointer to the first of repeated ones. */
static inline void *field_member(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
	return (char *)message + field->offset;
}

/* Of a repeated field. */
size_t field_count(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field);
const void *field_item(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, size_t i);

/* Whether the field stands in the message: not at its default, or chosen in its oneof. */
bool field_is_set(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field);

bool field_is_map(const ProtobufCFieldDescriptor *field);

/* Of a field of type message, one that is not repeated: NULL when absent. */
static inline ProtobufCMessage *field_message(const void *member)
{
	return *(ProtobufCMessage *const *)member;
}

/* One value as JSON; messages through message_to_json(). */
void value_to_json(const ProtobufCFieldDescriptor *field, const void *member, struct buf *out);

/* The key of a map's entry as text. Returns a string of the entry or out. */
const char *map_key(const ProtobufCMessage *entry, char out[FIELD_NAME_MAX]);
const ProtobufCFieldDescriptor *map_value(const ProtobufCMessage *entry, const void **ret_member);

#endif
