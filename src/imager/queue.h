/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Chunks of bytes and bounded queues of them, which join the stages of a blob's way (blob.c), a thread each.
 *
 * A chunk is filled by one thread, then shared read-only by all queues it was put into; the last one to drop it gives
 * it back. Some unused ones are kept for the next: fresh memory is dear, for the kernel has to clear it.
 * A queue has one producer and one consumer. The producer waits while it is full, the consumer while it is empty.
 * Either end may leave: after queue_close() the consumer gets what is left and then the end; after queue_abort()
 * chunks are refused and the consumer gets the end at once. So neither ever waits for a thread that is gone.
 */
#ifndef CAPSULE_IMAGER_QUEUE_H
#define CAPSULE_IMAGER_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHUNK_SIZE ((size_t)256 << 10)
#define CHUNK_ALIGNMENT 4096 /* of data, for writing past the page cache (open(2), O_DIRECT) */
#define QUEUE_DEPTH 16

struct chunk {
	atomic_uint references;
	size_t len;
	struct chunk *next; /* while unused */
	_Alignas(CHUNK_ALIGNMENT) uint8_t data[CHUNK_SIZE];
};

struct chunk *chunk_new(void); /* one reference; NULL without memory */
void chunk_hold(struct chunk *c);
void chunk_drop(struct chunk *c); /* NULL is fine */

struct queue {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct chunk *slots[QUEUE_DEPTH];
	unsigned first, used;
	bool closed, aborted;
};

void queue_init(struct queue *q);
void queue_release(struct queue *q);

/* Takes a reference of its own on success. false: the consumer has left. */
bool queue_put(struct queue *q, struct chunk *c);
/* The caller drops the chunk. NULL: the end. */
struct chunk *queue_get(struct queue *q);
void queue_close(struct queue *q); /* by the producer: no more follows */
void queue_abort(struct queue *q); /* by any: no more is taken; also drops what is queued */

#endif
