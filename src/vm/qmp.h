/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * QEMU's machine protocol (docs/interop/qmp-spec of QEMU): a line of JSON a message. The loop's thread. A line has at most
 * QMP_LINE_MAX bytes; what breaks the protocol ends the connection with `failed`.
 */
#ifndef CAPSULE_VM_QMP_H
#define CAPSULE_VM_QMP_H

#include "base/error.h"

#include <jansson.h>
#include <uv.h>

#define QMP_LINE_MAX (64u << 10)

struct qmp;

struct qmp_events {
	void (*ready)(void *arg); /* greeting and capabilities were exchanged */
	void (*event)(const char *name, const json_t *data, void *arg); /* data: an object, or NULL */
	void (*failed)(const struct error *err, void *arg); /* not for an end in good order */
	void *arg;
};

/* Takes over the connected socket in any case. */
struct qmp *qmp_new(uv_loop_t *loop, int fd, const struct qmp_events *events, struct error *err);

/* A command without arguments, whose answer nobody waits for. */
void qmp_command(struct qmp *q, const char *name);

/* NULL is fine. May be called from a callback. */
void qmp_free(struct qmp *q);

#endif
