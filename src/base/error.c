/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/error.h"

#include "base/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Stands in for a message when there is no memory for one; never freed. */
static char out_of_memory[] = "out of memory";

static void message_free(char *m)
{
	if (m != out_of_memory)
		free(m);
}

static enum error_code code_of_errno(int errnum)
{
	switch (errnum) {
	case ENOSPC:
	case EDQUOT:
	case ENOMEM:
	case EMFILE:
	case ENFILE:
		return ERR_RESOURCE_EXHAUSTED;
	case ENOENT:
		return ERR_NOT_FOUND;
	case EACCES:
	case EPERM:
		return ERR_PERMISSION_DENIED;
	case ETIMEDOUT:
		return ERR_DEADLINE_EXCEEDED;
	case EROFS:
		return ERR_FAILED_PRECONDITION;
	case ECANCELED:
		return ERR_CANCELLED;
	default:
		return ERR_INTERNAL;
	}
}

void error_release(struct error *e)
{
	if (!e)
		return;
	message_free(e->message);
	e->message = NULL;
	e->code = ERR_OK;
}

int error_setv(struct error *e, enum error_code code, const char *fmt, va_list ap)
{
	char *message;

	if (!e)
		return -1;
	/* The old message may be among the arguments: format before releasing it. */
	if (vasprintf(&message, fmt, ap) < 0)
		message = out_of_memory;
	else
		utf8_clean(message, strlen(message));
	message_free(e->message);
	e->message = message;
	e->code = code;
	return -1;
}

int error_set(struct error *e, enum error_code code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_setv(e, code, fmt, ap);
	va_end(ap);
	return -1;
}

int error_errno(struct error *e, int errnum, const char *fmt, ...)
{
	_cleanup_free_ char *what = NULL;
	char reason[128];
	va_list ap;

	if (!e)
		return -1;
	va_start(ap, fmt);
	if (vasprintf(&what, fmt, ap) < 0)
		what = NULL;
	va_end(ap);
	return error_set(e, code_of_errno(errnum), "%s: %s", what ? what : "failure",
			 strerror_r(errnum, reason, sizeof reason));
}

int error_wrap(struct error *e, const char *fmt, ...)
{
	_cleanup_free_ char *context = NULL;
	va_list ap;

	if (!e)
		return -1;
	va_start(ap, fmt);
	if (vasprintf(&context, fmt, ap) < 0)
		context = NULL;
	va_end(ap);
	if (!context)
		return -1;
	return error_set(e, e->code, "%s: %s", context, error_message(e));
}

int error_move(struct error *to, struct error *from)
{
	if (to) {
		error_release(to);
		*to = *from;
		*from = (struct error)ERROR_INIT;
	} else {
		error_release(from);
	}
	return -1;
}

const char *error_message(const struct error *e)
{
	return e && e->message ? e->message : "no error";
}

const char *error_code_name(enum error_code code)
{
	static const char *const names[] = {
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
		"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	};

	return (unsigned)code < sizeof names / sizeof names[0] ? names[code] : "UNKNOWN";
}

enum error_code error_code_by_name(const char *name)
{
	for (enum error_code code = ERR_CANCELLED; code <= ERR_UNAUTHENTICATED; code++)
		if (name && strcmp(error_code_name(code), name) == 0)
			return code;
	return ERR_INTERNAL;
}
