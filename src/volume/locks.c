/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/locks.h"

#include <string.h>

void volume_locks_init(struct volume_locks *locks)
{
	pthread_mutex_init(&locks->mutex, NULL);
	pthread_cond_init(&locks->changed, NULL);
	locks->held = NULL;
}

void volume_locks_release(struct volume_locks *locks)
{
	pthread_mutex_destroy(&locks->mutex);
	pthread_cond_destroy(&locks->changed);
}

static bool is_held(const struct volume_locks *locks, const char *name)
{
	for (const struct volume_lock *l = locks->held; l; l = l->next)
		if (!strcmp(l->name, name))
			return true;
	return false;
}

void volume_lock(struct volume_locks *locks, struct volume_lock *me)
{
	pthread_mutex_lock(&locks->mutex);
	while (is_held(locks, me->name))
		pthread_cond_wait(&locks->changed, &locks->mutex);
	me->next = locks->held;
	locks->held = me;
	pthread_mutex_unlock(&locks->mutex);
}

bool volume_trylock(struct volume_locks *locks, struct volume_lock *me)
{
	bool taken;

	pthread_mutex_lock(&locks->mutex);
	taken = !is_held(locks, me->name);
	if (taken) {
		me->next = locks->held;
		locks->held = me;
	}
	pthread_mutex_unlock(&locks->mutex);
	return taken;
}

void volume_unlock(struct volume_locks *locks, struct volume_lock *me)
{
	struct volume_lock **l = &locks->held;

	pthread_mutex_lock(&locks->mutex);
	while (*l != me)
		l = &(*l)->next;
	*l = me->next;
	pthread_cond_broadcast(&locks->changed);
	pthread_mutex_unlock(&locks->mutex);
}
