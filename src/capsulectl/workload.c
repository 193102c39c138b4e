/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsulectl workload ... */
#include "capsulectl/client.h"
#include "capsulectl/commands.h"
#include "capsulectl/observe.h"
#include "capsulectl/output.h"
#include "capsulectl/watch.h"

#include "base/timeutil.h"
#include "manifest/manifest.h"

#include "workload.pb-c.h"

#include <assert.h>
#include <errno.h>

typedef Capsule__V1__Workload Workload;
typedef Capsule__V1__WorkloadListResponse WorkloadList;

/* ---- what both kinds have ---- */

static const char *workload_image(const Workload *w)
{
	if (w->container)
		return w->container->image;
	if (w->micro_vm)
		return *w->micro_vm->image ? w->micro_vm->image : w->micro_vm->rootfs_path;
	return "";
}

static size_t workload_ports(const Workload *w, Capsule__V1__PortMapping ***ret)
{
	*ret = w->container ? w->container->ports : w->micro_vm ? w->micro_vm->ports : NULL;
	return w->container ? w->container->n_ports : w->micro_vm ? w->micro_vm->n_ports : 0;
}

/* "8080:80/tcp,53:53/udp", host port first. */
static void add_ports(const Workload *w, struct buf *out)
{
	Capsule__V1__PortMapping **ports;
	size_t n = workload_ports(w, &ports);

	for (size_t i = 0; i < n; i++)
		buf_addf(out, "%s%u:%u/%s", i ? "," : "", ports[i]->host_port, ports[i]->container_port,
			 *ports[i]->protocol ? ports[i]->protocol : "tcp");
}

static enum style phase_style(const Capsule__V1__WorkloadStatus *status)
{
	if (status->health == CAPSULE__V1__HEALTH__HEALTH_UNHEALTHY)
		return STYLE_BAD;
	switch (status->phase) {
	case CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_RUNNING:
		return STYLE_GOOD;
	case CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_FAILED:
		return STYLE_BAD;
	case CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_PENDING:
		return STYLE_BUSY;
	default:
		return STYLE_FAINT;
	}
}

static const char *desired_text(const Workload *w, char *out, size_t size)
{
	int state = (int)w->desired_state;

	if (state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_UNSPECIFIED)
		state = CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING;
	return text_enum(&capsule__v1__desired_state__descriptor, state, out, size);
}

/* "Container", "MicroVM" as manifests write them. */
static const char *kind_text(const Workload *w)
{
	switch (w->kind) {
	case CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_CONTAINER:
		return "Container";
	case CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_MICRO_VM:
		return "MicroVM";
	default:
		return "";
	}
}

/* ---- list ---- */

static void add_row(struct table *t, const Workload *w)
{
	const Capsule__V1__WorkloadStatus unknown = CAPSULE__V1__WORKLOAD_STATUS__INIT;
	const Capsule__V1__WorkloadStatus *status = w->status ? w->status : &unknown;
	_cleanup_buf_ struct buf ports = BUF_INIT(64 << 10);
	char text[64];

	add_ports(w, &ports);
	table_cell(t, STYLE_PLAIN, "%s", w->name);
	table_cell(t, STYLE_PLAIN, "%s", kind_text(w));
	table_cell(t, STYLE_PLAIN, "%s", workload_image(w));
	table_cell(t, STYLE_PLAIN, "%s", buf_str(&ports));
	table_cell(t, STYLE_PLAIN, "%s", desired_text(w, text, sizeof text));
	table_cell(t, phase_style(status), "%s", text_phase(status, text, sizeof text));
	table_cell(t, STYLE_PLAIN, "%u", status->restart_count);
	table_cell(t, STYLE_PLAIN, "%s", text_age(w->created_at_unix * NSEC_PER_SEC, text, sizeof text));
	table_cell(t, STYLE_PLAIN, "%s", *status->message ? status->message : status->health_message);
}

static int print_manifests(Workload *const *workloads, size_t n, struct error *err)
{
	_cleanup_buf_ struct buf out = BUF_INIT(TABLE_BYTES_MAX);

	for (size_t i = 0; i < n; i++) {
		if (i)
			buf_adds(&out, "---\n");
		manifest_print_workload(workloads[i], &out);
	}
	return output_buf(&out, err);
}

static int list_workloads(struct cli *cli, WorkloadList **ret, struct error *err)
{
	Capsule__V1__WorkloadListRequest request = CAPSULE__V1__WORKLOAD_LIST_REQUEST__INIT;

	return client_call(cli, &workload_list, &request, ret, err);
}

static int run_list(struct cli *cli, struct error *err)
{
	static const char *const headers[] = { "NAME", "KIND", "IMAGE", "PORTS", "DESIRED", "PHASE", "RESTARTS", "AGE",
					       "MESSAGE" };
	_cleanup_message_ WorkloadList *list = NULL;
	_cleanup_table_ struct table table = { 0 };
	enum form form = output_form(cli);
	int r = list_workloads(cli, &list, err);

	if (r < 0)
		return r;
	switch (form) {
	case FORM_JSON:
	case FORM_YAML:
		return output_list(form, list, err);
	case FORM_MANIFEST:
		return print_manifests(list->workloads, list->n_workloads, err);
	case FORM_NAME:
		for (size_t i = 0; i < list->n_workloads; i++)
			output_text("%s\n", list->workloads[i]->name);
		return 0;
	case FORM_TABLE:
		break;
	}
	table_init(&table, headers, sizeof headers / sizeof *headers);
	for (size_t i = 0; i < list->n_workloads; i++)
		add_row(&table, list->workloads[i]);
	return output_table(&table, err);
}

/* ---- get ---- */

static void print_moment(const char *name, int64_t unix_ms)
{
	char text[TIME_RFC3339_MAX], age[TIME_AGE_MAX];

	if (unix_ms)
		output_field(name, "%s (%s ago)", time_format_rfc3339(unix_ms * NSEC_PER_MSEC, 0, text),
			     text_age(unix_ms * NSEC_PER_MSEC, age, sizeof age));
}

static void print_status(const Workload *w)
{
	const Capsule__V1__WorkloadStatus *s = w->status;
	char text[64];

	output_field("Desired", "%s", desired_text(w, text, sizeof text));
	if (!s)
		return;
	output_field("Phase", "%s", text_phase(s, text, sizeof text));
	if (*s->health_message)
		output_field("Health", "%s", s->health_message);
	output_field("Message", "%s", s->message);
	output_field("Restarts", "%u", s->restart_count);
	output_field("Address", "%s", s->address);
	if (s->pid)
		output_field("PID", "%u", s->pid);
	output_field("Image digest", "%s", s->image_digest);
	print_moment("Created", w->created_at_unix * 1000);
	print_moment("Started", s->started_at_unix_ms);
	print_moment("Finished", s->finished_at_unix_ms);
	if (s->finished_at_unix_ms)
		output_field("Exit code", "%d", s->exit_code);
}

/* The spec as its manifest, indented: what the user wrote, in the form in which it was written. */
static int print_spec(const Workload *w, struct error *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(TABLE_BYTES_MAX), out = BUF_INIT(TABLE_BYTES_MAX);

	if (manifest_print_workload(w, &text) < 0)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the spec is too large to print");
	buf_adds(&out, "Spec:\n");
	for (const char *p = buf_str(&text); *p;) {
		size_t n = strcspn(p, "\n");

		buf_adds(&out, "  ");
		buf_add(&out, p, n);
		buf_addc(&out, '\n');
		p += n + (p[n] == '\n');
	}
	return output_buf(&out, err);
}

static int describe(const Workload *w, struct error *err)
{
	_cleanup_buf_ struct buf ports = BUF_INIT(64 << 10);

	add_ports(w, &ports);
	output_field("Name", "%s", w->name);
	output_field("Kind", "%s", kind_text(w));
	output_field("Image", "%s", workload_image(w));
	output_field("Ports", "%s", buf_str(&ports));
	print_status(w);
	return print_spec(w, err);
}

static int get_workload(struct cli *cli, char *name, Workload **ret, struct error *err)
{
	Capsule__V1__WorkloadGetRequest request = CAPSULE__V1__WORKLOAD_GET_REQUEST__INIT;

	request.name = name;
	return client_call(cli, &workload_get, &request, ret, err);
}

static int run_get(struct cli *cli, struct error *err)
{
	_cleanup_message_ Workload *workload = NULL;
	enum form form = output_form(cli);
	int r = get_workload(cli, cli->names[0], &workload, err);

	if (r < 0)
		return r;
	switch (form) {
	case FORM_JSON:
	case FORM_YAML:
		return output_message(form, workload, err);
	case FORM_MANIFEST:
		return print_manifests(&workload, 1, err);
	case FORM_NAME:
		output_text("%s\n", workload->name);
		return 0;
	case FORM_TABLE:
		break;
	}
	return describe(workload, err);
}

/* ---- logs ---- */

static int on_log_chunk(const void *message, void *arg, struct error *err)
{
	const Capsule__V1__WorkloadLogChunk *chunk = message;

	return output_bytes(chunk->data.data, chunk->data.len, err);
}

static int run_logs(struct cli *cli, struct error *err)
{
	Capsule__V1__WorkloadLogsRequest request = CAPSULE__V1__WORKLOAD_LOGS_REQUEST__INIT;
	const struct option_value *tail = cli_option(cli, OPT_TAIL), *since = cli_option(cli, OPT_SINCE);

	request.name = cli->names[0];
	request.follow = cli_has(cli, OPT_FOLLOW);
	request.timestamps = cli_has(cli, OPT_TIMESTAMPS);
	if (cli_has(cli, OPT_SERIAL))
		request.source = CAPSULE__V1__LOG_SOURCE__LOG_SOURCE_SERIAL;
	if (since)
		request.since_unix_nanos = since->number;
	if (tail)
		request.tail_lines = (int32_t)tail->number;
	/* On the wire 0 lines means all of them; here it means none of the old ones. */
	if (tail && tail->number == 0)
		request.since_unix_nanos = time_realtime_ns();
	return client_stream(cli, &workload_logs, &request, on_log_chunk, NULL, err);
}

/* ---- stop, start, restart, delete ---- */

/* The names to act on: those given, or all there are. list keeps what *ret points into. */
static int choose_names(struct cli *cli, WorkloadList **list, char ***ret, size_t *ret_n, struct error *err)
{
	bool all = cli_has(cli, OPT_ALL);
	int r;

	if (all && cli->n_names)
		return cli_usage(err, "give names or --all, not both");
	if (!all && !cli->n_names)
		return cli_usage(err, "missing NAME (or --all)");
	if (!all) {
		*ret = calloc(cli->n_names, sizeof **ret);
		for (size_t i = 0; *ret && i < cli->n_names; i++)
			(*ret)[i] = cli->names[i];
		*ret_n = cli->n_names;
	} else {
		r = list_workloads(cli, list, err);
		if (r < 0)
			return r;
		*ret_n = (*list)->n_workloads;
		*ret = calloc(*ret_n + 1, sizeof **ret);
		for (size_t i = 0; *ret && i < *ret_n; i++)
			(*ret)[i] = (*list)->workloads[i]->name;
	}
	return *ret ? 0 : error_errno(err, ENOMEM, "cannot collect the names");
}

/* How the four verbs that act on names differ. */
struct action {
	const struct method *method;
	const char *recorded; /* printed when the daemon has it and nobody waits */
	bool waits;           /* unless --no-wait is given; the others only if --wait is */
	enum watch_goal goal;
};

/* The requests of all four hold one field, the name. */
static int send_name(struct cli *cli, const struct method *method, char *name, struct error *err)
{
	union {
		Capsule__V1__WorkloadStopRequest stop;
		Capsule__V1__WorkloadStartRequest start;
		Capsule__V1__WorkloadRestartRequest restart;
		Capsule__V1__WorkloadDeleteRequest delete;
	} request;

	static_assert(sizeof request == sizeof request.stop, "requests differ");
	method->request->message_init(&request.stop.base);
	request.stop.name = name;
	return client_call(cli, method, &request, NULL, err);
}

static int act(struct cli *cli, const struct action *action, struct error *err)
{
	_cleanup_message_ WorkloadList *list = NULL;
	_cleanup_free_ char **names = NULL;
	bool wait = action->waits ? !cli_has(cli, OPT_NO_WAIT) : cli_has(cli, OPT_WAIT);
	size_t n = 0, done = 0;
	int r = choose_names(cli, &list, &names, &n, err);

	if (r < 0)
		return r;
	/* One that fails does not keep the others from what was asked for. names[0..done) are those to wait for. */
	for (size_t i = 0; i < n; i++) {
		r = send_name(cli, action->method, names[i], err);
		if (r == CLI_USAGE || (r < 0 && client_lost(cli)))
			return r;
		if (r < 0) {
			cli_report(cli, err);
			continue;
		}
		names[done++] = names[i];
		if (!wait)
			output_text("workload/%s %s\n", names[i], action->recorded);
	}
	r = wait ? watch_wait(cli, names, done, action->goal, 0, err) : 0;
	return r < 0 || done < n ? -1 : 0;
}

static int run_stop(struct cli *cli, struct error *err)
{
	static const struct action action = { &workload_stop, "stopping", true, WATCH_STOPPED };

	return act(cli, &action, err);
}

static int run_start(struct cli *cli, struct error *err)
{
	static const struct action action = { &workload_start, "started", false, WATCH_RUNNING };

	return act(cli, &action, err);
}

static int run_restart(struct cli *cli, struct error *err)
{
	static const struct action action = { &workload_restart, "restarted", false, WATCH_RUNNING };

	return act(cli, &action, err);
}

static int run_delete(struct cli *cli, struct error *err)
{
	static const struct action action = { &workload_delete, "deleting", true, WATCH_DELETED };

	return act(cli, &action, err);
}

/* ---- commands ---- */

static const struct command command_list = {
	.name = "list", .alias = "ls", .summary = "list all workloads with their state",
	.text = "RESTARTS counts the starts after the first. AGE is the time since the workload was\n"
		"first applied. MESSAGE tells what the daemon is doing with it, or why it failed.\n"
		"On a terminal the message is cut to fit.",
	.outputs = "table|json|yaml|name|manifest", .run = run_list,
};

static const struct command command_get = {
	.name = "get", .summary = "show one workload, spec and status",
	.text = "The form \"manifest\" is what can be applied again; \"json\" and \"yaml\" are the\n"
		"daemon's whole message, status included.",
	.examples = "capsulectl workload get web\n"
		    "capsulectl workload get web -o manifest > web.yaml",
	.arguments = "NAME", .min_arguments = 1, .max_arguments = 1, .complete = COMPLETE_WORKLOADS,
	.outputs = "table|json|yaml|name|manifest", .run = run_get,
};

static const struct command command_logs = {
	.name = "logs", .summary = "print what a workload wrote to its standard output and error",
	.text = "Works for a workload that has stopped or failed, too. With --follow it ends when\n"
		"the workload is deleted; --tail 0 shows only what is new then.",
	.examples = "capsulectl workload logs web\n"
		    "capsulectl workload logs -f -n 20 web\n"
		    "capsulectl workload logs --since 10m --timestamps web",
	.arguments = "NAME", .min_arguments = 1, .max_arguments = 1, .complete = COMPLETE_WORKLOADS,
	.options = OPTION(FOLLOW) | OPTION(TAIL) | OPTION(SINCE) | OPTION(TIMESTAMPS) | OPTION(SERIAL),
	.run = run_logs,
};

static const struct command command_restart = {
	.name = "restart", .summary = "stop workloads and start them again",
	.text = "It returns when the restart is recorded; with --wait, when the new run has begun.",
	.arguments = "NAME...", .max_arguments = ARGUMENTS_ANY, .complete = COMPLETE_WORKLOADS,
	.options = OPTION(ALL) | OPTION(WAIT), .run = run_restart,
};

static const struct command command_stop = {
	.name = "stop", .summary = "stop workloads and keep them stopped",
	.text = "The workload gets its stop signal, then its grace period, then is killed. It stays\n"
		"stopped over restarts of the daemon and of the machine until it is started again.",
	.arguments = "NAME...", .max_arguments = ARGUMENTS_ANY, .complete = COMPLETE_WORKLOADS,
	.options = OPTION(ALL) | OPTION(NO_WAIT), .run = run_stop,
};

static const struct command command_start = {
	.name = "start", .summary = "start stopped workloads",
	.arguments = "NAME...", .max_arguments = ARGUMENTS_ANY, .complete = COMPLETE_WORKLOADS,
	.options = OPTION(ALL) | OPTION(WAIT), .run = run_start,
};

static const struct command command_delete = {
	.name = "delete", .alias = "rm", .summary = "stop workloads and forget them",
	.text = "The volumes that they mounted stay, with all their data.",
	.arguments = "NAME...", .max_arguments = ARGUMENTS_ANY, .complete = COMPLETE_WORKLOADS,
	.options = OPTION(ALL) | OPTION(NO_WAIT), .run = run_delete,
};

static const struct command *const verbs[] = {
	&command_list,  &command_get,   &command_logs,   &exec_command,          &command_restart,
	&command_stop,  &command_start, &command_delete, &workload_wait_command, &workload_events_command,
	&workload_stats_command, NULL,
};

const struct command workload_command = {
	.name = "workload", .alias = "w", .summary = "containers and microVMs", .children = verbs,
};
