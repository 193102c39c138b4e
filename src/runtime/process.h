/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A further process in a running workload, as whoever asked for it sees it: three streams, or a terminal, and an end. The
 * driver prepares it (driver_ops.exec), the shim holds it, its bytes come straight from its pipes or its terminal. In a
 * microVM they pass through its holder and the guest, and a terminal is there.
 *
 * Back-pressure: output() may refuse more; then nothing is read, the pipe fills and the process waits. Input that the
 * process does not take is queued by process_write(), which tells when to stop; there is no limit but the caller's.
 *
 * Threads: the loop's. Nothing blocks. No callback runs inside the functions, and none after process_free(), which may be
 * called in the last event.
 */
#ifndef CAPSULE_RUNTIME_PROCESS_H
#define CAPSULE_RUNTIME_PROCESS_H

#include "runtime/driver.h"

#include <uv.h>

struct process;

enum process_stream { PROCESS_STDOUT, PROCESS_STDERR }; /* a terminal has stdout only */

struct process_events {
	/* It wrote something. false: no more until process_resume(). */
	bool (*output)(enum process_stream stream, const void *data, size_t len, void *arg);
	/* All that was queued by process_write() is with the process. */
	void (*drained)(void *arg);
	/* Last event: it ended, and all that it wrote itself was delivered. reason: why it could not be executed (exit code
	 * 126 or 127); NULL: it was. */
	void (*ended)(int exit_code, const char *reason, void *arg);
	/* Last event, instead: it could not be started, or went with its workload's shim. */
	void (*failed)(const struct error *err, void *arg);
	void *arg;
};

/* There is no process yet, but it may be written to and have a terminal size already. NULL without memory. */
struct process *process_new(uv_loop_t *loop, const struct process_events *events);

/* Starts what the driver has prepared; takes over its descriptors, in any case. */
int process_start(struct process *p, struct driver_process *prepared, struct error *err);

/* false: some of it is queued; go on after drained(). What comes after the process closed its input is dropped. */
bool process_write(struct process *p, const void *data, size_t len);

/* After what is queued its input ends; a terminal is sent its end-of-file character instead (^D). */
void process_end_input(struct process *p);

/* Of its terminal; without one nothing happens. */
void process_resize(struct process *p, unsigned columns, unsigned rows);

void process_resume(struct process *p);

/* If it still runs the shim kills it. NULL is fine. */
void process_free(struct process *p);

#endif
