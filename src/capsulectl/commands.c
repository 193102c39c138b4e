/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The top of the tree, and help, which is about all of it. */
#include "capsulectl/commands.h"

#include "capsulectl/output.h"

static int run_help(struct cli *cli, struct error *err)
{
	_cleanup_buf_ struct buf out = BUF_INIT(64 << 10);
	const struct command *command;
	size_t used;

	command = command_walk((const char *const *)cli->names, cli->n_names, &used);
	if (used < cli->n_names)
		return cli_usage(err, "there is no command \"%s\" to help with", cli->names[used]);
	help_print(command, &out);
	return output_buf(&out, err);
}

static int run_help_all(struct cli *cli, struct error *err)
{
	_cleanup_buf_ struct buf out = BUF_INIT(1 << 20);

	if (help_print_all(cli->n_names ? cli->names[0] : "markdown", &out) < 0)
		return cli_usage(err, "\"%s\" is not one of markdown, scdoc", cli->names[0]);
	return output_buf(&out, err);
}

const struct command help_command = {
	.name = "help", .summary = "explain a command", .examples = "capsulectl help workload logs",
	.arguments = "[COMMAND...]", .max_arguments = ARGUMENTS_ANY, .run = run_help,
};

const struct command help_all_command = {
	.name = "__help-all", .summary = "print the help of all commands", .arguments = "[markdown|scdoc]",
	.max_arguments = 1, .hidden = true, .run = run_help_all,
};

static const struct command *const top[] = {
	&apply_command, &diff_command,    &workload_command, &cp_command,         &volume_command, &image_command,
	&capsule_command, &info_command,  &version_command,  &completion_command, &help_command,   &complete_command,
	&help_all_command, NULL,
};

const struct command root_command = {
	.name = "capsulectl",
	.summary = "run containers, microVMs and volumes from manifests",
	.text = "Talks to the daemon that --capsule names, or else CAPSULE_HOST, or else the one on this\n"
		"host: /run/capsule/capsule.sock, or localhost:50000 where that does not exist.\n"
		"Options may stand before or after names; \"--\" ends them.\n"
		"Exit status: 0 done, 1 failed, 2 the command line is wrong.",
	.examples = "capsulectl apply -f web.yaml --wait\n"
		    "capsulectl workload list\n"
		    "capsulectl workload logs -f web\n"
		    "capsulectl --capsule 192.0.2.7:50000 info",
	.options = OPTION(VERSION),
	.children = top,
};
