/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Clocks, RFC 3339 times and durations. Thread-safe; nothing here blocks. */
#ifndef CAPSULE_BASE_TIMEUTIL_H
#define CAPSULE_BASE_TIMEUTIL_H

#include <stdint.h>

#define NSEC_PER_SEC INT64_C(1000000000)
#define NSEC_PER_MSEC INT64_C(1000000)

int64_t time_realtime_ns(void);  /* since the epoch */
int64_t time_monotonic_ns(void); /* CLOCK_MONOTONIC: for deadlines and back-off */
int64_t time_boottime_ns(void);  /* CLOCK_BOOTTIME: goes on during suspend */

#define TIME_RFC3339_MAX sizeof("2026-01-31T12:00:00.123456789Z")

/* UTC with the given number of fraction digits (0 to 9) and a "Z". Returns out. */
char *time_format_rfc3339(int64_t realtime_ns, unsigned digits, char out[TIME_RFC3339_MAX]);

/* RFC 3339 section 5.6 with any number of fraction digits, "Z" or a numeric offset. 0, or -1. */
int time_parse_rfc3339(const char *s, int64_t *ret_realtime_ns);

/* "90s", "1m30s", "2h", "500ms", "1.5h"; a number without a unit is seconds. Never negative. 0, or -1. */
int time_parse_duration(const char *s, int64_t *ret_ns);

/* The largest unit that fits, as tables show an age: "42s", "5m", "3h", "12d". Returns out. */
#define TIME_AGE_MAX 32
char *time_format_age(int64_t ns, char out[TIME_AGE_MAX]);

#endif
