/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/stream.h"

#include <endian.h>
#include <string.h>

int stream_read_header(const uint8_t header[STREAM_HEADER], uint64_t *ret_size, struct error *err)
{
	uint64_t size;

	memcpy(&size, header + strlen(STREAM_MAGIC), sizeof size);
	size = le64toh(size);
	if (memcmp(header, STREAM_MAGIC, strlen(STREAM_MAGIC)) != 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "what was sent is no exported volume");
	if (size == 0 || size > INT64_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the exported volume has an impossible size");
	*ret_size = size;
	return 0;
}
