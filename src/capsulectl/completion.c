/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Completion for shells.
 *
 * The scripts know nothing: they hand the words to the hidden command __complete and offer what it prints, one
 * candidate a line with a tab and a description, or the line ":files" for the shell's own file names. So completion
 * follows the tables of commands and options, and names come from the daemon. A daemon that is slow or absent must not
 * hold up the user's typing: nothing is offered then.
 */
#include "capsulectl/client.h"
#include "capsulectl/commands.h"
#include "capsulectl/output.h"

#include "base/timeutil.h"

#include "image.pb-c.h"
#include "volume.pb-c.h"
#include "workload.pb-c.h"

#define DEADLINE_NS (500 * NSEC_PER_MSEC)

/* ---- what the words mean so far ---- */

struct typed {
	const struct command *command;
	const struct option_spec *option; /* whose value is being typed */
	size_t n_arguments;               /* complete ones */
	bool no_options;                  /* after "--" */
	const char *capsule;              /* value of --capsule */
};

static const struct option_spec *find_option(uint64_t ids, const char *word, size_t len)
{
	for (int id = 0; id < OPT_COUNT; id++) {
		const struct option_spec *spec = &option_specs[id];

		if (!(ids & (UINT64_C(1) << id)))
			continue;
		if (word[0] == '-' && word[1] == '-') {
			if (strlen(spec->name) == len - 2 && memcmp(spec->name, word + 2, len - 2) == 0)
				return spec;
		} else if (len == 2 && spec->letter == word[1]) {
			return spec;
		}
	}
	return NULL;
}

static void read_option(struct typed *t, const char *word)
{
	size_t len = strcspn(word, "=");
	const struct option_spec *spec = find_option(command_options(t->command), word, len);

	if (!spec || !spec->value)
		return;
	if (!word[len])
		t->option = spec;
	else if (spec == &option_specs[OPT_CAPSULE])
		t->capsule = word + len + 1;
}

/* Takes one word that is complete. */
static void read_word(struct typed *t, const char *word)
{
	const struct command *child;

	if (t->option) {
		if (t->option == &option_specs[OPT_CAPSULE])
			t->capsule = word;
		t->option = NULL;
	} else if (!t->no_options && strcmp(word, "--") == 0) {
		t->no_options = true;
	} else if (!t->no_options && word[0] == '-' && word[1]) {
		read_option(t, word);
	} else if ((child = command_find(t->command, word))) {
		t->command = child;
	} else {
		t->n_arguments++;
	}
}

/* ---- candidates ---- */

struct offer {
	struct cli *cli;           /* its names are the words */
	const char *typed;         /* what candidates must begin with */
	const char *before;        /* put in front of each: "--output=" */
	size_t before_len;
};

static void offer(const struct offer *o, const char *candidate, const char *description)
{
	if (strncmp(candidate, o->typed, strlen(o->typed)) != 0)
		return;
	/* A name that is on the line already is hardly meant twice. The last word is the one being typed. */
	for (size_t i = 0; i + 1 < o->cli->n_names; i++)
		if (strcmp(o->cli->names[i], candidate) == 0)
			return;
	output_text("%.*s%s\t%s\n", (int)o->before_len, o->before, candidate, description);
}

static void offer_commands(const struct offer *o, const struct command *parent)
{
	for (const struct command *const *c = parent->children; c && *c; c++)
		if (!(*c)->hidden)
			offer(o, (*c)->name, (*c)->summary);
}

static void offer_options(const struct offer *o, const struct command *command)
{
	uint64_t ids = command_options(command);

	for (int id = 0; id < OPT_COUNT; id++) {
		char name[64];

		if (!(ids & (UINT64_C(1) << id)))
			continue;
		snprintf(name, sizeof name, "--%s", option_specs[id].name);
		offer(o, name, option_specs[id].help);
	}
}

static void offer_words(const struct offer *o, const char *list)
{
	for (const char *p = list; p && *p;) {
		size_t len = strcspn(p, "|");
		_cleanup_free_ char *word = strndup(p, len);

		if (word)
			offer(o, word, "");
		p += len + (p[len] == '|');
	}
}

/* ---- names from the daemon ---- */

static void offer_workloads(struct cli *cli, const struct offer *o)
{
	Capsule__V1__WorkloadListRequest request = CAPSULE__V1__WORKLOAD_LIST_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__WorkloadListResponse *list = NULL;
	_cleanup_error_ struct error e = ERROR_INIT;

	if (client_call(cli, &workload_list, &request, &list, &e) < 0)
		return;
	for (size_t i = 0; i < list->n_workloads; i++) {
		const Capsule__V1__Workload *w = list->workloads[i];
		int phase = w->status ? (int)w->status->phase : 0;
		char text[32];

		offer(o, w->name, text_enum(&capsule__v1__workload_phase__descriptor, phase, text, sizeof text));
	}
}

static void offer_volumes(struct cli *cli, const struct offer *o)
{
	Capsule__V1__VolumeListRequest request = CAPSULE__V1__VOLUME_LIST_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__VolumeListResponse *list = NULL;
	_cleanup_error_ struct error e = ERROR_INIT;
	char size[TEXT_BYTES_MAX];

	if (client_call(cli, &volume_list, &request, &list, &e) < 0)
		return;
	for (size_t i = 0; i < list->n_volumes; i++)
		offer(o, list->volumes[i]->name, text_bytes(list->volumes[i]->size_bytes, size));
}

static void offer_images(struct cli *cli, const struct offer *o)
{
	Capsule__V1__ImageListRequest request = CAPSULE__V1__IMAGE_LIST_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__ImageListResponse *list = NULL;
	_cleanup_error_ struct error e = ERROR_INIT;

	if (client_call(cli, &image_list, &request, &list, &e) < 0)
		return;
	for (size_t i = 0; i < list->n_images; i++)
		offer(o, text_clean(list->images[i]->name), "");
}

/* Calls the daemon that the typed line names, in the little time there is. The program ends after it. */
static void offer_names(const struct offer *o, const struct typed *t, enum complete complete)
{
	struct option_value options[] = {
		{ OPT_TIMEOUT, "", DEADLINE_NS },
		{ OPT_CAPSULE, t->capsule ? t->capsule : "", 0 },
	};
	struct cli cli = { .command = t->command, .options = options, .n_options = 2 };

	if (complete == COMPLETE_WORKLOADS)
		offer_workloads(&cli, o);
	else if (complete == COMPLETE_VOLUMES)
		offer_volumes(&cli, o);
	else if (complete == COMPLETE_IMAGES)
		offer_images(&cli, o);
	if (client_close(&cli)) {
		fflush(stdout);
		_exit(EXIT_SUCCESS);
	}
}

static void offer_arguments(const struct offer *o, const struct typed *t)
{
	const struct command *c = t->command;

	if (c == &help_command) {
		offer_commands(o, command_walk((const char *const *)o->cli->names + 1, o->cli->n_names - 2, NULL));
		return;
	}
	if (t->n_arguments >= c->max_arguments)
		return;
	/* "volume resize NAME SIZE": only the first of two different arguments is a name. */
	if (t->n_arguments > 0 && (c->max_arguments != ARGUMENTS_ANY || c->takes_command))
		return;
	if (c->complete == COMPLETE_FILES)
		output_text(":files\n");
	else
		offer_names(o, t, c->complete);
}

static void offer_value(const struct offer *o, const struct typed *t, const struct option_spec *option)
{
	if (option->type == VALUE_OUTPUT)
		offer_words(o, t->command->outputs);
	else if (option->type == VALUE_WORD)
		offer_words(o, option->words);
	else if (option->complete == COMPLETE_FILES)
		output_text(":files\n");
	else if (option->complete != COMPLETE_NONE)
		offer_names(o, t, option->complete);
}

static int run_complete(struct cli *cli, struct error *err)
{
	struct typed t = { .command = &root_command };
	struct offer o = { .cli = cli, .typed = "", .before = "" };
	size_t equals;

	for (size_t i = 0; i + 1 < cli->n_names; i++)
		read_word(&t, cli->names[i]);
	if (cli->n_names)
		o.typed = cli->names[cli->n_names - 1];
	equals = strcspn(o.typed, "=");
	if (t.option) {
		offer_value(&o, &t, t.option);
	} else if (!t.no_options && o.typed[0] == '-' && o.typed[equals]) {
		const struct option_spec *option = find_option(command_options(t.command), o.typed, equals);

		o.before = o.typed;
		o.before_len = equals + 1;
		o.typed += equals + 1;
		if (option && option->value)
			offer_value(&o, &t, option);
	} else if (!t.no_options && o.typed[0] == '-') {
		offer_options(&o, t.command);
	} else if (t.command->children) {
		offer_commands(&o, t.command);
	} else {
		offer_arguments(&o, &t);
	}
	return 0;
}

/* ---- scripts ---- */

static const char bash_script[] =
	"# bash completion for capsulectl; load it with: source <(capsulectl completion bash)\n"
	"_capsulectl() {\n"
	"	local line=${COMP_LINE:0:COMP_POINT} words cur before reply\n"
	"	read -ra words <<< \"$line\"\n"
	"	[[ $line == *[[:space:]] ]] && words+=(\"\")\n"
	"	cur=${words[-1]}\n"
	"	# readline replaces only what follows the last of these\n"
	"	before=${cur%\"${cur##*[:=]}\"}\n"
	"	COMPREPLY=()\n"
	"	while IFS= read -r reply; do\n"
	"		if [[ $reply == :files ]]; then\n"
	"			compopt -o default\n"
	"			return\n"
	"		fi\n"
	"		reply=${reply%%$'\\t'*}\n"
	"		COMPREPLY+=(\"${reply#\"$before\"}\")\n"
	"	done < <(\"${words[0]}\" __complete -- \"${words[@]:1}\" 2> /dev/null)\n"
	"}\n"
	"complete -F _capsulectl capsulectl\n";

static const char zsh_script[] =
	"#compdef capsulectl\n"
	"# zsh completion for capsulectl; load it with: source <(capsulectl completion zsh)\n"
	"_capsulectl() {\n"
	"	local line\n"
	"	local -a lines candidates\n"
	"	lines=(\"${(@f)$(\"${words[1]}\" __complete -- \"${(@)words[2,CURRENT]}\" 2> /dev/null)}\")\n"
	"	if [[ ${lines[1]} == :files ]]; then\n"
	"		_files\n"
	"		return\n"
	"	fi\n"
	"	for line in ${lines}; do\n"
	"		candidates+=(\"${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}\")\n"
	"	done\n"
	"	(( ${#candidates} )) && _describe -t capsulectl capsulectl candidates\n"
	"}\n"
	"if [[ ${funcstack[1]} == _capsulectl ]]; then\n"
	"	_capsulectl\n"
	"else\n"
	"	compdef _capsulectl capsulectl\n"
	"fi\n";

static const char fish_script[] =
	"# fish completion for capsulectl; load it with: capsulectl completion fish | source\n"
	"function __capsulectl_complete\n"
	"	set -l before (commandline -opc)\n"
	"	set -l current (commandline -ct)\n"
	"	set -l lines ($before[1] __complete -- $before[2..-1] \"$current\" 2> /dev/null)\n"
	"	if test \"$lines[1]\" = :files\n"
	"		__fish_complete_path \"$current\"\n"
	"	else\n"
	"		printf '%s\\n' $lines\n"
	"	end\n"
	"end\n"
	"complete -c capsulectl -f -a '(__capsulectl_complete)'\n";

static int run_completion(struct cli *cli, struct error *err)
{
	const char *shell = cli->names[0];

	if (strcmp(shell, "bash") == 0)
		output_text("%s", bash_script);
	else if (strcmp(shell, "zsh") == 0)
		output_text("%s", zsh_script);
	else if (strcmp(shell, "fish") == 0)
		output_text("%s", fish_script);
	else
		return cli_usage(err, "no completion for \"%s\"; there is one for bash, zsh and fish", shell);
	return 0;
}

/* ---- commands ---- */

const struct command completion_command = {
	.name = "completion", .summary = "print a completion script for a shell",
	.text = "Names of workloads, volumes and images are asked of the daemon while you type.",
	.examples = "source <(capsulectl completion bash)\n"
		    "source <(capsulectl completion zsh)\n"
		    "capsulectl completion fish | source",
	.arguments = "bash|zsh|fish", .min_arguments = 1, .max_arguments = 1, .run = run_completion,
};

const struct command complete_command = {
	.name = "__complete", .summary = "print the candidates for the last word", .arguments = "WORD...",
	.max_arguments = ARGUMENTS_ANY, .empty_arguments = true, .hidden = true, .run = run_complete,
};
