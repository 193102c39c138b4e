/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Standard base64 with padding (RFC 4648, section 4). Threads: any. What is returned is the caller's; NULL without memory. */
#ifndef CAPSULE_BASE_BASE64_H
#define CAPSULE_BASE_BASE64_H

#include <stddef.h>

char *base64_encode(const void *data, size_t len);

/* NULL also for what is not base64. */
void *base64_decode(const char *text, size_t *ret_len);

#endif
