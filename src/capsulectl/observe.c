/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/observe.h"

#include "capsulectl/client.h"
#include "capsulectl/output.h"
#include "capsulectl/watch.h"

#include "base/timeutil.h"
#include "manifest/manifest.h"

#include "workload.pb-c.h"

#define INTERVAL_NS (2 * NSEC_PER_SEC)
#define LINE_MAX_BYTES (4u << 20)

typedef Capsule__V1__WorkloadStats Stats;
typedef Capsule__V1__WorkloadStatsResponse StatsResponse;

/* For output that goes on: a message in one line, and at once. */
static int print_json_line(const void *message, struct error *err)
{
	_cleanup_buf_ struct buf line = BUF_INIT(LINE_MAX_BYTES);

	message_to_json(message, 0, &line);
	buf_addc(&line, '\n');
	return output_buf(&line, err) < 0 ? -1 : output_flush(err);
}

/* ---- wait ---- */

static int run_wait(struct cli *cli, struct error *err)
{
	const struct option_value *goal = cli_option(cli, OPT_FOR);
	const char *word = goal ? goal->text : "running";

	return watch_wait(cli, cli->names, cli->n_names,
			  strcmp(word, "stopped") == 0 ? WATCH_STOPPED :
			  strcmp(word, "deleted") == 0 ? WATCH_DELETED :
			  strcmp(word, "healthy") == 0 ? WATCH_HEALTHY : WATCH_RUNNING,
			  WATCH_ONLOOKER, err);
}

/* ---- events ---- */

static enum style occurrence_style(Capsule__V1__WorkloadOccurrenceType type)
{
	switch (type) {
	case CAPSULE__V1__WORKLOAD_OCCURRENCE_TYPE__WORKLOAD_OCCURRENCE_TYPE_STARTED:
	case CAPSULE__V1__WORKLOAD_OCCURRENCE_TYPE__WORKLOAD_OCCURRENCE_TYPE_HEALTHY:
		return STYLE_GOOD;
	case CAPSULE__V1__WORKLOAD_OCCURRENCE_TYPE__WORKLOAD_OCCURRENCE_TYPE_FAILED:
	case CAPSULE__V1__WORKLOAD_OCCURRENCE_TYPE__WORKLOAD_OCCURRENCE_TYPE_UNHEALTHY:
		return STYLE_BAD;
	case CAPSULE__V1__WORKLOAD_OCCURRENCE_TYPE__WORKLOAD_OCCURRENCE_TYPE_RESTARTING:
		return STYLE_BUSY;
	default:
		return STYLE_PLAIN;
	}
}

struct event_printer {
	enum form form;
	uint64_t last; /* sequence number; 0: none yet */
	bool all;      /* no names were given: the numbers have no gaps */
};

/* The columns of a stream cannot wait for its widest line. */
static int print_occurrence(const Capsule__V1__WorkloadOccurrence *o, struct error *err)
{
	_cleanup_free_ char *message = strdup(o->message);
	char time[TIME_RFC3339_MAX], type[32];

	if (!message)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	text_enum(&capsule__v1__workload_occurrence_type__descriptor, (int)o->type, type, sizeof type);
	output_text("%s  %-20s  ", time_format_rfc3339(o->time_unix_ns, 3, time), o->name);
	output_styled(occurrence_style(o->type), "%-10s", type);
	output_text("  %s\n", text_clean(message));
	return output_flush(err);
}

static int on_occurrence(const void *message, void *arg, struct error *err)
{
	const Capsule__V1__WorkloadOccurrence *o = message;
	struct event_printer *p = arg;

	if (p->all && p->last && o->sequence > p->last + 1)
		fprintf(stderr, "capsulectl: %llu events came faster than they were read, and are lost\n",
			(unsigned long long)(o->sequence - p->last - 1));
	p->last = o->sequence;
	return p->form == FORM_JSON ? print_json_line(o, err) : print_occurrence(o, err);
}

static int run_events(struct cli *cli, struct error *err)
{
	Capsule__V1__WorkloadEventsRequest request = CAPSULE__V1__WORKLOAD_EVENTS_REQUEST__INIT;
	const struct option_value *since = cli_option(cli, OPT_SINCE);
	struct event_printer printer = { .form = output_form(cli), .all = cli->n_names == 0 && !since };

	request.names = cli->names;
	request.n_names = cli->n_names;
	request.follow = cli_has(cli, OPT_FOLLOW);
	if (since)
		request.since_unix_ns = since->number;
	return client_stream(cli, &workload_events, &request, on_occurrence, &printer, err);
}

/* ---- stats ---- */

static const Stats *find_stats(const StatsResponse *response, const char *name)
{
	for (size_t i = 0; response && i < response->n_stats; i++)
		if (strcmp(response->stats[i]->name, name) == 0)
			return response->stats[i];
	return NULL;
}

/* In percent of one processor. Negative: unknown, for one that was not there at the last look or has begun a new run. */
static double cpu_percent(const Stats *now, const StatsResponse *before, int64_t passed_ns)
{
	const Stats *then = find_stats(before, now->name);

	if (!then || passed_ns <= 0 || now->cpu_time_ns < then->cpu_time_ns)
		return -1;
	return 100.0 * (double)(now->cpu_time_ns - then->cpu_time_ns) / (double)passed_ns;
}

static void add_bytes(struct table *t, uint64_t bytes)
{
	char text[TEXT_BYTES_MAX];

	table_cell(t, STYLE_PLAIN, "%s", text_bytes(bytes, text));
}

/* "-" for no limit. */
static void add_limit(struct table *t, uint64_t limit)
{
	if (limit)
		add_bytes(t, limit);
	else
		table_cell(t, STYLE_PLAIN, "%s", "");
}

static void add_row(struct table *t, const Stats *s, double cpu)
{
	table_cell(t, STYLE_PLAIN, "%s", s->name);
	if (cpu < 0)
		table_cell(t, STYLE_PLAIN, "%s", "");
	else
		table_cell(t, STYLE_PLAIN, "%.1f%%", cpu);
	add_bytes(t, s->memory_bytes);
	add_limit(t, s->memory_limit_bytes);
	add_bytes(t, s->network_received_bytes);
	add_bytes(t, s->network_sent_bytes);
	add_bytes(t, s->block_read_bytes);
	add_bytes(t, s->block_written_bytes);
	if (s->pids_limit)
		table_cell(t, STYLE_PLAIN, "%llu/%llu", (unsigned long long)s->pids, (unsigned long long)s->pids_limit);
	else
		table_cell(t, STYLE_PLAIN, "%llu", (unsigned long long)s->pids);
}

static int print_table(const StatsResponse *now, const StatsResponse *before, struct error *err)
{
	static const char *const headers[] = { "NAME", "CPU", "MEMORY", "LIMIT", "NET IN", "NET OUT", "READ", "WRITTEN",
					       "PIDS" };
	_cleanup_table_ struct table table = { 0 };
	int64_t passed_ns = before ? now->time_unix_ns - before->time_unix_ns : 0;

	table_init(&table, headers, sizeof headers / sizeof *headers);
	for (size_t i = 0; i < now->n_stats; i++)
		add_row(&table, now->stats[i], cpu_percent(now->stats[i], before, passed_ns));
	return output_table(&table, err);
}

static int look(struct cli *cli, StatsResponse **ret, struct error *err)
{
	Capsule__V1__WorkloadStatsRequest request = CAPSULE__V1__WORKLOAD_STATS_REQUEST__INIT;

	request.names = cli->names;
	request.n_names = cli->n_names;
	return client_call(cli, &workload_stats, &request, ret, err);
}

/* On a terminal each table takes the place of the one before. */
static int show(struct cli *cli, const StatsResponse *now, const StatsResponse *before, bool again, struct error *err)
{
	if (output_form(cli) == FORM_JSON)
		return print_json_line(now, err);
	if (again && output_is_terminal())
		output_text("\033[H\033[J");
	return print_table(now, before, err) < 0 ? -1 : output_flush(err);
}

static int run_stats(struct cli *cli, struct error *err)
{
	const struct option_value *interval = cli_option(cli, OPT_INTERVAL);
	int64_t interval_ns = interval ? interval->number : INTERVAL_NS;
	bool once = cli_has(cli, OPT_NO_STREAM);
	_cleanup_message_ StatsResponse *before = NULL;
	int r = look(cli, &before, err);

	/* A rate takes two looks; the form for programs holds counters only. */
	if (r == 0 && (!once || output_form(cli) == FORM_JSON))
		r = show(cli, before, NULL, !once, err);
	if (once && output_form(cli) == FORM_JSON)
		return r;
	while (r == 0) {
		_cleanup_message_ StatsResponse *now = NULL, *former = NULL;

		r = client_pause(cli, interval_ns, err);
		if (r == 0)
			r = look(cli, &now, err);
		if (r < 0)
			break;
		r = show(cli, now, before, !once, err);
		if (once)
			break;
		former = before;
		before = steal_ptr(&now);
	}
	return r;
}

/* ---- commands ---- */

const struct command workload_wait_command = {
	.name = "wait", .summary = "wait until workloads run, have stopped or are gone",
	.text = "A workload that fails for good, or whose last run ends with an exit code other than 0, ends\n"
		"the wait for it: it is reported, and the exit status is 1. So \"--for stopped\" tells how a\n"
		"job went. While its restart policy has it tried again, the wait goes on: --timeout limits\n"
		"it.",
	.examples = "capsulectl workload wait web db --timeout 1m\n"
		    "capsulectl workload wait job --for stopped",
	.arguments = "NAME...", .min_arguments = 1, .max_arguments = ARGUMENTS_ANY, .complete = COMPLETE_WORKLOADS,
	.options = OPTION(FOR), .run = run_wait,
};

const struct command workload_events_command = {
	.name = "events", .summary = "show what has happened to workloads",
	.text = "The daemon remembers the last 1000 events since its own start. With -o json each line\n"
		"is one event.",
	.examples = "capsulectl workload events -f\n"
		    "capsulectl workload events --since 10m web",
	.arguments = "[NAME...]", .max_arguments = ARGUMENTS_ANY, .complete = COMPLETE_WORKLOADS,
	.options = OPTION(FOLLOW) | OPTION(SINCE), .outputs = "table|json", .run = run_events,
};

const struct command workload_stats_command = {
	.name = "stats", .alias = "top", .summary = "show what running workloads use, again and again",
	.text = "CPU is in percent of one processor. MEMORY leaves out the file cache that the kernel\n"
		"would drop first. NET is what passed between the workload and the bridge; one on the\n"
		"host's network has none of its own. With -o json each line is one look at all of them,\n"
		"with counters in place of rates.",
	.examples = "capsulectl workload stats\n"
		    "capsulectl workload stats --no-stream web",
	.arguments = "[NAME...]", .max_arguments = ARGUMENTS_ANY, .complete = COMPLETE_WORKLOADS,
	.options = OPTION(NO_STREAM) | OPTION(INTERVAL), .outputs = "table|json", .run = run_stats,
};
