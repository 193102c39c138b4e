/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What one daemon at a time may use: its two roots, its cgroup parent, its bridge, its table and its volume group. In each of them
 * a daemon takes for left over what it does not know, and would kill and remove what belongs to another one. So the locks come
 * before anything is looked at.
 *
 * They are record locks, not flock(2): a child that is about to execute a program holds none, so that a daemon which is killed
 * at that moment is not in the way of the next one. None of their files may be opened a second time in this process: closing it
 * would give up the locks.
 */
#ifndef CAPSULE_CAPSULED_LOCKS_H
#define CAPSULE_CAPSULED_LOCKS_H

#include "capsuled/options.h"

struct locks {
	int root, run; /* each a file in there */
	int names;     /* one file for this host, in which a name is a byte at its hash */
};

#define LOCKS_NONE ((struct locks){ .root = -1, .run = -1, .names = -1 })

/* Both roots must be there. FAILED_PRECONDITION names the option and who uses the same; then none is held. Held until the release
 * or the end of the process, however that comes. */
int locks_take(const struct options *options, struct locks *ret, struct error *err);
void locks_release(struct locks *locks);

#endif
