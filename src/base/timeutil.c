/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/timeutil.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

int64_t time_realtime_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

int64_t time_monotonic_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

int64_t time_boottime_ns(void)
{
	return clock_ns(CLOCK_BOOTTIME);
}

char *time_format_rfc3339(int64_t realtime_ns, unsigned digits, char out[TIME_RFC3339_MAX])
{
	time_t sec = (time_t)(realtime_ns / NSEC_PER_SEC);
	int64_t nsec = realtime_ns % NSEC_PER_SEC;
	char fraction[10];
	struct tm tm;
	size_t n;

	if (nsec < 0) {
		nsec += NSEC_PER_SEC;
		sec--;
	}
	/* An int64_t of nanoseconds ends in the year 2262, so the year always has four digits. */
	gmtime_r(&sec, &tm);
	n = strftime(out, TIME_RFC3339_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
	if (digits > 9)
		digits = 9;
	snprintf(fraction, sizeof fraction, "%09d", (int)nsec);
	if (digits)
		snprintf(out + n, TIME_RFC3339_MAX - n, ".%.*sZ", (int)digits, fraction);
	else
		snprintf(out + n, TIME_RFC3339_MAX - n, "Z");
	return out;
}

/* Exactly `count` digits at *s. */
static int digits(const char **s, int count, int *ret)
{
	int v = 0;

	for (int i = 0; i < count; i++, (*s)++) {
		if (!isdigit((unsigned char)**s))
			return -1;
		v = v * 10 + (**s - '0');
	}
	*ret = v;
	return 0;
}

static int literal(const char **s, char c)
{
	if (toupper((unsigned char)**s) != c)
		return -1;
	(*s)++;
	return 0;
}

int time_parse_rfc3339(const char *s, int64_t *ret_realtime_ns)
{
	int64_t nsec = 0, unit = NSEC_PER_SEC, offset = 0;
	struct tm tm = { 0 };
	time_t sec;

	if (digits(&s, 4, &tm.tm_year) < 0 || literal(&s, '-') < 0 || digits(&s, 2, &tm.tm_mon) < 0 ||
	    literal(&s, '-') < 0 || digits(&s, 2, &tm.tm_mday) < 0)
		return -1;
	if (*s == ' ')
		s++;
	else if (literal(&s, 'T') < 0)
		return -1;
	if (digits(&s, 2, &tm.tm_hour) < 0 || literal(&s, ':') < 0 || digits(&s, 2, &tm.tm_min) < 0 ||
	    literal(&s, ':') < 0 || digits(&s, 2, &tm.tm_sec) < 0)
		return -1;
	if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 || tm.tm_min > 59 ||
	    tm.tm_sec > 60)
		return -1;
	if (*s == '.') {
		s++;
		if (!isdigit((unsigned char)*s))
			return -1;
		for (; isdigit((unsigned char)*s); s++)
			if (unit > 1) {
				unit /= 10;
				nsec += (*s - '0') * unit;
			}
	}
	if (*s == '+' || *s == '-') {
		bool west = *s++ == '-';
		int h, m;

		if (digits(&s, 2, &h) < 0 || literal(&s, ':') < 0 || digits(&s, 2, &m) < 0 || h > 23 || m > 59)
			return -1;
		offset = (west ? -1 : 1) * (h * 3600 + m * 60);
	} else if (literal(&s, 'Z') < 0) {
		return -1;
	}
	if (*s)
		return -1;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	sec = timegm(&tm);
	if (sec > INT64_MAX / NSEC_PER_SEC - 86400 * 2 || sec < INT64_MIN / NSEC_PER_SEC + 86400 * 2)
		return -1;
	*ret_realtime_ns = (sec - offset) * NSEC_PER_SEC + nsec;
	return 0;
}

static int64_t unit_of(const char **s)
{
	static const struct {
		const char *name;
		int64_t ns;
	} units[] = {
		{ "ms", NSEC_PER_MSEC }, { "s", NSEC_PER_SEC }, { "m", 60 * NSEC_PER_SEC },
		{ "h", 3600 * NSEC_PER_SEC }, { "d", 86400 * NSEC_PER_SEC },
	};

	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
		size_t n = strlen(units[i].name);

		if (!strncmp(*s, units[i].name, n) && !isalpha((unsigned char)(*s)[n])) {
			*s += n;
			return units[i].ns;
		}
	}
	return 0;
}

int time_parse_duration(const char *s, int64_t *ret_ns)
{
	int64_t total = 0;

	if (!*s)
		return -1;
	do {
		int64_t whole = 0, fraction = 0, scale = 1, unit, part;

		if (!isdigit((unsigned char)*s))
			return -1;
		for (; isdigit((unsigned char)*s); s++)
			if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *s - '0', &whole))
				return -1;
		if (*s == '.') {
			s++;
			if (!isdigit((unsigned char)*s))
				return -1;
			for (; isdigit((unsigned char)*s); s++)
				if (scale < NSEC_PER_MSEC) {
					fraction = fraction * 10 + (*s - '0');
					scale *= 10;
				}
		}
		unit = *s ? unit_of(&s) : NSEC_PER_SEC;
		if (unit == 0 || __builtin_mul_overflow(whole, unit, &part) ||
		    __builtin_add_overflow(total, part, &total) ||
		    __builtin_add_overflow(total, unit / scale * fraction, &total))
			return -1;
	} while (*s);
	*ret_ns = total;
	return 0;
}

char *time_format_age(int64_t ns, char out[TIME_AGE_MAX])
{
	int64_t s = ns < 0 ? 0 : ns / NSEC_PER_SEC;

	if (s < 120)
		snprintf(out, TIME_AGE_MAX, "%llds", (long long)s);
	else if (s < 2 * 3600)
		snprintf(out, TIME_AGE_MAX, "%lldm", (long long)(s / 60));
	else if (s < 2 * 86400)
		snprintf(out, TIME_AGE_MAX, "%lldh", (long long)(s / 3600));
	else
		snprintf(out, TIME_AGE_MAX, "%lldd", (long long)(s / 86400));
	return out;
}
