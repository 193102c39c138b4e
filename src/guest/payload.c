/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "guest/guest.h"

#include "base/fs.h"
#include "base/process.h"
#include "guest.pb-c.h"
#include "guest/protocol.h"
#include "guest/root.h"
#include "shim/cgroup.h"
#include "shim/oci_run.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#define RUNTIME "/bin/crun"
#define RUNTIME_ROOT "/run/crun"
#define START_TIMEOUT_MS 60000
#define READ_SIZE (32u << 10)
#define REPORT_MAX 4096

typedef Capsule__Guest__V1__RunRequest RunRequest;

static void begin_end(struct payload *p);

/* ---- pipes ---- */

static void output_close(struct output *o)
{
	if (o->fd < 0)
		return;
	uv_poll_stop(&o->poll);
	uv_close((uv_handle_t *)&o->poll, NULL);
	close(steal_fd(&o->fd));
}

/* Makes a pipe of which we read: its write end, or -1. */
static int output_open(struct payload *p, struct output *o)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	if (fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0 || uv_poll_init(&p->guest->loop, &o->poll, ends[0]) < 0) {
		close(ends[0]);
		close(ends[1]);
		return -1;
	}
	o->fd = ends[0];
	o->poll.data = p;
	return ends[1];
}

/* ---- what the host is told ---- */

static void send_event(struct payload *p, const Capsule__Guest__V1__RunEvent *event)
{
	if (p->call)
		(void)rpc_call_send(p->call, &event->base);
}

static void send_started(struct payload *p)
{
	Capsule__Guest__V1__RunEvent event = CAPSULE__GUEST__V1__RUN_EVENT__INIT;
	Capsule__Guest__V1__Started started = CAPSULE__GUEST__V1__STARTED__INIT;

	started.pid = p->pid;
	event.event_case = CAPSULE__GUEST__V1__RUN_EVENT__EVENT_STARTED;
	event.started = &started;
	send_event(p, &event);
}

/* From now on the host waits for the disks, not for the payload: also a process that was killed may have to wait for them. */
static void tell_ending(struct payload *p)
{
	Capsule__Guest__V1__RunEvent event = CAPSULE__GUEST__V1__RUN_EVENT__INIT;
	Capsule__Guest__V1__Ending ending = CAPSULE__GUEST__V1__ENDING__INIT;

	if (p->told_ending)
		return;
	p->told_ending = true;
	event.event_case = CAPSULE__GUEST__V1__RUN_EVENT__EVENT_ENDING;
	event.ending = &ending;
	send_event(p, &event);
}

static void send_exited(struct payload *p)
{
	Capsule__Guest__V1__RunEvent event = CAPSULE__GUEST__V1__RUN_EVENT__INIT;
	Capsule__Guest__V1__Exited exited = CAPSULE__GUEST__V1__EXITED__INIT;

	exited.exit_code = p->exit_code;
	exited.oom_killed = p->oom_killed;
	exited.stopped = p->stopping;
	event.event_case = CAPSULE__GUEST__V1__RUN_EVENT__EVENT_EXITED;
	event.exited = &exited;
	send_event(p, &event);
}

static void send_output(struct payload *p, const struct output *o, char *data, size_t len)
{
	Capsule__Guest__V1__RunEvent event = CAPSULE__GUEST__V1__RUN_EVENT__INIT;
	ProtobufCBinaryData bytes = { len, (uint8_t *)data };

	if (o == &p->streams[0]) {
		event.event_case = CAPSULE__GUEST__V1__RUN_EVENT__EVENT_STDOUT;
		event.stdout = bytes;
	} else {
		event.event_case = CAPSULE__GUEST__V1__RUN_EVENT__EVENT_STDERR;
		event.stderr = bytes;
	}
	send_event(p, &event);
}

void payload_tell_volume_failed(struct payload *p, char *volume)
{
	Capsule__Guest__V1__RunEvent event = CAPSULE__GUEST__V1__RUN_EVENT__INIT;
	Capsule__Guest__V1__VolumeFailed failed = CAPSULE__GUEST__V1__VOLUME_FAILED__INIT;

	failed.volume = volume;
	event.event_case = CAPSULE__GUEST__V1__RUN_EVENT__EVENT_VOLUME_FAILED;
	event.volume_failed = &failed;
	send_event(p, &event);
}

/* ---- output ---- */

/* False when there is nothing to read now, or ever. */
static bool read_output(struct payload *p, struct output *o)
{
	static char data[READ_SIZE];
	ssize_t n = o->fd < 0 ? 0 : read(o->fd, data, sizeof data);

	if (n > 0) {
		send_output(p, o, data, (size_t)n);
		return true;
	}
	/* Once all is dead, an empty pipe is at its end, whoever may still hold it. */
	if (n == 0 || (errno != EINTR && (errno != EAGAIN || p->cleaned)))
		output_close(o);
	return false;
}

static void watch_outputs(struct payload *p);

static void on_output(uv_poll_t *poll, int status, int events)
{
	struct payload *p = poll->data;

	(void)read_output(p, poll == &p->streams[0].poll ? &p->streams[0] : &p->streams[1]);
	watch_outputs(p);
	payload_continue_end(p);
}

static void watch_outputs(struct payload *p)
{
	bool wanted = !p->call || rpc_call_writable(p->call);

	for (int i = 0; i < 2; i++) {
		if (p->streams[i].fd < 0)
			continue;
		if (wanted)
			uv_poll_start(&p->streams[i].poll, UV_READABLE, on_output);
		else
			uv_poll_stop(&p->streams[i].poll);
	}
}

/* What the dead have left in the pipes. True when all of it was taken. */
static bool drain_outputs(struct payload *p)
{
	for (int i = 0; i < 2; i++)
		while ((!p->call || rpc_call_writable(p->call)) && read_output(p, &p->streams[i]))
			;
	return p->streams[0].fd < 0 && p->streams[1].fd < 0;
}

/* ---- signals ---- */

static void kill_all(struct payload *p)
{
	/* Who waits to write to a volume that is held does not die before that goes on. */
	(void)holds_end(p->guest);
	/* Not reaped, so the pids still are these processes. */
	if (p->runtime)
		kill(p->runtime, SIGKILL);
	if (p->pid)
		kill(p->pid, SIGKILL);
	if (p->cgroup)
		(void)cgroup_kill_once(p->cgroup);
}

static void on_timer(uv_timer_t *timer)
{
	struct payload *p = timer->data;

	if (p->state == PAYLOAD_STARTING)
		error_set(&p->failure, ERR_DEADLINE_EXCEEDED, "the payload was not started within %d s",
			  START_TIMEOUT_MS / 1000);
	else
		tell_ending(p);
	kill_all(p);
	if (p->state == PAYLOAD_STARTING && !p->runtime)
		begin_end(p);
}

/* From a further Stop the kill can only come sooner. */
static void arm_kill(struct payload *p, int64_t grace_ms)
{
	uint64_t grace = grace_ms > 0 ? (uint64_t)grace_ms : 0;

	if (!uv_is_active((uv_handle_t *)&p->timer) || grace < uv_timer_get_due_in(&p->timer))
		uv_timer_start(&p->timer, on_timer, grace, 0);
}

static void on_stop(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__Guest__V1__StopRequest *request = (const void *)message;
	Capsule__Guest__V1__StopResponse reply = CAPSULE__GUEST__V1__STOP_RESPONSE__INIT;
	struct payload *p = &guest_of(call)->payload;

	if (!hello_check(call))
		return;
	if (request->signal < 0 || request->signal >= NSIG) {
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "there is no such signal");
		return;
	}
	if (p->state == PAYLOAD_NONE) {
		rpc_call_finish(call, ERR_FAILED_PRECONDITION, "there is no payload");
		return;
	}
	if (!p->stopping) {
		p->stop_signal = request->signal ? request->signal : SIGTERM;
		p->grace_ms = request->grace_ms;
	}
	if (p->state == PAYLOAD_RUNNING) {
		if (!p->stopping && request->grace_ms > 0)
			kill(p->pid, p->stop_signal);
		arm_kill(p, request->grace_ms);
	}
	p->stopping |= p->state <= PAYLOAD_RUNNING;
	rpc_reply(call, &reply.base);
}

/* ---- the end ---- */

static void finish(struct payload *p)
{
	p->state = PAYLOAD_OVER;
	if (!p->call) {
		guest_end(p->guest);
	} else if (p->failure.code) {
		rpc_call_fail(p->call, &p->failure);
	} else {
		send_exited(p);
		rpc_call_finish(p->call, ERR_OK, NULL);
	}
}

static _Noreturn void clean(const struct payload *p)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	process_reset_signals();
	if (root_release(p->cgroup, &err) < 0)
		fprintf(stderr, "capsule-guest: %s\n", error_message(&err));
	_exit(0);
}

static void start_cleaner(struct payload *p)
{
	p->cleaner = fork();
	if (p->cleaner == 0)
		clean(p);
	if (p->cleaner < 0)
		guest_die("cannot fork: %s", strerror(errno));
}

void payload_continue_end(struct payload *p)
{
	if (p->state != PAYLOAD_ENDING)
		return;
	/* They hold mounts of the payload's. */
	if (!p->cleaner && !p->cleaned && execs_end(p->guest) && copies_end(p->guest) && holds_end(p->guest))
		start_cleaner(p);
	if (p->cleaned && drain_outputs(p))
		finish(p);
}

static void begin_end(struct payload *p)
{
	p->state = PAYLOAD_ENDING;
	uv_timer_stop(&p->timer);
	output_close(&p->gate);
	(void)execs_end(p->guest);
	(void)copies_end(p->guest);
	(void)holds_end(p->guest);
	volumes_end(p->guest);
	payload_continue_end(p);
}

static void on_payload_ended(struct payload *p, int exit_code)
{
	guest_note("the payload has ended with %d", exit_code);
	p->pid = 0;
	p->exit_code = exit_code;
	p->oom_killed = !p->stopping && exit_code != 0 && cgroup_oom_killed(p->cgroup);
	tell_ending(p);
	begin_end(p);
}

void payload_abort(struct payload *p)
{
	if (p->state == PAYLOAD_NONE || p->state == PAYLOAD_OVER) {
		guest_end(p->guest);
		return;
	}
	if (!p->failure.code)
		error_set(&p->failure, ERR_CANCELLED, "nobody waits for the payload");
	kill_all(p);
	if (p->state == PAYLOAD_STARTING && !p->runtime)
		begin_end(p);
	/* It may wait only for the host to take the last output. */
	payload_continue_end(p);
}

/* ---- the start ---- */

static void on_running(struct payload *p)
{
	guest_note("the payload runs");
	p->state = PAYLOAD_RUNNING;
	uv_timer_stop(&p->timer);
	output_close(&p->gate);
	send_started(p);
	volumes_watch(p->guest);
	watch_outputs(p);
	if (p->stopping) {
		if (p->grace_ms > 0)
			kill(p->pid, p->stop_signal);
		arm_kill(p, p->grace_ms);
	}
	guest_show_log();
	/* It may have ended, unseen. */
	guest_reap(p->guest);
}

static int open_bundle(void)
{
	return open(GUEST_BUNDLE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void on_gate(uv_poll_t *poll, int status, int events)
{
	struct payload *p = poll->data;
	_cleanup_close_ int bundle = -1;

	if (!oci_run_ended_before_exec(p->pid)) {
		on_running(p);
		return;
	}
	bundle = open_bundle();
	oci_run_failure(bundle, p->streams[1].fd, &p->failure);
	begin_end(p);
}

/* The child's own words, if a step before the runtime has failed: a code and a sentence. */
static int take_report(struct payload *p, struct error *err)
{
	char text[REPORT_MAX];
	ssize_t n = read(p->report_fd, text, sizeof text - 1);

	close(steal_fd(&p->report_fd));
	if (n <= 0)
		return 0;
	text[n] = '\0';
	return error_set(err, (enum error_code)text[0], "%s", text + 1);
}

static int find_payload(struct payload *p, int exit_code, struct error *err)
{
	_cleanup_close_ int bundle = open_bundle();

	if (exit_code != 0)
		return oci_run_failure(bundle, p->streams[1].fd, err);
	if (oci_run_pid(bundle, &p->pid, err) < 0)
		return -1;
	p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	return p->pidfd < 0 ? error_errno(err, errno, "cannot hold the payload's process") : 0;
}

static void on_runtime_ended(struct payload *p, int exit_code)
{
	p->runtime = 0;
	if (p->failure.code || take_report(p, &p->failure) < 0 || find_payload(p, exit_code, &p->failure) < 0)
		begin_end(p);
	else
		uv_poll_start(&p->gate.poll, UV_READABLE, on_gate);
}

bool payload_reap(struct payload *p, pid_t pid, int exit_code)
{
	if (pid == p->runtime) {
		on_runtime_ended(p, exit_code);
	} else if (pid == p->pid && p->state == PAYLOAD_RUNNING) {
		on_payload_ended(p, exit_code);
	} else if (pid == p->pid) {
		p->pid = 0;
	} else if (pid == p->cleaner) {
		p->cleaner = 0;
		p->cleaned = true;
		payload_continue_end(p);
	} else {
		return false;
	}
	return true;
}

/* The child's descriptors; each is closed in execve() but for what the runtime is meant to have. */
struct ends {
	int report, out, err, gate;
};

static void ends_close(struct ends *e)
{
	cleanup_closep(&e->report);
	cleanup_closep(&e->out);
	cleanup_closep(&e->err);
	cleanup_closep(&e->gate);
}

/* So that crun takes itself for what nobody can write to, and is not copied before it runs, which costs 50 ms under emulation.
 * And nobody can: boot() made the root read-only. crun looks whether it is; only on a tmpfs it would look for seals, so the
 * host asks the kernel for a ramfs (vm/monitor.c). */
static const char *const runtime_env[] = {
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "_LIBCONTAINER_CLONED_BINARY=1", NULL,
};

static int execute_runtime(const char *name, const struct ends *ends, struct error *err)
{
	_cleanup_oci_run_ struct oci_run run = { 0 };
	/* Out of the way of each other first. */
	int out = fcntl(ends->out, F_DUPFD_CLOEXEC, OCI_RUN_GATE_FD + 1);
	int errors = fcntl(ends->err, F_DUPFD_CLOEXEC, OCI_RUN_GATE_FD + 1);
	int gate = fcntl(ends->gate, F_DUPFD_CLOEXEC, OCI_RUN_GATE_FD + 1);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (oci_run_init(&run, RUNTIME, RUNTIME_ROOT, GUEST_BUNDLE, name, false, err) < 0)
		return -1;
	if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(errors, 2) < 0 ||
	    dup2(gate, OCI_RUN_GATE_FD) < 0 || chdir(GUEST_BUNDLE) < 0)
		return error_errno(err, errno, "cannot arrange what the OCI runtime gets");
	/* execve() takes the strings as not const but does not change them. */
	execve(RUNTIME, (char *const *)(uintptr_t)run.argv, (char *const *)(uintptr_t)runtime_env);
	return error_errno(err, errno, "cannot execute the OCI runtime " RUNTIME);
}

static _Noreturn void make_and_run(const RunRequest *request, struct ends *ends)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	char text[REPORT_MAX];
	int n;

	process_reset_signals();
	if (ends->report <= OCI_RUN_GATE_FD)
		ends->report = fcntl(ends->report, F_DUPFD_CLOEXEC, OCI_RUN_GATE_FD + 1);
	if (root_make(request, &err) == 0) {
		guest_note("the root is made");
		(void)execute_runtime(request->name, ends, &err);
	}
	n = snprintf(text, sizeof text, "%c%s", (char)err.code, error_message(&err));
	(void)fs_write_all(ends->report, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
	_exit(1);
}

static int start(struct payload *p, const RunRequest *request, struct error *err)
{
	_cleanup_(ends_close) struct ends ends = { -1, -1, -1, -1 };
	int report[2];

	if (pipe2(report, O_CLOEXEC | O_NONBLOCK) < 0)
		return error_errno(err, errno, "cannot make pipes");
	p->report_fd = report[0];
	ends.report = report[1];
	ends.out = output_open(p, &p->streams[0]);
	ends.err = output_open(p, &p->streams[1]);
	ends.gate = output_open(p, &p->gate);
	if (ends.out < 0 || ends.err < 0 || ends.gate < 0)
		return error_errno(err, errno, "cannot make pipes");
	p->runtime = fork();
	if (p->runtime == 0)
		make_and_run(request, &ends);
	if (p->runtime < 0) {
		p->runtime = 0;
		return error_errno(err, errno, "cannot fork");
	}
	p->state = PAYLOAD_STARTING;
	uv_timer_start(&p->timer, on_timer, START_TIMEOUT_MS, 0);
	return 0;
}

/* Where the OCI runtime puts the payload, and we further processes. A copy, or NULL. */
static char *find_cgroup(const RunRequest *request, struct error *err)
{
	json_t *config = NULL;
	const char *path;
	char *copy;

	for (size_t i = 0; i < request->n_files && !config; i++) {
		const ProtobufCBinaryData *content = &request->files[i]->content;

		if (!strcmp(request->files[i]->name, "config.json"))
			config = json_loadb((const char *)content->data, content->len, 0, NULL);
	}
	path = json_string_value(json_object_get(json_object_get(config, "linux"), "cgroupsPath"));
	copy = path && path[0] == '/' && path[1] ? strdup(path) : NULL;
	json_decref(config);
	if (!copy)
		error_set(err, ERR_INVALID_ARGUMENT, "the bundle has no config.json that names a cgroup");
	return copy;
}

static int run(struct payload *p, const RunRequest *request, struct error *err)
{
	if (p->state != PAYLOAD_NONE || p->cgroup)
		return error_set(err, ERR_FAILED_PRECONDITION, "Run was asked for already");
	p->cgroup = find_cgroup(request, err);
	volumes_note(p->guest, request);
	return p->cgroup ? start(p, request, err) : -1;
}

static void on_run(struct rpc_call *call, const ProtobufCMessage *message)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct payload *p = &guest_of(call)->payload;

	if (!hello_check(call))
		return;
	if (run(p, (const void *)message, &err) < 0) {
		rpc_call_fail(call, &err);
		return;
	}
	p->call = call;
	guest_note("the host asks for %s", ((const RunRequest *)(const void *)message)->name);
}

static void on_run_writable(struct rpc_call *call)
{
	struct payload *p = &guest_of(call)->payload;

	if (call != p->call)
		return;
	watch_outputs(p);
	payload_continue_end(p);
}

static void on_run_closed(struct rpc_call *call, enum error_code code, const char *message)
{
	struct payload *p = &guest_of(call)->payload;

	if (call != p->call)
		return;
	p->call = NULL;
	payload_abort(p);
}

void payload_init(struct payload *p, struct guest *g)
{
	*p = (struct payload){ .guest = g, .report_fd = -1, .pidfd = -1, .gate.fd = -1,
			       .streams = { { .fd = -1 }, { .fd = -1 } } };
	uv_timer_init(&g->loop, &p->timer);
	p->timer.data = p;
}

struct rpc_method payload_methods[PAYLOAD_METHODS] = {
	{ .path = "/capsule.guest.v1.GuestService/Run",
	  .receives = &capsule__guest__v1__run_request__descriptor,
	  .receives_one = true,
	  .message = on_run,
	  .writable = on_run_writable,
	  .close = on_run_closed },
	{ .path = "/capsule.guest.v1.GuestService/Stop",
	  .receives = &capsule__guest__v1__stop_request__descriptor,
	  .receives_one = true,
	  .message = on_stop },
};
