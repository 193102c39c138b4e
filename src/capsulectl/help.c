/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Help, the reference in docs/ and the commands of the man page: three forms of the same tables. */
#include "capsulectl/cli.h"

/* Calls fn for every command that help shows, parents before children. */
static void each_command(const struct command *from, void (*fn)(const struct command *, struct buf *), struct buf *out)
{
	fn(from, out);
	for (const struct command *const *c = from->children; c && *c; c++)
		if (!(*c)->hidden)
			each_command(*c, fn, out);
}

static void add_usage(const struct command *command, struct buf *out)
{
	command_path(command, out);
	if (command->children)
		buf_adds(out, command == &root_command ? " [options] COMMAND" : " COMMAND");
	if (command->run)
		buf_adds(out, " [options]");
	if (command->arguments)
		buf_addf(out, " %s", command->arguments);
}

static void add_option_syntax(const struct option_spec *spec, struct buf *out)
{
	if (spec->letter)
		buf_addf(out, "-%c, ", spec->letter);
	else
		buf_adds(out, "    ");
	buf_addf(out, "--%s%s%s", spec->name, spec->value ? " " : "", spec->value ? spec->value : "");
}

static void add_options(const struct command *command, const char *title, uint64_t ids, struct buf *out)
{
	bool any = false;

	for (int id = 0; id < OPT_COUNT; id++) {
		const struct option_spec *spec = &option_specs[id];
		_cleanup_buf_ struct buf syntax = BUF_INIT(128);

		if (!(ids & (UINT64_C(1) << id)))
			continue;
		if (!any)
			buf_addf(out, "\n%s:\n", title);
		any = true;
		add_option_syntax(spec, &syntax);
		buf_addf(out, "  %-26s  %s", buf_str(&syntax), spec->help);
		if (id == OPT_OUTPUT && command->outputs)
			buf_addf(out, ": %s", command->outputs);
		buf_addc(out, '\n');
	}
}

static void add_children(const struct command *command, struct buf *out)
{
	buf_adds(out, "\nCommands:\n");
	for (const struct command *const *c = command->children; *c; c++)
		if (!(*c)->hidden)
			buf_addf(out, "  %-12s  %s%s%s%s\n", (*c)->name, (*c)->summary, (*c)->alias ? " (also: " : "",
				 (*c)->alias ? (*c)->alias : "", (*c)->alias ? ")" : "");
}

static void add_examples(const struct command *command, const char *indent, struct buf *out)
{
	for (const char *p = command->examples; *p;) {
		int n = (int)strcspn(p, "\n");

		buf_addf(out, "%s%.*s\n", indent, n, p);
		p += n + (p[n] == '\n');
	}
}

void help_print(const struct command *command, struct buf *out)
{
	uint64_t own = command->run ? command->options : 0;

	buf_adds(out, "Usage: ");
	add_usage(command, out);
	buf_addf(out, "\n\n%c%s.\n", command->summary[0] & ~0x20, command->summary + 1);
	if (command->text)
		buf_addf(out, "\n%s\n", command->text);
	if (command->children)
		add_children(command, out);
	/* -o belongs to those that print something, so it stands with their own options. */
	if (command->outputs)
		own |= OPTION(OUTPUT);
	if (command->run)
		add_options(command, "Options", own, out);
	add_options(command, "Global options", command_options(command) & ~own, out);
	if (command->examples) {
		buf_adds(out, "\nExamples:\n");
		add_examples(command, "  ", out);
	}
	if (command->children) {
		buf_adds(out, "\n\"");
		command_path(command, out);
		buf_adds(out, " COMMAND --help\" tells more.\n");
	}
}

static void print_markdown(const struct command *command, struct buf *out)
{
	_cleanup_buf_ struct buf help = BUF_INIT(64 << 10);

	buf_adds(out, command == &root_command ? "## " : command->children ? "### " : "#### ");
	command_path(command, out);
	help_print(command, &help);
	buf_addf(out, "\n\n```\n%s```\n\n", buf_str(&help));
}

/* scdoc reads '_' and '*' as emphasis and a backslash as an escape. */
static void add_scdoc(const char *text, struct buf *out)
{
	for (; *text; text++) {
		if (strchr("_*\\~<>[]", *text))
			buf_addc(out, '\\');
		buf_addc(out, *text);
	}
}

static void print_scdoc_options(const struct command *command, uint64_t ids, const char *indent, struct buf *out)
{
	for (int id = 0; id < OPT_COUNT; id++) {
		const struct option_spec *spec = &option_specs[id];

		if (!(ids & (UINT64_C(1) << id)))
			continue;
		buf_adds(out, indent);
		if (spec->letter)
			buf_addf(out, "*-%c*, ", spec->letter);
		buf_addf(out, "*--%s*", spec->name);
		if (spec->value)
			buf_addf(out, " _%s_", spec->value);
		buf_addf(out, "\n%s\t", indent);
		add_scdoc(spec->help, out);
		if (id == OPT_OUTPUT && command->outputs)
			buf_addf(out, ": %s", command->outputs);
		buf_adds(out, "\n\n");
	}
}

static void print_scdoc(const struct command *command, struct buf *out)
{
	_cleanup_buf_ struct buf path = BUF_INIT(256);

	if (!command->run)
		return;
	command_path(command, &path);
	buf_addf(out, "*%s*", buf_str(&path) + strlen("capsulectl "));
	if (command->arguments) {
		buf_adds(out, " ");
		add_scdoc(command->arguments, out);
	}
	buf_addf(out, "\n\t%c", command->summary[0] & ~0x20);
	add_scdoc(command->summary + 1, out);
	buf_adds(out, ".");
	for (const char *p = command->text; p && *p;) {
		size_t n = strcspn(p, "\n");
		_cleanup_free_ char *line = strndup(p, n);

		buf_adds(out, p == command->text ? "\n\n\t" : n ? "\n\t" : "\n");
		add_scdoc(line ? line : "", out);
		p += n + (p[n] == '\n');
	}
	buf_adds(out, "\n\n");
	print_scdoc_options(command, command->options | (command->outputs ? OPTION(OUTPUT) : 0), "\t", out);
}

int help_print_all(const char *format, struct buf *out)
{
	if (strcmp(format, "markdown") == 0) {
		each_command(&root_command, print_markdown, out);
	} else if (strcmp(format, "scdoc") == 0) {
		buf_adds(out, "# GLOBAL OPTIONS\n\n");
		print_scdoc_options(&root_command, command_options(&root_command), "", out);
		buf_adds(out, "# COMMANDS\n\n");
		each_command(&root_command, print_scdoc, out);
	} else {
		return -1;
	}
	return 0;
}
