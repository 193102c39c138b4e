/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A place in a rotated log, and the decoding of what stands there: the part of the log reader that touches files. It
 * blocks, and knows nothing of the loop.
 *
 * The cursor holds its file open, so a rotation takes nothing away from under it; it reads that file to its end and then
 * goes on with the one that was begun after it. It stands at the beginning of a record always: a record that is not whole
 * yet is read again later.
 *
 * Threads: one at a time.
 */
#ifndef CAPSULE_RUNTIME_LOG_CURSOR_H
#define CAPSULE_RUNTIME_LOG_CURSOR_H

#include "runtime/log_reader.h"

#include <sys/types.h>

#define LOG_PIECE_MAX (64u << 10)

struct log_cursor {
	char *path; /* owned */
	bool plain, timestamps;
	int64_t tail_lines, since_ns;
	bool placed;     /* the start was looked for */
	int fd;          /* -1: before the first file */
	dev_t dev;
	ino_t ino;
	uint64_t offset;
	bool in_line[2]; /* stdout, stderr: the last record was a P */
	char in[LOG_PIECE_MAX];
	char out[LOG_PIECE_MAX]; /* a piece decoded is never longer than it was */
	size_t out_len;
};

int log_cursor_init(struct log_cursor *c, const struct log_reader_options *options, struct error *err);
void log_cursor_release(struct log_cursor *c);

/* Decodes the next piece into `out`. 1: there is more to read (`out` may be empty nevertheless); 0: this is all there is
 * now; `last` says that nobody will look again, so an unfinished line of a plain log is given too. */
int log_cursor_read(struct log_cursor *c, bool last, struct error *err);

#endif
