/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The serial console of the guest, which goes to <state>/serial.log as stdout, with what the monitor says on its standard
 * error as stderr. The last of both is kept for messages. Bounded: the log is rotated, a guest that writes without end
 * waits for it. A serial line brings a byte at a time, so what comes within CONSOLE_GATHER_MS is written together. The
 * loop's thread.
 */
#ifndef CAPSULE_VM_CONSOLE_H
#define CAPSULE_VM_CONSOLE_H

#include "shim/log_writer.h"
#include "vm/watch.h"

#define CONSOLE_LOG "serial.log"
#define CONSOLE_GATHER_MS 10
#define CONSOLE_LINES_MAX 512 /* bytes of console_last_lines(), with its NUL */

struct console {
	uv_loop_t *loop;
	struct log_writer log;
	struct watch *streams[2]; /* by enum log_stream; NULL: ended */
	uv_timer_t gather;        /* runs: there is something to read */
	size_t tail_len;
	char tail[1024]; /* what came last */
};

int console_open(struct console *c, uv_loop_t *loop, const char *state_dir, uint64_t max_bytes, unsigned max_files,
		 struct error *err);

/* Takes over the read ends of a monitor's pipes, in any case. What an earlier one said is forgotten, not unwritten. */
int console_attach(struct console *c, int out_fd, int err_fd, struct error *err);

/* The monitor is gone: writes what is left in the pipes and closes them. */
void console_detach(struct console *c);

/* The last lines in one, for a message: " | " between them, UTF-8, without control characters. "" for none. Returns out. */
const char *console_last_lines(const struct console *c, char out[CONSOLE_LINES_MAX]);

void console_close(struct console *c);

#endif
