/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Image references, by Docker's rules (distribution/reference): "nginx" is docker.io/library/nginx:latest; the first
 * component is a registry if it holds '.' or ':' or is "localhost"; a digest may follow the tag. Pure; thread-safe.
 */
#ifndef CAPSULE_IMAGE_REFERENCE_H
#define CAPSULE_IMAGE_REFERENCE_H

#include "base/error.h"

#define REFERENCE_MAX 512

struct reference {
	char *registry;   /* "docker.io", "localhost:5000" */
	char *repository; /* "library/nginx" */
	char *tag;        /* "latest"; NULL when only a digest was given */
	char *digest;     /* "sha256:<64 hex>"; NULL when none was given */
};

/* INVALID_ARGUMENT says which rule the text breaks. */
int reference_parse(const char *text, struct reference *ret, struct error *err);
void reference_release(struct reference *r);
#define _cleanup_reference_ _cleanup_(reference_release)

/* "docker.io/library/nginx:latest", with "@sha256:..." where there is a digest. The name under which an image is kept.
 * Caller frees. NULL without memory. */
char *reference_format(const struct reference *r);

/* The two at once: "nginx" to "docker.io/library/nginx:latest". Caller frees. */
int reference_normalize(const char *text, char **ret, struct error *err);

#endif
