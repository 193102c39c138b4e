/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "copier/relay.h"

#include "base/confine.h"
#include "copier/protocol.h"
#include "shim/protocol.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define KILLED 128 /* and the number of the signal: what the guest does to copies when the machine ends */

static int fail(enum error_code code, const char *why)
{
	fprintf(stderr, "%s %s\n", error_code_name(code), why);
	return COPIER_EXIT_FAILED;
}

/* A copy out reads nothing. The holder watches its streams, which /dev/null does not allow: so it gets an empty pipe. */
static int open_input(bool in)
{
	int ends[2];

	if (in)
		return dup(STDIN_FILENO);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	close(ends[1]);
	return ends[0];
}

static int ask(bool in, const char *path)
{
	_cleanup_close_ int input = open_input(in);
	const int streams[] = { input, STDOUT_FILENO, STDERR_FILENO };
	struct shim_copy request = { .in = in };

	if (input < 0 || strlen(path) >= sizeof request.path)
		return -1;
	memcpy(request.path, path, strlen(path) + 1);
	return shim_send_fds(COPIER_FD_GUEST, SHIM_COPY, &request, offsetof(struct shim_copy, path) + strlen(path) + 1, streams,
			     3);
}

/* What stays open here of the streams would keep whoever reads them from seeing their end. */
static void let_go_of_streams(void)
{
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
}

int relay_to_guest(bool in, const char *path)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct shim_message m;

	if (confine(NULL, 0, &err) < 0)
		return fail(err.code, error_message(&err));
	if (ask(in, path) < 0)
		return fail(ERR_FAILED_PRECONDITION, "it has just ended; try again");
	let_go_of_streams();
	while (shim_receive(COPIER_FD_GUEST, &m) > 0)
		switch (m.type) {
		case SHIM_EXEC_EXIT:
			if (m.body.exec_exit.exit_code <= KILLED)
				return m.body.exec_exit.exit_code;
			return fail(ERR_FAILED_PRECONDITION, "it was stopped during the copy, or had too little memory for it");
		case SHIM_EXEC_FAILED:
			return fail(ERR_FAILED_PRECONDITION, m.body.exec_failed.text);
		case SHIM_UNSUPPORTED:
			return fail(ERR_FAILED_PRECONDITION, "it was started by an older version; restart the workload");
		case SHIM_FAILED:
		case SHIM_EXIT:
			return fail(ERR_FAILED_PRECONDITION, "it has ended");
		default:
			break;
		}
	return fail(ERR_FAILED_PRECONDITION, "it ended during the copy");
}
