/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What is written to standard output.
 *
 * Text goes through stdio and is flushed, and its errors found, by output_flush() at the end; a stream of log bytes
 * goes straight to the descriptor through output_bytes(). Colour and cutting to the width happen on a terminal only.
 * Text from the daemon may hold anything: control characters are shown as '?', so that nobody's terminal is driven by
 * it. What a workload wrote to its log is passed on as it is.
 */
#ifndef CAPSULE_CAPSULECTL_OUTPUT_H
#define CAPSULE_CAPSULECTL_OUTPUT_H

#include "capsulectl/cli.h"

#include "workload.pb-c.h"

#include <protobuf-c/protobuf-c.h>

/* ---- tables ---- */

#define TABLE_COLUMNS_MAX 12
#define TABLE_BYTES_MAX (64u << 20)

enum style { STYLE_PLAIN, STYLE_GOOD, STYLE_BAD, STYLE_BUSY, STYLE_FAINT };

struct table {
	size_t columns;
	size_t cells;
	size_t *offsets;    /* of each cell in text */
	uint8_t *styles;
	size_t capacity;
	struct buf text;    /* the cells, each with its NUL */
};

/* The headers are the first row. */
void table_init(struct table *t, const char *const *headers, size_t columns);
void table_release(struct table *t);
#define _cleanup_table_ _cleanup_(table_release)

/* Adds the next cell, row by row. "-" stands for an empty one. Failure is found by table_print(). */
void table_cell(struct table *t, enum style style, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Adds the text in the colour of its style. */
void style_add(struct buf *out, enum style style, bool colour, const char *text, size_t len);

/* width: columns of the terminal, 0 for no limit; the last column is cut to fit. 0, or -1 without memory. */
int table_print(const struct table *t, size_t width, bool colour, struct buf *out);

/* ---- forms ---- */

enum form { FORM_TABLE, FORM_JSON, FORM_YAML, FORM_NAME, FORM_MANIFEST };

/* As -o says; without it the first form that the command has. */
enum form output_form(const struct cli *cli);

/* The message as JSON or YAML. */
int output_message(enum form form, const void *message, struct error *err);

/* A message whose only field is a list: as output_message(), but an empty list is shown as one. */
int output_list(enum form form, const void *message, struct error *err);

/* Prints the table as suits standard output. */
int output_table(const struct table *t, struct error *err);

/* ---- text ---- */

/* printf to standard output. */
void output_text(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The same in the colour of the style, where output_table() would use it. */
void output_styled(enum style style, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

bool output_is_terminal(void);

/* "Name:      value" when the value is not empty. */
void output_field(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

int output_buf(const struct buf *b, struct error *err);
/* Writes all of it. Waits for room where the descriptor does not block: others may have set it so, or input.h has where it shares
 * its description with standard input. 0, or -errno. */
int output_all(int fd, const void *data, size_t len);
int output_bytes(const void *data, size_t len, struct error *err);

/* 0, or -1: what was written did not all arrive. */
int output_flush(struct error *err);

/* Whoever read standard output has gone; nobody needs to be told. */
bool output_reader_gone(void);
void output_set_reader_gone(void);

/* Replaces control characters in place. Returns text. */
char *text_clean(char *text);

/* "12.3MiB": three digits, for people. */
#define TEXT_BYTES_MAX 32
char *text_bytes(uint64_t bytes, char out[TEXT_BYTES_MAX]);

/* How long ago; "-" for 0. */
char *text_age(int64_t realtime_ns, char *out, size_t size);

/* "Running" for WORKLOAD_PHASE_RUNNING; "Unspecified" for what is unknown. */
const char *text_enum(const ProtobufCEnumDescriptor *descriptor, int value, char *out, size_t size);

/* "Running", or with what its health check says: "Running (healthy)". */
const char *text_phase(const Capsule__V1__WorkloadStatus *status, char *out, size_t size);

#endif
