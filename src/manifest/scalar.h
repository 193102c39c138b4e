/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a scalar without quotes means: the core schema of YAML 1.2.2 (10.3.2). JSON's literals are a part of it.
 * "yes", "on" and the like are strings; "0644" is the number 644.
 */
#ifndef CAPSULE_MANIFEST_SCALAR_H
#define CAPSULE_MANIFEST_SCALAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum scalar { SCALAR_STRING, SCALAR_NULL, SCALAR_BOOL, SCALAR_INT, SCALAR_FLOAT };

enum scalar scalar_resolve(const char *text, size_t len);

/* The value of a SCALAR_BOOL. */
bool scalar_bool(const char *text);

/* The value of a SCALAR_INT: sign and magnitude. 0, or -1 when the magnitude does not fit. */
int scalar_int(const char *text, size_t len, bool *ret_negative, uint64_t *ret_magnitude);

#endif
