/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * capsulectl workload exec.
 *
 * With a terminal on both sides ours is in raw mode for the time of the call: every key goes to the command, whose terminal
 * does the rest. It is put back when the call has ended, however that came about; the signals that would end this program
 * end the call first (client.h).
 */
#include "capsulectl/client.h"
#include "capsulectl/commands.h"
#include "capsulectl/exec.h"
#include "capsulectl/input.h"
#include "capsulectl/output.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>

typedef Capsule__V1__WorkloadExecClientMessage ClientMessage;
typedef Capsule__V1__WorkloadExecServerMessage ServerMessage;

struct exec {
	Capsule__V1__WorkloadExecConfig config;
	Capsule__V1__WorkloadExecResize size;
	bool passes_input;
	struct rpc_call *call;
	struct input input;
	uv_signal_t *resized;   /* NULL: no terminal */
	struct termios saved;
	bool raw;               /* `saved` is to be restored */
	bool ended;
	int exit_code;
	struct error error;     /* of the start */
};

/* ---- our terminal ---- */

static void enter_raw_mode(struct exec *e)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &e->saved) < 0)
		return;
	raw = e->saved;
	cfmakeraw(&raw);
	e->raw = tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
}

static void leave_raw_mode(struct exec *e)
{
	if (e->raw)
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &e->saved);
	e->raw = false;
}

/* Whether there is a terminal that has a size. */
static bool terminal_size(Capsule__V1__WorkloadExecResize *ret)
{
	struct winsize size;

	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0)
		return false;
	ret->cols = size.ws_col;
	ret->rows = size.ws_row;
	return true;
}

static void send_size(struct exec *e)
{
	ClientMessage message;

	if (!terminal_size(&e->size))
		return;
	capsule__v1__workload_exec_client_message__init(&message);
	message.payload_case = CAPSULE__V1__WORKLOAD_EXEC_CLIENT_MESSAGE__PAYLOAD_RESIZE;
	message.resize = &e->size;
	rpc_call_send(e->call, &message.base);
}

static void on_resized(uv_signal_t *handle, int signo)
{
	send_size(handle->data);
}

static void watch_size(struct exec *e, uv_loop_t *loop)
{
	e->resized = malloc(sizeof *e->resized);
	if (!e->resized)
		return;
	uv_signal_init(loop, e->resized);
	e->resized->data = e;
	uv_signal_start(e->resized, on_resized, SIGWINCH);
	uv_unref((uv_handle_t *)e->resized);
}

/* ---- the call ---- */

static void on_input(const uint8_t *data, size_t len, void *arg)
{
	struct exec *e = arg;
	ClientMessage message;

	capsule__v1__workload_exec_client_message__init(&message);
	message.payload_case = CAPSULE__V1__WORKLOAD_EXEC_CLIENT_MESSAGE__PAYLOAD_STDIN;
	message.stdin = (ProtobufCBinaryData){ .len = len, .data = (uint8_t *)(uintptr_t)data };
	rpc_call_send(e->call, &message.base);
}

static void on_input_end(void *arg)
{
	struct exec *e = arg;

	rpc_call_half_close(e->call);
}

static void start(struct rpc_call *call, uv_loop_t *loop, void *arg)
{
	struct exec *e = arg;
	ClientMessage message;

	e->call = call;
	capsule__v1__workload_exec_client_message__init(&message);
	message.payload_case = CAPSULE__V1__WORKLOAD_EXEC_CLIENT_MESSAGE__PAYLOAD_CONFIG;
	message.config = &e->config;
	if (e->config.tty) {
		watch_size(e, loop);
		enter_raw_mode(e);
		if (terminal_size(&e->size))
			e->config.size = &e->size;
	}
	rpc_call_send(call, &message.base);
	if (!e->passes_input)
		rpc_call_half_close(call);
	else if (input_start(&e->input, loop, call, &e->error) < 0)
		rpc_call_cancel(call);
}

static void writable(struct rpc_call *call, void *arg)
{
	struct exec *e = arg;

	if (e->passes_input)
		input_writable(&e->input);
}

static void free_handle(uv_handle_t *handle)
{
	free(handle);
}

static void stop(void *arg, struct error *err)
{
	struct exec *e = arg;

	leave_raw_mode(e);
	if (e->resized)
		uv_close((uv_handle_t *)steal_ptr(&e->resized), free_handle);
	if (e->error.message)
		error_move(err, &e->error);
	input_stop(&e->input, err);
}

static int on_message(const void *data, void *arg, struct error *err)
{
	const ServerMessage *message = data;
	struct exec *e = arg;
	int r;

	switch (message->payload_case) {
	case CAPSULE__V1__WORKLOAD_EXEC_SERVER_MESSAGE__PAYLOAD_STDOUT:
		return output_bytes(message->stdout.data, message->stdout.len, err);
	case CAPSULE__V1__WORKLOAD_EXEC_SERVER_MESSAGE__PAYLOAD_STDERR:
		r = output_all(STDERR_FILENO, message->stderr.data, message->stderr.len);
		return r < 0 ? error_errno(err, -r, "cannot write to standard error") : 0;
	case CAPSULE__V1__WORKLOAD_EXEC_SERVER_MESSAGE__PAYLOAD_EXIT:
		e->ended = true;
		e->exit_code = message->exit->exit_code;
		return 0;
	default:
		return 0;
	}
}

/* ---- the command line ---- */

/* The variables that were asked for, each a copy; TERM is ours where there is a terminal. */
struct variables {
	Capsule__V1__WorkloadExecConfig__EnvEntry *entries, **list;
	size_t n;
};

static void variables_release(struct variables *v)
{
	for (size_t i = 0; i < v->n; i++)
		free(v->entries[i].key);
	free(v->entries);
	free(v->list);
}

static int add_variable(struct variables *v, const char *text, struct error *err)
{
	Capsule__V1__WorkloadExecConfig__EnvEntry *entry = &v->entries[v->n];
	char *copy = strdup(text), *value;

	if (!copy)
		return error_errno(err, ENOMEM, "cannot read the command line");
	value = strchr(copy, '=');
	if (value)
		*value++ = '\0';
	else
		value = getenv(copy);
	if (!*copy || !value) {
		free(copy);
		return *text && *text != '=' ? 0 : cli_usage(err, "--env: \"%s\" names no variable", text);
	}
	capsule__v1__workload_exec_config__env_entry__init(entry);
	entry->key = copy;
	entry->value = value;
	v->list[v->n++] = entry;
	return 0;
}

static int read_variables(struct cli *cli, struct variables *v, struct error *err)
{
	v->entries = calloc(cli->n_options + 1, sizeof *v->entries);
	v->list = calloc(cli->n_options + 1, sizeof *v->list);
	if (!v->entries || !v->list)
		return error_errno(err, ENOMEM, "cannot read the command line");
	/* In front: a later setting of the same variable wins. */
	if (cli_has(cli, OPT_TTY) && add_variable(v, "TERM", err) < 0)
		return -1;
	for (size_t i = 0; i < cli->n_options; i++)
		if (cli->options[i].id == OPT_ENV) {
			int r = add_variable(v, cli->options[i].text, err);

			if (r < 0)
				return r;
		}
	return 0;
}

static char *option_text(const struct cli *cli, enum option_id id)
{
	const struct option_value *o = cli_option(cli, id);

	return (char *)(uintptr_t)(o ? o->text : "");
}

/* Somebody who types is asked for only with -i or -t; whatever else is there was put there for the command. */
static bool passes_input(const struct cli *cli, bool tty)
{
	int flags = fcntl(STDIN_FILENO, F_GETFL);

	/* A closed standard input was replaced by something that cannot be read (main.c). */
	if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY)
		return false;
	return tty || cli_has(cli, OPT_INTERACTIVE) || !isatty(STDIN_FILENO);
}

int exec_run(struct cli *cli, const Capsule__V1__WorkloadExecConfig *config, struct error *err)
{
	_cleanup_close_ int in = input_standard();
	struct exec e = { .config = *config, .size = CAPSULE__V1__WORKLOAD_EXEC_RESIZE__INIT };
	const struct client_feed feed = { start, writable, stop, &e };
	int r;

	e.passes_input = passes_input(cli, config->tty);
	e.input = (struct input){ .data = on_input, .end = on_input_end, .arg = &e, .name = "standard input", .fd = in };
	r = client_converse(cli, &workload_exec, &feed, on_message, &e, err);
	if (r == 0 && !e.ended)
		r = error_set(err, ERR_INTERNAL, "the daemon ended the call without an exit code");
	cli->exit_status = r < 0 ? EXIT_OWN_FAILURE : e.exit_code;
	return r;
}

static int run_exec(struct cli *cli, struct error *err)
{
	_cleanup_(variables_release) struct variables variables = { 0 };
	Capsule__V1__WorkloadExecConfig config = CAPSULE__V1__WORKLOAD_EXEC_CONFIG__INIT;
	int r = read_variables(cli, &variables, err);

	if (r < 0)
		return r;
	config.name = cli->names[0];
	config.command = cli->names + 1;
	config.n_command = cli->n_names - 1;
	config.tty = cli_has(cli, OPT_TTY);
	config.env = variables.list;
	config.n_env = variables.n;
	config.working_dir = option_text(cli, OPT_WORKDIR);
	config.user = option_text(cli, OPT_USER);
	return exec_run(cli, &config, err);
}

const struct command exec_command = {
	.name = "exec", .summary = "run a command in a running workload",
	.text = "It gets the workload's namespaces, limits, privileges, user and environment. Standard\n"
		"input, output and error are those of this program: they may be files and pipes of any\n"
		"size. Standard input is passed on if it is not a terminal; from a terminal with -i or -t.\n"
		"\n"
		"With -t the command has a terminal of its own, of the size of this one, and every key\n"
		"goes to it, control-C too. Its standard error then comes with its standard output.\n"
		"\n"
		"Options stand before or right after NAME; what follows is the command, whose options are\n"
		"left alone. \"--\" in front of it is optional.\n"
		"\n"
		"The exit status is the command's: 128 and the number of the signal that killed it, 126 if\n"
		"it cannot be executed, 127 if it is not there; 125 if capsule could not run it. When this\n"
		"program or the daemon ends, the command is killed with all of its session.",
	.examples = "capsulectl workload exec -t web -- /bin/sh\n"
		    "capsulectl workload exec web -- nginx -s reload\n"
		    "capsulectl workload exec --user postgres --env PGDATABASE=shop db pg_dump > shop.sql\n"
		    "capsulectl workload exec db -- psql < shop.sql",
	.arguments = "NAME [--] COMMAND [ARGUMENT...]", .min_arguments = 2, .max_arguments = ARGUMENTS_ANY,
	.complete = COMPLETE_WORKLOADS, .empty_arguments = true, .takes_command = true,
	.options = OPTION(INTERACTIVE) | OPTION(TTY) | OPTION(ENV) | OPTION(WORKDIR) | OPTION(USER), .run = run_exec,
};
