/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/queue.h"

#include <stdlib.h>

#define UNUSED_MAX 64

static struct {
	pthread_mutex_t lock;
	struct chunk *first;
	unsigned n;
} unused = { .lock = PTHREAD_MUTEX_INITIALIZER };

struct chunk *chunk_new(void)
{
	struct chunk *c;

	pthread_mutex_lock(&unused.lock);
	c = unused.first;
	if (c) {
		unused.first = c->next;
		unused.n--;
	}
	pthread_mutex_unlock(&unused.lock);
	if (!c)
		c = aligned_alloc(CHUNK_ALIGNMENT, sizeof *c);
	if (!c)
		return NULL;
	atomic_init(&c->references, 1);
	c->len = 0;
	return c;
}

void chunk_hold(struct chunk *c)
{
	atomic_fetch_add_explicit(&c->references, 1, memory_order_relaxed);
}

void chunk_drop(struct chunk *c)
{
	if (!c || atomic_fetch_sub_explicit(&c->references, 1, memory_order_acq_rel) != 1)
		return;
	pthread_mutex_lock(&unused.lock);
	if (unused.n < UNUSED_MAX) {
		c->next = unused.first;
		unused.first = c;
		unused.n++;
		c = NULL;
	}
	pthread_mutex_unlock(&unused.lock);
	free(c);
}

void queue_init(struct queue *q)
{
	*q = (struct queue){ .first = 0 };
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->changed, NULL);
}

static void drop_all(struct queue *q)
{
	for (; q->used; q->used--) {
		chunk_drop(q->slots[q->first]);
		q->first = (q->first + 1) % QUEUE_DEPTH;
	}
}

void queue_release(struct queue *q)
{
	drop_all(q);
	pthread_cond_destroy(&q->changed);
	pthread_mutex_destroy(&q->lock);
}

bool queue_put(struct queue *q, struct chunk *c)
{
	bool taken;

	pthread_mutex_lock(&q->lock);
	while (q->used == QUEUE_DEPTH && !q->aborted)
		pthread_cond_wait(&q->changed, &q->lock);
	taken = !q->aborted;
	if (taken) {
		chunk_hold(c);
		q->slots[(q->first + q->used++) % QUEUE_DEPTH] = c;
		pthread_cond_signal(&q->changed);
	}
	pthread_mutex_unlock(&q->lock);
	return taken;
}

struct chunk *queue_get(struct queue *q)
{
	struct chunk *c = NULL;

	pthread_mutex_lock(&q->lock);
	while (q->used == 0 && !q->closed && !q->aborted)
		pthread_cond_wait(&q->changed, &q->lock);
	if (q->used) {
		c = q->slots[q->first];
		q->first = (q->first + 1) % QUEUE_DEPTH;
		q->used--;
		pthread_cond_signal(&q->changed);
	}
	pthread_mutex_unlock(&q->lock);
	return c;
}

void queue_close(struct queue *q)
{
	pthread_mutex_lock(&q->lock);
	q->closed = true;
	pthread_cond_signal(&q->changed);
	pthread_mutex_unlock(&q->lock);
}

void queue_abort(struct queue *q)
{
	pthread_mutex_lock(&q->lock);
	q->aborted = true;
	drop_all(q);
	pthread_cond_signal(&q->changed);
	pthread_mutex_unlock(&q->lock);
}
