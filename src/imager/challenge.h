/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * How a registry asks who is there: the WWW-Authenticate header (RFC 9110, 11.6.1) and the answer of a token server
 * (distribution/docs/spec/auth/token.md, oauth.md). Pure parsers of foreign bytes; thread-safe.
 */
#ifndef CAPSULE_IMAGER_CHALLENGE_H
#define CAPSULE_IMAGER_CHALLENGE_H

#include "base/error.h"

#include <stddef.h>

#define CHALLENGE_TEXT_MAX (8u << 10)  /* of the header */
#define TOKEN_ANSWER_MAX (64u << 10)   /* of the token server's answer */
#define TOKEN_MAX (32u << 10)

enum challenge_scheme { CHALLENGE_NONE, CHALLENGE_BASIC, CHALLENGE_BEARER };

struct challenge {
	enum challenge_scheme scheme; /* the strongest that is known: Bearer, then Basic */
	char *realm, *service, *scope, *error; /* Bearer's parameters; NULL when absent */
};

void challenge_release(struct challenge *c);
#define _cleanup_challenge_ _cleanup_(challenge_release)

/* A header that names only unknown schemes gives CHALLENGE_NONE; one that breaks the grammar is DATA_LOSS. */
int challenge_parse(const char *header, struct challenge *ret, struct error *err);

/* The token out of the answer: "token", or "access_token". It can go into a header as it is. Caller frees. */
int token_parse(const char *text, size_t len, char **ret, struct error *err);

#endif
