/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "reconcile/internal.h"

#include "base/timeutil.h"
#include "base/utf8.h"
#include "manifest/manifest.h"

#include <arpa/inet.h>
#include <string.h>

const char *run_result_text(const struct run_result *result, char out[RUN_RESULT_TEXT])
{
	int n = snprintf(out, RUN_RESULT_TEXT, "%s", result->unhealthy ? "unhealthy, " : "");
	size_t left = RUN_RESULT_TEXT - (size_t)n;

	if (result->oom_killed)
		snprintf(out + n, left, "killed: out of memory");
	else if (result->lost)
		snprintf(out + n, left, "lost: its shim was killed");
	else if (*result->reason)
		snprintf(out + n, left, "exited %d: %s", result->exit_code, result->reason);
	else if (result->exit_code > 128)
		snprintf(out + n, left, "exited %d (signal %d)", result->exit_code, result->exit_code - 128);
	else
		snprintf(out + n, left, "exited %d", result->exit_code);
	return out;
}

unsigned workload_seconds_left(const struct workload *w)
{
	int64_t left = w->due_at_ns - time_monotonic_ns();

	return left <= 0 ? 0 : (unsigned)((left + NSEC_PER_SEC - 1) / NSEC_PER_SEC);
}

static void describe_pull(const struct workload *w, char *out, size_t size)
{
	char done[MANIFEST_SIZE_TEXT], total[MANIFEST_SIZE_TEXT];

	if (w->pull_total)
		snprintf(out, size, "pulling %s: %s of %s", spec_image(w->record.spec), manifest_format_size(w->pull_done, done),
			 manifest_format_size(w->pull_total, total));
	else
		snprintf(out, size, "pulling %s%s%s", spec_image(w->record.spec), w->pull_status ? ": " : "",
			 w->pull_status ? w->pull_status : "");
}

static Capsule__V1__WorkloadPhase describe_waiting(const struct workload *w, char *out, size_t size)
{
	char end[RUN_RESULT_TEXT];

	if (w->waits_for_port) {
		snprintf(out, size, "%s", w->failure ? w->failure : "out of memory");
		return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_PENDING;
	}
	if (w->failed) {
		snprintf(out, size, "%s; trying again in %u s", w->failure ? w->failure : "out of memory", workload_seconds_left(w));
		return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_FAILED;
	}
	snprintf(out, size, "%s, restarting in %u s", run_result_text(&w->result, end), workload_seconds_left(w));
	return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_PENDING;
}

static Capsule__V1__WorkloadPhase describe_down(const struct workload *w, char *out, size_t size)
{
	char end[RUN_RESULT_TEXT];
	bool wanted = w->record.spec->desired_state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING;

	if (wanted && w->failed) {
		snprintf(out, size, "%s", w->failure ? w->failure : "out of memory");
		return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_FAILED;
	}
	if (wanted && !w->completed && w->accesses)
		snprintf(out, size, "waiting for a copy to end");
	else if (w->result.valid)
		snprintf(out, size, "%s", run_result_text(&w->result, end));
	if (wanted && !w->completed)
		return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_PENDING;
	if (wanted && (w->result.exit_code || w->result.lost))
		return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_FAILED;
	return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_STOPPED;
}

static void add_part(char *out, size_t size, const char *part)
{
	size_t len = strlen(out);

	if (part && *part)
		snprintf(out + len, size - len, "%s%s", len ? "; " : "", part);
}

/* What is not as it should be, of what runs. */
static void describe_running(const struct workload *w, char *out, size_t size)
{
	char failed[1024] = "";

	if (w->failed_volumes)
		snprintf(failed, sizeof failed,
			 "an error made read-only: volume %s; see that there is room below it, then restart the workload, which "
			 "repairs it", w->failed_volumes);
	add_part(out, size, w->emulated ? "emulated" : NULL);
	add_part(out, size, w->limits_failure);
	add_part(out, size, failed);
	add_part(out, size, w->storage_warning);
	add_part(out, size, spec_on_bridge(w->record.spec) ? bridge_obstacle(w->owner) : NULL);
}

static Capsule__V1__WorkloadPhase describe(const struct workload *w, char *out, size_t size)
{
	out[0] = '\0';
	switch (w->state) {
	case STATE_DOWN:
		if (!w->clean_due)
			return describe_down(w, out, size);
		/* fallthrough */
	case STATE_CLEANING:
		/* At rest it is only when its ports and volumes are free. */
		if (workload_wants_run(w))
			return describe_down(w, out, size);
		snprintf(out, size, "cleaning up");
		return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_PENDING;
	case STATE_WAITING:
		return describe_waiting(w, out, size);
	case STATE_PULLING:
		describe_pull(w, out, size);
		return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_PENDING;
	case STATE_STARTING:
		snprintf(out, size, "starting");
		return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_PENDING;
	case STATE_RUNNING:
		describe_running(w, out, size);
		return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_RUNNING;
	case STATE_STOPPING:
		/* One that is on its way to a new run is not what was asked for yet. */
		snprintf(out, size, "%s", workload_wants_run(w) ? "stopping the former run" : "stopping");
		return workload_wants_run(w) ? CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_PENDING
					     : CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_RUNNING;
	case STATE_REMOVING:
		snprintf(out, size, "deleting");
		return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_STOPPED;
	}
	return CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_UNSPECIFIED;
}

void status_fill(const struct workload *w, struct status_view *view)
{
	bool up = w->state == STATE_RUNNING || w->state == STATE_STOPPING;
	const char *health_message;
	struct in_addr address = { .s_addr = htonl(w->record.address) };

	view->workload = *w->record.spec;
	capsule__v1__workload_status__init(&view->status);
	view->workload.status = &view->status;
	view->workload.created_at_unix = w->record.created_at_ns / NSEC_PER_SEC;
	view->status.phase = describe(w, view->message, sizeof view->message);
	utf8_trim(view->message);
	view->status.message = view->message;
	view->status.restart_count = w->restart_count;
	view->address[0] = '\0';
	if (w->record.address)
		inet_ntop(AF_INET, &address, view->address, sizeof view->address);
	view->status.address = view->address;
	view->status.started_at_unix_ms = w->started_at_ns / NSEC_PER_MSEC;
	view->status.finished_at_unix_ms = up || !w->result.valid ? 0 : w->result.finished_at_ns / NSEC_PER_MSEC;
	view->status.exit_code = w->result.valid ? w->result.exit_code : 0;
	if (w->image_digest)
		view->status.image_digest = w->image_digest;
	view->status.health = health_state(w, &health_message);
	view->status.health_message = (char *)(uintptr_t)health_message;
	if (w->state == STATE_WAITING && workload_wants_run(w) && !w->waits_for_port)
		view->status.next_attempt_unix_ms =
			(time_realtime_ns() + w->due_at_ns - time_monotonic_ns()) / NSEC_PER_MSEC;
	view->status.pid = up ? (uint32_t)w->pid : 0;
}
