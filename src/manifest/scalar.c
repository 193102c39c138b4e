/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/scalar.h"

#include <string.h>

static bool is_one_of(const char *text, size_t len, const char *const *words)
{
	for (; *words; words++)
		if (strlen(*words) == len && memcmp(*words, text, len) == 0)
			return true;
	return false;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return 16;
}

/* How many of the characters are digits of the base. */
static size_t digits(const char *text, size_t len, int base)
{
	size_t n = 0;

	while (n < len && digit(text[n]) < base)
		n++;
	return n;
}

/* The base, and where the digits begin. */
static int int_base(const char *text, size_t len, size_t *ret_start)
{
	*ret_start = 0;
	if (len > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'o')) {
		*ret_start = 2;
		return text[1] == 'x' ? 16 : 8;
	}
	if (len > 1 && (text[0] == '-' || text[0] == '+'))
		*ret_start = 1;
	return 10;
}

static bool is_int(const char *text, size_t len)
{
	size_t start;
	int base = int_base(text, len, &start);

	return len > start && digits(text + start, len - start, base) == len - start;
}

static bool is_float(const char *text, size_t len)
{
	static const char *const specials[] = { ".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN", NULL };
	size_t i = 0, whole, part = 0;

	if (is_one_of(text, len, specials))
		return true;
	if (len && (text[0] == '-' || text[0] == '+'))
		i++;
	/* The first three are the infinities, which may have a sign. */
	if (i && len == 5 && (memcmp(text + 1, ".inf", 4) == 0 || memcmp(text + 1, ".Inf", 4) == 0 ||
			      memcmp(text + 1, ".INF", 4) == 0))
		return true;
	whole = digits(text + i, len - i, 10);
	i += whole;
	if (i < len && text[i] == '.') {
		part = digits(text + i + 1, len - i - 1, 10);
		i += 1 + part;
	}
	if (whole + part == 0)
		return false;
	if (i < len && (text[i] == 'e' || text[i] == 'E')) {
		i++;
		if (i < len && (text[i] == '-' || text[i] == '+'))
			i++;
		part = digits(text + i, len - i, 10);
		if (part == 0)
			return false;
		i += part;
	}
	return i == len;
}

enum scalar scalar_resolve(const char *text, size_t len)
{
	static const char *const nulls[] = { "", "~", "null", "Null", "NULL", NULL };
	static const char *const bools[] = { "true", "True", "TRUE", "false", "False", "FALSE", NULL };

	if (is_one_of(text, len, nulls))
		return SCALAR_NULL;
	if (is_one_of(text, len, bools))
		return SCALAR_BOOL;
	if (is_int(text, len))
		return SCALAR_INT;
	if (is_float(text, len))
		return SCALAR_FLOAT;
	return SCALAR_STRING;
}

bool scalar_bool(const char *text)
{
	return text[0] == 't' || text[0] == 'T';
}

int scalar_int(const char *text, size_t len, bool *ret_negative, uint64_t *ret_magnitude)
{
	uint64_t value = 0;
	size_t start;
	unsigned base = (unsigned)int_base(text, len, &start);

	for (size_t i = start; i < len; i++)
		if (__builtin_mul_overflow(value, base, &value) ||
		    __builtin_add_overflow(value, (uint64_t)digit(text[i]), &value))
			return -1;
	*ret_negative = text[0] == '-' && value > 0;
	*ret_magnitude = value;
	return 0;
}
