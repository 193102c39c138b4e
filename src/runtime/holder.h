/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The process that holds one run, from the daemon's side: capsule-shim for a container, capsule-vm for a microVM. Both are
 * started, found and killed alike (shim/protocol.h).
 *
 * Threads: any; all of it blocks.
 */
#ifndef CAPSULE_RUNTIME_HOLDER_H
#define CAPSULE_RUNTIME_HOLDER_H

#include "base/process.h"
#include "runtime/places.h"
#include "shim/protocol.h"

#define HOLDER_KILL_TIMEOUT_MS 20000
#define HOLDER_ARGS_MAX (64 + 2 * SHIM_LAYERS_MAX + 4 * SHIM_VOLUMES_MAX)

/* The arguments of one holder. Strings that were made for it are owned, the rest is borrowed. */
struct holder_command {
	const char *argv[HOLDER_ARGS_MAX + 1];
	size_t n;
	char *owned[2 * SHIM_VOLUMES_MAX + 16];
	size_t n_owned;
	bool failed; /* too many, or without memory */
};

/* The program and what it is told of every kind of run. */
void holder_command_begin(struct holder_command *c, const char *program, const struct driver_common *d,
			  const struct places *p, const struct driver_plan *plan);
void holder_command_release(struct holder_command *c);
#define _cleanup_holder_command_ _cleanup_(holder_command_release)

void holder_add_flag(struct holder_command *c, const char *flag);
void holder_add_option(struct holder_command *c, const char *option, const char *value);
/* Takes over the value; NULL means that there was no memory for it. */
void holder_add_made(struct holder_command *c, const char *option, char *value);
/* The last argument. */
void holder_command_end(struct holder_command *c, const char *name);

/* What one start needs beside the command. Borrowed. */
struct holder_start {
	const struct driver_common *driver;
	const struct holder_command *command;
	const char *program;              /* path of what is executed as command->argv[0]; NULL: that */
	int dirfd;                        /* the run directory */
	const struct process_fd *fds;     /* beside those that every holder gets */
	size_t n_fds;
	int *handed_over;                 /* one of them, closed once the holder has it; NULL: none */
	/* What it finds once it is told to start; made while it prepares itself. NULL: nothing. */
	int (*prepare)(const void *arg, struct error *err);
	const void *arg;
	int timeout_ms;                   /* until the payload runs */
};

/* Returns when the payload runs; the instance is connected. On failure the holder undoes what it did and goes, or holder_kill()
 * finds it; not on CANCELLED (driver_ops.leave), with which it goes on. */
int holder_run(const struct holder_start *start, struct driver_instance *ret, struct error *err);

/* What there is of a run now: driver_ops.recover without its origin. begun: a path that exists once the run has begun, so that
 * a start that was cut off is told from a run whose holder was killed; of that one what is left is killed. */
int holder_find(const struct driver *driver, const struct places *p, const char *name, const char *begun, bool patient,
		struct driver_instance *ret, struct error *err);

/* A further connection to the holder of a run directory, or -1. */
int holder_connect(int dirfd);

/* The connection of a further process: for driver_ops.exec. */
int holder_connect_process(int dirfd, struct driver_process *process, struct error *err);

/* Has the volume held still in the guest of the run directory, for as long as freeze.h says. *ret_fd is the hold: its end, also
 * with this process, lets go. `what` names the volume in messages. UNAVAILABLE while the machine starts or ends,
 * UNIMPLEMENTED by a holder that is too old. */
int holder_hold(int dirfd, const char *volume, const char *what, int *ret_fd, struct error *err);

/* Lets go and closes it. ABORTED or DEADLINE_EXCEEDED: it was not held until now, and what was copied meanwhile is worth
 * nothing. */
int holder_let_go(int *fd, const char *what, struct error *err);

/* After this nothing of the holder is left: also not its mount namespace, which holds volumes. */
int holder_kill(int dirfd, struct error *err);

#endif
