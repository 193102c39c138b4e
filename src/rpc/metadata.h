/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The header fields of gRPC in their text form, and the statuses that HTTP implies (grpc/doc/PROTOCOL-HTTP2.md). */
#ifndef CAPSULE_RPC_METADATA_H
#define CAPSULE_RPC_METADATA_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RPC_STATUS_MESSAGE_MAX 2048u /* longer ones are cut, as many peers take 8 KiB of headers in all */

/* grpc-message: percent-encoded. The caller frees; NULL without memory. Invalid escapes are kept as they are. */
char *rpc_status_message_encode(const char *message);
char *rpc_status_message_decode(const char *value, size_t len);

/* grpc-timeout: 1 to 8 digits and a unit of H M S m u n. 0, or -1. */
int rpc_timeout_parse(const char *value, size_t len, int64_t *ret_ns);
#define RPC_TIMEOUT_MAX 16
void rpc_timeout_format(int64_t timeout_ms, char out[RPC_TIMEOUT_MAX]);

/* grpc-status: ERR_UNKNOWN for what is not a code. */
enum error_code rpc_status_parse(const char *value, size_t len);

/* "application/grpc", alone or followed by '+' or ';'. */
bool rpc_content_type_ok(const char *value, size_t len);

/* A response without grpc-status (grpc/doc/http-grpc-status-mapping.md). */
enum error_code rpc_status_of_http(int http_status);

/* A stream that was reset with this HTTP/2 error code. */
enum error_code rpc_status_of_reset(uint32_t h2_error);

#endif
