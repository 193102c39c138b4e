/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The command line: a tree of commands and one table of options.
 *
 * Everything a user can type is declared once, as data: `struct command` for a noun or a verb, `struct option_spec` for
 * an option. Parsing, help, completion, the man page and the reference in docs/ are read from these tables, so they
 * cannot disagree. To add a verb: write its run function, declare its command and put it in its noun's list.
 *
 * Grammar: capsulectl [global options] NOUN VERB [options and names in any order] [-- names]; where a verb takes a command:
 * NOUN VERB [options] NAME [options] [--] COMMAND [ARGUMENT...].
 *
 * Everything here is const data or belongs to the one struct cli; one thread.
 */
#ifndef CAPSULE_CAPSULECTL_CLI_H
#define CAPSULE_CAPSULECTL_CLI_H

#include "base/buf.h"
#include "base/error.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;

/* ---- options ---- */

enum option_id {
	OPT_HELP,
	OPT_CAPSULE,
	OPT_TIMEOUT,
	OPT_OUTPUT,
	OPT_VERBOSE,
	OPT_VERSION,
	OPT_FILE,
	OPT_WAIT,
	OPT_NO_WAIT,
	OPT_DRY_RUN,
	OPT_FOLLOW,
	OPT_TAIL,
	OPT_SINCE,
	OPT_TIMESTAMPS,
	OPT_SERIAL,
	OPT_ALL,
	OPT_SIZE,
	OPT_FORCE,
	OPT_CLIENT,
	OPT_ARCHIVE,
	OPT_FOR,
	OPT_NO_STREAM,
	OPT_INTERVAL,
	OPT_IMAGE,
	OPT_KEEP,
	OPT_INTERACTIVE,
	OPT_TTY,
	OPT_ENV,
	OPT_WORKDIR,
	OPT_USER,
	OPT_BACKEND,
	OPT_FROM_SNAPSHOT,
	OPT_SNAPSHOT,
	OPT_COUNT
};

#define OPTION(id) (UINT64_C(1) << OPT_##id)
#define OPTIONS_GLOBAL (OPTION(HELP) | OPTION(CAPSULE) | OPTION(TIMEOUT) | OPTION(OUTPUT) | OPTION(VERBOSE))

/* What a value must look like; struct option_value holds it as a number. */
enum option_type {
	VALUE_NONE,     /* a switch */
	VALUE_TEXT,
	VALUE_WORD,     /* one of the option's words */
	VALUE_OUTPUT,   /* one of the command's output forms */
	VALUE_COUNT,    /* 0 to INT32_MAX */
	VALUE_DURATION, /* nanoseconds, more than 0 */
	VALUE_MOMENT,   /* a duration back from now, or an RFC 3339 time: nanoseconds since the epoch */
	VALUE_SIZE,     /* bytes */
};

/* What the shell may offer in a place. */
enum complete { COMPLETE_NONE, COMPLETE_WORKLOADS, COMPLETE_VOLUMES, COMPLETE_IMAGES, COMPLETE_FILES };

struct option_spec {
	char letter;       /* 0: only the long name */
	const char *name;
	enum option_type type;
	const char *value; /* what help calls the value; NULL for a switch */
	const char *help;
	enum complete complete;
	const char *words; /* of a VALUE_WORD: "running|stopped" */
};

extern const struct option_spec option_specs[OPT_COUNT];

struct option_value {
	enum option_id id;
	const char *text; /* as given; "" for a switch */
	int64_t number;   /* see enum option_type */
};

/* ---- commands ---- */

struct cli;

#define ARGUMENTS_ANY UINT_MAX

struct command {
	const char *name;
	const char *alias;              /* NULL: none */
	const char *summary;            /* one line, lower case, no full stop */
	const char *text;               /* what the line cannot say; lines of at most 80 columns */
	const char *examples;           /* command lines, one a line */
	const char *arguments;          /* as help shows them; NULL: none */
	unsigned min_arguments, max_arguments;
	enum complete complete;         /* for the arguments */
	uint64_t options;               /* OPTION() bits besides the global ones */
	const char *outputs;            /* forms that -o takes, "table|json", the default first; NULL: no -o */
	const struct command *const *children; /* NULL-terminated; a noun has them, a verb has run */
	bool hidden;
	bool empty_arguments;           /* "" is an argument like any other */
	bool takes_command;             /* its second argument and all after it are a command line with options of its own */
	/* 0, or -1: failed, with err set unless everything was reported already, or CLI_USAGE. */
	int (*run)(struct cli *cli, struct error *err);
};

#define CLI_USAGE (-2) /* the command line is wrong: err says how */

extern const struct command root_command;

/* The child with this name or alias; NULL if there is none. */
const struct command *command_find(const struct command *parent, const char *word);

/* Walks the words as far as they name commands. *ret_used (may be NULL) counts the words taken. */
const struct command *command_walk(const char *const *words, size_t n, size_t *ret_used);

/* "capsulectl workload logs" */
void command_path(const struct command *command, struct buf *out);

/* The command's options with the global ones that it obeys. */
uint64_t command_options(const struct command *command);

/* ---- one invocation ---- */

struct cli {
	const struct command *command; /* the deepest that was understood; never NULL after cli_parse() */
	struct option_value *options;  /* in the order given */
	size_t n_options;
	char **names;                  /* of the caller's argv */
	size_t n_names;
	int exit_status;               /* set by a command that has one of its own; 0: as its result is */
	struct client *client;         /* connected by the first call; see client.h */
};

/* Understands argv (and reorders it). 0, or -1 with the sentence for the user; then cli->command tells whose help
 * to recommend. When --help was given nothing else is demanded. */
int cli_parse(struct cli *cli, int argc, char **argv, struct error *err);
void cli_release(struct cli *cli);

/* The last occurrence of the option; NULL if it was not given. */
const struct option_value *cli_option(const struct cli *cli, enum option_id id);

static inline bool cli_has(const struct cli *cli, enum option_id id)
{
	return cli_option(cli, id) != NULL;
}

/* Sets err and returns CLI_USAGE. */
int cli_usage(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prints "capsulectl: <message>" on standard error, with the code after it under --verbose, and releases err. For a
 * verb that goes on after a failure; the last error is left to main. */
void cli_report(const struct cli *cli, struct error *err);

/* ---- help ---- */

void help_print(const struct command *command, struct buf *out);

/* Every command's help: "markdown" for docs/cli.md, "scdoc" for the man page. 0, or -1 for another format. */
int help_print_all(const char *format, struct buf *out);

/* ---- words ---- */

/* The candidate most like word, if any is near enough to be what was meant; else NULL. candidates ends with NULL. */
const char *word_nearest(const char *word, const char *const *candidates);

/* Whether word is one of the parts of "a|b|c". */
bool word_in_list(const char *word, const char *list);

#endif
