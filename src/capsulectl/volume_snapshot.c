/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsulectl volume snapshot ..., volume clone */
#include "capsulectl/volume.h"

#include "base/timeutil.h"
#include "capsulectl/client.h"
#include "capsulectl/output.h"
#include "manifest/manifest.h"

static Capsule__V1__VolumeSnapshotRequest request_for(const struct cli *cli, size_t name)
{
	Capsule__V1__VolumeSnapshotRequest request = CAPSULE__V1__VOLUME_SNAPSHOT_REQUEST__INIT;

	request.volume = cli->names[0];
	request.name = cli->names[name];
	return request;
}

static int run_create(struct cli *cli, struct error *err)
{
	Capsule__V1__VolumeSnapshotRequest request = request_for(cli, 1);
	int r = client_call(cli, &snapshot_create, &request, NULL, err);

	if (r == 0)
		output_text("snapshot/%s of volume/%s created\n", request.name, request.volume);
	return r;
}

static int run_list(struct cli *cli, struct error *err)
{
	static const char *const headers[] = { "VOLUME", "SNAPSHOT", "SIZE", "AGE" };
	Capsule__V1__VolumeSnapshotListRequest request = CAPSULE__V1__VOLUME_SNAPSHOT_LIST_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__VolumeSnapshotListResponse *list = NULL;
	_cleanup_table_ struct table table = { 0 };
	enum form form = output_form(cli);
	int r;

	if (cli->n_names)
		request.volume = cli->names[0];
	r = client_call(cli, &snapshot_list, &request, &list, err);
	if (r < 0)
		return r;
	if (form == FORM_JSON || form == FORM_YAML)
		return output_list(form, list, err);
	table_init(&table, headers, sizeof headers / sizeof *headers);
	for (size_t i = 0; i < list->n_snapshots; i++) {
		const Capsule__V1__VolumeSnapshot *s = list->snapshots[i];
		char size[MANIFEST_SIZE_TEXT], age[TIME_AGE_MAX];

		if (form == FORM_NAME) {
			output_text("%s/%s\n", s->volume, s->name);
			continue;
		}
		table_cell(&table, STYLE_PLAIN, "%s", s->volume);
		table_cell(&table, STYLE_PLAIN, "%s", s->name);
		table_cell(&table, STYLE_PLAIN, "%s", manifest_format_size(s->size_bytes, size));
		table_cell(&table, STYLE_PLAIN, "%s", text_age(s->created_at_unix * NSEC_PER_SEC, age, sizeof age));
	}
	return form == FORM_NAME ? 0 : output_table(&table, err);
}

static int delete_one(struct cli *cli, size_t i, struct error *err)
{
	Capsule__V1__VolumeSnapshotRequest request = request_for(cli, i);
	int r = client_call(cli, &snapshot_delete, &request, NULL, err);

	if (r == 0)
		output_text("snapshot/%s of volume/%s deleted\n", request.name, request.volume);
	return r;
}

static int run_delete(struct cli *cli, struct error *err)
{
	return client_each_name(cli, 1, delete_one, err);
}

static int run_restore(struct cli *cli, struct error *err)
{
	Capsule__V1__VolumeSnapshotRequest request = request_for(cli, 1);
	int r = client_call(cli, &snapshot_restore, &request, NULL, err);

	if (r == 0)
		output_text("volume/%s restored from snapshot/%s\n", request.volume, request.name);
	return r;
}

static int run_clone(struct cli *cli, struct error *err)
{
	Capsule__V1__VolumeCloneRequest request = CAPSULE__V1__VOLUME_CLONE_REQUEST__INIT;
	const struct option_value *snapshot = cli_option(cli, OPT_SNAPSHOT);
	_cleanup_message_ Capsule__V1__Volume *v = NULL;
	char size[MANIFEST_SIZE_TEXT];
	int r;

	request.source = cli->names[0];
	request.name = cli->names[1];
	if (snapshot)
		request.snapshot = (char *)(uintptr_t)snapshot->text;
	r = client_call(cli, &volume_clone, &request, &v, err);
	if (r == 0)
		output_text("volume/%s created (%s)\n", v->name, manifest_format_size(v->size_bytes, size));
	return r;
}

/* ---- commands ---- */

static const struct command command_create = {
	.name = "create", .summary = "keep a volume as it is now",
	.text = "While a workload has the volume mounted, its writes wait for the moment that this takes.",
	.examples = "capsulectl volume snapshot create data before-upgrade",
	.arguments = "VOLUME SNAPSHOT", .min_arguments = 2, .max_arguments = 2, .complete = COMPLETE_VOLUMES,
	.run = run_create,
};

static const struct command command_list = {
	.name = "list", .alias = "ls", .summary = "list the snapshots of a volume, or all",
	.arguments = "[VOLUME]", .max_arguments = 1, .complete = COMPLETE_VOLUMES, .outputs = "table|json|yaml|name",
	.run = run_list,
};

static const struct command command_delete = {
	.name = "delete", .alias = "rm", .summary = "delete snapshots of a volume",
	.arguments = "VOLUME SNAPSHOT...", .min_arguments = 2, .max_arguments = ARGUMENTS_ANY,
	.complete = COMPLETE_VOLUMES, .run = run_delete,
};

static const struct command command_restore = {
	.name = "restore", .summary = "make a volume what it was",
	.text = "What was written since is lost. Only while no workload mounts the volume; its size stays.",
	.examples = "capsulectl volume snapshot restore data before-upgrade",
	.arguments = "VOLUME SNAPSHOT", .min_arguments = 2, .max_arguments = 2, .complete = COMPLETE_VOLUMES,
	.run = run_restore,
};

static const struct command *const verbs[] = { &command_create, &command_list, &command_delete, &command_restore, NULL };

const struct command volume_snapshot_command = {
	.name = "snapshot", .summary = "volumes as they were", .children = verbs,
};

const struct command volume_clone_command = {
	.name = "clone", .summary = "create a volume with the content of another one",
	.examples = "capsulectl volume clone data data-copy\n"
		    "capsulectl volume clone --snapshot before-upgrade data data-then",
	.arguments = "SOURCE NAME", .min_arguments = 2, .max_arguments = 2, .complete = COMPLETE_VOLUMES,
	.options = OPTION(SNAPSHOT), .run = run_clone,
};
