/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsulectl: understands the command line, runs the command, turns its result into an exit status. */
#include "capsulectl/client.h"
#include "capsulectl/output.h"

#include <fcntl.h>

enum { EXIT_USAGE = 2, EXIT_SIGNAL = 128 };

/* A socket that took the number of a closed standard stream would get what is printed. Opened the wrong way round,
 * so that using the stream fails as it should. */
static void fill_standard_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
			_exit(EXIT_FAILURE);
}

static int report_usage(const struct cli *cli, struct error *err)
{
	_cleanup_buf_ struct buf path = BUF_INIT(256);

	command_path(cli->command, &path);
	fprintf(stderr, "capsulectl: %s\nsee %s --help\n", error_message(err), buf_str(&path));
	return EXIT_USAGE;
}

static int print_help(const struct cli *cli, bool asked)
{
	_cleanup_buf_ struct buf out = BUF_INIT(64 << 10);

	help_print(cli->command, &out);
	fputs(buf_str(&out), asked ? stdout : stderr);
	return asked ? EXIT_SUCCESS : EXIT_USAGE;
}

static int run_command(struct cli *cli, bool *ret_hanging, struct error *err)
{
	int r = cli->command->run(cli, err);
	int signo = client_signal(cli);

	*ret_hanging = client_close(cli);
	/* The user knows who interrupted it. */
	if (r < 0 && signo)
		return EXIT_SIGNAL + signo;
	if (r == CLI_USAGE)
		return report_usage(cli, err);
	if (r < 0 && err->message && !output_reader_gone())
		cli_report(cli, err);
	if (cli->exit_status)
		return cli->exit_status;
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int dispatch(struct cli *cli, int argc, char **argv, bool *ret_hanging, struct error *err)
{
	if (cli_parse(cli, argc, argv, err) < 0)
		return report_usage(cli, err);
	if (cli_has(cli, OPT_HELP))
		return print_help(cli, true);
	if (cli_has(cli, OPT_VERSION)) {
		output_text("capsulectl %s\n", CAPSULE_VERSION);
		return EXIT_SUCCESS;
	}
	if (!cli->command->run)
		return print_help(cli, false);
	return run_command(cli, ret_hanging, err);
}

int main(int argc, char **argv)
{
	_cleanup_(cli_release) struct cli cli = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;
	bool hanging = false;
	int status;

	fill_standard_streams();
	/* A reader that has gone is found by the write's error. */
	sigaction(SIGPIPE, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL);
	status = dispatch(&cli, argc, argv, &hanging, &err);
	if (output_flush(&err) < 0 && !output_reader_gone() && status == EXIT_SUCCESS) {
		cli_report(&cli, &err);
		status = EXIT_FAILURE;
	}
	if (output_reader_gone())
		status = EXIT_SIGNAL + SIGPIPE;
	if (hanging)
		_exit(status);
	return status;
}
