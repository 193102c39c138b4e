/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/log.h"

#include "base/fs.h"
#include "base/timeutil.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <string.h>

static const char *const level_names[] = { "error", "warn", "info", "debug" };
static _Atomic enum log_level max_level = LOG_INFO;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static log_sink_fn sink;
static void *sink_arg;

void log_set_level(enum log_level level)
{
	max_level = level;
}

int log_level_parse(const char *name, enum log_level *ret_level)
{
	for (size_t i = 0; i < sizeof level_names / sizeof level_names[0]; i++)
		if (!strcmp(name, level_names[i])) {
			*ret_level = (enum log_level)i;
			return 0;
		}
	return -1;
}

void log_set_sink(log_sink_fn fn, void *arg)
{
	pthread_mutex_lock(&lock);
	sink = fn;
	sink_arg = arg;
	pthread_mutex_unlock(&lock);
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[4096], when[TIME_RFC3339_MAX];
	size_t len, start;
	va_list ap;
	int n;

	if (level > max_level)
		return;
	time_format_rfc3339(time_realtime_ns(), 3, when);
	n = snprintf(line, sizeof line, "%s %-5s ", when, level_names[level]);
	start = (size_t)n;
	va_start(ap, fmt);
	n = vsnprintf(line + start, sizeof line - start - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	len = start + (size_t)n;
	if (len > sizeof line - 2)
		len = sizeof line - 2;
	for (size_t i = start; i < len; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[len++] = '\n';
	pthread_mutex_lock(&lock);
	(void)fs_write_all(STDERR_FILENO, line, len);
	if (sink)
		sink(line, len, sink_arg);
	pthread_mutex_unlock(&lock);
}
