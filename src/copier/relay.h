/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A copy in a microVM: the guest has the files, so it does the work. Its holder gets this process's three streams and passes
 * the bytes on; this process waits for the end and tells it as its own.
 */
#ifndef CAPSULE_COPIER_RELAY_H
#define CAPSULE_COPIER_RELAY_H

#include <stdbool.h>

/* The exit status (copier/protocol.h); when the guest could not be asked, the reason is on standard error. */
int relay_to_guest(bool in, const char *path);

#endif
