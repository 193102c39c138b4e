/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/watch.h"

#include "capsulectl/client.h"
#include "capsulectl/output.h"
#include "capsulectl/progress.h"

#include "workload.pb-c.h"

#include <ctype.h>
#include <errno.h>

struct waited {
	const char *name;
	bool seen;      /* the daemon has told its state */
	bool done;
	bool remarked;  /* that it failed and will be tried again */
	char *state;    /* the last one, for a timeout: "Pending: pulling ..."; owned */
};

struct watch {
	struct cli *cli;
	enum watch_goal goal;
	unsigned flags;
	struct waited *items;
	size_t n, left;
	bool failed;
	struct progress progress;
};

static bool is_onlooker(const struct watch *w)
{
	return w->flags & WATCH_ONLOOKER;
}

static void watch_release(struct watch *w)
{
	progress_clear(&w->progress);
	for (size_t i = 0; i < w->n; i++)
		free(w->items[i].state);
	free(w->items);
}

/* A name given twice is waited for once. */
static int watch_init(struct watch *w, char *const *names, size_t n)
{
	w->items = calloc(n, sizeof *w->items);
	if (!w->items)
		return -1;
	for (size_t i = 0; i < n; i++) {
		bool known = false;

		for (size_t j = 0; j < w->n && !known; j++)
			known = strcmp(w->items[j].name, names[i]) == 0;
		if (!known)
			w->items[w->n++].name = names[i];
	}
	w->left = w->n;
	progress_init(&w->progress);
	return 0;
}

static void finish(struct watch *w, struct waited *item, const char *result)
{
	item->done = true;
	w->left--;
	progress_clear(&w->progress);
	if (w->flags & WATCH_QUIET)
		return;
	output_text("workload/%s %s\n", item->name, result);
	/* Standard error may be the same terminal, and whoever waits wants to see it now. */
	fflush(stdout);
}

static void fail(struct watch *w, struct waited *item, const char *why)
{
	_cleanup_error_ struct error e = ERROR_INIT;

	item->done = true;
	w->left--;
	w->failed = true;
	progress_clear(&w->progress);
	error_set(&e, ERR_FAILED_PRECONDITION, "workload/%s %s", item->name, why);
	cli_report(w->cli, &e);
}

static void gone(struct watch *w, struct waited *item)
{
	if (w->goal == WATCH_DELETED)
		finish(w, item, "deleted");
	else if (is_onlooker(w) && !item->seen)
		fail(w, item, "does not exist");
	else
		fail(w, item, "was deleted meanwhile");
}

static void failed(struct watch *w, struct waited *item, const char *message)
{
	_cleanup_error_ struct error why = ERROR_INIT;

	error_set(&why, ERR_OK, "failed%s%s", *message ? ": " : "", message);
	fail(w, item, error_message(&why));
}

static void judge_stopped(struct watch *w, struct waited *item, int phase, bool stopping, const char *message)
{
	if (!stopping && !is_onlooker(w))
		fail(w, item, "was started again meanwhile");
	else if (phase == CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_STOPPED)
		finish(w, item, "stopped");
	else if (phase != CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_FAILED)
		return;
	else if (stopping)
		finish(w, item, "stopped");
	else
		failed(w, item, message);
}

static void judge_running(struct watch *w, struct waited *item, int phase, bool stopping, const char *message)
{
	switch (phase) {
	case CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_RUNNING:
		finish(w, item, "running");
		if (*message)
			fprintf(stderr, "workload/%s: %s\n", item->name, message);
		break;
	case CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_STOPPED:
		/* An onlooker waits for whoever may start it. */
		if (!stopping)
			finish(w, item, "completed");
		else if (!is_onlooker(w))
			finish(w, item, "stopped");
		break;
	case CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_FAILED:
		failed(w, item, message);
		break;
	default:
		break;
	}
}

/* An unhealthy one may be restarted, or recover. */
static void judge_healthy(struct watch *w, struct waited *item, const Capsule__V1__Workload *workload)
{
	const Capsule__V1__WorkloadStatus *status = workload->status;

	if (!workload->health_check)
		fail(w, item, "has no health check");
	else if (status && status->health == CAPSULE__V1__HEALTH__HEALTH_HEALTHY)
		finish(w, item, "healthy");
	else if (status && status->phase == CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_FAILED)
		failed(w, item, status->message);
	else if (status && status->phase == CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_STOPPED &&
		 workload->desired_state != CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_STOPPED)
		fail(w, item, "has ended");
}

/* A failure that the daemon makes up for by itself is no end, and told once. */
static bool will_be_tried_again(const struct watch *w, struct waited *item, const Capsule__V1__Workload *workload)
{
	const Capsule__V1__WorkloadStatus *status = workload->status;

	if (!status || status->phase != CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_FAILED || !status->next_attempt_unix_ms)
		return false;
	if (!item->remarked)
		fprintf(stderr, "workload/%s failed: %s\n", item->name, status->message);
	item->remarked = true;
	return true;
}

static void judge(struct watch *w, struct waited *item, const Capsule__V1__Workload *workload)
{
	int phase = workload->status ? (int)workload->status->phase : 0;
	const char *message = workload->status ? workload->status->message : "";
	bool stopping = workload->desired_state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_STOPPED;

	/* One that is being deleted will be gone, whatever it is waited for. */
	if (workload->desired_state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING)
		return;
	if ((w->goal == WATCH_RUNNING || w->goal == WATCH_HEALTHY || (w->goal == WATCH_STOPPED && is_onlooker(w))) &&
	    will_be_tried_again(w, item, workload))
		return;
	switch (w->goal) {
	case WATCH_DELETED:
		if (!is_onlooker(w))
			fail(w, item, "was applied again meanwhile");
		break;
	case WATCH_HEALTHY:
		judge_healthy(w, item, workload);
		break;
	case WATCH_STOPPED:
		judge_stopped(w, item, phase, stopping, message);
		break;
	case WATCH_RUNNING:
		judge_running(w, item, phase, stopping, message);
		break;
	}
}

static void remember(struct watch *w, struct waited *item, const Capsule__V1__Workload *workload)
{
	const Capsule__V1__WorkloadStatus *status = workload->status;
	const char *why;
	char phase[32];
	int n;

	if (!status)
		return;
	text_phase(status, phase, sizeof phase);
	phase[0] = (char)tolower((unsigned char)phase[0]);
	free(item->state);
	why = *status->message ? status->message : status->health_message;
	n = asprintf(&item->state, "%s%s%s", phase, *why ? ": " : "", why);
	if (n < 0)
		item->state = NULL;
	else if (!item->done)
		progress_text(&w->progress, "workload/%s %s", item->name, item->state);
}

static int on_event(const void *message, void *arg, struct error *err)
{
	const Capsule__V1__WorkloadEvent *event = message;
	struct watch *w = arg;

	for (size_t i = 0; i < w->n; i++) {
		struct waited *item = &w->items[i];

		if (item->done)
			continue;
		if (event->type == CAPSULE__V1__WORKLOAD_EVENT_TYPE__WORKLOAD_EVENT_TYPE_SYNCED) {
			/* Everything that exists has been told: what was not is gone. */
			if (!item->seen)
				gone(w, item);
			continue;
		}
		if (!event->workload || strcmp(event->workload->name, item->name) != 0)
			continue;
		item->seen = true;
		if (event->type == CAPSULE__V1__WORKLOAD_EVENT_TYPE__WORKLOAD_EVENT_TYPE_DELETED) {
			gone(w, item);
		} else if (event->type == CAPSULE__V1__WORKLOAD_EVENT_TYPE__WORKLOAD_EVENT_TYPE_STATE) {
			judge(w, item, event->workload);
			remember(w, item, event->workload);
		}
	}
	return w->left == 0;
}

/* The limit was reached: with what is known of those that are not through. */
static int timed_out(const struct watch *w, struct error *err)
{
	for (size_t i = 0; i < w->n; i++) {
		const struct waited *item = &w->items[i];
		_cleanup_error_ struct error e = ERROR_INIT;

		if (item->done)
			continue;
		error_set(&e, err->code, "workload/%s is still %s", item->name, item->state ? item->state : "unknown");
		cli_report(w->cli, &e);
	}
	return -1;
}

int watch_wait(struct cli *cli, char *const *names, size_t n, enum watch_goal goal, unsigned flags, struct error *err)
{
	Capsule__V1__WorkloadWatchRequest request = CAPSULE__V1__WORKLOAD_WATCH_REQUEST__INIT;
	_cleanup_(watch_release) struct watch w = { .cli = cli, .goal = goal, .flags = flags };
	int r;

	if (n == 0)
		return 0;
	if (watch_init(&w, names, n) < 0)
		return error_errno(err, ENOMEM, "cannot wait");
	request.names = (char **)names;
	request.n_names = n;
	r = client_stream(cli, &workload_watch, &request, on_event, &w, err);
	progress_clear(&w.progress);
	if (r < 0 && err->code == ERR_DEADLINE_EXCEEDED)
		timed_out(&w, err);
	if (r < 0)
		return r;
	if (w.left)
		return error_set(err, ERR_UNAVAILABLE, "the daemon ended the watch before everything was done");
	return w.failed ? -1 : 0;
}
