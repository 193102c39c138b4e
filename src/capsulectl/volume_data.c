/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsulectl volume export, import, du: the bytes of volumes. */
#include "capsulectl/volume.h"

#include "base/fs.h"
#include "capsulectl/client.h"
#include "capsulectl/output.h"
#include "capsulectl/progress.h"
#include "capsulectl/upload.h"
#include "manifest/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* ---- export ---- */

/* To a file, under another name until it is whole; to what is no regular file (a device, a named pipe) as it is; or to standard
 * output. */
struct sink {
	char *path; /* owned; where a symbolic link leads; NULL where nothing is renamed */
	char *part; /* owned, with the path */
	int fd;
	uint64_t written;
	struct progress progress;
};

static void sink_release(struct sink *s)
{
	free(s->path);
	free(s->part);
	if (s->fd != STDOUT_FILENO)
		cleanup_closep(&s->fd);
}

static int open_part(struct sink *s, const char *path, struct error *err)
{
	s->path = realpath(path, NULL);
	if (!s->path)
		s->path = strdup(path);
	s->part = s->path ? fs_path("%s.part-XXXXXX", s->path) : NULL;
	if (!s->part)
		return error_errno(err, ENOMEM, "cannot write %s", path);
	s->fd = mkostemp(s->part, O_CLOEXEC);
	return s->fd < 0 ? error_errno(err, errno, "cannot write beside %s", s->path) : 0;
}

static int sink_open(struct sink *s, const char *path, struct error *err)
{
	struct stat st;

	if (!path || !strcmp(path, "-")) {
		s->fd = STDOUT_FILENO;
		return isatty(s->fd) ? cli_usage(err, "standard output is a terminal; pipe it somewhere or name a file") : 0;
	}
	if (stat(path, &st) < 0 || S_ISREG(st.st_mode))
		return open_part(s, path, err);
	s->fd = open(path, O_WRONLY | O_CLOEXEC);
	return s->fd < 0 ? error_errno(err, errno, "cannot write %s", path) : 0;
}

static int on_chunk(const void *message, void *arg, struct error *err)
{
	const Capsule__V1__VolumeExportChunk *chunk = message;
	struct sink *s = arg;
	int r = output_all(s->fd, chunk->data.data, chunk->data.len);

	if (r < 0)
		return error_errno(err, -r, "cannot write the exported volume");
	s->written += chunk->data.len;
	if (s->fd != STDOUT_FILENO)
		progress_bytes(&s->progress, NULL, s->written, 0);
	return 0;
}

static int sink_finish(struct sink *s, int result, struct error *err)
{
	progress_clear(&s->progress);
	if (!s->part)
		return result;
	if (result == 0 && (fsync(s->fd) < 0 || rename(s->part, s->path) < 0))
		result = error_errno(err, errno, "cannot write %s", s->path);
	if (result < 0)
		unlink(s->part);
	return result;
}

static int run_export(struct cli *cli, struct error *err)
{
	Capsule__V1__VolumeExportRequest request = CAPSULE__V1__VOLUME_EXPORT_REQUEST__INIT;
	const struct option_value *snapshot = cli_option(cli, OPT_SNAPSHOT);
	const char *path = cli->n_names > 1 ? cli->names[1] : NULL;
	_cleanup_(sink_release) struct sink sink = { .fd = -1 };
	int r;

	request.name = cli->names[0];
	if (snapshot)
		request.snapshot = (char *)(uintptr_t)snapshot->text;
	r = sink_open(&sink, path, err);
	if (r < 0)
		return r;
	progress_init(&sink.progress);
	r = client_stream(cli, &volume_export, &request, on_chunk, &sink, err);
	return sink_finish(&sink, r, err);
}

/* ---- import ---- */

static void import_first(struct rpc_call *call, uint64_t total, void *arg)
{
	Capsule__V1__VolumeImportRequest request = CAPSULE__V1__VOLUME_IMPORT_REQUEST__INIT;
	Capsule__V1__VolumeImportMetadata *metadata = arg;

	request.msg_case = CAPSULE__V1__VOLUME_IMPORT_REQUEST__MSG_METADATA;
	request.metadata = metadata;
	rpc_call_send(call, &request.base);
}

static void import_chunk(struct rpc_call *call, const uint8_t *data, size_t len)
{
	Capsule__V1__VolumeImportRequest request = CAPSULE__V1__VOLUME_IMPORT_REQUEST__INIT;

	request.msg_case = CAPSULE__V1__VOLUME_IMPORT_REQUEST__MSG_CHUNK;
	request.chunk.data = (uint8_t *)(uintptr_t)data;
	request.chunk.len = len;
	rpc_call_send(call, &request.base);
}

static int run_import(struct cli *cli, struct error *err)
{
	Capsule__V1__VolumeImportMetadata metadata = CAPSULE__V1__VOLUME_IMPORT_METADATA__INIT;
	const struct upload upload = { &volume_import, "an exported volume", import_first, import_chunk, &metadata };
	const struct option_value *backend = cli_option(cli, OPT_BACKEND);
	_cleanup_message_ Capsule__V1__Volume *v = NULL;
	char size[MANIFEST_SIZE_TEXT];
	int r;

	metadata.name = cli->names[0];
	if (backend)
		metadata.backend = (char *)(uintptr_t)backend->text;
	r = upload_file(cli, &upload, cli->names[1], &v, err);
	if (r == 0)
		output_text("volume/%s imported (%s)\n", v->name, manifest_format_size(v->size_bytes, size));
	return r;
}

/* ---- du ---- */

static int run_du(struct cli *cli, struct error *err)
{
	static const char *const headers[] = { "NAME", "BACKEND", "SIZE", "STORED", "SNAPSHOTS", "STORED IN SNAPSHOTS" };
	Capsule__V1__VolumeUsageRequest request = CAPSULE__V1__VOLUME_USAGE_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__VolumeUsageResponse *usage = NULL;
	_cleanup_table_ struct table table = { 0 };
	enum form form = output_form(cli);
	int r;

	if (cli->n_names)
		request.name = cli->names[0];
	r = client_call(cli, &volume_usage, &request, &usage, err);
	if (r < 0)
		return r;
	if (form == FORM_JSON || form == FORM_YAML)
		return output_list(form, usage, err);
	table_init(&table, headers, sizeof headers / sizeof *headers);
	for (size_t i = 0; i < usage->n_volumes; i++) {
		const Capsule__V1__VolumeUsage *v = usage->volumes[i];
		char size[MANIFEST_SIZE_TEXT], stored[TEXT_BYTES_MAX], snapshots[TEXT_BYTES_MAX];

		table_cell(&table, STYLE_PLAIN, "%s", v->name);
		table_cell(&table, STYLE_PLAIN, "%s", v->backend);
		table_cell(&table, STYLE_PLAIN, "%s", manifest_format_size(v->size_bytes, size));
		table_cell(&table, STYLE_PLAIN, "%s", text_bytes(v->stored_bytes, stored));
		table_cell(&table, STYLE_PLAIN, "%u", v->snapshots);
		table_cell(&table, STYLE_PLAIN, "%s", v->snapshots ? text_bytes(v->snapshots_bytes, snapshots) : "");
	}
	return output_table(&table, err);
}

/* ---- commands ---- */

const struct command volume_export_command = {
	.name = "export", .summary = "write a volume to a file or a pipe",
	.text = "The stream is compressed and has a digest; holes are left out. Without FILE, or with -, it goes to\n"
		"standard output. A workload that has the volume mounted waits while it is copied for this.",
	.examples = "capsulectl volume export data data.capsvol\n"
		    "capsulectl volume export data | ssh other capsulectl volume import data -",
	.arguments = "NAME [FILE]", .min_arguments = 1, .max_arguments = 2, .complete = COMPLETE_VOLUMES,
	.options = OPTION(SNAPSHOT), .run = run_export,
};

const struct command volume_import_command = {
	.name = "import", .summary = "create a volume from an exported one",
	.text = "FILE is what export wrote, or - for standard input. A damaged one leaves nothing behind.",
	.examples = "capsulectl volume import data data.capsvol",
	.arguments = "NAME FILE", .min_arguments = 2, .max_arguments = 2, .complete = COMPLETE_FILES,
	.options = OPTION(BACKEND), .run = run_import,
};

const struct command volume_du_command = {
	.name = "du", .summary = "show what volumes take of their storage",
	.text = "SIZE is what a volume may come to hold, STORED what it takes now. What a snapshot shares with its\n"
		"volume may be counted for both.",
	.arguments = "[NAME]", .max_arguments = 1, .complete = COMPLETE_VOLUMES, .outputs = "table|json|yaml",
	.run = run_du,
};
