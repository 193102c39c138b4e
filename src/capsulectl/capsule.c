/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsulectl capsule ..., info and version: the daemon and its host. */
#include "base/timeutil.h"
#include "capsulectl/client.h"
#include "capsulectl/commands.h"
#include "capsulectl/debug.h"
#include "capsulectl/output.h"

#include "capsule.pb-c.h"

typedef Capsule__V1__GetInfoResponse Info;

static int get_info(struct cli *cli, Info **ret, struct error *err)
{
	Capsule__V1__GetInfoRequest request = CAPSULE__V1__GET_INFO_REQUEST__INIT;

	return client_call(cli, &capsule_get_info, &request, ret, err);
}

/* ---- info ---- */

/* "1.2GiB of 8.0GiB used"; nothing where the host has no such thing. */
static void print_usage(const char *name, uint64_t used, uint64_t total)
{
	char used_text[TEXT_BYTES_MAX], total_text[TEXT_BYTES_MAX];

	if (total)
		output_field(name, "%s of %s used", text_bytes(used, used_text), text_bytes(total, total_text));
}

static void print_time(const char *name, int64_t unix_seconds)
{
	char text[TIME_RFC3339_MAX];

	if (unix_seconds)
		output_field(name, "%s", time_format_rfc3339(unix_seconds * NSEC_PER_SEC, 0, text));
}

static void print_info(const Info *info)
{
	uint64_t used = info->memory_total_bytes > info->memory_available_bytes
				? info->memory_total_bytes - info->memory_available_bytes
				: 0;
	char text[TEXT_BYTES_MAX];

	output_field("Hostname", "%s", info->hostname);
	output_field("ID", "%s", info->short_id);
	output_field("Capsule", "%s", info->capsule_version);
	output_field("Kernel", "%s%s%s", info->kernel_release, *info->kernel_version ? " " : "", info->kernel_version);
	output_field("Architecture", "%s", info->architecture);
	if (info->cpu_cores)
		output_field("CPU", "%u x %s", info->cpu_cores, *info->cpu_model ? info->cpu_model : "unknown");
	print_usage("Memory", used, info->memory_total_bytes);
	if (*info->vm_monitor)
		output_field("MicroVMs", "%s%s, %s", info->vm_monitor, info->vm_jailed ? " with its jailer" : "",
			     info->vm_emulated ? "emulated" : "KVM");
	else
		output_field("MicroVMs", "%s", info->vm_obstacle);
	print_usage("State", info->perm_used_bytes, info->perm_total_bytes);
	print_usage("Thin pool", info->thinpool_used_bytes, info->thinpool_total_bytes);
	for (size_t i = 0; i < info->n_warnings; i++)
		output_field("Warning", "%s", info->warnings[i]);
	output_field("Boot disk", "%s", info->boot_disk);
	if (info->disk_total_bytes)
		output_field("Disk", "%s", text_bytes(info->disk_total_bytes, text));
	if (info->uptime_seconds)
		output_field("Up for", "%s", time_format_age((int64_t)info->uptime_seconds * NSEC_PER_SEC, text));
	print_time("Local time", info->local_time_unix);
	output_field("Active slot", "%s", info->active_slot);
	output_field("Pending slot", "%s", info->pending_slot);
	print_time("Confirm until", info->pending_deadline_unix);
	output_field("Last version", "%s", info->last_version);
}

static int run_info(struct cli *cli, struct error *err)
{
	_cleanup_message_ Info *info = NULL;
	enum form form = output_form(cli);
	int r = get_info(cli, &info, err);

	if (r < 0)
		return r;
	if (form != FORM_TABLE)
		return output_message(form, info, err);
	print_info(info);
	return 0;
}

/* ---- logs ---- */

static int on_log_chunk(const void *message, void *arg, struct error *err)
{
	const Capsule__V1__CapsuleLogChunk *chunk = message;

	return output_bytes(chunk->data.data, chunk->data.len, err);
}

static int run_logs(struct cli *cli, struct error *err)
{
	Capsule__V1__CapsuleLogsRequest request = CAPSULE__V1__CAPSULE_LOGS_REQUEST__INIT;
	const struct option_value *tail = cli_option(cli, OPT_TAIL);

	request.follow = cli_has(cli, OPT_FOLLOW);
	if (tail && tail->number == 0)
		return cli_usage(err, "--tail: the daemon's log begins with one line at least");
	if (tail)
		request.tail_lines = (int32_t)tail->number;
	return client_stream(cli, &capsule_stream_logs, &request, on_log_chunk, NULL, err);
}

/* ---- version ---- */

static void print_version(enum form form, char *server)
{
	if (server)
		text_clean(server);
	switch (form) {
	case FORM_JSON:
		output_text("{\n  \"client\": \"%s\"", CAPSULE_VERSION);
		if (server)
			output_text(",\n  \"server\": \"%s\"", server);
		output_text("\n}\n");
		break;
	case FORM_YAML:
		output_text("client: \"%s\"\n", CAPSULE_VERSION);
		if (server)
			output_text("server: \"%s\"\n", server);
		break;
	default:
		output_field("Client", "%s", CAPSULE_VERSION);
		if (server)
			output_field("Server", "%s", server);
	}
}

static int run_version(struct cli *cli, struct error *err)
{
	_cleanup_message_ Info *info = NULL;
	int r = 0;

	if (!cli_has(cli, OPT_CLIENT))
		r = get_info(cli, &info, err);
	if (r == CLI_USAGE)
		return r;
	/* Half of the answer does not depend on the daemon. */
	print_version(output_form(cli), info ? info->capsule_version : NULL);
	return r;
}

/* ---- commands ---- */

static const struct command command_info = {
	.name = "info", .summary = "show the host and its daemon", .outputs = "table|json|yaml", .run = run_info,
};

static const struct command command_logs = {
	.name = "logs", .summary = "print the daemon's own log",
	.options = OPTION(FOLLOW) | OPTION(TAIL), .run = run_logs,
};

static const struct command *const verbs[] = { &command_info, &command_logs, &debug_command, NULL };

const struct command capsule_command = {
	.name = "capsule", .alias = "c", .summary = "the host and its daemon", .children = verbs,
};

const struct command info_command = {
	.name = "info", .summary = "show the host and its daemon, as \"capsule info\"", .outputs = "table|json|yaml",
	.run = run_info,
};

const struct command version_command = {
	.name = "version", .summary = "show the versions of this program and of the daemon",
	.options = OPTION(CLIENT), .outputs = "table|json|yaml", .run = run_version,
};
