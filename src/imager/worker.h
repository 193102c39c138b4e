/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What every transfer's process does first. */
#ifndef CAPSULE_IMAGER_WORKER_H
#define CAPSULE_IMAGER_WORKER_H

#include "base/error.h"

/*
 * Binds this process to the one that started it: it is killed when that one dies, so a daemon that is gone leaves no
 * transfer behind. To be called before any thread and before the credentials are changed. A starter that died even
 * before this call leaves a closed standard output, which ends the process at its first report.
 */
int worker_setup(struct error *err);

#endif
