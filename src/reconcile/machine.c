/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The state machine of a workload.
 *
 *                 wanted running             task ended well
 *          DOWN ------------------> STARTING ----------------> RUNNING
 *           ^ \                      |   ^ \ no image            |  no longer wanted as it is, or unhealthy
 *           |  \ deleting            |   |  v                    v
 *           |   v                    |  PULLING               STOPPING
 *           | REMOVING               | failed                    | ended
 *           |                        v                           v
 *           +------- WAITING <---- (back-off) <------------- CLEANING
 *
 * workload_advance() is the only place that begins a step. It looks at the state and at the wish, never at what led to
 * them, so that it does not matter in which order events arrive or whether one was missed during a restart.
 */
#include "reconcile/internal.h"

#include "base/log.h"
#include "base/timeutil.h"
#include "base/utf8.h"
#include "image/reference.h"

#include <signal.h>
#include <string.h>
#include <utlist.h>

#define BACKOFF_FIRST_MS 1000
#define BACKOFF_MAX_MS 30000
#define STABLE_NS (60 * NSEC_PER_SEC)

static void on_timer(uv_timer_t *timer)
{
	struct workload *w = timer->data;

	/* The timer may fire a little before the clock that due_at_ns was taken from says so. */
	w->due_at_ns = 0;
	workload_advance(w);
	workload_changed(w);
}

struct workload *workload_new(struct reconciler *r, const char *name)
{
	struct workload *w = calloc(1, sizeof *w);

	if (!w)
		abort();
	w->owner = r;
	snprintf(w->name, sizeof w->name, "%s", name);
	uv_timer_init(r->host.loop, &w->timer);
	uv_unref((uv_handle_t *)&w->timer);
	w->timer.data = w;
	HASH_ADD_STR(r->workloads, name, w);
	return w;
}

void workload_keep_layers(struct workload *w, char **layers, size_t n)
{
	for (size_t i = 0; i < w->n_layers; i++)
		free(w->layers[i]);
	free(w->layers);
	w->layers = layers;
	w->n_layers = n;
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct workload *w = handle->data;

	w->owner->closing--;
	free(w);
}

void workload_free(struct workload *w)
{
	HASH_DEL(w->owner->workloads, w);
	access_orphan(w);
	health_end(w);
	ephemeral_orphan(w);
	puller_drop(w->ticket);
	shim_client_free(w->shim);
	workload_keep_layers(w, NULL, 0);
	store_workload_release(&w->record);
	free(w->image_digest);
	free(w->failure);
	free(w->limits_failure);
	free(w->storage_warning);
	free(w->failed_volumes);
	free(w->pull_status);
	w->owner->closing++;
	uv_close((uv_handle_t *)&w->timer, on_timer_closed);
}

static void notify(struct reconciler *r, const char *name, bool gone)
{
	struct reconciler_watch *watch;

	/* A callback may remove any watch: watch_cursor is moved on by reconciler_watch_remove(). */
	for (watch = r->watches; watch; watch = r->watch_cursor) {
		r->watch_cursor = watch->next;
		watch->changed(name, gone, watch->arg);
	}
}

void workload_changed(struct workload *w)
{
	notify(w->owner, w->name, false);
}

void workload_record(struct workload *w, Capsule__V1__WorkloadOccurrenceType type, const char *fmt, ...)
{
	const struct reconciler_host *host = &w->owner->host;
	char message[1024];
	va_list ap;

	if (!host->happened)
		return;
	va_start(ap, fmt);
	vsnprintf(message, sizeof message, fmt, ap);
	va_end(ap);
	utf8_trim(message);
	host->happened(w->name, type, message, host->happened_arg);
}

void workload_gone(struct workload *w, uint64_t revision)
{
	struct reconciler *r = w->owner;
	struct store_workload next = { 0 };
	char name[sizeof w->name];

	workload_happened(w, DELETED, "%s", "");
	snprintf(name, sizeof name, "%s", w->name);
	if (w->record.revision > revision) {
		next = w->record;
		w->record = (struct store_workload){ 0 };
	}
	workload_free(w);
	reconciler_note_removed(r, name, revision);
	notify(r, name, true);
	if (next.spec)
		reconciler_submit(r, &next);
}

static Capsule__V1__DesiredState wish(const struct workload *w)
{
	return w->record.spec->desired_state;
}

bool workload_wants_run(const struct workload *w)
{
	return wish(w) == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING && !w->completed;
}

static bool restarts(const struct workload *w, bool success)
{
	switch (w->record.spec->restart_policy) {
	case CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_NEVER:
		return false;
	case CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_ON_FAILURE:
		return !success;
	default:
		return true;
	}
}

static int64_t stop_grace_ms(const struct workload *w)
{
	if (w->record.spec->stop_grace_case == CAPSULE__V1__WORKLOAD__STOP_GRACE_STOP_GRACE_PERIOD_SECONDS)
		return (int64_t)w->record.spec->stop_grace_period_seconds * 1000;
	return w->owner->host.stop_grace_ms;
}

/* ---- back-off ---- */

/* No start before this much time: one second after the first end, doubled by each further one. */
static void back_off(struct workload *w)
{
	unsigned shift = w->attempts > 5 ? 5 : w->attempts;
	int64_t ms = (int64_t)BACKOFF_FIRST_MS << shift;

	w->attempts++;
	w->due_at_ns = time_monotonic_ns() + (ms > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : ms) * NSEC_PER_MSEC;
}

static void wait_until_due(struct workload *w)
{
	int64_t left = w->due_at_ns - time_monotonic_ns();

	w->state = STATE_WAITING;
	if (w->due_at_ns == INT64_MAX)
		return;
	uv_update_time(w->owner->host.loop);
	uv_timer_start(&w->timer, on_timer, left <= 0 ? 0 : (uint64_t)((left + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC), 0);
}

void workload_note_end(struct workload *w, const struct run_result *result, bool asked)
{
	bool success = !result->lost && !result->unhealthy && result->exit_code == 0;
	char text[RUN_RESULT_TEXT];

	w->result = *result;
	w->unhealthy = false;
	w->pid = 0;
	w->holds = true;
	workload_happened(w, EXITED, "%s", run_result_text(result, text));
	if (result->finished_at_ns - w->started_at_ns >= STABLE_NS)
		w->attempts = 0;
	if (asked || wish(w) != CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING || w->restart_requested ||
	    w->run_generation != w->record.generation)
		return;
	if (restarts(w, success)) {
		w->restart_count++;
		back_off(w);
		workload_happened(w, RESTARTING, "in %u s", workload_seconds_left(w));
	} else {
		w->completed = true;
	}
}

void workload_step_failed(struct workload *w, const char *what, const struct error *err)
{
	w->failed = true;
	w->waits_for_port = false;
	free(w->failure);
	if (asprintf(&w->failure, "cannot %s: %s", what, error_message(err)) < 0)
		w->failure = NULL;
	log_warn("workload %s: %s", w->name, w->failure ? w->failure : "out of memory");
	workload_happened(w, FAILED, "%s", w->failure ? w->failure : "out of memory");
	back_off(w);
}

/* A start that failed. */
static void note_failure(struct workload *w, const struct error *err)
{
	w->failed = true;
	free(w->failure);
	w->failure = strdup(error_message(err));
	log_warn("workload %s: cannot start: %s", w->name, error_message(err));
	workload_happened(w, FAILED, "%s", error_message(err));
	if (w->record.spec->restart_policy == CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_NEVER ||
	    err->code == ERR_UNIMPLEMENTED)
		w->completed = true;
	else
		back_off(w);
}

/* Nothing has failed. Whoever has the port wakes this one when it gives it up. */
static void wait_for_port(struct workload *w, const struct error *err)
{
	bool told = w->failure && !strcmp(w->failure, error_message(err));

	if (!told)
		log_info("workload %s: %s", w->name, error_message(err));
	free(w->failure);
	w->failure = strdup(error_message(err));
	w->failed = false;
	w->due_at_ns = INT64_MAX;
}

void workload_port_freed(struct workload *w)
{
	if (w->state != STATE_WAITING || !w->waits_for_port)
		return;
	w->due_at_ns = 0;
	workload_advance(w);
	workload_changed(w);
}

void reconciler_port_freed(struct reconciler *r)
{
	struct workload *w, *next;

	r->ports_freed++;
	HASH_ITER(hh, r->workloads, w, next)
		workload_port_freed(w);
}

/* ---- the running process ---- */

static void on_exit_event(const struct shim_exit *end, void *arg)
{
	struct workload *w = arg;
	struct run_result result = {
		.valid = true,
		.lost = !end->known,
		.oom_killed = end->oom_killed,
		.unhealthy = w->unhealthy,
		.exit_code = end->known ? end->exit_code : 255,
		.finished_at_ns = end->known ? end->finished_at_ns : time_realtime_ns(),
	};
	snprintf(result.reason, sizeof result.reason, "%s", end->reason);
	utf8_trim(result.reason);

	shim_client_free(w->shim);
	w->shim = NULL;
	log_info("workload %s: ended with exit code %d%s%s%s%s", w->name, result.exit_code,
		 result.oom_killed ? ", out of memory" : "", result.lost ? ", its shim was killed" : "",
		 *result.reason ? ": " : "", result.reason);
	workload_note_end(w, &result, w->state == STATE_STOPPING && !w->unhealthy);
	w->state = STATE_DOWN;
	w->clean_due = true;
	access_revoke(w, false);
	workload_advance(w);
	workload_changed(w);
}

static void on_volume_failed(const char *volume, void *arg)
{
	struct workload *w = arg;
	char *before = steal_ptr(&w->failed_volumes);

	if (asprintf(&w->failed_volumes, "%s%s%s", before ? before : "", before ? ", " : "", volume) < 0)
		w->failed_volumes = NULL;
	free(before);
	log_warn("workload %s: volume %s has met an error and is read-only now", w->name, volume);
	workload_changed(w);
}

/* Whether it is well is no question any more. */
static void on_ending(void *arg)
{
	struct workload *w = arg;

	w->ending = true;
	health_follow(w);
	workload_changed(w);
}

void workload_adopt(struct workload *w, struct driver_instance *instance)
{
	w->pid = instance->pid;
	w->run_generation = instance->generation;
	w->started_at_ns = instance->started_at_ns;
	w->shim = shim_client_new(w->owner->host.loop, steal_fd(&instance->shim_fd), on_exit_event, w);
	if (!w->shim)
		abort();
	free(steal_ptr(&w->failed_volumes));
	w->ending = false;
	shim_client_watch(w->shim, on_volume_failed, on_ending);
	workload_keep_layers(w, steal_ptr(&instance->layers), instance->n_layers);
	instance->n_layers = 0;
	free(w->image_digest);
	w->image_digest = steal_ptr(&instance->image_digest);
	w->emulated = instance->emulated;
	w->state = STATE_RUNNING;
	w->holds = true;
	w->failed = false;
}

/* Signal 0: the one that the image names; the shim knows it. Failure means that the shim is gone: its end is on the way as
 * an event. */
static void ask_to_stop(struct workload *w)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	w->stop_grace_ms = stop_grace_ms(w);
	if (shim_client_stop(w->shim, 0, w->stop_grace_ms, &err) < 0)
		log_warn("workload %s: cannot ask its shim to stop it: %s", w->name, error_message(&err));
}

static void begin_stop(struct workload *w)
{
	w->state = STATE_STOPPING;
	workload_happened(w, STOPPING, "%s", workload_wants_run(w) ? "to start anew" : "");
	ask_to_stop(w);
}

void workload_note_unhealthy(struct workload *w)
{
	if (!restarts(w, false))
		return;
	w->unhealthy = true;
	workload_advance(w);
}

/* ---- pulling ---- */

static void on_pull_progress(const struct transfer_progress *progress, void *arg)
{
	struct workload *w = arg;

	w->pull_done = progress->done_bytes;
	w->pull_total = progress->total_bytes;
	free(w->pull_status);
	w->pull_status = progress->status ? strdup(progress->status) : NULL;
	workload_changed(w);
}

static void pull_forget(struct workload *w)
{
	w->ticket = NULL;
	free(w->pull_status);
	w->pull_status = NULL;
	w->pull_done = w->pull_total = 0;
}

static void on_pull_done(const struct error *err, void *arg)
{
	struct workload *w = arg;

	pull_forget(w);
	w->state = STATE_DOWN;
	w->pulled = !err;
	if (err)
		note_failure(w, err);
	else
		workload_happened(w, PULLED, "%s", spec_image(w->record.spec));
	workload_advance(w);
	workload_changed(w);
}

static void begin_pull(struct workload *w)
{
	const struct pull_callbacks callbacks = { on_pull_progress, on_pull_done, w };
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *reference = NULL;

	if (reference_normalize(spec_image(w->record.spec), &reference, &err) == 0)
		w->ticket = puller_want(w->owner->host.puller, reference, &callbacks, &err);
	if (w->ticket) {
		w->state = STATE_PULLING;
		workload_happened(w, PULLING, "%s", spec_image(w->record.spec));
	} else {
		note_failure(w, &err);
	}
}

void workload_started(struct workload *w, struct driver_instance *instance, uint64_t generation, const struct error *err)
{
	/* What failed may no longer be what is wanted. */
	bool counts = workload_wants_run(w) && generation == w->record.generation;
	bool pull = w->image_missing && !w->pulled;
	Capsule__V1__VolumeMount **mounts;

	w->state = STATE_DOWN;
	w->waits_for_port &= counts;
	w->pulled = false;
	if (instance) {
		workload_adopt(w, instance);
		log_info("workload %s: running, pid %d", w->name, (int)w->pid);
		workload_happened(w, STARTED, "pid %d", (int)w->pid);
		if (spec_mounts(w->record.spec, &mounts))
			storage_look(w->owner);
	} else if (w->owner->halted) {
		log_info("workload %s: its start goes on without this daemon", w->name);
	} else if (counts && w->waits_for_port) {
		wait_for_port(w, err);
	} else if (counts && pull) {
		begin_pull(w);
	} else if (counts) {
		note_failure(w, err);
	}
	workload_advance(w);
	workload_changed(w);
}

/* ---- wishes ---- */

void workload_reset(struct workload *w)
{
	w->due_at_ns = 0;
	w->attempts = 0;
	w->completed = false;
	w->failed = false;
	w->waits_for_port = false;
	if (w->state == STATE_PULLING) {
		puller_drop(w->ticket);
		pull_forget(w);
		w->state = STATE_DOWN;
	}
}

/* ---- the one place where steps begin ---- */

static void advance_down(struct workload *w)
{
	if (w->clean_due && !(w->clean_failed && w->due_at_ns > time_monotonic_ns())) {
		w->clean_due = false;
		step_clean(w);
	} else if (w->due_at_ns > time_monotonic_ns()) {
		wait_until_due(w);
	} else if (wish(w) == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING) {
		step_remove(w);
	} else if (!workload_wants_run(w)) {
		if (w->holds)
			step_clean(w);
	} else {
		w->restart_requested = false;
		step_start(w);
	}
}

static void advance(struct workload *w)
{
	switch (w->state) {
	case STATE_PULLING:
		if (workload_wants_run(w))
			return;
		puller_drop(w->ticket);
		pull_forget(w);
		break;
	case STATE_WAITING:
		if (w->due_at_ns > time_monotonic_ns())
			return;
		uv_timer_stop(&w->timer);
		break;
	case STATE_DOWN:
		break;
	case STATE_RUNNING:
		if (!workload_wants_run(w) || w->restart_requested || w->unhealthy ||
		    w->run_generation != w->record.generation)
			begin_stop(w);
		return;
	case STATE_STOPPING:
		/* A wish for a shorter grace counts for a stop under way. */
		if (stop_grace_ms(w) < w->stop_grace_ms)
			ask_to_stop(w);
		return;
	case STATE_STARTING:
	case STATE_CLEANING:
	case STATE_REMOVING:
		return; /* what ends these comes back here */
	}
	w->state = STATE_DOWN;
	/* The end of what is under way comes back here. */
	if (!access_is_active(w) && !w->limiting)
		advance_down(w);
}

void workload_advance(struct workload *w)
{
	if (w->owner->halted)
		return;
	if (wish(w) == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING)
		access_revoke(w, true);
	advance(w);
	health_follow(w);
	limits_follow(w);
	ephemeral_follow(w);
	access_admit(w);
}
