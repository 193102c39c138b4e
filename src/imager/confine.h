/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What capsule-image gives up before it reads the first foreign byte. To be called while the process has one thread.
 *
 * It ends with its parent, cannot gain rights by execve(2), and keeps of root's capabilities only those that writing a
 * layer takes. A push needs nothing but the image store and gets nothing else (chroot); a pull needs the resolver's
 * files and certificates as well.
 */
#ifndef CAPSULE_IMAGER_CONFINE_H
#define CAPSULE_IMAGER_CONFINE_H

#include "base/error.h"

/* root: the directory that becomes "/", or NULL to keep the host's. Without the rights to do so (not root) it is an
 * error. */
int confine(const char *root, struct error *err);

#endif
