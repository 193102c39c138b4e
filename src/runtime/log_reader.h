/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Reads a workload's log, rotated files included, and follows it without polling (inotify on the loop).
 *
 * The format of the files is that of the CRI (kubernetes design-proposals, "CRI: log management"): "<RFC 3339 nano>
 * <stdout|stderr> <F|P> <bytes>\n", where P says that the line goes on in the next record of the same stream. The bytes of all records, with a
 * newline after each F, are exactly what the workload wrote.
 *
 * Threads: the loop's; file reads are done in bounded pieces on task threads.
 */
#ifndef CAPSULE_RUNTIME_LOG_READER_H
#define CAPSULE_RUNTIME_LOG_READER_H

#include "base/error.h"
#include "base/task.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct log_reader;

struct log_reader_options {
	const char *path;      /* of the newest file; older ones are path.1, path.2, ... */
	bool plain;            /* the file is not in CRI form: lines are passed on as they are (the daemon's own log, "since" by its leading time) */
	bool follow;
	int64_t tail_lines;    /* 0: all */
	int64_t since_ns;      /* realtime; 0: all */
	bool timestamps;
};

struct log_reader_callbacks {
	/* A piece of the log, in order. Return false to pause: log_reader_resume() goes on. */
	bool (*data)(const void *data, size_t len, void *arg);
	/* The end (never, while following), or an error. Called once; the reader is then freed by its owner. */
	void (*end)(const struct error *err, void *arg);
	void *arg;
};

/* A missing file is an empty log. NULL and err on failure. */
struct log_reader *log_reader_new(uv_loop_t *loop, struct task_runner *tasks, const struct log_reader_options *options,
				  const struct log_reader_callbacks *callbacks, struct error *err);
void log_reader_resume(struct log_reader *r);

/* While following: delivers what is there, then calls end. For a workload that was deleted. */
void log_reader_finish(struct log_reader *r);

/* No callback runs any more. Tasks under way end by themselves. */
void log_reader_free(struct log_reader *r);

/* <root>/workloads/<name>/payload.log. Caller frees. */
char *log_path_of_workload(const char *root, const char *name, bool serial);

#endif
