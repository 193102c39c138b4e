/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The schema, as the list of steps that lead to it; private to this folder.
 *
 * `PRAGMA user_version` holds how many steps a database has taken. A step that was ever released is never edited: a
 * change of the schema is a new step at the end.
 */
#ifndef CAPSULE_STORE_SCHEMA_H
#define CAPSULE_STORE_SCHEMA_H

#include <stddef.h>

extern const char *const schema_migrations[];
extern const size_t schema_version; /* the number of steps */

/* volume.state */
enum volume_state { VOLUME_CREATING = 0, VOLUME_READY = 1, VOLUME_DELETING = 2 };

#endif
