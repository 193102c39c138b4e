/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/cli.h"
#include "manifest/suggest.h"

const char *word_nearest(const char *word, const char *const *candidates)
{
	size_t n = strlen(word);
	struct suggest s;

	suggest_init(&s, word);
	for (; *candidates; candidates++) {
		/* The beginning of a word says more than letters that happen to be equal. */
		if (n >= 2 && strncmp(word, *candidates, n) == 0)
			return *candidates;
		suggest_offer(&s, *candidates);
	}
	return s.nearest;
}

bool word_in_list(const char *word, const char *list)
{
	size_t n = strlen(word);

	for (const char *p = list; *p;) {
		size_t len = strcspn(p, "|");

		if (len == n && memcmp(p, word, n) == 0)
			return true;
		p += len + (p[len] == '|');
	}
	return false;
}
