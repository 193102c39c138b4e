/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A volume that is held still in the guest for a connection of the daemon's, which is answered as shim/protocol.h says. The
 * guest lets go when it is told to, when its call ends, which is also the end of this program, and after the time that the
 * request names. The loop's thread.
 */
#ifndef CAPSULE_VM_HOLD_H
#define CAPSULE_VM_HOLD_H

#include "vm/guest.h"

#include "shim/protocol.h"

struct hold;

/* `ended`: the connection was told of the end; the hold is to be freed, in it or later. NULL without memory. */
struct hold *hold_begin(struct guest *g, int connection, const struct shim_hold *request, void (*ended)(void *arg), void *arg);

void hold_let_go(struct hold *h);

/* Lets go of what is still held, and tells nobody. NULL is fine. */
void hold_free(struct hold *h);

/* Tells a connection that nothing is held. */
void hold_refuse(int connection, enum error_code code, const char *why);

#endif
