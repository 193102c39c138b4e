/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/unpack.h"

#include <stdbool.h>

/* --- memory with a limit --- */

struct budget {
	size_t left;
	bool exceeded;
};

static void *budget_alloc(void *arg, size_t size)
{
	struct budget *b = arg;

	if (size > b->left) {
		b->exceeded = true;
		return NULL;
	}
	b->left -= size;
	return malloc(size);
}

static void budget_free(void *arg, void *p)
{
	free(p);
}

/* --- the wire format (protobuf.dev/programming-guides/encoding), read without building anything --- */

struct wire {
	const uint8_t *p, *end;
};

static int wire_varint(struct wire *w, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70 && w->p < w->end; shift += 7) {
		uint8_t c = *w->p++;

		v |= (uint64_t)(c & 0x7f) << (shift & 63);
		if (!(c & 0x80)) {
			*ret = v;
			return 0;
		}
	}
	return -1;
}

static int wire_skip(struct wire *w, uint64_t n)
{
	if (n > (uint64_t)(w->end - w->p))
		return -1;
	w->p += n;
	return 0;
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF; and no NUL. */
static bool is_text(const uint8_t *p, size_t len)
{
	const uint8_t *end = p + len;

	while (p < end) {
		uint8_t c = *p++;
		unsigned more;
		uint32_t v, min;

		if (c == 0)
			return false;
		if (c < 0x80)
			continue;
		if (c >= 0xc2 && c <= 0xdf) {
			more = 1, v = c & 0x1f, min = 0x80;
		} else if (c >= 0xe0 && c <= 0xef) {
			more = 2, v = c & 0x0f, min = 0x800;
		} else if (c >= 0xf0 && c <= 0xf4) {
			more = 3, v = c & 0x07, min = 0x10000;
		} else {
			return false;
		}
		if ((size_t)(end - p) < more)
			return false;
		for (; more > 0; more--, p++) {
			if ((*p & 0xc0) != 0x80)
				return false;
			v = v << 6 | (*p & 0x3f);
		}
		if (v < min || v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff))
			return false;
	}
	return true;
}

static int wire_check(const ProtobufCMessageDescriptor *descriptor, struct wire w, unsigned depth, struct error *err);

static int wire_check_delimited(const ProtobufCFieldDescriptor *field, struct wire content, unsigned depth,
				struct error *err)
{
	size_t len = (size_t)(content.end - content.p);

	if (field && field->type == PROTOBUF_C_TYPE_STRING && !is_text(content.p, len))
		return error_set(err, ERR_INVALID_ARGUMENT, "the field \"%s\" is not UTF-8 text without NUL",
				 field->name);
	if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
		return wire_check(field->descriptor, content, depth + 1, err);
	return 0;
}

static int wire_check(const ProtobufCMessageDescriptor *descriptor, struct wire w, unsigned depth, struct error *err)
{
	if (depth > RPC_NESTING_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the message is nested more than %u deep", RPC_NESTING_MAX);
	while (w.p < w.end) {
		const ProtobufCFieldDescriptor *field;
		struct wire content;
		uint64_t tag, n;
		int r = 0;

		if (wire_varint(&w, &tag) < 0 || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
			goto malformed;
		switch (tag & 7) {
		case 0:
			r = wire_varint(&w, &n);
			break;
		case 1:
			r = wire_skip(&w, 8);
			break;
		case 2:
			if (wire_varint(&w, &n) < 0)
				goto malformed;
			content.p = w.p;
			if (wire_skip(&w, n) < 0)
				goto malformed;
			content.end = w.p;
			field = protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag >> 3));
			if (wire_check_delimited(field, content, depth, err) < 0)
				return -1;
			break;
		case 5:
			r = wire_skip(&w, 4);
			break;
		default: /* groups are not of proto3 */
			goto malformed;
		}
		if (r < 0)
			goto malformed;
	}
	return 0;
malformed:
	return error_set(err, ERR_INVALID_ARGUMENT, "these bytes are not a message of type %s", descriptor->name);
}

int rpc_message_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t len,
		       ProtobufCMessage **ret, struct error *err)
{
	struct budget budget = { RPC_UNPACK_MAX, false };
	ProtobufCAllocator allocator = { budget_alloc, budget_free, &budget };
	ProtobufCMessage *message;

	if (wire_check(descriptor, (struct wire){ data, data + len }, 0, err) < 0)
		return -1;
	message = protobuf_c_message_unpack(descriptor, &allocator, len, data);
	if (!message && budget.exceeded)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the message takes more than %u MiB of memory",
				 RPC_UNPACK_MAX >> 20);
	if (!message)
		return error_set(err, ERR_INVALID_ARGUMENT, "these bytes are not a message of type %s",
				 descriptor->name);
	*ret = message;
	return 0;
}
