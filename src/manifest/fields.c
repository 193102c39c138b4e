/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/fields.h"
#include "manifest/manifest.h"
#include "manifest/text.h"

#include <inttypes.h>
#include <string.h>

/* ---- names ---- */

static char to_upper(char c)
{
	return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

static char to_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

char *field_json_name(const char *name, char out[FIELD_NAME_MAX])
{
	bool raise = false;
	size_t n = 0;

	for (; *name && n < FIELD_NAME_MAX - 1; name++) {
		if (*name == '_') {
			raise = true;
			continue;
		}
		out[n++] = raise ? to_upper(*name) : *name;
		raise = false;
	}
	out[n] = '\0';
	return out;
}

const ProtobufCFieldDescriptor *field_find(const ProtobufCMessageDescriptor *descriptor, const char *name)
{
	return protobuf_c_message_descriptor_get_field_by_name(descriptor, name);
}

/* ---- enums ---- */

/* The length of "NETWORK_MODE_", which the value 0 gives away: NETWORK_MODE_UNSPECIFIED. */
static size_t enum_prefix(const ProtobufCEnumDescriptor *descriptor)
{
	static const char unspecified[] = "UNSPECIFIED";
	const char *name = descriptor->values[0].name;
	size_t len = strlen(name), n = sizeof unspecified - 1;

	return len > n && strcmp(name + len - n, unspecified) == 0 ? len - n : 0;
}

/* "ON_FAILURE" to "OnFailure"; an abbreviation keeps its capitals ("MicroVM"). */
static char *camel(const char *name, char out[FIELD_NAME_MAX])
{
	bool first = true, capitals = false;
	size_t n = 0;

	for (; *name && n < FIELD_NAME_MAX - 1; name++) {
		if (*name == '_') {
			first = true;
			continue;
		}
		if (first)
			capitals = strcmp(name, "VM") == 0;
		out[n++] = first || capitals ? *name : to_lower(*name);
		first = false;
	}
	out[n] = '\0';
	return out;
}

const char *enum_name(const ProtobufCEnumDescriptor *descriptor, int value, enum enum_style style,
		      char out[FIELD_NAME_MAX])
{
	const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(descriptor, value);

	if (!v)
		return NULL;
	switch (style) {
	case ENUM_UPPER:
		return v->name + enum_prefix(descriptor);
	case ENUM_CAMEL:
		return camel(v->name + enum_prefix(descriptor), out);
	default:
		return v->name;
	}
}

int enum_parse(const ProtobufCEnumDescriptor *descriptor, const char *text, int *ret_value)
{
	char name[FIELD_NAME_MAX];

	for (unsigned i = 0; i < descriptor->n_values; i++) {
		int value = descriptor->values[i].value;

		if (value == 0)
			continue;
		for (int style = ENUM_FULL; style < ENUM_STYLES; style++)
			if (strcmp(enum_name(descriptor, value, (enum enum_style)style, name), text) == 0) {
				*ret_value = value;
				return 0;
			}
	}
	return -1;
}

/* ---- values ---- */

static size_t value_size(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	default:
		return 4;
	}
}

size_t field_count(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
	return *(const size_t *)((const char *)message + field->quantifier_offset);
}

const void *field_item(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, size_t i)
{
	return *(char *const *)field_member(message, field) + i * value_size(field->type);
}

static bool value_is_set(ProtobufCType type, const void *member)
{
	static const uint8_t zeros[sizeof(double)];
	const char *string;

	switch (type) {
	case PROTOBUF_C_TYPE_MESSAGE:
		return field_message(member) != NULL;
	case PROTOBUF_C_TYPE_STRING:
		string = *(const char *const *)member;
		return string && *string;
	case PROTOBUF_C_TYPE_BYTES:
		return ((const ProtobufCBinaryData *)member)->len > 0;
	default:
		return memcmp(member, zeros, value_size(type)) != 0;
	}
}

bool field_is_set(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
	if (field->label == PROTOBUF_C_LABEL_REPEATED)
		return field_count(message, field) > 0;
	if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		return *(const uint32_t *)((const char *)message + field->quantifier_offset) == field->id;
	return value_is_set(field->type, field_member(message, field));
}

bool field_is_map(const ProtobufCFieldDescriptor *field)
{
	const ProtobufCMessageDescriptor *entry = field->descriptor;
	size_t len;

	if (field->label != PROTOBUF_C_LABEL_REPEATED || field->type != PROTOBUF_C_TYPE_MESSAGE)
		return false;
	len = strlen(entry->short_name);
	return len > 5 && strcmp(entry->short_name + len - 5, "Entry") == 0 && entry->n_fields == 2 &&
	       strcmp(entry->fields[0].name, "key") == 0 && strcmp(entry->fields[1].name, "value") == 0;
}

static void bytes_to_json(const ProtobufCBinaryData *bytes, struct buf *out)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t group;
	size_t n;

	buf_addc(out, '"');
	for (size_t i = 0; i < bytes->len; i += 3) {
		n = bytes->len - i < 3 ? bytes->len - i : 3;
		group = (uint32_t)bytes->data[i] << 16;
		group |= n > 1 ? (uint32_t)bytes->data[i + 1] << 8 : 0;
		group |= n > 2 ? bytes->data[i + 2] : 0;
		buf_addc(out, alphabet[group >> 18]);
		buf_addc(out, alphabet[group >> 12 & 63]);
		buf_addc(out, n > 1 ? alphabet[group >> 6 & 63] : '=');
		buf_addc(out, n > 2 ? alphabet[group & 63] : '=');
	}
	buf_addc(out, '"');
}

/* With no more digits than it takes to tell it from its neighbours: 0.1, not 0.10000000000000001. */
static void finite_to_json(double value, struct buf *out)
{
	char text[32];

	for (int digits = 15; digits <= 17; digits++) {
		snprintf(text, sizeof text, "%.*g", digits, value);
		if (strtod(text, NULL) == value)
			break;
	}
	buf_adds(out, text);
}

static void double_to_json(double value, struct buf *out)
{
	if (value != value)
		buf_adds(out, "\"NaN\"");
	else if (value - value != 0)
		buf_adds(out, value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
	else
		finite_to_json(value, out);
}

static void enum_to_json(const ProtobufCEnumDescriptor *descriptor, int value, struct buf *out)
{
	char unused[FIELD_NAME_MAX];
	const char *name = enum_name(descriptor, value, ENUM_FULL, unused);

	if (name)
		buf_addf(out, "\"%s\"", name);
	else
		buf_addf(out, "%d", value); /* of a newer peer */
}

void value_to_json(const ProtobufCFieldDescriptor *field, const void *member, struct buf *out)
{
	const char *string;

	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		buf_addf(out, "%" PRId32, *(const int32_t *)member);
		break;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		buf_addf(out, "%" PRIu32, *(const uint32_t *)member);
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		buf_addf(out, "\"%" PRId64 "\"", *(const int64_t *)member);
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		buf_addf(out, "\"%" PRIu64 "\"", *(const uint64_t *)member);
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		double_to_json((double)*(const float *)member, out);
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		double_to_json(*(const double *)member, out);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		buf_adds(out, *(const protobuf_c_boolean *)member ? "true" : "false");
		break;
	case PROTOBUF_C_TYPE_ENUM:
		enum_to_json(field->descriptor, *(const int *)member, out);
		break;
	case PROTOBUF_C_TYPE_STRING:
		string = *(const char *const *)member;
		text_quote(out, string ? string : "", string ? strlen(string) : 0);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		bytes_to_json(member, out);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		message_to_json(field_message(member), 0, out);
		break;
	}
}

const char *map_key(const ProtobufCMessage *entry, char out[FIELD_NAME_MAX])
{
	const ProtobufCFieldDescriptor *field = &entry->descriptor->fields[0];
	_cleanup_buf_ struct buf text = BUF_INIT(FIELD_NAME_MAX);
	const void *member = field_member(entry, field);
	const char *digits;

	if (field->type == PROTOBUF_C_TYPE_STRING)
		return *(const char *const *)member ? *(const char *const *)member : "";
	/* JSON's keys are strings whatever they mean: the quotes of a 64-bit number are not part of it. */
	value_to_json(field, member, &text);
	digits = buf_str(&text) + (*buf_str(&text) == '"');
	snprintf(out, FIELD_NAME_MAX, "%.*s", (int)strcspn(digits, "\""), digits);
	return out;
}

const ProtobufCFieldDescriptor *map_value(const ProtobufCMessage *entry, const void **ret_member)
{
	const ProtobufCFieldDescriptor *field = &entry->descriptor->fields[1];

	*ret_member = field_member(entry, field);
	return field;
}
