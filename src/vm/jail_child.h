/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What the process of a jail does until it is the program, for jail.c only. */
#ifndef CAPSULE_VM_JAIL_CHILD_H
#define CAPSULE_VM_JAIL_CHILD_H

#include "vm/jail.h"

/* out, err: its standard streams. report: where it writes why it cannot be. */
_Noreturn void jail_child(struct jail *j, int out, int err, int report);

/* The first process of the pid namespace, where the jailer is used. report: the same; closes when all is well. */
_Noreturn void jail_first(const struct jail *j, int report);

#endif
