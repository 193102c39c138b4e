/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What a kernel leaves to its first process. Once, before anything else. */
#ifndef CAPSULE_GUEST_BOOT_H
#define CAPSULE_GUEST_BOOT_H

#include "base/error.h"

int boot(struct error *err);

#endif
