/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsulectl volume ... */
#include "capsulectl/volume.h"

#include "base/timeutil.h"
#include "capsulectl/client.h"
#include "capsulectl/commands.h"
#include "capsulectl/output.h"
#include "manifest/manifest.h"

#include <string.h>

typedef Capsule__V1__Volume Volume;

#define MIB (UINT64_C(1) << 20)

static uint64_t mib_of_bytes(uint64_t bytes)
{
	return bytes / MIB + (bytes % MIB != 0);
}

static int get_volume(struct cli *cli, char *name, Volume **ret, struct error *err)
{
	Capsule__V1__VolumeGetRequest request = CAPSULE__V1__VOLUME_GET_REQUEST__INIT;

	request.name = name;
	return client_call(cli, &volume_get, &request, ret, err);
}

static int resize_volume(struct cli *cli, char *name, uint64_t mib, Volume **ret, struct error *err)
{
	Capsule__V1__VolumeResizeRequest request = CAPSULE__V1__VOLUME_RESIZE_REQUEST__INIT;

	request.name = name;
	request.new_size_mib = mib;
	return client_call(cli, &volume_resize, &request, ret, err);
}

/* ---- apply ---- */

static int apply_new(struct cli *cli, Capsule__V1__VolumeCreateRequest *wanted, bool dry_run, struct error *err)
{
	char size[MANIFEST_SIZE_TEXT];
	int r;

	if (dry_run) {
		output_text("volume/%s would be created\n  + size: %s\n", wanted->name,
			    manifest_format_size(wanted->size_mib * MIB, size));
		if (*wanted->backend)
			output_text("  + backend: %s\n", wanted->backend);
		if (*wanted->from_snapshot)
			output_text("  + fromSnapshot: %s\n", wanted->from_snapshot);
		return 0;
	}
	r = client_call(cli, &volume_create, wanted, NULL, err);
	if (r == 0)
		output_text("volume/%s created\n", wanted->name);
	return r;
}

int volume_apply(struct cli *cli, Capsule__V1__VolumeCreateRequest *wanted, bool dry_run, struct error *err)
{
	_cleanup_message_ Volume *have = NULL;
	char from[MANIFEST_SIZE_TEXT], to[MANIFEST_SIZE_TEXT];
	uint64_t bytes = wanted->size_mib * MIB;
	int r = get_volume(cli, wanted->name, &have, err);

	if (r < 0 && err->code == ERR_NOT_FOUND) {
		error_release(err);
		return apply_new(cli, wanted, dry_run, err);
	}
	if (r < 0)
		return r;
	if (*wanted->backend && strcmp(wanted->backend, have->backend) != 0)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "volume %s is in backend %s and cannot move to %s; export it and import it under another name",
				 wanted->name, have->backend, wanted->backend);
	manifest_format_size(have->size_bytes, from);
	manifest_format_size(bytes, to);
	if (bytes < have->size_bytes) {
		output_text("volume/%s unchanged (it has %s, more than the %s asked for; volumes only grow)\n",
			    wanted->name, from, to);
		return 0;
	}
	if (bytes <= have->size_bytes) {
		output_text("volume/%s unchanged\n", wanted->name);
		return 0;
	}
	if (dry_run) {
		output_text("volume/%s would be grown\n  ~ size: %s -> %s\n", wanted->name, from, to);
		return 0;
	}
	r = resize_volume(cli, wanted->name, wanted->size_mib, NULL, err);
	if (r == 0)
		output_text("volume/%s grown\n", wanted->name);
	return r;
}

/* ---- list, get ---- */

static void add_users(const Volume *v, struct buf *out)
{
	for (size_t i = 0; i < v->n_mounted_by; i++)
		buf_addf(out, "%s%s", i ? "," : "", v->mounted_by[i]);
}

static const char *status_of(const Volume *v)
{
	return v->has_errors ? "errors" : "ok";
}

static int run_list(struct cli *cli, struct error *err)
{
	static const char *const headers[] = { "NAME", "SIZE", "MOUNTED BY", "STATUS", "AGE" };
	Capsule__V1__VolumeListRequest request = CAPSULE__V1__VOLUME_LIST_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__VolumeListResponse *list = NULL;
	_cleanup_table_ struct table table = { 0 };
	enum form form = output_form(cli);
	int r = client_call(cli, &volume_list, &request, &list, err);

	if (r < 0)
		return r;
	if (form == FORM_JSON || form == FORM_YAML)
		return output_list(form, list, err);
	table_init(&table, headers, sizeof headers / sizeof *headers);
	for (size_t i = 0; i < list->n_volumes; i++) {
		const Volume *v = list->volumes[i];
		_cleanup_buf_ struct buf users = BUF_INIT(64 << 10);
		char size[MANIFEST_SIZE_TEXT], age[TIME_AGE_MAX];

		if (form == FORM_NAME) {
			output_text("%s\n", v->name);
			continue;
		}
		add_users(v, &users);
		table_cell(&table, STYLE_PLAIN, "%s", v->name);
		table_cell(&table, STYLE_PLAIN, "%s", manifest_format_size(v->size_bytes, size));
		table_cell(&table, STYLE_PLAIN, "%s", buf_str(&users));
		table_cell(&table, STYLE_PLAIN, "%s", status_of(v));
		table_cell(&table, STYLE_PLAIN, "%s", text_age(v->created_at_unix * NSEC_PER_SEC, age, sizeof age));
	}
	return form == FORM_NAME ? 0 : output_table(&table, err);
}

static int run_get(struct cli *cli, struct error *err)
{
	_cleanup_message_ Volume *v = NULL;
	_cleanup_buf_ struct buf users = BUF_INIT(64 << 10);
	enum form form = output_form(cli);
	char size[MANIFEST_SIZE_TEXT], created[TIME_RFC3339_MAX];
	int r = get_volume(cli, cli->names[0], &v, err);

	if (r < 0)
		return r;
	if (form == FORM_JSON || form == FORM_YAML)
		return output_message(form, v, err);
	if (form == FORM_NAME) {
		output_text("%s\n", v->name);
		return 0;
	}
	add_users(v, &users);
	output_field("Name", "%s", v->name);
	output_field("Size", "%s", manifest_format_size(v->size_bytes, size));
	output_field("Mounted by", "%s", v->n_mounted_by ? buf_str(&users) : "-");
	output_field("Status", "%s", v->has_errors ? "errors; restart what mounts it, to have it repaired" : "ok");
	output_field("Backend", "%s", v->backend);
	output_field("Path", "%s", v->host_path);
	if (v->created_at_unix)
		output_field("Created", "%s", time_format_rfc3339(v->created_at_unix * NSEC_PER_SEC, 0, created));
	return 0;
}

/* ---- create, resize, delete ---- */

static int run_create(struct cli *cli, struct error *err)
{
	Capsule__V1__VolumeCreateRequest request = CAPSULE__V1__VOLUME_CREATE_REQUEST__INIT;
	const struct option_value *size = cli_option(cli, OPT_SIZE), *backend = cli_option(cli, OPT_BACKEND);
	const struct option_value *snapshot = cli_option(cli, OPT_FROM_SNAPSHOT);
	_cleanup_message_ Volume *v = NULL;
	char text[MANIFEST_SIZE_TEXT];
	int r;

	request.name = cli->names[0];
	/* On the wire 0 asks for the default; nobody who writes it does. */
	if (size && size->number == 0)
		return cli_usage(err, "--size: a volume needs more than 0 bytes");
	if (size)
		request.size_mib = mib_of_bytes((uint64_t)size->number);
	if (backend)
		request.backend = (char *)(uintptr_t)backend->text;
	if (snapshot)
		request.from_snapshot = (char *)(uintptr_t)snapshot->text;
	r = client_call(cli, &volume_create, &request, &v, err);
	if (r == 0)
		output_text("volume/%s created (%s)\n", v->name, manifest_format_size(v->size_bytes, text));
	return r;
}

static int run_resize(struct cli *cli, struct error *err)
{
	_cleanup_message_ Volume *v = NULL;
	char text[MANIFEST_SIZE_TEXT];
	uint64_t bytes;
	int r;

	if (manifest_parse_size(cli->names[1], &bytes, err) < 0)
		return CLI_USAGE;
	r = resize_volume(cli, cli->names[0], mib_of_bytes(bytes), &v, err);
	if (r == 0)
		output_text("volume/%s has %s now\n", v->name, manifest_format_size(v->size_bytes, text));
	return r;
}

static int delete_one(struct cli *cli, size_t i, struct error *err)
{
	Capsule__V1__VolumeDeleteRequest request = CAPSULE__V1__VOLUME_DELETE_REQUEST__INIT;
	int r;

	request.name = cli->names[i];
	request.force = cli_has(cli, OPT_FORCE);
	r = client_call(cli, &volume_delete, &request, NULL, err);
	if (r == 0)
		output_text("volume/%s deleted\n", request.name);
	return r;
}

static int run_delete(struct cli *cli, struct error *err)
{
	return client_each_name(cli, 0, delete_one, err);
}

/* ---- commands ---- */

static const struct command command_create = {
	.name = "create", .summary = "create a volume, empty or with the content of a snapshot",
	.examples = "capsulectl volume create --size 10GiB data",
	.arguments = "NAME", .min_arguments = 1, .max_arguments = 1,
	.options = OPTION(SIZE) | OPTION(BACKEND) | OPTION(FROM_SNAPSHOT), .run = run_create,
};

static const struct command command_list = {
	.name = "list", .alias = "ls", .summary = "list all volumes and who mounts them",
	.outputs = "table|json|yaml|name", .run = run_list,
};

static const struct command command_get = {
	.name = "get", .summary = "show one volume",
	.arguments = "NAME", .min_arguments = 1, .max_arguments = 1, .complete = COMPLETE_VOLUMES,
	.outputs = "table|json|yaml|name", .run = run_get,
};

static const struct command command_resize = {
	.name = "resize", .summary = "grow a volume",
	.text = "SIZE is the new size, not what is added: 512M, 10GiB, 1.5T. A volume only grows, and\n"
		"only while no workload mounts it.",
	.examples = "capsulectl volume resize data 20GiB",
	.arguments = "NAME SIZE", .min_arguments = 2, .max_arguments = 2, .complete = COMPLETE_VOLUMES,
	.run = run_resize,
};

static const struct command command_delete = {
	.name = "delete", .alias = "rm", .summary = "delete volumes with all that is in them",
	.text = "Refused while a workload's spec names the volume, unless --force is given.",
	.arguments = "NAME...", .min_arguments = 1, .max_arguments = ARGUMENTS_ANY, .complete = COMPLETE_VOLUMES,
	.options = OPTION(FORCE), .run = run_delete,
};

static const struct command *const verbs[] = {
	&command_create,   &command_list,     &command_get,
	&command_resize,   &command_delete,   &volume_du_command,
	&volume_snapshot_command, &volume_clone_command,
	&volume_export_command,   &volume_import_command, NULL,
};

const struct command volume_command = {
	.name = "volume", .alias = "v", .summary = "file systems that outlive the workloads that mount them",
	.children = verbs,
};
