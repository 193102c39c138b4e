/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "service/history.h"

#include "base/cleanup.h"
#include "base/timeutil.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define TYPES (CAPSULE__V1__WORKLOAD_OCCURRENCE_TYPE__WORKLOAD_OCCURRENCE_TYPE_DELETED + 1)

struct history {
	Capsule__V1__WorkloadOccurrence ring[HISTORY_MAX]; /* number n at n % HISTORY_MAX; its strings are owned */
	uint64_t last;                                     /* sequence number; 0: nothing has happened */
	uint64_t counts[TYPES];
	struct history_listener *listeners;
};

struct history *history_new(void)
{
	return calloc(1, sizeof(struct history));
}

static void entry_clear(Capsule__V1__WorkloadOccurrence *entry)
{
	/* One that was never filled holds NULL. */
	free(entry->name);
	free(entry->message);
}

void history_free(struct history *history)
{
	if (!history)
		return;
	for (size_t i = 0; i < HISTORY_MAX; i++)
		entry_clear(&history->ring[i]);
	free(history);
}

void history_add(const char *name, Capsule__V1__WorkloadOccurrenceType type, const char *message, void *arg)
{
	struct history *history = arg;
	Capsule__V1__WorkloadOccurrence *entry = &history->ring[++history->last % HISTORY_MAX];
	struct history_listener *listener, *next;

	entry_clear(entry);
	capsule__v1__workload_occurrence__init(entry);
	entry->sequence = history->last;
	entry->time_unix_ns = time_realtime_ns();
	entry->name = strdup(name);
	entry->type = type;
	entry->message = strdup(message);
	if (!entry->name || !entry->message)
		abort();
	history->counts[type]++;
	DL_FOREACH_SAFE(history->listeners, listener, next)
		listener->fn(listener->arg);
}

const Capsule__V1__WorkloadOccurrence *history_next(const struct history *history, uint64_t after)
{
	uint64_t oldest = history->last < HISTORY_MAX ? 1 : history->last - HISTORY_MAX + 1;
	uint64_t n = after + 1 < oldest ? oldest : after + 1;

	return n <= history->last ? &history->ring[n % HISTORY_MAX] : NULL;
}

uint64_t history_count(const struct history *history, Capsule__V1__WorkloadOccurrenceType type)
{
	return history->counts[type];
}

void history_listen(struct history *history, struct history_listener *listener)
{
	DL_APPEND(history->listeners, listener);
}

void history_unlisten(struct history *history, struct history_listener *listener)
{
	DL_DELETE(history->listeners, listener);
}
