/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Pulls on demand: those who want the same image at the same time share one transfer. A transfer that nobody wants any
 * more is cancelled. Threads: the loop's only.
 */
#ifndef CAPSULE_IMAGE_PULLER_H
#define CAPSULE_IMAGE_PULLER_H

#include "image/transfer.h"

struct puller;
struct pull_ticket;

struct pull_callbacks {
	void (*progress)(const struct transfer_progress *progress, void *arg); /* may be NULL */
	/* Once; the ticket is gone after it. err is NULL on success. */
	void (*done)(const struct error *err, void *arg);
	void *arg;
};

/* Options are borrowed until puller_free(), which cancels what is under way without a callback. */
struct puller *puller_new(uv_loop_t *loop, const struct transfer_options *options);
void puller_free(struct puller *p);

/* Joins or starts the pull of a full reference. NULL and err when the transfer cannot be started. */
struct pull_ticket *puller_want(struct puller *p, const char *reference, const struct pull_callbacks *callbacks,
				struct error *err);
/* Takes back the wish; no callback runs. NULL is fine. */
void puller_drop(struct pull_ticket *ticket);

#endif
