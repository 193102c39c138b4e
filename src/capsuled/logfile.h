/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The daemon's own log on disk: a sink of base/log.h with rotation (FILE, FILE.1, ...). A full disk loses lines, never the
 * daemon. One a process. Thread-safe through the log's lock.
 */
#ifndef CAPSULE_CAPSULED_LOGFILE_H
#define CAPSULE_CAPSULED_LOGFILE_H

#include "base/error.h"

#include <stdint.h>

int logfile_open(const char *path, uint64_t max_bytes, unsigned max_files, struct error *err);
void logfile_close(void);

#endif
