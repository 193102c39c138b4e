/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/connections.h"

#include "shim/holder.h"
#include "vm/hold.h"
#include "vm/watch.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

struct connection {
	struct connections *all;
	struct watch *watch; /* NULL: the slot is free */
	struct relay *relay;
	struct hold *hold;
};

struct connections {
	uv_loop_t *loop;
	struct connections_events events;
	struct watch *listener;
	struct connection slots[HOLDER_CONNECTIONS_MAX];
	unsigned n_relays, n_holds;
	bool started; /* SHIM_START was here */
	bool welcome;
	bool ending;
	struct shim_hello hello;
	struct guest *guest; /* NULL: no further processes */
	const char *failed_volumes[SHIM_VOLUMES_MAX];
	unsigned n_failed_volumes;
};

static void end_relay(struct connection *c)
{
	if (!c->relay)
		return;
	relay_free(steal_ptr(&c->relay));
	c->all->n_relays--;
}

static void end_hold(struct connection *c)
{
	if (!c->hold)
		return;
	hold_free(steal_ptr(&c->hold));
	c->all->n_holds--;
}

static void drop(struct connection *c)
{
	/* A process does not outlive whom it was started for. */
	end_relay(c);
	end_hold(c);
	watch_close(steal_ptr(&c->watch));
	c->all->events.quieter(c->all->events.arg);
}

static void on_relay_ended(void *arg)
{
	end_relay(arg);
}

static void begin_relay(struct connection *c, const struct shim_message *m, const int *fds, size_t n_fds)
{
	struct connections *all = c->all;
	int fd = watch_fd(c->watch);
	const char *why = NULL;

	if (!all->guest)
		why = all->welcome ? "the machine has no agent, or is ending" : "the payload does not run yet";
	else if (all->n_relays == HOLDER_EXECS_MAX)
		why = "too many processes were started in it already";
	else if (c->relay)
		why = "there is a process on this connection already";
	if (why) {
		shim_close_fds(fds, n_fds);
		holder_refuse_exec(fd, 0, why);
		return;
	}
	c->relay = m->type == SHIM_EXEC
			   ? relay_exec(all->guest, all->loop, fd, &m->body.exec, fds, n_fds, on_relay_ended, c)
			   : relay_copy(all->guest, all->loop, fd, &m->body.copy, fds, n_fds, on_relay_ended, c);
	if (c->relay)
		all->n_relays++;
}

static void on_hold_ended(void *arg)
{
	end_hold(arg);
}

static void begin_hold(struct connection *c, const struct shim_hold *request)
{
	struct connections *all = c->all;
	int fd = watch_fd(c->watch);

	if (!all->guest) {
		hold_refuse(fd, ERR_UNAVAILABLE, all->welcome ? "its machine has no agent, or is ending" : "its machine is starting");
	} else if (c->hold || all->n_holds == SHIM_VOLUMES_MAX) {
		hold_refuse(fd, ERR_RESOURCE_EXHAUSTED, "too many volumes are held still already");
	} else if (!(c->hold = hold_begin(all->guest, fd, request, on_hold_ended, c))) {
		hold_refuse(fd, ERR_RESOURCE_EXHAUSTED, "out of memory");
	} else {
		all->n_holds++;
	}
}

static void dispatch(struct connection *c, const struct shim_message *m)
{
	struct connections *all = c->all;
	struct shim_unsupported unsupported = { .type = m->type };

	switch (m->type) {
	case SHIM_START:
		if (!all->started) {
			all->started = true;
			all->events.start(all->events.arg);
		}
		break;
	case SHIM_STOP:
		if (m->body.stop.signal >= 0 && m->body.stop.signal < NSIG && m->body.stop.grace_ms <= INT64_C(1) << 40)
			all->events.stop(m->body.stop.signal, m->body.stop.grace_ms, all->events.arg);
		break;
	case SHIM_EXEC_RESIZE:
		if (c->relay)
			relay_resize(c->relay, m->body.exec_resize.columns, m->body.exec_resize.rows);
		break;
	case SHIM_HOLD:
		begin_hold(c, &m->body.hold);
		break;
	case SHIM_LET_GO:
		if (c->hold)
			hold_let_go(c->hold);
		break;
	default:
		(void)shim_send(watch_fd(c->watch), SHIM_UNSUPPORTED, &unsupported, sizeof unsupported);
	}
}

static void on_message(int fd, int events, void *arg)
{
	struct connection *c = arg;
	struct shim_message m;
	int fds[SHIM_FDS_MAX];
	size_t n_fds;
	int r = shim_receive_fds(fd, &m, fds, &n_fds);

	if (r == -EAGAIN)
		return;
	if (r <= 0) {
		bool first = c == &c->all->slots[0];

		drop(c);
		if (first && !c->all->started)
			c->all->events.orphaned(c->all->events.arg);
		return;
	}
	if (m.type == SHIM_EXEC || m.type == SHIM_COPY) {
		begin_relay(c, &m, fds, n_fds);
		return;
	}
	dispatch(c, &m);
	shim_close_fds(fds, n_fds);
}

static void tell_volume_failed(int fd, const char *volume)
{
	struct shim_volume_failed failed = { 0 };

	snprintf(failed.volume, sizeof failed.volume, "%s", volume);
	(void)shim_send(fd, SHIM_VOLUME_FAILED, &failed, sizeof failed);
}

/* Takes over the socket. False: there is no room for it. */
static bool add(struct connections *all, int fd)
{
	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++) {
		struct connection *c = &all->slots[i];

		if (c->watch)
			continue;
		if (all->welcome && shim_send(fd, SHIM_HELLO, &all->hello, sizeof all->hello) < 0)
			break;
		for (unsigned k = 0; k < all->n_failed_volumes; k++)
			tell_volume_failed(fd, all->failed_volumes[k]);
		if (all->ending)
			(void)shim_send(fd, SHIM_ENDING, NULL, 0);
		c->all = all;
		c->watch = watch_new(all->loop, fd, on_message, c);
		if (c->watch)
			watch_set(c->watch, UV_READABLE);
		return c->watch;
	}
	close(fd);
	return false;
}

static void on_connect(int listener, int events, void *arg)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		add(arg, fd);
}

struct connections *connections_new(uv_loop_t *loop, const struct connections_events *events, struct error *err)
{
	struct connections *all = calloc(1, sizeof *all);

	if (all) {
		all->loop = loop;
		all->events = *events;
		all->listener = watch_new(loop, SHIM_FD_LISTEN, on_connect, all);
	}
	if (!all || !all->listener || !add(all, SHIM_FD_CONNECTION)) {
		error_set(err, ERR_INTERNAL, "cannot watch the daemon's connections");
		free(all);
		return NULL;
	}
	watch_set(all->listener, UV_READABLE);
	return all;
}

static void say_last(struct connections *all, enum shim_type type, const void *body, size_t length)
{
	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++)
		if (all->slots[i].watch)
			holder_say_last(watch_fd(all->slots[i].watch), type, body, length);
}

void connections_welcome(struct connections *all, const struct shim_hello *hello, struct guest *guest)
{
	all->welcome = true;
	all->hello = *hello;
	all->guest = guest;
	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++)
		if (all->slots[i].watch)
			(void)shim_send(watch_fd(all->slots[i].watch), SHIM_HELLO, hello, sizeof *hello);
}

void connections_tell_ending(struct connections *all)
{
	all->ending = true;
	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++)
		if (all->slots[i].watch)
			(void)shim_send(watch_fd(all->slots[i].watch), SHIM_ENDING, NULL, 0);
}

void connections_tell_volume_failed(struct connections *all, const char *volume)
{
	for (unsigned i = 0; i < all->n_failed_volumes; i++)
		if (!strcmp(all->failed_volumes[i], volume))
			return;
	if (all->n_failed_volumes == SHIM_VOLUMES_MAX)
		return;
	all->failed_volumes[all->n_failed_volumes++] = volume;
	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++)
		if (all->slots[i].watch)
			tell_volume_failed(watch_fd(all->slots[i].watch), volume);
}

void connections_seclude(struct connections *all)
{
	all->guest = NULL;
}

/* Who is in the listener's queue waits for an answer as well. */
static void accept_waiting(struct connections *all)
{
	int fd;

	while ((fd = accept4(SHIM_FD_LISTEN, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		if (!add(all, fd))
			break;
}

void connections_refuse(struct connections *all, const struct error *reason)
{
	const char *text = error_message(reason);

	accept_waiting(all);
	say_last(all, SHIM_FAILED, text, strnlen(text, SHIM_REASON_MAX));
}

void connections_finish(struct connections *all, const struct shim_result *result)
{
	accept_waiting(all);
	for (unsigned i = 0; i < HOLDER_CONNECTIONS_MAX; i++)
		if (all->slots[i].relay)
			relay_break(all->slots[i].relay);
	say_last(all, SHIM_EXIT, result, sizeof *result);
}
