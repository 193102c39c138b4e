/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/cli.h"

#include "base/timeutil.h"
#include "capsulectl/output.h"
#include "manifest/manifest.h"

#include <errno.h>
#include <getopt.h>

const struct option_spec option_specs[OPT_COUNT] = {
	[OPT_HELP] = { 'h', "help", VALUE_NONE, NULL, "show this help" },
	[OPT_CAPSULE] = { 0, "capsule", VALUE_TEXT, "TARGET", "the daemon to talk to: HOST:PORT or unix:PATH" },
	[OPT_TIMEOUT] = { 0, "timeout", VALUE_DURATION, "DURATION", "give up after this time: 30s, 2m, 1h30m" },
	[OPT_OUTPUT] = { 'o', "output", VALUE_OUTPUT, "FORM", "form of the output" },
	[OPT_VERBOSE] = { 0, "verbose", VALUE_NONE, NULL, "add the status code to errors" },
	[OPT_VERSION] = { 0, "version", VALUE_NONE, NULL, "show the version of this program" },
	[OPT_FILE] = { 'f', "file", VALUE_TEXT, "FILE",
		       "a manifest, a directory of manifests or - for standard input; may be repeated",
		       COMPLETE_FILES },
	[OPT_WAIT] = { 'w', "wait", VALUE_NONE, NULL, "wait until every workload runs, or has ended or failed for good" },
	[OPT_NO_WAIT] = { 0, "no-wait", VALUE_NONE, NULL,
			  "return when the daemon has recorded it, not when it is done" },
	[OPT_DRY_RUN] = { 0, "dry-run", VALUE_NONE, NULL, "change nothing; show what would change, field by field" },
	[OPT_FOLLOW] = { 'f', "follow", VALUE_NONE, NULL, "go on with new lines as they are written" },
	[OPT_TAIL] = { 'n', "tail", VALUE_COUNT, "N", "begin with the last N lines" },
	[OPT_SINCE] = { 0, "since", VALUE_MOMENT, "TIME", "begin at a time: 10m, 2h, 2026-01-31T12:00:00Z" },
	[OPT_TIMESTAMPS] = { 't', "timestamps", VALUE_NONE, NULL, "put its time in front of every line" },
	[OPT_SERIAL] = { 0, "serial", VALUE_NONE, NULL, "the serial console of a microVM instead of its output" },
	[OPT_ALL] = { 'a', "all", VALUE_NONE, NULL, "all there are, instead of names" },
	[OPT_SIZE] = { 's', "size", VALUE_SIZE, "SIZE", "512M, 10GiB, ...; without it 1GiB, or what a snapshot has" },
	[OPT_FORCE] = { 0, "force", VALUE_NONE, NULL, "stop the workloads that hold it first" },
	[OPT_CLIENT] = { 0, "client", VALUE_NONE, NULL, "only this program's version; asks no daemon" },
	[OPT_ARCHIVE] = { 'a', "archive", VALUE_NONE, NULL, "keep owners, set-ID bits, file capabilities and devices" },
	[OPT_FOR] = { 0, "for", VALUE_WORD, "STATE", "running (without this option), healthy, stopped or deleted",
		      .words = "running|healthy|stopped|deleted" },
	[OPT_NO_STREAM] = { 0, "no-stream", VALUE_NONE, NULL, "look once, not again and again" },
	[OPT_INTERVAL] = { 0, "interval", VALUE_DURATION, "DURATION", "time between two looks; without it 2s" },
	[OPT_IMAGE] = { 'i', "image", VALUE_TEXT, "IMAGE", "image of the container", COMPLETE_IMAGES },
	[OPT_KEEP] = { 0, "keep", VALUE_NONE, NULL, "leave the container when the command has ended" },
	[OPT_INTERACTIVE] = { 'i', "interactive", VALUE_NONE, NULL, "pass standard input on, even from a terminal" },
	[OPT_TTY] = { 't', "tty", VALUE_NONE, NULL, "give the command a terminal, joined to this one" },
	[OPT_ENV] = { 'e', "env", VALUE_TEXT, "NAME=VALUE",
		      "an environment variable; NAME alone takes its value from here; may be repeated" },
	[OPT_WORKDIR] = { 'w', "workdir", VALUE_TEXT, "DIR", "directory to run in; without it the workload's" },
	[OPT_USER] = { 'u', "user", VALUE_TEXT, "USER[:GROUP]", "user by name or number; without it the workload's" },
	[OPT_BACKEND] = { 0, "backend", VALUE_WORD, "BACKEND", "file or lvm; without it the daemon's default",
			  .words = "file|lvm" },
	[OPT_FROM_SNAPSHOT] = { 0, "from-snapshot", VALUE_TEXT, "VOLUME/SNAPSHOT", "content of the new volume" },
	[OPT_SNAPSHOT] = { 0, "snapshot", VALUE_TEXT, "SNAPSHOT", "the volume as it was then; without it as it is now" },
};

/* ---- the tree ---- */

const struct command *command_find(const struct command *parent, const char *word)
{
	if (!parent->children)
		return NULL;
	for (const struct command *const *c = parent->children; *c; c++)
		if (strcmp((*c)->name, word) == 0 || ((*c)->alias && strcmp((*c)->alias, word) == 0))
			return *c;
	return NULL;
}

const struct command *command_walk(const char *const *words, size_t n, size_t *ret_used)
{
	const struct command *command = &root_command, *child;
	size_t used = 0;

	while (used < n && (child = command_find(command, words[used]))) {
		command = child;
		used++;
	}
	if (ret_used)
		*ret_used = used;
	return command;
}

static bool find_path(const struct command *from, const struct command *command, struct buf *out)
{
	size_t before = out->len;

	buf_addf(out, "%s%s", before ? " " : "", from->name);
	if (from == command)
		return true;
	for (const struct command *const *c = from->children; c && *c; c++)
		if (find_path(*c, command, out))
			return true;
	out->len = before; /* a dead end */
	return false;
}

void command_path(const struct command *command, struct buf *out)
{
	_cleanup_buf_ struct buf path = BUF_INIT(256);

	find_path(&root_command, command, &path);
	buf_add(out, buf_data(&path), path.len);
}

uint64_t command_options(const struct command *command)
{
	uint64_t options = OPTIONS_GLOBAL | command->options;

	if (command->run && !command->outputs)
		options &= ~OPTION(OUTPUT);
	return options;
}

/* ---- values ---- */

static int parse_count(const char *text, int64_t *ret)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 10);
	if (errno || end == text || *end || text[0] < '0' || text[0] > '9' || v > INT32_MAX)
		return -1;
	*ret = v;
	return 0;
}

static int parse_moment(const char *text, int64_t *ret)
{
	int64_t back, now = time_realtime_ns();

	if (time_parse_rfc3339(text, ret) == 0)
		return 0;
	if (time_parse_duration(text, &back) < 0)
		return -1;
	/* 0 would mean "everything" on the wire. */
	*ret = back < now ? now - back : 1;
	return 0;
}

static int parse_value(const struct option_spec *spec, const char *text, int64_t *ret, struct error *err)
{
	uint64_t bytes;

	*ret = 0;
	switch (spec->type) {
	case VALUE_COUNT:
		if (parse_count(text, ret) < 0)
			return cli_usage(err, "--%s: \"%s\" is not a number of lines", spec->name, text);
		return 0;
	case VALUE_DURATION:
		if (time_parse_duration(text, ret) < 0 || *ret == 0)
			return cli_usage(err, "--%s: \"%s\" is not a duration; write 30s, 2m or 1h30m", spec->name,
					 text);
		return 0;
	case VALUE_MOMENT:
		if (parse_moment(text, ret) < 0)
			return cli_usage(err, "--%s: \"%s\" is neither a duration (10m) nor a time "
					 "(2026-01-31T12:00:00Z)", spec->name, text);
		return 0;
	case VALUE_SIZE:
		if (manifest_parse_size(text, &bytes, err) < 0 || bytes > INT64_MAX) {
			if (!err->message)
				error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is too large", text);
			error_wrap(err, "--%s", spec->name);
			return CLI_USAGE;
		}
		*ret = (int64_t)bytes;
		return 0;
	case VALUE_WORD:
		if (!word_in_list(text, spec->words))
			return cli_usage(err, "--%s: \"%s\" is not one of %s", spec->name, text, spec->words);
		return 0;
	case VALUE_NONE:
	case VALUE_TEXT:
	case VALUE_OUTPUT:
		break;
	}
	return 0;
}

/* Only now is the command known, whose forms these are. */
static int check_output(const struct cli *cli, struct error *err)
{
	const struct option_value *o = cli_option(cli, OPT_OUTPUT);
	_cleanup_buf_ struct buf path = BUF_INIT(256);

	if (!o)
		return 0;
	if (!cli->command->outputs) {
		command_path(cli->command, &path);
		return cli_usage(err, "\"%s\" has no output to give a form: leave -o out", buf_str(&path));
	}
	if (!word_in_list(o->text, cli->command->outputs))
		return cli_usage(err, "-o: \"%s\" is not one of %s", o->text, cli->command->outputs);
	return 0;
}

/* ---- parsing ---- */

#define LONG_BASE 256 /* val of an option in the long table: LONG_BASE + id */

struct option_table {
	char letters[2 * OPT_COUNT + 3];
	struct option longs[OPT_COUNT + 1];
	const char *names[OPT_COUNT + 1]; /* for suggestions */
	uint64_t ids;
};

static void table_build(struct option_table *t, uint64_t ids, bool permute)
{
	char *letter = t->letters;
	size_t n = 0;

	/* '+': stop at the first word that is no option. ':': tell a missing value from an unknown option. */
	if (!permute)
		*letter++ = '+';
	*letter++ = ':';
	for (int id = 0; id < OPT_COUNT; id++) {
		const struct option_spec *spec = &option_specs[id];

		if (!(ids & (UINT64_C(1) << id)))
			continue;
		if (spec->letter) {
			*letter++ = spec->letter;
			if (spec->value)
				*letter++ = ':';
		}
		t->longs[n] = (struct option){ spec->name, spec->value ? required_argument : no_argument, NULL,
					       LONG_BASE + id };
		t->names[n++] = spec->name;
	}
	*letter = '\0';
	t->longs[n] = (struct option){ 0 };
	t->names[n] = NULL;
	t->ids = ids;
}

static int table_id(const struct option_table *t, int c)
{
	if (c >= LONG_BASE)
		return c - LONG_BASE;
	for (int id = 0; id < OPT_COUNT; id++)
		if (t->ids & (UINT64_C(1) << id) && option_specs[id].letter == c)
			return id;
	return -1;
}

/* getopt refused something: say what. */
static int option_mistake(const struct option_table *t, char **argv, int c, struct error *err)
{
	const char *given = argv[optind - 1], *near;
	_cleanup_free_ char *name = NULL;
	int id = optopt ? table_id(t, optopt) : -1;

	if (c == ':')
		return cli_usage(err, "%s needs a value: %s", given, id < 0 ? "VALUE" : option_specs[id].value);
	if (optopt && id >= 0)
		return cli_usage(err, "--%s takes no value", option_specs[id].name);
	if (optopt)
		return cli_usage(err, "unknown option -%c", optopt);
	name = strndup(given + 2, strcspn(given + 2, "="));
	near = name ? word_nearest(name, t->names) : NULL;
	if (near)
		return cli_usage(err, "unknown option --%s; did you mean --%s?", name, near);
	return cli_usage(err, "unknown option --%s", name ? name : given);
}

static int scan_options(struct cli *cli, const struct option_table *t, int argc, char **argv, struct error *err)
{
	int c;

	opterr = 0;
	optind = 0; /* glibc: start afresh */
	while ((c = getopt_long(argc, argv, t->letters, t->longs, NULL)) != -1) {
		struct option_value *v = &cli->options[cli->n_options];
		int id;

		if (c == '?' || c == ':')
			return option_mistake(t, argv, c, err);
		id = table_id(t, c);
		v->id = (enum option_id)id;
		v->text = optarg ? optarg : "";
		if (parse_value(&option_specs[id], v->text, &v->number, err) < 0)
			return -1;
		cli->n_options++;
	}
	return 0;
}

static int unknown_command(const struct command *parent, const char *word, struct error *err)
{
	const char *names[64], *near;
	size_t n = 0;

	for (const struct command *const *c = parent->children; *c && n < 63; c++)
		if (!(*c)->hidden)
			names[n++] = (*c)->name;
	names[n] = NULL;
	near = word_nearest(word, names);
	if (parent == &root_command)
		cli_usage(err, "unknown command \"%s\"", word);
	else
		cli_usage(err, "\"%s\" is not a verb of %s", word, parent->name);
	if (near)
		cli_usage(err, "%s; did you mean \"%s\"?", err->message, near);
	return -1;
}

static int check_arguments(const struct cli *cli, struct error *err)
{
	const struct command *c = cli->command;

	if (cli->n_names < c->min_arguments)
		return cli_usage(err, "missing %s", c->arguments);
	if (cli->n_names > c->max_arguments)
		return cli_usage(err, "\"%s\" is one argument too many", cli->names[c->max_arguments]);
	for (size_t i = 0; i < cli->n_names && !c->empty_arguments; i++)
		if (!*cli->names[i])
			return cli_usage(err, "an argument is empty");
	return 0;
}

/* argv[0] is the name. Options may follow it; then comes the command line, which is left alone. */
static int scan_after_name(struct cli *cli, const struct option_table *t, int *argc, char ***argv, struct error *err)
{
	char *name = (*argv)[0];

	if (scan_options(cli, t, *argc, *argv, err) < 0)
		return -1;
	*argc -= optind - 1;
	*argv += optind - 1;
	(*argv)[0] = name;
	return 0;
}

int cli_parse(struct cli *cli, int argc, char **argv, struct error *err)
{
	cli->command = &root_command;
	cli->options = calloc((size_t)argc * 2 + 1, sizeof *cli->options);
	if (!cli->options)
		return error_errno(err, ENOMEM, "cannot read the command line");
	for (;;) {
		bool verb = cli->command->run;
		const struct command *child;
		struct option_table table;

		/* A verb without output takes -o too: check_output() says more than getopt could. */
		table_build(&table, OPTIONS_GLOBAL | cli->command->options, verb && !cli->command->takes_command);
		if (scan_options(cli, &table, argc, argv, err) < 0)
			return -1;
		argc -= optind;
		argv += optind;
		if (cli->command->takes_command && argc > 0 && scan_after_name(cli, &table, &argc, &argv, err) < 0)
			return -1;
		if (verb || argc == 0)
			break;
		child = command_find(cli->command, argv[0]);
		if (!child)
			return cli_has(cli, OPT_HELP) ? 0 : unknown_command(cli->command, argv[0], err);
		cli->command = child;
	}
	cli->names = argv;
	cli->n_names = (size_t)argc;
	if (cli_has(cli, OPT_HELP) || !cli->command->run)
		return 0;
	if (check_output(cli, err) < 0 || check_arguments(cli, err) < 0)
		return -1;
	return 0;
}

void cli_release(struct cli *cli)
{
	free(cli->options);
	cli->options = NULL;
	cli->n_options = 0;
}

const struct option_value *cli_option(const struct cli *cli, enum option_id id)
{
	for (size_t i = cli->n_options; i > 0; i--)
		if (cli->options[i - 1].id == id)
			return &cli->options[i - 1];
	return NULL;
}

int cli_usage(struct error *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_setv(err, ERR_INVALID_ARGUMENT, fmt, ap);
	va_end(ap);
	return CLI_USAGE;
}

void cli_report(const struct cli *cli, struct error *err)
{
	/* Most of these sentences are the daemon's. */
	if (err->message)
		text_clean(err->message);
	if (cli_has(cli, OPT_VERBOSE))
		fprintf(stderr, "capsulectl: %s (%s)\n", error_message(err), error_code_name(err->code));
	else
		fprintf(stderr, "capsulectl: %s\n", error_message(err));
	error_release(err);
}
