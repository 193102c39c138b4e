/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Credentials for registries, out of a file in Docker's format (~/.docker/config.json):
 *
 *   { "auths": { "registry.example": { "auth": "<base64 of user:password>" } } }
 *
 * or with "username" and "password", or "identitytoken" (an OAuth 2 refresh token), or "registrytoken" (sent as it is).
 * A name may be written as a URL ("https://index.docker.io/v1/" is docker.io). Programs that keep secrets (credsStore,
 * credHelpers) are not run: a registry whose secret only they know is an error that says so.
 */
#ifndef CAPSULE_IMAGER_CREDENTIALS_H
#define CAPSULE_IMAGER_CREDENTIALS_H

#include "base/error.h"

#include <stddef.h>

#define CREDENTIALS_FILE_MAX (1u << 20)

struct credentials {
	char *user, *password;  /* both or none */
	char *identity_token, *registry_token;
};

void credentials_release(struct credentials *c);
#define _cleanup_credentials_ _cleanup_(credentials_release)

/* What the file says of the host ("docker.io", "host:port"). All NULL when it says nothing, or when path is NULL or
 * there is no such file. */
int credentials_load(const char *path, const char *host, struct credentials *ret, struct error *err);
int credentials_parse(const char *text, size_t len, const char *host, struct credentials *ret, struct error *err);

/* "Basic <base64>", the value of an Authorization header. Caller frees. NULL without memory. */
char *credentials_basic(const struct credentials *c);

#endif
