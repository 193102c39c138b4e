/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * One walk over a message serves every form of output. Fields come in the order of their numbers; those that are not
 * set are left out. A map is an object whose keys are the map's.
 */
#ifndef CAPSULE_MANIFEST_WALK_H
#define CAPSULE_MANIFEST_WALK_H

#include "manifest/fields.h"

struct message_visitor {
	void (*object_begin)(void *arg, bool empty);
	void (*key)(void *arg, const char *name); /* before each value of an object */
	void (*object_end)(void *arg, bool empty);
	void (*list_begin)(void *arg); /* never empty */
	void (*item)(void *arg);       /* before each value of a list */
	void (*list_end)(void *arg);
	void (*value)(void *arg, const ProtobufCFieldDescriptor *field, const void *member); /* not a message */
};

void message_walk(const ProtobufCMessage *message, const struct message_visitor *visitor, void *arg);

#endif
