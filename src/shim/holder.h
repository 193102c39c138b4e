/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What the programs that hold a workload, capsule-shim and capsule-vm, have in common: how they begin, how they tell that
 * there will be no payload, and how they sleep. For a process with one thread.
 */
#ifndef CAPSULE_SHIM_HOLDER_H
#define CAPSULE_SHIM_HOLDER_H

#include "shim/protocol.h"

#define HOLDER_EXECS_MAX 256
/* A daemon gets through also when every further process is taken. */
#define HOLDER_CONNECTIONS_MAX (HOLDER_EXECS_MAX + 16)
#define HOLDER_QUIET_MS 1000 /* after this long without work: holder_shrink() */
#define HOLDER_GRACE_MS_DEFAULT 10000

/* A decimal number of an option. 0, or -1. */
int holder_parse_number(const char *text, uint64_t max, uint64_t *ret);

/* Keeps descriptors up to `last` and marks those from SHIM_FD_CONNECTION on close-on-exec. */
void holder_keep_fds(int last);

/* Goes on as a child of nobody in a session of its own, in "/". */
int holder_detach(struct error *err);

/* Blocks all signals. Children get an empty mask and default dispositions (base/process.h). */
void holder_block_signals(void);

/* Lowers the effective capabilities to these CONFINE_KEEP() bits (base/confine.h). The others stay at hand for children,
 * or are given up for good. */
void holder_lower_capabilities(uint64_t kept, bool for_good);

/* The last message of a connection. What the peer has sent and nobody will read would otherwise take the message with it,
 * when the socket closes (ECONNRESET). */
void holder_say_last(int connection, enum shim_type type, const void *body, size_t length);

/* Tells everybody who waits that there will be no payload. */
void holder_refuse(const struct error *reason);

/* Tells a connection that nothing was started; exit_code as in struct shim_exec_failed. */
void holder_refuse_exec(int connection, int exit_code, const char *why);

/* Gives back free heap, and code, which the kernel maps again from its cache of the file when it is needed. A host has
 * many holders, and nearly all of them are asleep. */
void holder_shrink(void);

#endif
