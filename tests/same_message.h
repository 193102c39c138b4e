/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Equality of messages, as the store sees it: two normalized messages that say the same thing have the same bytes. */
#ifndef CAPSULE_TESTS_SAME_MESSAGE_H
#define CAPSULE_TESTS_SAME_MESSAGE_H

#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>
#include <string.h>

/* Aborts without memory. */
static inline bool same_message(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	size_t n_a = protobuf_c_message_get_packed_size(a), n_b = protobuf_c_message_get_packed_size(b);
	uint8_t *bytes_a = malloc(n_a + 1), *bytes_b = malloc(n_b + 1);
	bool same;

	if (!bytes_a || !bytes_b)
		abort();
	same = protobuf_c_message_pack(a, bytes_a) == protobuf_c_message_pack(b, bytes_b) &&
	       memcmp(bytes_a, bytes_b, n_a) == 0;
	free(bytes_a);
	free(bytes_b);
	return same;
}

#endif
