/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/unpack.h"

#include "base/utf8.h"

#include <stdbool.h>
#include <string.h>

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

/* Passes over what stands before the next field of this message that has a length. 1: there it is, *ret_field is NULL for one
 * that is not known; 0: there is none; -1: malformed. */
static int wire_next(const ProtobufCMessageDescriptor *descriptor, struct wire *w, const ProtobufCFieldDescriptor **ret_field,
		     struct wire *ret_content)
{
	while (w->p < w->end) {
		uint64_t tag, n;
		int r;

		if (wire_varint(w, &tag) < 0 || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
			return -1;
		switch (tag & 7) {
		case 0:
			r = wire_varint(w, &n);
			break;
		case 1:
			r = wire_skip(w, 8);
			break;
		case 2:
			if (wire_varint(w, &n) < 0)
				return -1;
			ret_content->p = w->p;
			if (wire_skip(w, n) < 0)
				return -1;
			ret_content->end = w->p;
			*ret_field = protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag >> 3));
			return 1;
		case 5:
			r = wire_skip(w, 4);
			break;
		default: /* groups are not of proto3 */
			return -1;
		}
		if (r < 0)
			return -1;
	}
	return 0;
}

static int wire_check(const ProtobufCMessageDescriptor *descriptor, struct wire w, unsigned depth, struct error *err);

static int wire_check_delimited(const ProtobufCFieldDescriptor *field, struct wire content, unsigned depth,
				struct error *err)
{
	const char *text = (const char *)content.p;
	size_t len = (size_t)(content.end - content.p);

	if (field && field->type == PROTOBUF_C_TYPE_STRING && (memchr(text, '\0', len) || !utf8_is_valid(text, len)))
		return error_set(err, ERR_INVALID_ARGUMENT, "the field \"%s\" is not UTF-8 text without NUL",
				 field->name);
	if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
		return wire_check(field->descriptor, content, depth + 1, err);
	return 0;
}

static int wire_check(const ProtobufCMessageDescriptor *descriptor, struct wire w, unsigned depth, struct error *err)
{
	const ProtobufCFieldDescriptor *field;
	struct wire content;
	int r;

	if (depth > RPC_NESTING_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the message is nested more than %u deep", RPC_NESTING_MAX);
	while ((r = wire_next(descriptor, &w, &field, &content)) > 0)
		if (wire_check_delimited(field, content, depth, err) < 0)
			return -1;
	if (r == 0)
		return 0;
	return error_set(err, ERR_INVALID_ARGUMENT, "these bytes are not a message of type %s", descriptor->name);
}

void rpc_message_clean(const ProtobufCMessageDescriptor *descriptor, uint8_t *data, size_t len)
{
	const ProtobufCFieldDescriptor *field;
	struct wire w = { data, data + len }, content;

	while (wire_next(descriptor, &w, &field, &content) > 0) {
		uint8_t *at = data + (content.p - data);
		size_t n = (size_t)(content.end - content.p);

		if (field && field->type == PROTOBUF_C_TYPE_STRING)
			utf8_clean((char *)at, n);
		else if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
			rpc_message_clean(field->descriptor, at, n);
	}
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
