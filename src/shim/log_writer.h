/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Writes what the payload prints, in the form of the CRI's log (runtime/log_reader.h reads it):
 *
 *     2026-01-31T12:00:00.123456789Z stdout F a whole line
 *     2026-01-31T12:00:00.123456789Z stdout P a piece of a line that
 *     2026-01-31T12:00:00.123456789Z stdout F  goes on here
 *
 * A record is written with the read that brought it, so a prompt without a newline is in the log at once. A file ends
 * with a whole record always. When a record would make the file larger than the limit, file, file.1, ... move up by one and
 * a new file begins.
 *
 * Nothing that goes wrong here reaches the payload: what cannot be written (full disk, I/O error) is dropped and counted,
 * and the first record that can be written again is preceded by one on stderr that says how much is missing.
 */
#ifndef CAPSULE_SHIM_LOG_WRITER_H
#define CAPSULE_SHIM_LOG_WRITER_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_WRITER_READ_MAX 16384 /* bytes of one log_writer_add() */

enum log_stream { LOG_STDOUT, LOG_STDERR };

struct log_writer {
	int dirfd, fd;
	const char *name; /* borrowed */
	uint64_t size, max_bytes;
	unsigned max_files;
	bool in_line[2];      /* the stream's last record was a P */
	uint64_t lost;        /* payload bytes that did not reach the file */
	uint64_t lost_noted;  /* of those, what a record in `out` speaks of */
	size_t out_len;
	size_t out_payload;   /* payload bytes in `out` */
	char out[2 * LOG_WRITER_READ_MAX];
};

/* Goes on with an existing file; a half-written record at its end is cut off. */
int log_writer_open(struct log_writer *w, const char *dir, const char *name, uint64_t max_bytes, unsigned max_files,
		    struct error *err);

/* Writes the bytes as records; len is at most LOG_WRITER_READ_MAX. */
void log_writer_add(struct log_writer *w, enum log_stream stream, const char *data, size_t len);

void log_writer_close(struct log_writer *w);

#endif
