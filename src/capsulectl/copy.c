/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * capsulectl cp: between a workload's files and this machine's. The call carries a tar stream; a capsule-copy process
 * beside this one makes it from files, or files from it, so that libarchive is loaded by nothing else that capsulectl
 * does.
 */
#include "base/fs.h"
#include "base/process.h"
#include "capsulectl/client.h"
#include "capsulectl/commands.h"
#include "capsulectl/input.h"
#include "capsulectl/output.h"
#include "capsulectl/progress.h"
#include "manifest/manifest.h"
#include "tree/path.h"

#include "workload.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

/* ---- where from, where to ---- */

/* One end of a copy. */
struct place {
	char *name;       /* of the workload; owned; NULL: on this machine */
	const char *path; /* borrowed */
};

static void place_release(struct place *p)
{
	free(p->name);
}

/* NAME:PATH where no slash comes before the colon, as for scp. */
static int place_parse(const char *text, struct place *ret, struct error *err)
{
	size_t len = strcspn(text, ":/");
	_cleanup_free_ char *name = NULL;

	if (text[len] != ':') {
		*ret = (struct place){ .path = text };
		return 0;
	}
	name = strndup(text, len);
	if (!name)
		return error_errno(err, ENOMEM, "cannot copy");
	if (manifest_check_name("workload name", name, err) < 0)
		return cli_usage(err, "\"%s\" does not name a workload before its colon; if it is a file of this "
				 "machine, write ./%s", text, text);
	if (!text[len + 1])
		return cli_usage(err, "\"%s\" names no path in the workload; its root is %s/", text, text);
	*ret = (struct place){ steal_ptr(&name), text + len + 1 };
	return 0;
}

static bool is_stream(const struct place *p)
{
	return !p->name && !strcmp(p->path, "-");
}

/* ---- the process beside this one ---- */

struct helper {
	pid_t pid; /* 0: none */
	int fd;    /* this end of its standard input or output; without one, standard input itself */
};

/* verb "pack" writes the path to fd, "unpack" makes the path from what is written to it. */
static int helper_start(struct helper *h, const char *verb, const struct cli *cli, bool contents, const char *path,
			struct error *err)
{
	const char *program = getenv("CAPSULE_COPY"), *argv[7];
	bool unpack = !strcmp(verb, "unpack");
	_cleanup_close_ int mine = -1, theirs = -1;
	struct process_fd fds[] = { { -1, unpack ? STDIN_FILENO : STDOUT_FILENO }, { STDERR_FILENO, STDERR_FILENO } };
	const struct process_spawn spawn = { .argv = argv, .fds = fds, .n_fds = 2 };
	size_t n = 0;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, errno, "cannot copy");
	mine = ends[unpack];
	theirs = fds[0].fd = ends[!unpack];
	argv[n++] = program ? program : CAPSULE_LIBEXECDIR "/capsule-copy";
	argv[n++] = verb;
	if (cli_has(cli, OPT_ARCHIVE))
		argv[n++] = "--archive";
	if (contents)
		argv[n++] = "--contents";
	argv[n++] = "--";
	argv[n++] = path;
	argv[n] = NULL;
	if (process_spawn(&spawn, &h->pid, NULL, err) < 0)
		return -1;
	h->fd = steal_fd(&mine);
	return 0;
}

/* Waits for its end. 0, or -1 without an error: it has told the user what is wrong. */
static int helper_wait(struct helper *h)
{
	pid_t pid = h->pid;

	h->pid = 0;
	return !pid || process_wait(pid) == 0 ? 0 : -1;
}

static void helper_hang_up(struct helper *h)
{
	cleanup_closep(&h->fd);
	h->fd = -1;
}

static void helper_kill(struct helper *h)
{
	if (h->pid)
		kill(h->pid, SIGKILL);
	(void)helper_wait(h);
}

/* ---- to a workload ---- */

struct copy_to {
	const struct place *to;
	char *dest_path;
	struct helper helper;
	struct rpc_call *call;
	struct input input;
	uint64_t sent;
	struct progress progress;
	bool told;          /* it failed, and the user knows why */
	struct error error; /* of the start */
};

static void send_chunk(const uint8_t *data, size_t len, void *arg)
{
	Capsule__V1__WorkloadCopyToRequest request = CAPSULE__V1__WORKLOAD_COPY_TO_REQUEST__INIT;
	struct copy_to *copy = arg;

	request.payload_case = CAPSULE__V1__WORKLOAD_COPY_TO_REQUEST__PAYLOAD_CHUNK;
	request.chunk = (ProtobufCBinaryData){ .len = len, .data = (uint8_t *)(uintptr_t)data };
	rpc_call_send(copy->call, &request.base);
	copy->sent += len;
	progress_bytes(&copy->progress, NULL, copy->sent, 0);
}

/* An archive that ends because its writer failed must not be taken for a whole one. */
static void send_end(void *arg)
{
	struct copy_to *copy = arg;

	copy->told = helper_wait(&copy->helper) < 0;
	if (copy->told)
		rpc_call_cancel(copy->call);
	else
		rpc_call_half_close(copy->call);
}

static void on_start(struct rpc_call *call, uv_loop_t *loop, void *arg)
{
	Capsule__V1__WorkloadCopyToRequest request = CAPSULE__V1__WORKLOAD_COPY_TO_REQUEST__INIT;
	Capsule__V1__WorkloadCopyToMetadata metadata = CAPSULE__V1__WORKLOAD_COPY_TO_METADATA__INIT;
	struct copy_to *copy = arg;

	copy->call = call;
	metadata.name = copy->to->name;
	metadata.dest_path = copy->dest_path;
	request.payload_case = CAPSULE__V1__WORKLOAD_COPY_TO_REQUEST__PAYLOAD_METADATA;
	request.metadata = &metadata;
	rpc_call_send(call, &request.base);
	if (input_start(&copy->input, loop, call, &copy->error) < 0)
		rpc_call_cancel(call);
}

static void on_writable(struct rpc_call *call, void *arg)
{
	struct copy_to *copy = arg;

	input_writable(&copy->input);
}

static void on_stop(void *arg, struct error *err)
{
	struct copy_to *copy = arg;

	progress_clear(&copy->progress);
	if (copy->error.message)
		error_move(err, &copy->error);
	input_stop(&copy->input, err);
}

/* Where the tar stream comes from. */
static int open_source(struct cli *cli, struct copy_to *copy, const struct place *from, struct error *err)
{
	copy->input = (struct input){ .data = send_chunk, .end = send_end, .arg = copy, .name = from->path };
	if (is_stream(from)) {
		if (isatty(STDIN_FILENO))
			return cli_usage(err, "standard input is a terminal; pipe a tar archive into it");
		copy->input.name = "standard input";
		copy->helper.fd = input_standard();
		if (copy->helper.fd < 0)
			return error_errno(err, errno, "cannot open standard input");
	} else if (helper_start(&copy->helper, "pack", cli, false, from->path, err) < 0) {
		return -1;
	}
	copy->input.fd = copy->helper.fd;
	return 0;
}

static int copy_to(struct cli *cli, const struct place *from, const struct place *to, struct error *err)
{
	/* What has no name of its own goes into a directory. */
	bool into = is_stream(from) || path_wants_contents(from->path);
	struct copy_to copy = { .to = to, .helper.fd = -1 };
	struct client_feed feed = { on_start, on_writable, on_stop, &copy };
	int r;

	if (asprintf(&copy.dest_path, "%s%s", to->path, into ? "/" : "") < 0)
		return error_errno(err, ENOMEM, "cannot copy");
	r = open_source(cli, &copy, from, err);
	if (r == 0) {
		progress_init(&copy.progress);
		r = client_upload(cli, &workload_copy_to, &feed, NULL, err);
	}
	helper_kill(&copy.helper);
	helper_hang_up(&copy.helper);
	free(copy.dest_path);
	/* That the call was cancelled adds nothing. */
	if (copy.told)
		error_release(err);
	return r;
}

/* ---- from a workload ---- */

struct copy_from {
	struct cli *cli;
	const struct place *from, *to;
	struct helper helper;
	uint64_t received;
	struct progress progress;
};

/* The helper is started by the first bytes: a path that the workload does not have leaves no trace here. A call
 * waits while this one does, so what is in memory stays little. */
static int on_chunk(const void *message, void *arg, struct error *err)
{
	const Capsule__V1__WorkloadCopyFromChunk *chunk = message;
	struct copy_from *copy = arg;
	int r;

	copy->received += chunk->data.len;
	if (is_stream(copy->to))
		return output_bytes(chunk->data.data, chunk->data.len, err);
	progress_bytes(&copy->progress, NULL, copy->received, 0);
	if (!copy->helper.pid && helper_start(&copy->helper, "unpack", copy->cli, path_wants_contents(copy->from->path),
					      copy->to->path, err) < 0)
		return -1;
	r = fs_write_all(copy->helper.fd, chunk->data.data, chunk->data.len);
	if (r < 0)
		progress_clear(&copy->progress);
	/* It has ended, and says why. */
	return r == 0 || r == -EPIPE ? r : error_errno(err, -r, "cannot unpack");
}

static int copy_from(struct cli *cli, const struct place *from, const struct place *to, struct error *err)
{
	Capsule__V1__WorkloadCopyFromRequest request = CAPSULE__V1__WORKLOAD_COPY_FROM_REQUEST__INIT;
	struct copy_from copy = { .cli = cli, .from = from, .to = to, .helper.fd = -1 };
	_cleanup_free_ char *path = path_trim(from->path);
	int r;

	if (is_stream(to) && isatty(STDOUT_FILENO))
		return cli_usage(err, "standard output is a terminal; redirect the tar archive or name a file");
	if (!path || asprintf(&request.src_path, "%s%s", path_wants_contents(from->path) ? path : from->path,
			      path_wants_contents(from->path) ? "/" : "") < 0)
		return error_errno(err, ENOMEM, "cannot copy");
	request.name = from->name;
	progress_init(&copy.progress);
	r = client_stream(cli, &workload_copy_from, &request, on_chunk, &copy, err);
	progress_clear(&copy.progress);
	free(request.src_path);
	/* Where this side has failed, the helper is at its end and must not be cut short in telling why. */
	if (r < 0 && err->message)
		helper_kill(&copy.helper);
	helper_hang_up(&copy.helper);
	return helper_wait(&copy.helper) < 0 ? -1 : r;
}

/* ---- the command ---- */

static int run_cp(struct cli *cli, struct error *err)
{
	_cleanup_(place_release) struct place from = { 0 }, to = { 0 };
	int r = place_parse(cli->names[0], &from, err);

	if (r == 0)
		r = place_parse(cli->names[1], &to, err);
	if (r < 0)
		return r;
	if (!from.name == !to.name)
		return cli_usage(err, "one of the two must be in a workload, written NAME:PATH, the other on "
				 "this machine");
	return to.name ? copy_to(cli, &from, &to, err) : copy_from(cli, &from, &to, err);
}

const struct command cp_command = {
	.name = "cp", .summary = "copy files and directories to and from a workload",
	.text = "One of SRC and DST is NAME:PATH, a path in a workload; a relative one begins at its\n"
		"root. It need not run, and its image needs no shell and no tar.\n"
		"A directory as DST receives SRC under its name; otherwise DST is the copy's name, and\n"
		"missing parents are made. \"SRC/.\" means what is in a directory. \"-\" is a tar archive\n"
		"on standard input or output.\n"
		"Copies belong to root in a workload and to the user here, without special rights,\n"
		"unless --archive is given.",
	.examples = "capsulectl cp nginx.conf web:/etc/nginx/nginx.conf\n"
		    "capsulectl cp site/. web:/usr/share/nginx/html\n"
		    "capsulectl cp web:/var/log ./logs\n"
		    "capsulectl cp web:/etc - | tar -t",
	.arguments = "SRC DST", .min_arguments = 2, .max_arguments = 2, .complete = COMPLETE_FILES,
	.options = OPTION(ARCHIVE), .run = run_cp,
};
