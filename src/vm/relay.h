/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A further process in the guest, or one end of a copy: three streams on this side, one call to the guest. It answers on
 * its connection as shim/protocol.h says; everything that came out is written before it tells of the end.
 *
 * The slower side sets the pace: while the call has enough to send the standard input is not read, while an output stream
 * is full the call is paused. A relay holds at most a message and what the call holds. The loop's thread.
 */
#ifndef CAPSULE_VM_RELAY_H
#define CAPSULE_VM_RELAY_H

#include "vm/guest.h"

#define RELAY_SPEC_MAX (RPC_MESSAGE_MAX - (64u << 10)) /* of the memory file: what a client sent, and room for what is added */

struct relay;

/* Both take over the descriptors in any case and return NULL when nothing was started, which the connection was told.
 * `ended`: the connection was told of the end; the relay is to be freed, in it or later. */
struct relay *relay_exec(struct guest *g, uv_loop_t *loop, int connection, const struct shim_exec *request, const int *fds,
			 size_t n_fds, void (*ended)(void *arg), void *arg);
struct relay *relay_copy(struct guest *g, uv_loop_t *loop, int connection, const struct shim_copy *request, const int *fds,
			 size_t n_fds, void (*ended)(void *arg), void *arg);

void relay_resize(struct relay *r, unsigned columns, unsigned rows);

/* The guest is gone. Tells the connection of the end now, whatever is not written. */
void relay_break(struct relay *r);

/* Cancels what has not ended. NULL is fine. */
void relay_free(struct relay *r);

#endif
