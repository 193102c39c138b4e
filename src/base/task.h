/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Work that may block, away from the event loop.
 *
 * Each task runs straight-line code on a thread of its own; when it returns, its completion runs on the loop's
 * thread. A thread per task, and not a fixed pool, is what keeps workloads independent: one that hangs on a slow
 * disk or a stuck runtime holds up nobody. Above TASK_MAX tasks at a time further ones wait in order. An idle daemon
 * has no threads but the loop's.
 *
 * Threads: task_runner_init(), task_start() and task_runner_release() on the loop's thread.
 */
#ifndef CAPSULE_BASE_TASK_H
#define CAPSULE_BASE_TASK_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#define TASK_MAX 64

struct task_runner;

typedef void (*task_work_fn)(void *arg); /* on the task's thread */
typedef void (*task_done_fn)(void *arg); /* on the loop's thread, exactly once for each task that was started */

/* NULL without memory. Keeps the loop alive only while tasks are under way. */
struct task_runner *task_runner_new(uv_loop_t *loop);

/* Only when no task is under way (task_runner_active() is 0). */
void task_runner_free(struct task_runner *runner);

/* Never fails for want of a thread: a task that gets none waits for one to end, and where none runs at all the work
 * is done on the spot. Aborts without memory. */
void task_start(struct task_runner *runner, task_work_fn work, task_done_fn done, void *arg);

/* Tasks that were started and whose completion has not run. */
size_t task_runner_active(const struct task_runner *runner);

#endif
