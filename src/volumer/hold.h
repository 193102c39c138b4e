/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsule-volume hold and thaw: see volume/worker.h and volume/freeze.h. */
#ifndef CAPSULE_VOLUMER_HOLD_H
#define CAPSULE_VOLUMER_HOLD_H

#include "base/error.h"

#include <stdbool.h>

/* *ret_late: the time was up. Writes the line STILL_FROZEN once it is frozen; on failure nothing is. */
int hold(const char *device, int seconds, bool *ret_late, struct error *err);

/* Undoes what a hold left that was killed. */
int thaw(const char *device, struct error *err);

#endif
