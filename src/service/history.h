/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What has happened to workloads since the daemon started: a ring of the last HISTORY_MAX occurrences, in memory. A reader
 * keeps only the number of the last one that it has seen, so a slow one costs nothing: what it misses is gone.
 *
 * Threads: the loop's.
 */
#ifndef CAPSULE_SERVICE_HISTORY_H
#define CAPSULE_SERVICE_HISTORY_H

#include "workload.pb-c.h"

#define HISTORY_MAX 1000

struct history;

/* NULL without memory. */
struct history *history_new(void);
void history_free(struct history *history); /* NULL is fine */

/* For reconciler_host.happened; arg is the history. */
void history_add(const char *name, Capsule__V1__WorkloadOccurrenceType type, const char *message, void *arg);

/* The first one after this sequence number that is still known; NULL: there is none. Valid until the next history_add(). */
const Capsule__V1__WorkloadOccurrence *history_next(const struct history *history, uint64_t after);

/* How often this has happened since the start; for metrics. */
uint64_t history_count(const struct history *history, Capsule__V1__WorkloadOccurrenceType type);

/* Called after each new one. The listener is the caller's; it may be removed in its own call. */
struct history_listener {
	void (*fn)(void *arg);
	void *arg;
	struct history_listener *prev, *next; /* the history's */
};
void history_listen(struct history *history, struct history_listener *listener);
void history_unlisten(struct history *history, struct history_listener *listener);

#endif
