/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Pulls and pushes, as the daemon sees them: one capsule-image process each.
 *
 * The worker runs in a session of its own with the daemon's environment; it dies with the daemon (base/confine.h).
 *
 * Threads: the loop's only, as in base/worker.h. Callbacks never run inside a call to this module.
 *
 * The worker's standard output carries one JSON object a line:
 *   {"progress": {"done": N, "total": N, "status": "text"}}       any number
 *   {"image": {"reference": R, "digest": D}}                      one for each image that is now in the index
 *   {"error": {"code": "NOT_FOUND", "message": "..."}}            at most one, last
 * A worker that ends without a result is an INTERNAL error that says how it ended and what it last wrote to standard
 * error. So is one that breaks this protocol: it is killed. A line has at most TRANSFER_LINE_MAX bytes, a transfer
 * brings at most TRANSFER_IMAGES_MAX images.
 */
#ifndef CAPSULE_IMAGE_TRANSFER_H
#define CAPSULE_IMAGE_TRANSFER_H

#include "base/error.h"
#include "base/worker.h"

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define TRANSFER_LINE_MAX (64u << 10)
#define TRANSFER_IMAGES_MAX 1024

struct transfer;

struct transfer_options {
	const char *program;            /* capsule-image */
	const char *root;               /* the state root */
	const char *registries_file;    /* see registries.h of imager/; NULL: defaults */
};

struct transfer_progress {
	uint64_t done_bytes, total_bytes; /* total 0: not known */
	const char *status;
};

struct transfer_callbacks {
	void (*progress)(const struct transfer_progress *progress, void *arg); /* may be NULL */
	/* Exactly once, unless the transfer was cancelled. references are the callee's for the time of the call. After
	 * it the transfer is gone. err is NULL on success. */
	void (*done)(char **references, size_t n_references, const struct error *err, void *arg);
	void (*drained)(void *arg); /* push: room for more input; may be NULL */
	void *arg;
};

/* Starts a pull. The reference may have any form. Returns NULL and fills err when the worker cannot be started. */
struct transfer *transfer_pull(uv_loop_t *loop, const struct transfer_options *options, const char *reference,
			       const struct transfer_callbacks *callbacks, struct error *err);

/* Starts a push; the archive follows through transfer_write(), ended by transfer_end(). */
struct transfer *transfer_push(uv_loop_t *loop, const struct transfer_options *options,
			       const struct transfer_callbacks *callbacks, struct error *err);

/* Copies the bytes. Returns the number of bytes queued now: a caller that sees more than TRANSFER_QUEUE_HIGH waits for
 * `drained`. Bytes after the worker has failed are dropped (done tells). */
#define TRANSFER_QUEUE_HIGH WORKER_QUEUE_HIGH
size_t transfer_write(struct transfer *t, const void *data, size_t len);
void transfer_end(struct transfer *t);

/* Kills the worker; no callback runs any more, and the transfer is gone for the caller. Its leftovers are swept by the
 * next transfer or the next start. */
void transfer_cancel(struct transfer *t);

#endif
