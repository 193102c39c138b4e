/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The error object.
 *
 * A function that can fail returns a negative value and fills the caller's `struct error`; on success it leaves the
 * object untouched. Each layer may add its context in front with error_wrap(), so that what the user finally reads is
 * one sentence: what failed, on which object, why, and what to do. Libraries never print an error; whoever handles
 * it reports it once.
 *
 * A message is UTF-8, whatever is put into it: bytes of a file's name or of a tool's output that are not become '?'.
 *
 * The codes are the gRPC status codes (grpc/doc/statuscodes.md), because most errors end as one.
 *
 * Ownership: the object owns its message. Declare it as `_cleanup_error_ struct error e = ERROR_INIT;`. Passing NULL
 * for the object is allowed everywhere and means "the return value is enough".
 * Threads: an object belongs to one thread at a time.
 */
#ifndef CAPSULE_BASE_ERROR_H
#define CAPSULE_BASE_ERROR_H

#include "base/cleanup.h"

#include <stdarg.h>

enum error_code {
	ERR_OK = 0,
	ERR_CANCELLED = 1,
	ERR_UNKNOWN = 2,
	ERR_INVALID_ARGUMENT = 3,
	ERR_DEADLINE_EXCEEDED = 4,
	ERR_NOT_FOUND = 5,
	ERR_ALREADY_EXISTS = 6,
	ERR_PERMISSION_DENIED = 7,
	ERR_RESOURCE_EXHAUSTED = 8,
	ERR_FAILED_PRECONDITION = 9,
	ERR_ABORTED = 10,
	ERR_OUT_OF_RANGE = 11,
	ERR_UNIMPLEMENTED = 12,
	ERR_INTERNAL = 13,
	ERR_UNAVAILABLE = 14,
	ERR_DATA_LOSS = 15,
	ERR_UNAUTHENTICATED = 16,
};

struct error {
	enum error_code code;
	char *message; /* owned; NULL while no error is set */
};

#define ERROR_INIT { ERR_OK, NULL }

/* Releases the message and makes the object reusable. */
void error_release(struct error *e);
#define _cleanup_error_ _cleanup_(error_release)

/* Set the error, replacing an earlier one. Always return -1. */
int error_set(struct error *e, enum error_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int error_setv(struct error *e, enum error_code code, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));

/* As error_set, with ": <strerror(errnum)>" appended and the code derived from errnum (ENOSPC and EDQUOT:
 * RESOURCE_EXHAUSTED, ENOENT: NOT_FOUND, EACCES and EPERM: PERMISSION_DENIED, EROFS: FAILED_PRECONDITION, ETIMEDOUT:
 * DEADLINE_EXCEEDED, else INTERNAL). errnum is a
 * positive errno value. */
int error_errno(struct error *e, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "<fmt>: " in front of the message. The code stays. Returns -1. */
int error_wrap(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Moves an error from one object to another. Returns -1. */
int error_move(struct error *to, struct error *from);

/* Never NULL: the message, or "no error". */
const char *error_message(const struct error *e);

/* "NOT_FOUND" and so on; never NULL. */
const char *error_code_name(enum error_code code);

/* The other way; ERR_INTERNAL for NULL and for what is no name of a code that tells of an error. */
enum error_code error_code_by_name(const char *name);

#endif
