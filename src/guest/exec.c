/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Exec. Two parts that the daemon and a container's shim have, in one process here: runtime/process.h on the one end of
 * a connection has the streams, shim/exec.h on the other one the process.
 */
#include "shim/exec.h"

#include "guest.pb-c.h"
#include "guest/guest.h"
#include "guest/protocol.h"
#include "runtime/container/exec_spec.h"
#include "runtime/process.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>

struct exec_call {
	struct exec_call *next;
	struct guest *guest;
	struct rpc_call *call;   /* NULL: closed */
	struct process *process; /* NULL: not started, or done with */
	struct exec held;
	int connection;          /* the shim's end; -1: none */
	uv_poll_t report;
	bool reporting;          /* `report` is in use */
	bool asked;              /* there was a start */
};

typedef Capsule__Guest__V1__ExecEvent Event;
typedef Capsule__Guest__V1__ExecStart Start;

/* ---- what the host is told ---- */

static void send_event(struct exec_call *e, const Event *event)
{
	if (e->call)
		(void)rpc_call_send(e->call, &event->base);
}

/* After it nothing is sent any more. */
static void send_end(struct exec_call *e, const Event *event)
{
	send_event(e, event);
	process_free(steal_ptr(&e->process));
	if (e->call)
		rpc_call_finish(e->call, ERR_OK, NULL);
}

static void send_failed(struct exec_call *e, int exit_code, const char *why)
{
	Event event = CAPSULE__GUEST__V1__EXEC_EVENT__INIT;
	Capsule__Guest__V1__ExecFailed failed = CAPSULE__GUEST__V1__EXEC_FAILED__INIT;

	failed.exit_code = exit_code;
	failed.message = (char *)(uintptr_t)why;
	event.event_case = CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_FAILED;
	event.failed = &failed;
	send_end(e, &event);
}

static void send_started(struct exec_call *e)
{
	Event event = CAPSULE__GUEST__V1__EXEC_EVENT__INIT;
	Capsule__Guest__V1__Started started = CAPSULE__GUEST__V1__STARTED__INIT;

	started.pid = e->held.pid;
	event.event_case = CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_STARTED;
	event.started = &started;
	send_event(e, &event);
}

/* ---- the streams ---- */

static bool on_output(enum process_stream stream, const void *data, size_t len, void *arg)
{
	Event event = CAPSULE__GUEST__V1__EXEC_EVENT__INIT;
	ProtobufCBinaryData bytes = { len, (uint8_t *)(uintptr_t)data };
	struct exec_call *e = arg;

	if (stream == PROCESS_STDOUT) {
		event.event_case = CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_STDOUT;
		event.stdout = bytes;
	} else {
		event.event_case = CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_STDERR;
		event.stderr = bytes;
	}
	send_event(e, &event);
	return rpc_call_writable(e->call);
}

static void on_drained(void *arg)
{
	struct exec_call *e = arg;

	rpc_call_resume(e->call);
}

static void on_ended(int exit_code, const char *reason, void *arg)
{
	Event event = CAPSULE__GUEST__V1__EXEC_EVENT__INIT;
	Capsule__Guest__V1__ExecExit exit = CAPSULE__GUEST__V1__EXEC_EXIT__INIT;
	struct exec_call *e = arg;

	if (reason) {
		send_failed(e, exit_code, reason);
		return;
	}
	exit.exit_code = exit_code;
	event.event_case = CAPSULE__GUEST__V1__EXEC_EVENT__EVENT_EXIT;
	event.exit = &exit;
	send_end(e, &event);
}

static void on_failed(const struct error *err, void *arg)
{
	send_failed(arg, 0, error_message(err));
}

/* ---- the process ---- */

static void drop(struct exec_call *e)
{
	struct exec_call **p = &e->guest->execs;

	while (*p != e)
		p = &(*p)->next;
	*p = e->next;
	cleanup_closep(&e->connection);
	free(e);
}

/* Gone when nobody asks for it, its process is reaped, and libuv has let go. */
static void release_if_over(struct exec_call *e)
{
	if (!e->call && !e->held.pid && !e->reporting)
		drop(e);
}

static void on_report_closed(uv_handle_t *handle)
{
	struct exec_call *e = handle->data;

	e->reporting = false;
	release_if_over(e);
}

static void on_report(uv_poll_t *poll, int status, int events);

static void take_report(struct exec_call *e)
{
	if (e->held.report_fd < 0)
		return;
	/* libuv lets go of a descriptor before it is closed, which happens when the report is complete. */
	uv_poll_stop(&e->report);
	exec_take_report(&e->held, e->connection);
	if (e->held.report_fd >= 0) {
		uv_poll_start(&e->report, UV_READABLE, on_report);
		return;
	}
	uv_close((uv_handle_t *)&e->report, on_report_closed);
	if (!e->held.failed)
		send_started(e);
}

static void on_report(uv_poll_t *poll, int status, int events)
{
	take_report(poll->data);
}

/* What the shim's functions work on. */
static struct shim shim_of(struct guest *g, struct shim_options *options)
{
	*options = (struct shim_options){ .cgroup = g->payload.cgroup };
	return (struct shim){ .options = options, .pid = g->payload.pid, .pidfd = g->payload.pidfd };
}

/* Children that are born meanwhile are in the payload's pid namespace. */
static int begin_in_payload(struct exec_call *e, const struct shim_exec *request, const int *fds, size_t n_fds,
			    struct error *err)
{
	_cleanup_close_ int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	struct shim_options options;
	struct shim shim = shim_of(e->guest, &options);
	int r;

	if (own < 0 || setns(shim.pidfd, CLONE_NEWPID) < 0)
		return error_errno(err, errno, "cannot enter the payload, which may be ending");
	r = exec_begin(&e->held, &shim, request, fds, n_fds, err);
	if (setns(own, CLONE_NEWPID) < 0)
		guest_die("cannot leave the payload's pid namespace: %s", strerror(errno));
	return r;
}

static int begin(struct exec_call *e, const struct shim_exec *request, const int *fds, size_t n_fds, struct error *err)
{
	if (begin_in_payload(e, request, fds, n_fds, err) < 0)
		return -1;
	if (uv_poll_init(&e->guest->loop, &e->report, e->held.report_fd) < 0)
		guest_die("cannot watch a process");
	e->reporting = true;
	e->report.data = e;
	uv_poll_start(&e->report, UV_READABLE, on_report);
	return 0;
}

/* The shim's part: takes the request that process_start() has just put on the connection. */
static int serve_request(struct exec_call *e, struct error *err)
{
	struct shim_message m;
	int fds[SHIM_FDS_MAX], r;
	size_t n_fds;

	r = shim_receive_fds(e->connection, &m, fds, &n_fds);
	if (r <= 0 || m.type != SHIM_EXEC)
		return error_set(err, ERR_INTERNAL, "cannot ask for a process");
	r = begin(e, &m.body.exec, fds, n_fds, err);
	shim_close_fds(fds, n_fds);
	return r;
}

static int prepare(struct exec_call *e, const Start *start, struct driver_process *ret, struct error *err)
{
	_cleanup_close_ int bundle = open(GUEST_BUNDLE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ Capsule__V1__WorkloadExecConfig__EnvEntry *entries = calloc(start->n_env + 1, sizeof *entries);
	_cleanup_free_ Capsule__V1__WorkloadExecConfig__EnvEntry **env = calloc(start->n_env + 1, sizeof *env);
	Capsule__V1__WorkloadExecConfig config = CAPSULE__V1__WORKLOAD_EXEC_CONFIG__INIT;
	const struct driver_exec exec = { .config = &config, .pid = e->guest->payload.pid };

	if (bundle < 0 || !entries || !env)
		return error_errno(err, errno, "cannot prepare a process");
	for (size_t i = 0; i < start->n_env; i++) {
		capsule__v1__workload_exec_config__env_entry__init(&entries[i]);
		entries[i].key = start->env[i]->key;
		entries[i].value = start->env[i]->value;
		env[i] = &entries[i];
	}
	config.n_command = start->n_command;
	config.command = start->command;
	config.tty = start->terminal;
	config.n_env = start->n_env;
	config.env = env;
	config.working_dir = start->workdir;
	config.user = start->user;
	return exec_spec_prepare(bundle, &exec, ret, err);
}

static unsigned count_processes(const struct guest *g)
{
	unsigned n = 0;

	for (const struct exec_call *e = g->execs; e; e = e->next)
		n += e->held.pid != 0;
	return n;
}

static int check(const struct exec_call *e, const Start *start, struct error *err)
{
	if (e->guest->payload.state != PAYLOAD_RUNNING)
		return error_set(err, ERR_FAILED_PRECONDITION, "the payload does not run");
	if (count_processes(e->guest) >= GUEST_EXECS_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "%d processes were started in it already",
				 GUEST_EXECS_MAX);
	if (!start->n_command || !*start->command[0])
		return error_set(err, ERR_INVALID_ARGUMENT, "there is no command");
	return 0;
}

static void resize(struct exec_call *e, const Capsule__Guest__V1__Size *size)
{
	if (size)
		process_resize(e->process, size->columns, size->rows);
}

static int start_process(struct exec_call *e, const Start *start, struct error *err)
{
	const struct process_events events = { on_output, on_drained, on_ended, on_failed, e };
	struct driver_process prepared = DRIVER_PROCESS_NONE;
	int pair[2];

	if (check(e, start, err) < 0 || prepare(e, start, &prepared, err) < 0)
		return -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
		driver_process_release(&prepared);
		return error_errno(err, errno, "cannot make a connection for a process");
	}
	e->connection = pair[0];
	prepared.control_fd = pair[1];
	e->process = process_new(&e->guest->loop, &events);
	if (!e->process)
		guest_die("out of memory");
	resize(e, start->size);
	return process_start(e->process, &prepared, err) < 0 ? -1 : serve_request(e, err);
}

/* ---- the call ---- */

static void on_open(struct rpc_call *call)
{
	struct guest *g = guest_of(call);
	struct exec_call *e;

	if (!hello_check(call))
		return;
	e = calloc(1, sizeof *e);
	if (!e)
		guest_die("out of memory");
	*e = (struct exec_call){ .next = g->execs, .guest = g, .call = call, .held = EXEC_NONE, .connection = -1 };
	g->execs = e;
	rpc_call_set_data(call, e);
}

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__Guest__V1__ExecRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;
	struct exec_call *e = rpc_call_data(call);

	if (request->request_case == CAPSULE__GUEST__V1__EXEC_REQUEST__REQUEST_START && !e->asked) {
		e->asked = true;
		if (start_process(e, request->start, &err) < 0)
			send_failed(e, 0, error_message(&err));
	} else if (!e->process) {
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "the first message must hold the start, and no other");
	} else if (request->request_case == CAPSULE__GUEST__V1__EXEC_REQUEST__REQUEST_STDIN) {
		if (!process_write(e->process, request->stdin.data, request->stdin.len))
			rpc_call_pause(call);
	} else if (request->request_case == CAPSULE__GUEST__V1__EXEC_REQUEST__REQUEST_RESIZE) {
		resize(e, request->resize);
	} else {
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "a message holds neither stdin nor a size");
	}
}

static void on_half_close(struct rpc_call *call)
{
	struct exec_call *e = rpc_call_data(call);

	if (e && e->process)
		process_end_input(e->process);
	else
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "the stream ended without a start");
}

static void on_writable(struct rpc_call *call)
{
	struct exec_call *e = rpc_call_data(call);

	if (e->process)
		process_resume(e->process);
}

static void kill_process(struct exec_call *e)
{
	struct shim_options options;
	struct shim shim = shim_of(e->guest, &options);

	if (e->held.pid)
		exec_kill(&e->held, &shim);
}

static void on_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct exec_call *e = rpc_call_data(call);

	if (!e)
		return;
	e->call = NULL;
	process_free(steal_ptr(&e->process));
	kill_process(e);
	release_if_over(e);
}

/* ---- the guest's side ---- */

bool exec_reap(struct guest *g, pid_t pid, int exit_code)
{
	for (struct exec_call *e = g->execs; e; e = e->next) {
		if (e->held.pid != pid)
			continue;
		/* What it reported was sent before it died. */
		take_report(e);
		exec_ended(&e->held, e->connection, exit_code);
		close(steal_fd(&e->connection));
		release_if_over(e);
		return true;
	}
	return false;
}

bool execs_end(struct guest *g)
{
	for (struct exec_call *e = g->execs; e; e = e->next)
		kill_process(e);
	return count_processes(g) == 0;
}

struct rpc_method exec_method = {
	.path = "/capsule.guest.v1.GuestService/Exec",
	.receives = &capsule__guest__v1__exec_request__descriptor,
	.open = on_open,
	.message = on_message,
	.half_close = on_half_close,
	.writable = on_writable,
	.close = on_close,
};
