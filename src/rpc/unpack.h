/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * From bytes of a peer to a message, with what libprotobuf-c leaves out: strings must be UTF-8 without NUL (a C string
 * would end there, and other languages refuse to read it), nesting has a limit (libprotobuf-c recurses on the stack),
 * and the unpacked message has a limit too, as two bytes on the wire can become a hundred in memory.
 *
 * And what a peer would refuse for the same reason is not sent: one foreign byte in one string would cost it the whole
 * message.
 */
#ifndef CAPSULE_RPC_UNPACK_H
#define CAPSULE_RPC_UNPACK_H

#include "base/error.h"

#include <protobuf-c/protobuf-c.h>

#define RPC_UNPACK_MAX (64u << 20)
#define RPC_NESTING_MAX 64u

/* INVALID_ARGUMENT or RESOURCE_EXHAUSTED. Free with rpc_message_free(). */
int rpc_message_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t len,
		       ProtobufCMessage **ret, struct error *err);

/* Of a message of our own, packed: bytes in its strings that are not UTF-8 become '?'. The length stays. */
void rpc_message_clean(const ProtobufCMessageDescriptor *descriptor, uint8_t *data, size_t len);

static inline void rpc_message_free(ProtobufCMessage *message)
{
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}
DEFINE_CLEANUP(ProtobufCMessage *, rpc_message_free)

#endif
