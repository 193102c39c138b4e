/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The life of one VM:
 *
 *     BOOTING --Hello--> GREETED --SHIM_START--> STARTING --Started--> RUNNING --Exited--> ENDING --monitor's end--> (over)
 *
 * The machine boots while the daemon writes the bundle. A machine that ends or is silent while BOOTING is started once more.
 * Before RUNNING every failure kills the machine and ends with SHIM_FAILED; from then on the run ends with SHIM_EXIT, when
 * the monitor is gone and the guest's stream was read to its end. A machine without an agent is RUNNING as soon as its
 * processors are, and SHIM_START was here.
 *
 * Between the payload's end (Ending) and Exited the guest unmounts and syncs, for which it has a time of its own: the end of a
 * grace must not be a power cut. A guest may say so only to be waited for. So it has the long time only for as long as the
 * host sees it at work on its disks (progress.h), and not under a stop without grace.
 */
#include "vm/connections.h"
#include "vm/monitor.h"
#include "vm/progress.h"
#include "vm/seclude.h"

#include "base/timeutil.h"
#include "base/utf8.h"
#include "shim/cgroup.h"
#include "shim/holder.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>

/* From the monitor's start to Hello, from Run to the payload, and from the payload's end to the machine's. */
#define BOOT_TIMEOUT_MS 30000
#define RUN_TIMEOUT_MS 60000
#define RUN_TIMEOUT_EMULATED_MS 120000
#define END_TIMEOUT_MS 15000
#define END_TIMEOUT_EMULATED_MS 45000
/* After the grace, for a guest that does not do what it was told; and for one that has lost its stream, which ends its machine then.
 * One that tells of no Ending unmounts and syncs in it. */
#define STOP_MARGIN_MS 20000
/* How often it is looked whether a guest that cleans up is at work. STOP_MARGIN_MS without that are its end. */
#define LOOK_MS 2000
#define ATTEMPTS 2
#define EXIT_UNKNOWN 255

enum vm_state { VM_BOOTING, VM_GREETED, VM_STARTING, VM_RUNNING, VM_ENDING };

struct vm {
	const struct vm_options *options;
	uv_loop_t loop;
	uv_timer_t deadline; /* of what the state waits for */
	uv_timer_t quiet;
	uv_signal_t terminate;
	enum vm_state state;
	struct connections *connections;
	struct console console;
	struct log_writer log;
	struct monitor *monitor;
	struct guest *guest; /* NULL: the agent's stream is not there */
	bool bundle;         /* SHIM_START was here */
	bool stopping;
	bool grace_over; /* the machine was killed for that */
	bool cleaning;   /* the payload has ended or was killed; the guest unmounts and syncs */
	bool monitor_ended;
	int monitor_status;
	unsigned attempts;
	int64_t kill_at_ns; /* of a stop */
	int64_t cleaning_at_ns, worked_at_ns; /* since when it cleans up; when it was last seen at work on its disks */
	struct timespec last_write;
	bool impatient; /* a stop without grace was asked for */
	int run_fd;
	struct error failure; /* why there is no payload */
	struct error silence; /* why nobody hears of the payload any more */
	struct shim_result result;
	int status; /* of this program */
};

static int64_t timeout_of(const struct vm *vm, int64_t with_kvm, int64_t emulated)
{
	return vm->options->emulated ? emulated : with_kvm;
}

static void arm(struct vm *vm, int64_t ms, uv_timer_cb fn)
{
	uv_update_time(&vm->loop);
	uv_timer_start(&vm->deadline, fn, (uint64_t)ms, 0);
}

static void on_quiet(uv_timer_t *timer)
{
	holder_shrink();
}

/* After each burst of work, not a tick. */
static void become_quiet(struct vm *vm)
{
	uv_timer_start(&vm->quiet, on_quiet, HOLDER_QUIET_MS, 0);
}

/* ---- failures ---- */

static void add_console(const struct vm *vm, struct error *err)
{
	char lines[CONSOLE_LINES_MAX];

	if (*console_last_lines(&vm->console, lines)) {
		_cleanup_error_ struct error said = ERROR_INIT;

		error_set(&said, err->code, "%s; its console ends with: %s", error_message(err), lines);
		error_release(err);
		error_move(err, &said);
	}
}

/* There will be no payload. Says so when the machine is gone. */
static void fail(struct vm *vm, const struct error *why)
{
	if (vm->failure.code == ERR_OK)
		error_set(&vm->failure, why->code, "%s", error_message(why));
	uv_timer_stop(&vm->deadline);
	if (vm->monitor && !vm->monitor_ended)
		monitor_kill(vm->monitor);
	else
		uv_stop(&vm->loop);
}

static void fail_with_console(struct vm *vm, struct error *why)
{
	add_console(vm, why);
	fail(vm, why);
}

/* ---- the machine ---- */

static int boot(struct vm *vm, struct error *err);
static void try_to_finish(struct vm *vm);

/* A second machine, if that was the first; false: there is none. */
static bool boot_again(struct vm *vm)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (vm->state != VM_BOOTING || vm->stopping || vm->attempts == ATTEMPTS || vm->failure.code != ERR_OK)
		return false;
	guest_free(steal_ptr(&vm->guest));
	if (!vm->monitor_ended)
		monitor_kill(vm->monitor); /* goes on when it is dead */
	else if (boot(vm, &err) < 0)
		fail(vm, &err);
	return true;
}

static void boot_failed(struct vm *vm, struct error *why)
{
	if (!boot_again(vm))
		fail_with_console(vm, why);
}

static void on_boot_timeout(uv_timer_t *timer)
{
	struct vm *vm = timer->data;
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERR_DEADLINE_EXCEEDED, "the guest did not answer within %d s of its boot in %s%s",
		  BOOT_TIMEOUT_MS / 1000, vm->options->monitor->name, vm->options->emulated ? " (emulated)" : "");
	boot_failed(vm, &err);
}

static void on_run_timeout(uv_timer_t *timer)
{
	struct vm *vm = timer->data;
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERR_DEADLINE_EXCEEDED, "the guest did not start the payload within %d s",
		  (int)(timeout_of(vm, RUN_TIMEOUT_MS, RUN_TIMEOUT_EMULATED_MS) / 1000));
	fail_with_console(vm, &err);
}

static void on_end_timeout(uv_timer_t *timer)
{
	struct vm *vm = timer->data;

	monitor_kill(vm->monitor);
}

static void on_grace_over(uv_timer_t *timer)
{
	struct vm *vm = timer->data;

	vm->grace_over = true;
	monitor_kill(vm->monitor);
}

static void note_reason(struct vm *vm, const char *why)
{
	char lines[CONSOLE_LINES_MAX];

	if (*vm->result.reason)
		return;
	console_last_lines(&vm->console, lines);
	snprintf(vm->result.reason, sizeof vm->result.reason, "%s%s%s", why, *lines ? "; its console ends with: " : "",
		 lines);
	/* Why may be the guest's word. */
	utf8_line(vm->result.reason);
}

static void on_silence_timeout(uv_timer_t *timer)
{
	struct vm *vm = timer->data;

	note_reason(vm, error_message(&vm->silence));
	monitor_kill(vm->monitor);
}

static int64_t clean_up_ms(const struct vm *vm)
{
	int64_t longest = vm->options->clean_up_ms;

	return vm->impatient && longest > STOP_MARGIN_MS ? STOP_MARGIN_MS : longest;
}

static void go_on_cleaning(struct vm *vm);

static void on_look(uv_timer_t *timer)
{
	struct vm *vm = timer->data;
	int64_t now = time_monotonic_ns();
	char why[128] = "";

	if (progress_seen(vm->monitor, &vm->last_write))
		vm->worked_at_ns = now;
	if (now - vm->cleaning_at_ns >= clean_up_ms(vm) * NSEC_PER_MSEC)
		snprintf(why, sizeof why, "the guest did not unmount and sync within %d s of its payload's end",
			 (int)(clean_up_ms(vm) / 1000));
	else if (now - vm->worked_at_ns >= STOP_MARGIN_MS * NSEC_PER_MSEC)
		snprintf(why, sizeof why, "the guest did not end after its payload, nor use its disks for %d s",
			 STOP_MARGIN_MS / 1000);
	if (!*why) {
		go_on_cleaning(vm);
		return;
	}
	note_reason(vm, why);
	monitor_kill(vm->monitor);
}

static void go_on_cleaning(struct vm *vm)
{
	int64_t left = clean_up_ms(vm) - (time_monotonic_ns() - vm->cleaning_at_ns) / NSEC_PER_MSEC;

	arm(vm, left < 0 ? 0 : left < LOOK_MS ? left : LOOK_MS, on_look);
}

static void describe_end(const struct vm *vm, int status, struct error *err)
{
	const char *when = vm->state == VM_BOOTING ? "before the guest answered" : "before the payload ran";

	if (WIFSIGNALED(status))
		error_set(err, ERR_FAILED_PRECONDITION, "%s was killed by signal %d %s", vm->options->monitor->name,
			  WTERMSIG(status), when);
	else
		error_set(err, ERR_FAILED_PRECONDITION, "%s ended with exit code %d %s", vm->options->monitor->name,
			  WEXITSTATUS(status), when);
}

/* The machine ended under its payload, or without an agent to tell of one. */
static void note_end(struct vm *vm, int status)
{
	struct shim_result *r = &vm->result;
	char why[128], lines[CONSOLE_LINES_MAX];

	r->oom_killed = cgroup_oom_killed(vm->options->cgroup);
	/* A monitor ends well when the guest powers off or, without ACPI, resets. So does a kernel that panics. */
	if (!vm->options->agent && WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
	    !strstr(console_last_lines(&vm->console, lines), "Kernel panic"))
		return;
	r->exit_code = vm->stopping ? 128 + SIGKILL : EXIT_UNKNOWN;
	/* A system of the user's own that did not hear the power button, as a payload that did not hear its signal. */
	if (!vm->options->agent && vm->grace_over)
		return;
	if (WIFSIGNALED(status))
		snprintf(why, sizeof why, "%s was killed by signal %d", vm->options->monitor->name, WTERMSIG(status));
	else
		snprintf(why, sizeof why, "the machine ended (exit code %d of %s) before %s", WEXITSTATUS(status),
			 vm->options->monitor->name, vm->cleaning ? "it told how its payload had ended" : "its payload did");
	note_reason(vm, why);
}

static void on_monitor_ended(int status, void *arg)
{
	struct vm *vm = arg;
	_cleanup_error_ struct error err = ERROR_INIT;

	vm->monitor_ended = true;
	vm->monitor_status = status;
	if (vm->failure.code != ERR_OK) {
		uv_stop(&vm->loop);
	} else if (vm->state < VM_RUNNING) {
		describe_end(vm, status, &err);
		boot_failed(vm, &err);
	} else {
		try_to_finish(vm);
	}
}

static void on_monitor_failed(const struct error *why, void *arg)
{
	struct vm *vm = arg;

	if (vm->state >= VM_RUNNING)
		monitor_kill(vm->monitor);
	else if (!boot_again(vm))
		fail(vm, why);
}

/* ---- the payload ---- */

static void try_to_finish(struct vm *vm)
{
	/* The monitor held the other end of the guest's stream, so that ends too. How the payload ended may be in it yet. */
	if (!vm->monitor_ended || (vm->guest && guest_runs(vm->guest)))
		return;
	if (vm->state == VM_RUNNING)
		note_end(vm, vm->monitor_status);
	uv_stop(&vm->loop);
}

static void on_started(void *arg)
{
	struct vm *vm = arg;
	struct shim_hello hello = { .generation = vm->options->generation, .pid = vm->monitor->pid };

	if (vm->state > VM_STARTING || vm->failure.code != ERR_OK)
		return;
	vm->state = VM_RUNNING;
	uv_timer_stop(&vm->deadline);
	vm->result.started_at_ns = hello.started_at_ns = time_realtime_ns();
	/* Without it a holder that is killed leaves a start that was cut off, no more. */
	(void)shim_note_begun(vm->run_fd, NULL);
	connections_welcome(vm->connections, &hello, vm->guest);
	become_quiet(vm);
}

static void on_output(enum log_stream stream, const char *data, size_t len, void *arg)
{
	struct vm *vm = arg;

	log_writer_add(&vm->log, stream, data, len);
}

static void on_ending(void *arg)
{
	struct vm *vm = arg;

	if (vm->state != VM_RUNNING)
		return;
	vm->cleaning = true;
	vm->cleaning_at_ns = vm->worked_at_ns = time_monotonic_ns();
	/* What was written before does not count. */
	(void)progress_seen(vm->monitor, &vm->last_write);
	connections_tell_ending(vm->connections);
	go_on_cleaning(vm);
}

static void on_exited(const Capsule__Guest__V1__Exited *exited, void *arg)
{
	struct vm *vm = arg;
	struct shim_result *r = &vm->result;

	if (vm->state != VM_RUNNING)
		return;
	vm->state = VM_ENDING;
	r->finished_at_ns = time_realtime_ns();
	r->exit_code = exited->exit_code & 0xff;
	r->oom_killed = exited->oom_killed && !vm->stopping;
	connections_seclude(vm->connections);
	arm(vm, timeout_of(vm, END_TIMEOUT_MS, END_TIMEOUT_EMULATED_MS), on_end_timeout);
	try_to_finish(vm);
}

static void on_volume_failed(const char *name, void *arg)
{
	const struct vm *vm = arg;

	for (size_t i = 0; i < vm->options->n_volumes; i++)
		if (!strcmp(vm->options->volumes[i].name, name))
			connections_tell_volume_failed(vm->connections, vm->options->volumes[i].name);
}

static void on_run_ended(const struct error *why, void *arg)
{
	struct vm *vm = arg;
	_cleanup_error_ struct error err = ERROR_INIT;

	connections_seclude(vm->connections);
	if (vm->monitor_ended || vm->state == VM_ENDING) {
		try_to_finish(vm);
	} else if (vm->state == VM_STARTING) {
		error_set(&err, why ? why->code : ERR_INTERNAL, "%s", why ? error_message(why) : "the guest ran nothing");
		/* The guest says itself what was wrong, unless it is gone. */
		if (!why || why->code == ERR_UNAVAILABLE)
			add_console(vm, &err);
		fail(vm, &err);
	} else {
		/* Most likely the machine is ending, which tells more, or the guest ends it: for that it has the time that it had
		 * before, or a margin. */
		error_set(&vm->silence, ERR_UNAVAILABLE, "%s",
			  why ? error_message(why) : "the guest said no more of its payload");
		if (!vm->cleaning)
			arm(vm, STOP_MARGIN_MS, on_silence_timeout);
	}
}

static void run(struct vm *vm)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (guest_run(vm->guest, vm->options, &err) < 0) {
		fail(vm, &err);
		return;
	}
	vm->state = VM_STARTING;
	arm(vm, timeout_of(vm, RUN_TIMEOUT_MS, RUN_TIMEOUT_EMULATED_MS), on_run_timeout);
}

static void run_if_ready(struct vm *vm)
{
	if (vm->state != VM_GREETED || !vm->bundle || vm->failure.code != ERR_OK)
		return;
	if (vm->options->agent)
		run(vm);
	else
		on_started(vm);
}

/* The machine is one to keep. Nothing is started by this program any more. */
static void be_greeted(struct vm *vm)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	vm->state = VM_GREETED;
	uv_timer_stop(&vm->deadline);
	if (seclude(vm->options, vm->monitor, &err) < 0)
		fail(vm, &err);
	else
		run_if_ready(vm);
}

static void on_hello(const struct error *why, void *arg)
{
	struct vm *vm = arg;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (vm->state != VM_BOOTING || vm->failure.code != ERR_OK)
		return;
	if (!why) {
		be_greeted(vm);
		return;
	}
	error_set(&err, why->code, "the guest's answer was not understood: %s", error_message(why));
	boot_failed(vm, &err);
}

static void on_agent(int fd, void *arg)
{
	const struct guest_events events = {
		on_hello, on_started, on_output, on_ending, on_exited, on_volume_failed, on_run_ended, arg,
	};
	struct vm *vm = arg;
	_cleanup_error_ struct error err = ERROR_INIT;

	vm->guest = guest_new(&vm->loop, fd, BOOT_TIMEOUT_MS, &events, &err);
	if (!vm->guest)
		fail(vm, &err);
}

static void on_machine_running(void *arg)
{
	struct vm *vm = arg;

	if (!vm->options->agent && vm->state == VM_BOOTING)
		be_greeted(vm);
}

static int boot(struct vm *vm, struct error *err)
{
	const struct monitor_events events = {
		on_machine_running, on_agent, on_monitor_failed, on_monitor_ended, vm,
	};

	monitor_free(steal_ptr(&vm->monitor));
	vm->attempts++;
	vm->monitor_ended = false;
	/* What failed once is watched closely. */
	vm->monitor = monitor_start(&vm->loop, vm->options, vm->attempts > 1, &vm->console, &events, err);
	if (!vm->monitor)
		return -1;
	arm(vm, BOOT_TIMEOUT_MS, on_boot_timeout);
	return 0;
}

/* ---- what the daemon asks for ---- */

static void on_bundle(void *arg)
{
	struct vm *vm = arg;

	vm->bundle = true;
	run_if_ready(vm);
}

static void cancel(struct vm *vm, const char *why)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERR_CANCELLED, "%s", why);
	fail(vm, &err);
}

static void on_orphaned(void *arg)
{
	cancel(arg, "the daemon ended during the start");
}

static void on_stop(int sig, int64_t grace_ms, void *arg)
{
	struct vm *vm = arg;
	int64_t margin = vm->options->agent ? STOP_MARGIN_MS : 0, now = time_monotonic_ns(), at;

	vm->stopping = true;
	if (vm->state < VM_RUNNING) {
		cancel(vm, "the workload was stopped during its start");
		return;
	}
	grace_ms = grace_ms > 0 ? grace_ms : 0;
	vm->impatient |= grace_ms == 0;
	/* No grace is left to be shortened once the guest unmounts, and nobody hears of it where it has lost its stream. */
	if (vm->state != VM_RUNNING || vm->cleaning || vm->silence.code != ERR_OK)
		return;
	at = now + (grace_ms + margin) * NSEC_PER_MSEC;
	/* Again only to shorten the grace. */
	if (vm->kill_at_ns && at >= vm->kill_at_ns)
		return;
	vm->kill_at_ns = at;
	if (vm->options->agent && vm->guest)
		guest_stop(vm->guest, sig ? sig : vm->options->stop_signal, grace_ms);
	else
		monitor_power_off(vm->monitor);
	arm(vm, grace_ms + margin, on_grace_over);
}

static void on_terminate(uv_signal_t *handle, int sig)
{
	struct vm *vm = handle->data;

	on_stop(vm->options->stop_signal, vm->options->grace_ms, vm);
}

static void on_quieter(void *arg)
{
	become_quiet(arg);
}

/* ---- set-up and end ---- */

static int watch_signals(struct vm *vm, struct error *err)
{
	sigset_t one;

	uv_signal_init(&vm->loop, &vm->terminate);
	vm->terminate.data = vm;
	if (uv_signal_start(&vm->terminate, on_terminate, SIGTERM) < 0)
		return error_set(err, ERR_INTERNAL, "cannot watch signals");
	sigemptyset(&one);
	sigaddset(&one, SIGTERM);
	sigprocmask(SIG_UNBLOCK, &one, NULL);
	return 0;
}

static int set_up(struct vm *vm, struct error *err)
{
	const struct connections_events events = { on_bundle, on_orphaned, on_stop, on_quieter, vm };
	const struct vm_options *o = vm->options;

	vm->run_fd = open(o->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (vm->run_fd < 0)
		return error_errno(err, errno, "cannot open %s", o->run_dir);
	if (uv_loop_init(&vm->loop) < 0)
		return error_set(err, ERR_INTERNAL, "cannot make an event loop");
	uv_timer_init(&vm->loop, &vm->deadline);
	uv_timer_init(&vm->loop, &vm->quiet);
	vm->deadline.data = vm->quiet.data = vm;
	if (shim_pid_write(vm->run_fd, err) < 0 ||
	    console_open(&vm->console, &vm->loop, o->state_dir, o->log_max_bytes, o->log_max_files, err) < 0 ||
	    log_writer_open(&vm->log, o->state_dir, "payload.log", o->log_max_bytes, o->log_max_files, err) < 0 ||
	    cgroup_make(o->cgroup, err) < 0 || watch_signals(vm, err) < 0)
		return -1;
	vm->connections = connections_new(&vm->loop, &events, err);
	return vm->connections ? 0 : -1;
}

static void tell_end(struct vm *vm)
{
	struct shim_result *r = &vm->result;

	if (vm->failure.code != ERR_OK) {
		connections_refuse(vm->connections, &vm->failure);
		vm->status = 1;
		return;
	}
	r->generation = vm->options->generation;
	r->stopped = vm->stopping;
	if (!r->finished_at_ns)
		r->finished_at_ns = time_realtime_ns();
	log_writer_close(&vm->log);
	console_close(&vm->console);
	(void)shim_result_write(vm->run_fd, r, NULL);
	connections_finish(vm->connections, r);
}

int vm_hold(const struct vm_options *options)
{
	static struct vm vm;
	_cleanup_error_ struct error err = ERROR_INIT;

	vm.options = options;
	vm.run_fd = -1;
	if (set_up(&vm, &err) < 0) {
		holder_refuse(&err);
		return 1;
	}
	if (boot(&vm, &err) < 0)
		fail(&vm, &err);
	if (vm.failure.code == ERR_OK)
		uv_run(&vm.loop, UV_RUN_DEFAULT);
	tell_end(&vm);
	return vm.status;
}
