/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "guest/guest.h"

#include "base/buf.h"
#include "base/fs.h"
#include "base/process.h"
#include "guest/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* How long the host may take to acknowledge what was sent to it last. */
#define END_TIMEOUT_MS 5000
#define LOG_SHOWN_MAX (64 * 1024)
#define LOG_NICE 19
/* <linux/syslog.h> is not for programs; syslog(2). */
#define SYSLOG_ACTION_READ_ALL 3

struct guest *guest_of(const struct rpc_call *call)
{
	return rpc_call_method(call)->arg;
}

/* ---- words ---- */

void guest_note(const char *fmt, ...)
{
	_cleanup_close_ int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	_cleanup_buf_ struct buf line = BUF_INIT(1024);
	va_list ap;

	buf_adds(&line, "<6>capsule-guest: ");
	va_start(ap, fmt);
	(void)buf_addv(&line, fmt, ap);
	va_end(ap);
	/* One write is one line; without its end nobody sees it before the next one. */
	buf_addc(&line, '\n');
	if (fd >= 0)
		(void)!write(fd, buf_data(&line), line.len);
}

/* As the kernel would write it, had it not been told to be quiet: a character of the console takes its time, and nobody shall
 * wait for them. */
static _Noreturn void show_log(void)
{
	static char log[LOG_SHOWN_MAX];
	int n = klogctl(SYSLOG_ACTION_READ_ALL, log, sizeof log);
	const char *end = log + (n > 0 ? n : 0);

	for (const char *line = log, *next; line < end; line = next) {
		const char *text = *line == '<' ? memchr(line, '>', (size_t)(end - line)) : NULL;

		next = memchr(line, '\n', (size_t)(end - line));
		next = next ? next + 1 : end;
		text = text && text < next ? text + 1 : line;
		if (fs_write_all(STDERR_FILENO, text, (size_t)(next - text)) < 0)
			break;
	}
	_exit(0);
}

void guest_show_log(void)
{
	if (fork() != 0)
		return;
	process_reset_signals();
	(void)!nice(LOG_NICE);
	show_log();
}

/* The monitor ends when the guest starts anew: it is told not to let it (-no-reboot; Firecracker always does so). */
static _Noreturn void power_off(void)
{
	sync();
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

void guest_die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("capsule-guest: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputs("\n", stderr);
	va_end(ap);
	power_off();
}

/* ---- the end ---- */

static void on_drained(void *arg)
{
	power_off();
}

static void on_end_timer(uv_timer_t *timer)
{
	power_off();
}

void guest_end(struct guest *g)
{
	if (g->ending)
		return;
	g->ending = true;
	if (!g->connected)
		power_off();
	/* Its last step is an answer of the host's to what comes after everything else. */
	rpc_server_drain(g->server, on_drained, NULL);
	uv_timer_start(&g->end_timer, on_end_timer, END_TIMEOUT_MS, 0);
}

/* ---- children ---- */

static void on_child(struct guest *g, pid_t pid)
{
	int status, code;

	if (waitpid(pid, &status, 0) != pid)
		return;
	code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	/* Whatever else ends is an orphan, and nobody asks for it. */
	if (!payload_reap(&g->payload, pid, code) && (exec_reap(g, pid, code) || hold_reap(g, pid, code)))
		payload_continue_end(&g->payload);
}

static void on_reap_again(uv_idle_t *idle)
{
	uv_idle_stop(idle);
	guest_reap(idle->data);
}

void guest_reap(struct guest *g)
{
	const struct payload *p = &g->payload;

	for (;;) {
		bool starting = p->state == PAYLOAD_STARTING;
		idtype_t which = starting ? P_PID : P_ALL;
		siginfo_t info = { .si_pid = 0 };

		/* Until it is known what became of the payload's process its zombie is kept. */
		if (starting && !p->runtime)
			return;
		if (waitid(which, (id_t)p->runtime, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || !info.si_pid)
			return;
		/* libuv reaps its own, in this round of the loop. */
		if (copy_owns(g, info.si_pid)) {
			uv_idle_start(&g->reap_again, on_reap_again);
			return;
		}
		on_child(g, info.si_pid);
	}
}

static void on_children(uv_signal_t *handle, int signum)
{
	guest_reap(handle->data);
}

/* ---- the host ---- */

static void on_lost(void *arg)
{
	struct guest *g = arg;

	g->connected = false;
	if (g->ending)
		power_off();
	/* The stream has no boundaries: nobody can take it up again. */
	payload_abort(&g->payload);
}

static void on_stream(int fd, void *arg)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct guest *g = arg;

	guest_note("the host is there");
	g->connected = true;
	if (rpc_server_adopt(g->server, fd, on_lost, g, &err) < 0)
		guest_die("%s", error_message(&err));
}

static int add_methods(struct guest *g, struct rpc_method *methods, size_t n)
{
	for (size_t i = 0; i < n; i++)
		methods[i].arg = g;
	return rpc_server_add_methods(g->server, methods, n);
}

static int serve(struct guest *g, struct error *err)
{
	if (uv_loop_init(&g->loop) < 0 || !(g->server = rpc_server_new(&g->loop, 1)) ||
	    add_methods(g, hello_methods, HELLO_METHODS) < 0 || add_methods(g, payload_methods, PAYLOAD_METHODS) < 0 ||
	    add_methods(g, &exec_method, 1) < 0 || add_methods(g, &copy_method, 1) < 0 ||
	    add_methods(g, &hold_method, 1) < 0)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	payload_init(&g->payload, g);
	uv_timer_init(&g->loop, &g->end_timer);
	uv_idle_init(&g->loop, &g->reap_again);
	g->reap_again.data = g;
	uv_signal_init(&g->loop, &g->children);
	g->children.data = g;
	if (uv_signal_start(&g->children, on_children, SIGCHLD) < 0)
		return error_set(err, ERR_INTERNAL, "cannot look after children");
	return stream_open(&g->stream, &g->loop, on_stream, g, err);
}

/* Without a console the kernel leaves them closed, and what is opened first would be taken for them. */
static void fill_standard_streams(void)
{
	int fd;

	do {
		fd = open("/", O_PATH);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	close(fd);
}

int main(int argc, char **argv)
{
	static struct guest guest;
	static const struct sigaction ignore = { .sa_handler = SIG_IGN };
	_cleanup_error_ struct error err = ERROR_INIT;

	/* It would power off whatever it runs on. */
	if (getpid() != 1) {
		fputs("capsule-guest is the first process of a microVM and nothing to be run by hand\n", stderr);
		return 2;
	}
	fill_standard_streams();
	sigaction(SIGPIPE, &ignore, NULL);
	umask(022);
	if (boot(&err) < 0)
		guest_die("%s", error_message(&err));
	guest_note("%s", CAPSULE_VERSION);
	if (serve(&guest, &err) < 0)
		guest_die("%s", error_message(&err));
	uv_run(&guest.loop, UV_RUN_DEFAULT);
	guest_die("there is nothing left to wait for");
}
