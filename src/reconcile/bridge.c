/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What the workloads on the bridge share and can see fail: the resolver, which is started again when it ends, and the
 * firewalls of others. What is in the way stands in the status of every workload concerned.
 */
#include "reconcile/internal.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/timeutil.h"

#include <string.h>

/* An empty bridge is kept this long: a workload that is restarted, or the next one, finds it in place. */
#define LINGER_MS 30000

/* A resolver that ended sooner than this after its start is not started again before this time. */
#define RESOLVER_PAUSE_MS 1000

void bridge_look(struct net *net, struct bridge_look *ret)
{
	_cleanup_free_ char *forward = NULL, *names = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;

	*ret = (struct bridge_look){ .resolver = -1 };
	if (net_dns_restart(net, &err) < 0 || net_forward_obstacle(net, &forward, &err) < 0 ||
	    net_names_obstacle(net, &names, &err) < 0)
		log_warn("network: %s", error_message(&err));
	if (asprintf(&ret->obstacle, "%s%s%s", forward ? forward : "", forward && names ? "\n" : "", names ? names : "") < 0)
		ret->obstacle = NULL;
	ret->resolver = net_dns_pidfd(net);
}

void bridge_look_release(struct bridge_look *look)
{
	cleanup_closep(&look->resolver);
	free(look->obstacle);
	*look = (struct bridge_look){ .resolver = -1 };
}

/* ---- the resolver ---- */

struct relook {
	struct reconciler *r;
	struct bridge_look look;
};

static void relook_work(void *arg)
{
	struct relook *relook = arg;

	bridge_look(relook->r->host.net, &relook->look);
}

static void relook_done(void *arg)
{
	struct relook *relook = arg;

	bridge_note(relook->r, &relook->look);
	free(relook);
}

static void on_resolver_due(uv_timer_t *timer)
{
	struct reconciler *r = timer->data;
	struct relook *relook;

	if (r->halted)
		return;
	relook = calloc(1, sizeof *relook);
	if (!relook)
		abort();
	relook->r = r;
	task_start(r->host.tasks, relook_work, relook_done, relook);
}

static void on_poll_closed(uv_handle_t *handle)
{
	struct bridge *bridge = &((struct reconciler *)handle->data)->bridge;

	cleanup_closep(&bridge->resolver);
	bridge->resolver = -1;
}

static void on_timer_closed(uv_handle_t *handle)
{
	((struct reconciler *)handle->data)->bridge.open_timers--;
}

/* It also ends with the last workload on the bridge: whether it is still wanted is the net's to know. */
static void on_resolver_ended(uv_poll_t *poll, int status, int events)
{
	struct reconciler *r = poll->data;
	int64_t lived_ms = (time_monotonic_ns() - r->bridge.watched_since_ns) / NSEC_PER_MSEC;

	uv_close((uv_handle_t *)poll, on_poll_closed);
	uv_update_time(r->host.loop);
	uv_timer_start(&r->bridge.timer, on_resolver_due, lived_ms < RESOLVER_PAUSE_MS ? RESOLVER_PAUSE_MS : 0, 0);
}

static void watch_resolver(struct reconciler *r, int *pidfd)
{
	struct bridge *bridge = &r->bridge;

	/* The end of the one that is watched is still to be told, and leads to a new look. */
	if (*pidfd < 0 || bridge->resolver >= 0 || r->halted)
		return;
	bridge->resolver = steal_fd(pidfd);
	bridge->watched_since_ns = time_monotonic_ns();
	if (uv_poll_init(r->host.loop, &bridge->poll, bridge->resolver) < 0)
		abort();
	bridge->poll.data = r;
	uv_unref((uv_handle_t *)&bridge->poll);
	uv_poll_start(&bridge->poll, UV_READABLE, on_resolver_ended);
}

/* ---- the empty bridge ---- */

static void sweep_work(void *arg)
{
	struct reconciler *r = arg;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (net_sweep(r->host.net, &err) < 0)
		log_warn("network: %s", error_message(&err));
}

static void sweep_done(void *arg)
{
}

static void on_lingered(uv_timer_t *timer)
{
	struct reconciler *r = timer->data;

	if (!r->halted)
		task_start(r->host.tasks, sweep_work, sweep_done, r);
}

void bridge_left(struct reconciler *r)
{
	uv_update_time(r->host.loop);
	uv_timer_start(&r->bridge.linger, on_lingered, LINGER_MS, 0);
}

/* ---- the obstacle ---- */

static void tell_workloads(struct reconciler *r)
{
	struct workload *w, *next;

	HASH_ITER(hh, r->workloads, w, next)
		if (w->state == STATE_RUNNING && spec_on_bridge(w->record.spec))
			workload_changed(w);
}

void bridge_note(struct reconciler *r, struct bridge_look *look)
{
	watch_resolver(r, &look->resolver);
	if (look->obstacle && strcmp(look->obstacle, bridge_obstacle(r)) != 0) {
		if (*look->obstacle)
			log_warn("network: %s", look->obstacle);
		else
			log_info("network: nothing is in the way any more");
		free(r->bridge.obstacle);
		r->bridge.obstacle = steal_ptr(&look->obstacle);
		tell_workloads(r);
	}
	bridge_look_release(look);
}

const char *bridge_obstacle(const struct reconciler *r)
{
	return r->bridge.obstacle ? r->bridge.obstacle : "";
}

/* ---- its life ---- */

static void timer_init(struct reconciler *r, uv_timer_t *timer)
{
	uv_timer_init(r->host.loop, timer);
	uv_unref((uv_handle_t *)timer);
	timer->data = r;
	r->bridge.open_timers++;
}

void bridge_init(struct reconciler *r)
{
	r->bridge = (struct bridge){ .resolver = -1 };
	timer_init(r, &r->bridge.timer);
	timer_init(r, &r->bridge.linger);
}

void bridge_release(struct reconciler *r)
{
	struct bridge *bridge = &r->bridge;

	if (bridge->resolver >= 0 && !uv_is_closing((uv_handle_t *)&bridge->poll))
		uv_close((uv_handle_t *)&bridge->poll, on_poll_closed);
	uv_close((uv_handle_t *)&bridge->timer, on_timer_closed);
	uv_close((uv_handle_t *)&bridge->linger, on_timer_closed);
	while (bridge->open_timers || bridge->resolver >= 0)
		uv_run(r->host.loop, UV_RUN_ONCE);
	free(bridge->obstacle);
}
