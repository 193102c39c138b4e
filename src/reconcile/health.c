/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The health check of a running workload: one probe at a time, the next an interval after the end of the last. Nothing of
 * it is kept: a daemon that takes up a running workload begins to check it anew.
 */
#include "reconcile/internal.h"

#include "base/timeutil.h"
#include "base/utf8.h"
#include "reconcile/probe.h"

#include <arpa/inet.h>
#include <string.h>

#define FIRST_PROBE_MS 1000 /* after the start of a run, or what comes closest to it */
#define MESSAGE_MAX 256

struct health {
	struct workload *workload;
	Capsule__V1__HealthCheck *check;
	uint8_t *packed; /* the same, to be compared */
	size_t packed_len;
	uv_timer_t timer; /* to the next probe */
	struct probe *probe; /* under way */
	Capsule__V1__Health state;
	unsigned failures; /* in a row */
	char message[MESSAGE_MAX]; /* why the last probe failed; "": it did not */
};

Capsule__V1__Health health_state(const struct workload *w, const char **ret_message)
{
	*ret_message = w->health ? w->health->message : "";
	return w->health ? w->health->state : CAPSULE__V1__HEALTH__HEALTH_UNSPECIFIED;
}

/* Of a check that was found right. */
static int64_t duration_ns(const char *text)
{
	int64_t ns = 0;

	(void)time_parse_duration(text, &ns);
	return ns;
}

/* ---- what a probe says ---- */

static void on_due(uv_timer_t *timer);

static void next_probe_in(struct health *h, int64_t ms)
{
	uv_update_time(h->timer.loop);
	uv_timer_start(&h->timer, on_due, (uint64_t)ms, 0);
}

static void note_success(struct health *h)
{
	h->failures = 0;
	if (h->state == CAPSULE__V1__HEALTH__HEALTH_HEALTHY)
		return;
	h->state = CAPSULE__V1__HEALTH__HEALTH_HEALTHY;
	workload_happened(h->workload, HEALTHY, "%s", "");
}

/* A workload that has been healthy is past its start. */
static bool is_starting_up(const struct health *h)
{
	return h->state == CAPSULE__V1__HEALTH__HEALTH_STARTING &&
	       time_realtime_ns() - h->workload->started_at_ns < duration_ns(h->check->start_period);
}

/* True when the workload is to be told that it is unhealthy. */
static bool note_failure(struct health *h)
{
	if (is_starting_up(h))
		return false;
	if (h->failures < h->check->retries)
		h->failures++;
	if (h->failures < h->check->retries)
		return false;
	if (h->state != CAPSULE__V1__HEALTH__HEALTH_UNHEALTHY) {
		h->state = CAPSULE__V1__HEALTH__HEALTH_UNHEALTHY;
		workload_happened(h->workload, UNHEALTHY, "%s", h->message);
	}
	return true;
}

static void on_probed(const char *reason, void *arg)
{
	struct health *h = arg;
	struct workload *w = h->workload;
	Capsule__V1__Health before = h->state;
	bool changed, unhealthy = false;
	char message[MESSAGE_MAX];

	h->probe = NULL;
	snprintf(message, sizeof message, "%s", reason ? reason : "");
	utf8_trim(message);
	changed = strcmp(h->message, message) != 0;
	memcpy(h->message, message, strlen(message) + 1);
	next_probe_in(h, duration_ns(h->check->interval) / NSEC_PER_MSEC);
	if (reason)
		unhealthy = note_failure(h);
	else
		note_success(h);
	changed = changed || h->state != before;
	/* This may be the end of h. */
	if (unhealthy)
		workload_note_unhealthy(w);
	if (changed)
		workload_changed(w);
}

static void on_due(uv_timer_t *timer)
{
	struct health *h = timer->data;
	const struct workload *w = h->workload;
	const struct probe_target target = {
		.loop = w->owner->host.loop,
		.tasks = w->owner->host.tasks,
		.closing = &w->owner->closing,
		.driver = driver_of(&w->owner->host, w->record.spec),
		.name = w->name,
		.pid = w->pid,
		.address = w->record.address ? w->record.address : INADDR_LOOPBACK,
		.check = h->check,
		.timeout_ms = duration_ns(h->check->timeout) / NSEC_PER_MSEC,
	};

	h->probe = probe_start(&target, on_probed, h);
}

/* ---- life ---- */

/* Aborts without memory. */
static uint8_t *pack(const Capsule__V1__HealthCheck *check, size_t *ret_len)
{
	uint8_t *bytes = malloc(capsule__v1__health_check__get_packed_size(check) + 1);

	if (!bytes)
		abort();
	*ret_len = capsule__v1__health_check__pack(check, bytes);
	return bytes;
}

static bool checks_the_same(const struct health *h, const Capsule__V1__HealthCheck *check)
{
	size_t len;
	_cleanup_free_ uint8_t *bytes = pack(check, &len);

	return len == h->packed_len && memcmp(bytes, h->packed, len) == 0;
}

static void health_begin(struct workload *w, const Capsule__V1__HealthCheck *check)
{
	struct health *h = calloc(1, sizeof *h);

	if (!h)
		abort();
	h->workload = w;
	h->packed = pack(check, &h->packed_len);
	h->check = capsule__v1__health_check__unpack(NULL, h->packed_len, h->packed);
	if (!h->check)
		abort();
	h->state = CAPSULE__V1__HEALTH__HEALTH_STARTING;
	uv_timer_init(w->owner->host.loop, &h->timer);
	h->timer.data = h;
	next_probe_in(h, FIRST_PROBE_MS);
	w->health = h;
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct health *h = handle->data;

	capsule__v1__health_check__free_unpacked(h->check, NULL);
	free(h->packed);
	free(h);
}

void health_end(struct workload *w)
{
	struct health *h = steal_ptr(&w->health);

	if (!h)
		return;
	probe_cancel(h->probe);
	uv_close((uv_handle_t *)&h->timer, on_timer_closed);
}

void health_follow(struct workload *w)
{
	bool runs = w->state == STATE_RUNNING && !w->ending;
	const Capsule__V1__HealthCheck *check = runs ? w->record.spec->health_check : NULL;

	if (w->health && !(check && checks_the_same(w->health, check)))
		health_end(w);
	if (check && !w->health)
		health_begin(w, check);
}
