/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Hold: a child that holds a volume still (volume/still.h) until its call lets go. If it is killed, another one thaws. */
#include "guest/guest.h"

#include "base/fs.h"
#include "base/process.h"
#include "guest.pb-c.h"
#include "guest/protocol.h"
#include "volume/still.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#define SECONDS_MAX 600
#define REPORT_MAX 1024

/* Exit codes of the child. */
enum { HELD_TO_THE_END, NOT_HELD, HELD_TOO_SHORT };

/* Lives as long as the call, the child or the watch on what it reports. */
struct hold_call {
	struct hold_call *next;
	struct guest *guest;
	struct rpc_call *call; /* NULL: closed */
	pid_t pid;             /* 0: no child */
	bool asked;            /* there was a request */
	bool thawing;          /* the child is the one that thaws */
	int release;           /* closed: it lets go; -1 */
	int report;            /* the child's words; -1 */
	uv_poll_t poll;        /* on `report`, as long as that is open */
	int seconds;
	struct error failure;
	char *root;            /* where the volume is mounted */
};

static void release_if_over(struct hold_call *h)
{
	struct hold_call **p = &h->guest->holds;

	if (h->call || h->pid || h->report >= 0)
		return;
	while (*p != h)
		p = &(*p)->next;
	*p = h->next;
	error_release(&h->failure);
	free(h->root);
	free(h);
}

static void let_go(struct hold_call *h)
{
	cleanup_closep(&h->release);
	h->release = -1;
}

/* ---- the child ---- */

/* It keeps nothing open of its parent's, nor a pipe on whose end somebody waits. */
static void keep_fds(int report, int release)
{
	int high = fcntl(report, F_DUPFD, 16), other = fcntl(release, F_DUPFD, 16);

	dup2(high, 3);
	dup2(other, 4);
	close_range(5, ~0u, 0);
}

/* Nothing shall kill it while it holds: not the payload, which is in a namespace of its own, nor a lack of memory. */
static void be_spared(void)
{
	_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0)
		(void)fs_write_all(fd, "-1000", 5);
}

static int hold_root(const struct hold_call *h, int report, int release, bool *ret_late, struct error *err)
{
	_cleanup_close_ int root = open(h->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (root < 0)
		return error_errno(err, errno, "cannot open %s", h->root);
	return still_hold(root, report, release, h->seconds, ret_late, err);
}

static _Noreturn void hold(const struct hold_call *h, int report, int release)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	char text[REPORT_MAX];
	bool late = false;
	int n;

	process_reset_signals();
	still_ignore_signals();
	be_spared();
	keep_fds(report, release);
	if (hold_root(h, 3, 4, &late, &err) == 0)
		_exit(late ? HELD_TOO_SHORT : HELD_TO_THE_END);
	n = snprintf(text, sizeof text, "%c%s", (char)err.code, error_message(&err));
	(void)fs_write_all(3, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
	_exit(NOT_HELD);
}

/* In place of one that was killed. */
static void start_thaw(struct hold_call *h)
{
	h->thawing = true;
	h->pid = fork();
	if (h->pid < 0)
		guest_die("cannot fork: %s", strerror(errno));
	if (h->pid == 0) {
		int root = open(h->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		process_reset_signals();
		_exit(root < 0 || still_thaw(root, NULL) < 0);
	}
}

/* ---- what it reports ---- */

static void on_poll_closed(uv_handle_t *handle)
{
	struct hold_call *h = handle->data;

	close(steal_fd(&h->report));
	release_if_over(h);
}

/* One line, or nothing at its end. */
static void take_report(struct hold_call *h)
{
	Capsule__Guest__V1__HoldEvent event = CAPSULE__GUEST__V1__HOLD_EVENT__INIT;
	char text[REPORT_MAX + 1];
	ssize_t n;

	if (h->report < 0 || uv_is_closing((uv_handle_t *)&h->poll))
		return;
	n = read(h->report, text, sizeof text - 1);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	uv_close((uv_handle_t *)&h->poll, on_poll_closed);
	if (n <= 0)
		return;
	text[n] = '\0';
	if (strcmp(text, STILL_FROZEN "\n") != 0)
		error_set(&h->failure, (enum error_code)text[0], "%s", text + 1);
	else if (h->call)
		(void)rpc_call_send(h->call, &event.base);
}

static void on_report(uv_poll_t *poll, int status, int events)
{
	take_report(poll->data);
}

/* ---- the start ---- */

static unsigned count_children(const struct guest *g)
{
	unsigned n = 0;

	for (const struct hold_call *h = g->holds; h; h = h->next)
		n += h->pid != 0;
	return n;
}

static int check(const struct hold_call *h, const Capsule__Guest__V1__HoldRequest *request, struct error *err)
{
	if (h->guest->payload.state != PAYLOAD_RUNNING)
		return error_set(err, ERR_FAILED_PRECONDITION, "the payload does not run");
	if (count_children(h->guest) >= GUEST_HOLDS_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "%d volumes are held already", GUEST_HOLDS_MAX);
	if (!*request->volume || *request->volume == '.' || strchr(request->volume, '/') || !request->seconds ||
	    request->seconds > SECONDS_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "that is no volume, or no time, to hold it");
	return 0;
}

/* The child's ends are closed by the caller. */
static int start_child(struct hold_call *h, int report[2], int release[2], struct error *err)
{
	if (pipe2(report, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(release, O_CLOEXEC) < 0 ||
	    uv_poll_init(&h->guest->loop, &h->poll, report[0]) < 0)
		return error_errno(err, errno, "cannot watch a process");
	h->poll.data = h;
	h->report = steal_fd(&report[0]);
	uv_poll_start(&h->poll, UV_READABLE, on_report);
	h->pid = fork();
	if (h->pid == 0)
		hold(h, report[1], release[0]);
	if (h->pid > 0) {
		h->release = steal_fd(&release[1]);
		return 0;
	}
	h->pid = 0;
	uv_close((uv_handle_t *)&h->poll, on_poll_closed);
	return error_errno(err, errno, "cannot fork");
}

static int start(struct hold_call *h, const Capsule__Guest__V1__HoldRequest *request, struct error *err)
{
	int report[2] = { -1, -1 }, release[2] = { -1, -1 }, r;

	if (check(h, request, err) < 0)
		return -1;
	h->seconds = (int)request->seconds;
	h->root = fs_path(GUEST_VOLUMES "/%s", request->volume);
	if (!h->root)
		guest_die("out of memory");
	r = start_child(h, report, release, err);
	for (int i = 0; i < 2; i++) {
		cleanup_closep(&report[i]);
		cleanup_closep(&release[i]);
	}
	return r;
}

/* ---- the end ---- */

static void finish(struct hold_call *h, int code)
{
	if (!h->call)
		return;
	if (h->failure.code != ERR_OK)
		rpc_call_fail(h->call, &h->failure);
	else if (h->thawing)
		rpc_call_finish(h->call, ERR_ABORTED, "what held it was killed");
	else if (code == HELD_TOO_SHORT)
		rpc_call_finish(h->call, ERR_DEADLINE_EXCEEDED, "the time was up");
	else
		rpc_call_finish(h->call, code == HELD_TO_THE_END ? ERR_OK : ERR_INTERNAL, code ? "it could not be held" : NULL);
}

bool hold_reap(struct guest *g, pid_t pid, int exit_code)
{
	for (struct hold_call *h = g->holds; h; h = h->next) {
		if (h->pid != pid)
			continue;
		h->pid = 0;
		let_go(h);
		take_report(h);
		if (!h->thawing && exit_code > HELD_TOO_SHORT) {
			start_thaw(h);
			return true;
		}
		finish(h, exit_code);
		release_if_over(h);
		return true;
	}
	return false;
}

bool holds_end(struct guest *g)
{
	for (struct hold_call *h = g->holds; h; h = h->next)
		let_go(h);
	return count_children(g) == 0;
}

/* ---- the call ---- */

static void on_open(struct rpc_call *call)
{
	struct guest *g = guest_of(call);
	struct hold_call *h;

	if (!hello_check(call))
		return;
	h = calloc(1, sizeof *h);
	if (!h)
		guest_die("out of memory");
	*h = (struct hold_call){ .next = g->holds, .guest = g, .call = call, .release = -1, .report = -1 };
	g->holds = h;
	rpc_call_set_data(call, h);
}

static void on_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct hold_call *h = rpc_call_data(call);

	if (h->asked)
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "there is one request a call");
	else if (start(h, (const void *)message, &err) < 0)
		rpc_call_fail(call, &err);
	h->asked = true;
}

static void on_half_close(struct rpc_call *call)
{
	struct hold_call *h = rpc_call_data(call);

	if (h && !h->asked)
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "the stream ended without a request");
	else if (h)
		let_go(h);
}

static void on_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct hold_call *h = rpc_call_data(call);

	if (!h)
		return;
	h->call = NULL;
	let_go(h);
	release_if_over(h);
}

struct rpc_method hold_method = {
	.path = "/capsule.guest.v1.GuestService/Hold",
	.receives = &capsule__guest__v1__hold_request__descriptor,
	.open = on_open,
	.message = on_message,
	.half_close = on_half_close,
	.close = on_close,
};
