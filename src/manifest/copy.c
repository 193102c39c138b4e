/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/manifest.h"

#include "base/cleanup.h"

ProtobufCMessage *message_copy(const ProtobufCMessage *message)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	_cleanup_free_ uint8_t *bytes = malloc(len ? len : 1);
	ProtobufCMessage *copy;

	if (!bytes)
		abort();
	protobuf_c_message_pack(message, bytes);
	copy = protobuf_c_message_unpack(message->descriptor, NULL, len, bytes);
	if (!copy)
		abort();
	return copy;
}
