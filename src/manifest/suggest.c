/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/suggest.h"

#include <limits.h>
#include <string.h>

/* Lower case without separators; returns the length, or SUGGEST_WORD_MAX + 1 for a word that is too long. */
static size_t fold(const char *word, char out[SUGGEST_WORD_MAX])
{
	size_t n = 0;

	for (; *word; word++) {
		if (*word == '_' || *word == '-')
			continue;
		if (n == SUGGEST_WORD_MAX)
			return SUGGEST_WORD_MAX + 1;
		out[n++] = *word >= 'A' && *word <= 'Z' ? (char)(*word - 'A' + 'a') : *word;
	}
	return n;
}

static unsigned min2(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static unsigned distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
	unsigned rows[3][SUGGEST_WORD_MAX + 1];
	unsigned *before = rows[0], *above = rows[1], *row = rows[2], *spare;

	for (size_t j = 0; j <= n_b; j++)
		above[j] = (unsigned)j;
	for (size_t i = 1; i <= n_a; i++) {
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= n_b; j++) {
			row[j] = min2(above[j - 1] + (a[i - 1] != b[j - 1]), min2(above[j], row[j - 1]) + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = min2(row[j], before[j - 2] + 1);
		}
		spare = before;
		before = above;
		above = row;
		row = spare;
	}
	return above[n_b];
}

void suggest_init(struct suggest *s, const char *word)
{
	*s = (struct suggest){ .word = word, .distance = UINT_MAX };
}

void suggest_offer(struct suggest *s, const char *candidate)
{
	char a[SUGGEST_WORD_MAX], b[SUGGEST_WORD_MAX];
	size_t n_a = fold(s->word, a), n_b = fold(candidate, b);
	unsigned d;

	if (n_a == 0 || n_a > SUGGEST_WORD_MAX || n_b > SUGGEST_WORD_MAX)
		return;
	d = distance(a, n_a, b, n_b);
	/* One mistake in three characters is a slip of the hand; more is another word. */
	if (d > (n_a + 2) / 3 || d >= s->distance)
		return;
	s->distance = d;
	s->nearest = candidate;
}

bool suggest_is_same(const char *a, const char *b)
{
	char x[SUGGEST_WORD_MAX], y[SUGGEST_WORD_MAX];
	size_t n = fold(a, x);

	return n <= SUGGEST_WORD_MAX && n == fold(b, y) && memcmp(x, y, n) == 0;
}
