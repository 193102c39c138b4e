/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * One line on standard error that tells how far a long call is. Nothing at all when standard error is not a terminal.
 * A bar is redrawn at most ten times a second, by the calls themselves; there is no timer.
 */
#ifndef CAPSULE_CAPSULECTL_PROGRESS_H
#define CAPSULE_CAPSULECTL_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	bool terminal;
	bool drawn;          /* there is a line to clear */
	int64_t started_ns;  /* CLOCK_MONOTONIC */
	int64_t next_ns;     /* not before */
};

void progress_init(struct progress *p);

/* A bar with bytes and rate; total 0: unknown. what may be NULL. */
void progress_bytes(struct progress *p, const char *what, uint64_t done, uint64_t total);

/* A line of text, at once. */
void progress_text(struct progress *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Takes the line away, before anything else is printed and at the end. */
void progress_clear(struct progress *p);

#endif
