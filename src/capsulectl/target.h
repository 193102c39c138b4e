/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Which daemon to talk to, and what to tell the user when it is not there.
 *
 * The first of these that says something: --capsule, CAPSULE_HOST, this host's socket if it exists, localhost:50000.
 */
#ifndef CAPSULE_CAPSULECTL_TARGET_H
#define CAPSULE_CAPSULECTL_TARGET_H

#include "base/error.h"

#define TARGET_SOCKET "/run/capsule/capsule.sock"
#define TARGET_LOCAL "localhost:50000"

enum target_origin { TARGET_OPTION, TARGET_ENVIRONMENT, TARGET_THIS_SOCKET, TARGET_THIS_PORT };

struct target {
	char *address; /* "unix:PATH" or "HOST:PORT"; owned */
	enum target_origin origin;
};

void target_release(struct target *target);

/* option and environment may be NULL or empty. INVALID_ARGUMENT for what is not an address; nothing is connected. */
int target_resolve(const char *option, const char *environment, const char *socket_path, struct target *ret,
		   struct error *err);

/* UNAVAILABLE or PERMISSION_DENIED: one sentence on why connect failed with this errno, and what to do. Returns -1. */
int target_error(const struct target *target, int errnum, struct error *err);

#endif
