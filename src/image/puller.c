/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "image/puller.h"

#include <string.h>
#include <utlist.h>

struct pull_ticket {
	struct pull *pull;
	struct pull_callbacks callbacks;
	struct pull_ticket *prev, *next;
};

struct pull {
	struct puller *puller;
	char *reference;
	struct transfer *transfer;
	struct pull_ticket *tickets;
	struct pull *prev, *next;
};

struct puller {
	uv_loop_t *loop;
	const struct transfer_options *options;
	struct pull *pulls;
};

struct puller *puller_new(uv_loop_t *loop, const struct transfer_options *options)
{
	struct puller *p = calloc(1, sizeof *p);

	if (p)
		*p = (struct puller){ .loop = loop, .options = options };
	return p;
}

static void pull_free(struct pull *pull)
{
	DL_DELETE(pull->puller->pulls, pull);
	free(pull->reference);
	free(pull);
}

static void on_progress(const struct transfer_progress *progress, void *arg)
{
	struct pull *pull = arg;
	struct pull_ticket *ticket, *next;

	DL_FOREACH_SAFE(pull->tickets, ticket, next)
		if (ticket->callbacks.progress)
			ticket->callbacks.progress(progress, ticket->callbacks.arg);
}

static void on_done(char **references, size_t n_references, const struct error *err, void *arg)
{
	struct pull *pull = arg;

	/* A callback may drop other tickets of this pull, or want the same image anew: the pull is no longer joined from
	 * here on, and each ticket is taken off before its callback runs. */
	pull->transfer = NULL;
	while (pull->tickets) {
		struct pull_ticket *ticket = pull->tickets;

		DL_DELETE(pull->tickets, ticket);
		ticket->callbacks.done(err, ticket->callbacks.arg);
		free(ticket);
	}
	pull_free(pull);
}

static struct pull *pull_start(struct puller *p, const char *reference, struct error *err)
{
	struct pull *pull = calloc(1, sizeof *pull);
	struct transfer_callbacks callbacks = { .progress = on_progress, .done = on_done, .arg = pull };

	if (!pull || !(pull->reference = strdup(reference))) {
		free(pull);
		error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot pull %s: out of memory", reference);
		return NULL;
	}
	pull->puller = p;
	DL_APPEND(p->pulls, pull);
	pull->transfer = transfer_pull(p->loop, p->options, reference, &callbacks, err);
	if (!pull->transfer) {
		pull_free(pull);
		return NULL;
	}
	return pull;
}

struct pull_ticket *puller_want(struct puller *p, const char *reference, const struct pull_callbacks *callbacks,
				struct error *err)
{
	struct pull_ticket *ticket = calloc(1, sizeof *ticket);
	struct pull *pull;

	if (!ticket) {
		error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot pull %s: out of memory", reference);
		return NULL;
	}
	DL_FOREACH(p->pulls, pull)
		if (pull->transfer && !strcmp(pull->reference, reference))
			break;
	if (!pull)
		pull = pull_start(p, reference, err);
	if (!pull) {
		free(ticket);
		return NULL;
	}
	ticket->pull = pull;
	ticket->callbacks = *callbacks;
	DL_APPEND(pull->tickets, ticket);
	return ticket;
}

void puller_drop(struct pull_ticket *ticket)
{
	struct pull *pull;

	if (!ticket)
		return;
	pull = ticket->pull;
	DL_DELETE(pull->tickets, ticket);
	free(ticket);
	if (!pull->tickets && pull->transfer) {
		transfer_cancel(pull->transfer);
		pull_free(pull);
	}
}

void puller_free(struct puller *p)
{
	if (!p)
		return;
	while (p->pulls) {
		struct pull *pull = p->pulls;
		struct pull_ticket *ticket, *next;

		transfer_cancel(pull->transfer);
		DL_FOREACH_SAFE(pull->tickets, ticket, next)
			free(ticket);
		pull_free(pull);
	}
	free(p);
}
