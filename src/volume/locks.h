/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* One operation a volume at a time; different volumes do not wait for each other. Thread-safe. */
#ifndef CAPSULE_VOLUME_LOCKS_H
#define CAPSULE_VOLUME_LOCKS_H

#include <pthread.h>
#include <stdbool.h>

/* An operation under way, on its thread's stack. */
struct volume_lock {
	const char *name;
	struct volume_lock *next;
};

struct volume_locks {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct volume_lock *held;
};

void volume_locks_init(struct volume_locks *locks);
void volume_locks_release(struct volume_locks *locks);

/* Waits for its turn. me->name is set, and valid until volume_unlock(). */
void volume_lock(struct volume_locks *locks, struct volume_lock *me);

/* false where it would have to wait. */
bool volume_trylock(struct volume_locks *locks, struct volume_lock *me);
void volume_unlock(struct volume_locks *locks, struct volume_lock *me);

#endif
