/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What the operator says about registries: the file that capsule-image gets with --registries.
 *
 *   {
 *     "registries": {
 *       "docker.io": { "mirrors": ["https://mirror.example", "http://10.0.0.5:5000"] },
 *       "registry.example:5000": { "plainHttp": true },
 *       "other.example": { "caFile": "/etc/ssl/other.pem" }
 *     },
 *     "credentialsFile": "/root/.docker/config.json",
 *     "stallTimeoutSeconds": 30
 *   }
 *
 * Every member may be absent; unknown members are refused, so that a misspelling is noticed.
 * - The names under "registries" are those of references: "docker.io", "host", "host:port".
 * - "mirrors": base URLs (http or https, a path prefix is allowed), asked in order before the registry itself.
 * - "plainHttp": speak HTTP instead of HTTPS. Without it HTTP is spoken with loopback names only (localhost,
 *   127.0.0.0/8, ::1); false makes even those HTTPS.
 * - "caFile": certificates (PEM) trusted for this registry and its mirrors besides the system's.
 * - "credentialsFile": in Docker's format, see credentials.h. Absent: no credentials.
 * - "stallTimeoutSeconds": 1 to 600, default 30. A connection over which nothing comes for so long is given up.
 *
 * Immutable once loaded: any thread may read.
 */
#ifndef CAPSULE_IMAGER_REGISTRIES_H
#define CAPSULE_IMAGER_REGISTRIES_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

#define REGISTRIES_FILE_MAX (1u << 20)
#define REGISTRIES_ENDPOINTS_MAX 16
#define REGISTRIES_STALL_DEFAULT_S 30

struct registries {
	char *credentials_file; /* NULL: none */
	long stall_timeout_s;
	struct registry_rule *rules;
	size_t n_rules;
};

/* Where the images of a registry are asked for. */
struct registry_endpoint {
	char *url;     /* "https://host[:port][/prefix]", no '/' at the end */
	char *host;    /* under which its credentials are kept: "docker.io", "host:port" */
	char *ca_file; /* NULL: the system's certificates alone */
	bool is_mirror;
};

struct registry_endpoints {
	struct registry_endpoint list[REGISTRIES_ENDPOINTS_MAX];
	size_t n;
};

/* path NULL: the defaults. INVALID_ARGUMENT names the member that is wrong. */
int registries_load(const char *path, struct registries *ret, struct error *err);
int registries_parse(const char *text, size_t len, struct registries *ret, struct error *err);
void registries_release(struct registries *r);
#define _cleanup_registries_ _cleanup_(registries_release)

/* The mirrors in order, then the registry itself: at least one. */
int registries_endpoints(const struct registries *r, const char *registry, struct registry_endpoints *ret,
			 struct error *err);
void registry_endpoints_release(struct registry_endpoints *endpoints);
#define _cleanup_registry_endpoints_ _cleanup_(registry_endpoints_release)

#endif
