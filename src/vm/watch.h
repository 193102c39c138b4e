/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* A descriptor that the loop watches, with the memory and the closing that libuv leaves to others. The loop's thread. */
#ifndef CAPSULE_VM_WATCH_H
#define CAPSULE_VM_WATCH_H

#include <uv.h>

struct watch;

/* events: UV_READABLE, UV_WRITABLE; on an error of the descriptor those that were asked for: reading or writing tells which.
 * The watch may be closed in it. */
typedef void (*watch_fn)(int fd, int events, void *arg);

/* Takes over the descriptor in any case and makes it non-blocking. NULL: it cannot be watched. It asks for nothing yet. */
struct watch *watch_new(uv_loop_t *loop, int fd, watch_fn fn, void *arg);

/* What to tell of from now on; 0: nothing. */
void watch_set(struct watch *w, int events);

int watch_fd(const struct watch *w);

/* Soon closes the descriptor and frees. NULL is fine. */
void watch_close(struct watch *w);

#endif
