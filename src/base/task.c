/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/task.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#define STACK_SIZE (512u << 10)

struct task {
	struct task_runner *runner;
	task_work_fn work;
	task_done_fn done;
	void *arg;
	struct task *next;
};

struct queue {
	struct task *first, **last;
};

struct task_runner {
	uv_async_t wake;
	pthread_attr_t attr;
	pthread_mutex_t lock;  /* guards `finished` */
	struct queue finished; /* work is done, completion has not run */
	struct queue waiting;  /* loop thread only */
	size_t running, active;
};

static void queue_init(struct queue *q)
{
	q->first = NULL;
	q->last = &q->first;
}

static void queue_push(struct queue *q, struct task *t)
{
	t->next = NULL;
	*q->last = t;
	q->last = &t->next;
}

static struct task *queue_pop(struct queue *q)
{
	struct task *t = q->first;

	if (t) {
		q->first = t->next;
		if (!q->first)
			q->last = &q->first;
	}
	return t;
}

static void queue_unpop(struct queue *q, struct task *t)
{
	t->next = q->first;
	if (!q->first)
		q->last = &t->next;
	q->first = t;
}

static void finish(struct task *t)
{
	struct task_runner *r = t->runner;

	pthread_mutex_lock(&r->lock);
	queue_push(&r->finished, t);
	/* Under the lock: once the completion runs, the runner may be freed. */
	uv_async_send(&r->wake);
	pthread_mutex_unlock(&r->lock);
}

static void *thread_main(void *arg)
{
	struct task *t = arg;

	t->work(t->arg);
	finish(t);
	return NULL;
}

/* Signals belong to the loop's thread: a task's thread has all of them blocked from its first instruction. */
static int thread_start(struct task_runner *r, struct task *t)
{
	sigset_t all, old;
	pthread_t id;
	int e;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	e = pthread_create(&id, &r->attr, thread_main, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return e;
}

static void start_waiting(struct task_runner *r)
{
	while (r->waiting.first && r->running < TASK_MAX) {
		struct task *t = queue_pop(&r->waiting);

		if (thread_start(r, t) != 0) {
			if (r->running) {
				queue_unpop(&r->waiting, t);
				return;
			}
			t->work(t->arg);
			finish(t);
		}
		r->running++;
	}
}

static void on_wake(uv_async_t *handle)
{
	struct task_runner *r = handle->data;

	for (;;) {
		struct task *t;

		pthread_mutex_lock(&r->lock);
		t = queue_pop(&r->finished);
		pthread_mutex_unlock(&r->lock);
		if (!t)
			break;
		r->running--;
		start_waiting(r);
		r->active--;
		if (r->active == 0)
			uv_unref((uv_handle_t *)&r->wake);
		t->done(t->arg);
		free(t);
	}
}

struct task_runner *task_runner_new(uv_loop_t *loop)
{
	struct task_runner *r = calloc(1, sizeof *r);

	if (!r)
		return NULL;
	if (uv_async_init(loop, &r->wake, on_wake) < 0) {
		free(r);
		return NULL;
	}
	r->wake.data = r;
	uv_unref((uv_handle_t *)&r->wake);
	pthread_mutex_init(&r->lock, NULL);
	pthread_attr_init(&r->attr);
	pthread_attr_setdetachstate(&r->attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&r->attr, STACK_SIZE);
	queue_init(&r->finished);
	queue_init(&r->waiting);
	return r;
}

static void on_closed(uv_handle_t *handle)
{
	struct task_runner *r = handle->data;

	pthread_attr_destroy(&r->attr);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

void task_runner_free(struct task_runner *r)
{
	if (r)
		uv_close((uv_handle_t *)&r->wake, on_closed);
}

void task_start(struct task_runner *r, task_work_fn work, task_done_fn done, void *arg)
{
	struct task *t = malloc(sizeof *t);

	if (!t)
		abort();
	*t = (struct task){ r, work, done, arg, NULL };
	if (r->active++ == 0)
		uv_ref((uv_handle_t *)&r->wake);
	queue_push(&r->waiting, t);
	start_waiting(r);
}

size_t task_runner_active(const struct task_runner *r)
{
	return r->active;
}
