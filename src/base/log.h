/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The log of a program: one line a record, "2026-01-31T12:00:00.123Z level message", on standard error and on every
 * sink that was added. Thread-safe. Libraries below the service layer do not log; they return errors.
 */
#ifndef CAPSULE_BASE_LOG_H
#define CAPSULE_BASE_LOG_H

#include <stddef.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Records above this level are dropped. Default: LOG_INFO. */
void log_set_level(enum log_level level);

/* "error", "warn", "info", "debug". Returns 0 and sets *ret_level, or -1. */
int log_level_parse(const char *name, enum log_level *ret_level);

/* One sink besides standard error: called with the whole line, newline included, under the log's lock, so in order
 * and never by two threads at once; it must not log. NULL removes it. */
typedef void (*log_sink_fn)(const char *line, size_t len, void *arg);
void log_set_sink(log_sink_fn fn, void *arg);

/* A record is one line: control characters in the message are written as '?'. A line is cut at 4,096 bytes. */
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

#endif
