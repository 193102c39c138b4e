/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/mistake.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char units[] = "KMGT";

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static char upper(char c)
{
	return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

/* "", "B", "M", "MB", "Mi", "MiB" in any case. Returns the shift, or -1. */
static int parse_unit(const char *s)
{
	const char *unit = *s ? strchr(units, upper(*s)) : NULL;
	int shift = 0;

	if (unit) {
		shift = 10 * (int)(unit - units + 1);
		s++;
		if (upper(*s) == 'I')
			s++;
	}
	if (upper(*s) == 'B')
		s++;
	return *s ? -1 : shift;
}

/* The digits after the point, as a share of 2^shift, rounded up to a whole byte. */
static uint64_t parse_fraction(const char *digits, size_t n, int shift)
{
	unsigned __int128 numerator = 0, denominator = 1;

	for (size_t i = 0; i < n; i++) {
		numerator = numerator * 10 + (unsigned)(digits[i] - '0');
		denominator *= 10;
	}
	return (uint64_t)(((numerator << shift) + denominator - 1) / denominator);
}

int manifest_parse_size(const char *text, uint64_t *ret_bytes, struct error *err)
{
	const char *s = text, *fraction = NULL;
	uint64_t value = 0;
	size_t n_fraction = 0;
	struct excerpt e;
	int shift;

	if (!is_digit(*s))
		goto malformed;
	for (; is_digit(*s); s++)
		if (__builtin_mul_overflow(value, UINT64_C(10), &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*s - '0'), &value))
			goto too_large;
	if (*s == '.') {
		fraction = ++s;
		for (; is_digit(*s); s++)
			n_fraction++;
		/* 18 digits and a shift of 40 stay far below 128 bits. */
		if (n_fraction == 0 || n_fraction > 18)
			goto malformed;
	}
	if (*s == ' ' && s[strspn(s, " ")])
		s += strspn(s, " ");
	shift = parse_unit(s);
	if (shift < 0)
		goto malformed;
	if (fraction && shift == 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "%s has a fraction but no unit; write for example 1.5GiB",
				 excerpt(&e, text, strlen(text)));
	if (value > UINT64_MAX >> shift)
		goto too_large;
	value <<= shift;
	if (__builtin_add_overflow(value, parse_fraction(fraction, n_fraction, shift), &value))
		goto too_large;
	*ret_bytes = value;
	return 0;

malformed:
	return error_set(err, ERR_INVALID_ARGUMENT,
			 "%s is not a size: write a number and a unit, for example 500M, 2GiB or 1.5TiB",
			 excerpt(&e, text, strlen(text)));
too_large:
	return error_set(err, ERR_INVALID_ARGUMENT, "%s is too large a size", excerpt(&e, text, strlen(text)));
}

/* Hundredths of 2^shift when the value is a whole number of them. */
static bool exact_hundredths(uint64_t bytes, int shift, uint64_t *ret)
{
	unsigned __int128 scaled = (unsigned __int128)bytes * 100;

	if (scaled & (((unsigned __int128)1 << shift) - 1))
		return false;
	*ret = (uint64_t)(scaled >> shift);
	return true;
}

static void print_hundredths(char *out, uint64_t hundredths, const char *suffix)
{
	unsigned part = (unsigned)(hundredths % 100);

	if (part == 0)
		snprintf(out, MANIFEST_SIZE_TEXT, "%" PRIu64 "%s", hundredths / 100, suffix);
	else if (part % 10 == 0)
		snprintf(out, MANIFEST_SIZE_TEXT, "%" PRIu64 ".%u%s", hundredths / 100, part / 10, suffix);
	else
		snprintf(out, MANIFEST_SIZE_TEXT, "%" PRIu64 ".%02u%s", hundredths / 100, part, suffix);
}

char *manifest_format_size(uint64_t bytes, char out[MANIFEST_SIZE_TEXT])
{
	static const char *const suffixes[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	unsigned __int128 tenths;
	uint64_t hundredths;
	int unit = 0, shift;

	while (unit < 4 && bytes >> (10 * (unit + 1)))
		unit++;
	shift = 10 * unit;
	if (exact_hundredths(bytes, shift, &hundredths)) {
		print_hundredths(out, hundredths, suffixes[unit]);
		return out;
	}
	/* 1100MiB is better than the 1.1GiB that it is not. */
	if (unit > 1 && (bytes & ((UINT64_C(1) << (shift - 10)) - 1)) == 0 && bytes >> (shift - 10) < 10000) {
		snprintf(out, MANIFEST_SIZE_TEXT, "%" PRIu64 "%s", bytes >> (shift - 10), suffixes[unit - 1]);
		return out;
	}
	/* One digit after the point, rounded. */
	tenths = (unsigned __int128)bytes * 10 + ((unsigned __int128)1 << (shift - 1));
	hundredths = (uint64_t)(tenths >> shift) * 10;
	print_hundredths(out, hundredths, suffixes[unit]);
	return out;
}
