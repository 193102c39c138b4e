/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * capsulectl capsule debug: a container with all privileges in the host's namespaces, for as long as one command runs
 * in it.
 *
 * It is a workload like any other, under a name of its own; what makes it go is this program, also when it is
 * interrupted. When this program is killed, the daemon sees to it.
 */
#include "capsulectl/debug.h"

#include "capsulectl/client.h"
#include "capsulectl/exec.h"
#include "capsulectl/watch.h"

#include <errno.h>
#include <sys/random.h>

#define IMAGE "docker.io/library/alpine:3.20"
#define NAME_MAX_BYTES sizeof "debug-01234567"

static char shell[] = "/bin/sh";

static int make_name(char out[NAME_MAX_BYTES], struct error *err)
{
	uint32_t number;

	if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
		return error_errno(err, errno, "cannot make a name for the container");
	snprintf(out, NAME_MAX_BYTES, "debug-%08x", number);
	return 0;
}

/* What keeps it running does nothing, and needs no more of the image than the shell that is wanted of it anyway. */
static int apply(struct cli *cli, char *name, struct error *err)
{
	static char option[] = "-c", script[] = "while :; do sleep 86400 & wait; done";
	char *idle[] = { shell, option, script };
	Capsule__V1__WorkloadApplyRequest request = CAPSULE__V1__WORKLOAD_APPLY_REQUEST__INIT;
	Capsule__V1__Workload workload = CAPSULE__V1__WORKLOAD__INIT;
	Capsule__V1__ContainerSpec container = CAPSULE__V1__CONTAINER_SPEC__INIT;
	const struct option_value *image = cli_option(cli, OPT_IMAGE);

	container.image = (char *)(uintptr_t)(image ? image->text : IMAGE);
	container.command = idle;
	container.n_command = sizeof idle / sizeof *idle;
	container.network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_HOST;
	container.privileged = container.host_pid = container.host_ipc = container.host_mount = true;
	workload.name = name;
	workload.kind = CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_CONTAINER;
	workload.container = &container;
	workload.restart_policy = CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_NEVER;
	workload.stop_grace_case = CAPSULE__V1__WORKLOAD__STOP_GRACE_STOP_GRACE_PERIOD_SECONDS;
	workload.stop_grace_period_seconds = 0;
	workload.ephemeral = !cli_has(cli, OPT_KEEP);
	request.workload = &workload;
	return client_call(cli, &workload_apply, &request, NULL, err);
}

static int run_inside(struct cli *cli, char *name, struct error *err)
{
	char *only_shell[] = { shell };
	Capsule__V1__WorkloadExecConfig config = CAPSULE__V1__WORKLOAD_EXEC_CONFIG__INIT;

	config.name = name;
	config.command = cli->n_names ? cli->names : only_shell;
	config.n_command = cli->n_names ? cli->n_names : 1;
	config.tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	return exec_run(cli, &config, err);
}

static void remove_it(struct cli *cli, char *name)
{
	Capsule__V1__WorkloadDeleteRequest request = CAPSULE__V1__WORKLOAD_DELETE_REQUEST__INIT;
	_cleanup_error_ struct error err = ERROR_INIT;

	request.name = name;
	if (client_call(cli, &workload_delete, &request, NULL, &err) == 0 &&
	    watch_wait(cli, &name, 1, WATCH_DELETED, WATCH_QUIET, &err) == 0)
		return;
	error_wrap(&err, "workload/%s is left; delete it", name);
	cli_report(cli, &err);
}

static int run_debug(struct cli *cli, struct error *err)
{
	char name[NAME_MAX_BYTES], *names[] = { name };
	int r = make_name(name, err);

	cli->exit_status = EXIT_OWN_FAILURE;
	if (r == 0)
		r = apply(cli, name, err);
	if (r < 0)
		return r;
	r = watch_wait(cli, names, 1, WATCH_RUNNING, WATCH_QUIET, err);
	if (r == 0)
		r = run_inside(cli, name, err);
	if (cli_has(cli, OPT_KEEP))
		fprintf(stderr, "workload/%s is kept\n", name);
	else
		remove_it(cli, name);
	return r;
}

const struct command debug_command = {
	.name = "debug", .summary = "open a shell on the host, in a container that is removed at the end",
	.text = "The container has all privileges, the host's network, processes and IPC, and the host's\n"
		"files below /host. Without COMMAND it runs /bin/sh; on a terminal with a terminal of its\n"
		"own. The image needs /bin/sh and sleep; without --image it is " IMAGE ".\n"
		"The exit status is the command's, as of \"workload exec\". When this program is killed, or\n"
		"the daemon, the container is removed some seconds later.",
	.examples = "capsulectl capsule debug\n"
		    "capsulectl capsule debug --image tools:1 -- chroot /host journalctl -n 50",
	.arguments = "[-- COMMAND [ARGUMENT...]]", .max_arguments = ARGUMENTS_ANY, .empty_arguments = true,
	.options = OPTION(IMAGE) | OPTION(KEEP), .run = run_debug,
};
