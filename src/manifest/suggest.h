/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * "Did you mean ...?": the nearest of the words that are offered one after another, by the edit distance with
 * transpositions (optimal string alignment), without regard to case, '_' and '-'. Words are held by reference.
 */
#ifndef CAPSULE_MANIFEST_SUGGEST_H
#define CAPSULE_MANIFEST_SUGGEST_H

#include <stdbool.h>
#include <stddef.h>

#define SUGGEST_WORD_MAX 64 /* a longer word is near to nothing */

struct suggest {
	const char *word;
	const char *nearest; /* NULL: nothing is near enough */
	unsigned distance;
};

void suggest_init(struct suggest *s, const char *word);
void suggest_offer(struct suggest *s, const char *candidate);

/* Whether the two differ in case, '_' and '-' only. */
bool suggest_is_same(const char *a, const char *b);

#endif
