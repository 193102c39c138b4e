/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsulectl image ... */
#include "base/timeutil.h"
#include "capsulectl/client.h"
#include "capsulectl/commands.h"
#include "capsulectl/output.h"
#include "capsulectl/progress.h"
#include "capsulectl/upload.h"

#include "image.pb-c.h"

/* ---- list ---- */

static int run_list(struct cli *cli, struct error *err)
{
	static const char *const headers[] = { "NAME", "DIGEST", "SIZE", "AGE" };
	Capsule__V1__ImageListRequest request = CAPSULE__V1__IMAGE_LIST_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__ImageListResponse *list = NULL;
	_cleanup_table_ struct table table = { 0 };
	enum form form = output_form(cli);
	bool terminal = isatty(STDOUT_FILENO);
	int r = client_call(cli, &image_list, &request, &list, err);

	if (r < 0)
		return r;
	if (form == FORM_JSON || form == FORM_YAML)
		return output_list(form, list, err);
	table_init(&table, headers, sizeof headers / sizeof *headers);
	for (size_t i = 0; i < list->n_images; i++) {
		const Capsule__V1__Image *image = list->images[i];
		char size[TEXT_BYTES_MAX], age[TIME_AGE_MAX];

		if (form == FORM_NAME) {
			output_text("%s\n", image->name);
			continue;
		}
		table_cell(&table, STYLE_PLAIN, "%s", image->name);
		/* "sha256:" and twelve digits tell images apart for a person; a program gets them all. */
		table_cell(&table, STYLE_PLAIN, "%.*s", terminal ? 19 : INT_MAX, image->digest);
		table_cell(&table, STYLE_PLAIN, "%s",
			   text_bytes(image->size_bytes < 0 ? 0 : (uint64_t)image->size_bytes, size));
		table_cell(&table, STYLE_PLAIN, "%s", text_age(image->created_unix * NSEC_PER_SEC, age, sizeof age));
	}
	return form == FORM_NAME ? 0 : output_table(&table, err);
}

/* ---- push, pull ---- */

static void push_first(struct rpc_call *call, uint64_t total, void *arg)
{
	Capsule__V1__ImagePushRequest request = CAPSULE__V1__IMAGE_PUSH_REQUEST__INIT;
	Capsule__V1__ImagePushMetadata metadata = CAPSULE__V1__IMAGE_PUSH_METADATA__INIT;

	metadata.total_bytes = total;
	request.msg_case = CAPSULE__V1__IMAGE_PUSH_REQUEST__MSG_METADATA;
	request.metadata = &metadata;
	rpc_call_send(call, &request.base);
}

static void push_chunk(struct rpc_call *call, const uint8_t *data, size_t len)
{
	Capsule__V1__ImagePushRequest request = CAPSULE__V1__IMAGE_PUSH_REQUEST__INIT;

	request.msg_case = CAPSULE__V1__IMAGE_PUSH_REQUEST__MSG_CHUNK;
	request.chunk.data = (uint8_t *)(uintptr_t)data;
	request.chunk.len = len;
	rpc_call_send(call, &request.base);
}

static int run_push(struct cli *cli, struct error *err)
{
	const struct upload upload = { &image_push, "an archive", push_first, push_chunk, NULL };
	_cleanup_message_ Capsule__V1__ImagePushResponse *reply = NULL;
	int r = upload_file(cli, &upload, cli->names[0], &reply, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < reply->n_image_refs; i++)
		output_text("image/%s pushed\n", text_clean(reply->image_refs[i]));
	return 0;
}

struct pull {
	struct progress progress;
	bool arrived;
};

static int on_pull_progress(const void *message, void *arg, struct error *err)
{
	const Capsule__V1__ImagePullProgress *p = message;
	struct pull *pull = arg;

	if (p->image) {
		pull->arrived = true;
		progress_clear(&pull->progress);
		output_text("image/%s pulled (%s)\n", text_clean(p->image->name), text_clean(p->image->digest));
	} else {
		progress_bytes(&pull->progress, p->status, p->done_bytes, p->total_bytes);
	}
	return 0;
}

static int run_pull(struct cli *cli, struct error *err)
{
	Capsule__V1__ImagePullRequest request = CAPSULE__V1__IMAGE_PULL_REQUEST__INIT;
	struct pull pull = { 0 };
	int r;

	progress_init(&pull.progress);
	request.reference = cli->names[0];
	r = client_stream(cli, &image_pull, &request, on_pull_progress, &pull, err);
	progress_clear(&pull.progress);
	if (r == 0 && !pull.arrived)
		return error_set(err, ERR_INTERNAL, "the daemon ended the pull of %s without the image",
				 request.reference);
	return r;
}

/* ---- delete, prune ---- */

static void print_removed(char **removed, size_t n)
{
	for (size_t i = 0; i < n; i++)
		output_text("image/%s deleted\n", text_clean(removed[i]));
}

static int delete_one(struct cli *cli, size_t i, struct error *err)
{
	Capsule__V1__ImageDeleteRequest request = CAPSULE__V1__IMAGE_DELETE_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__ImageDeleteResponse *reply = NULL;
	int r;

	request.reference = cli->names[i];
	r = client_call(cli, &image_delete, &request, &reply, err);
	if (r == 0)
		print_removed(reply->removed, reply->n_removed);
	return r;
}

static int run_delete(struct cli *cli, struct error *err)
{
	return client_each_name(cli, 0, delete_one, err);
}

static int run_prune(struct cli *cli, struct error *err)
{
	Capsule__V1__ImagePruneRequest request = CAPSULE__V1__IMAGE_PRUNE_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__ImagePruneResponse *reply = NULL;
	char freed[TEXT_BYTES_MAX];
	int r = client_call(cli, &image_prune, &request, &reply, err);

	if (r < 0)
		return r;
	print_removed(reply->removed, reply->n_removed);
	output_text("%s freed\n", text_bytes(reply->freed_bytes, freed));
	return 0;
}

/* ---- commands ---- */

static const struct command command_push = {
	.name = "push", .summary = "send an image archive to the daemon",
	.text = "FILE is what \"docker save\" writes or an OCI image layout in a tar, also compressed by\n"
		"gzip or zstd; \"-\" is standard input. All images in it are kept and verified.",
	.examples = "capsulectl image push myapp.tar\n"
		    "docker save myapp:dev | capsulectl image push -",
	.arguments = "FILE", .min_arguments = 1, .max_arguments = 1, .complete = COMPLETE_FILES, .run = run_push,
};

static const struct command command_pull = {
	.name = "pull", .summary = "fetch an image from its registry",
	.text = "Workloads pull what they need by themselves; this does it ahead of time, or again to\n"
		"get what a tag names by now.",
	.examples = "capsulectl image pull docker.io/library/nginx:1.27-alpine",
	.arguments = "REFERENCE", .min_arguments = 1, .max_arguments = 1, .complete = COMPLETE_IMAGES, .run = run_pull,
};

static const struct command command_list = {
	.name = "list", .alias = "ls", .summary = "list the images kept on the host",
	.text = "SIZE is what is stored for the image; layers that several images share count for each.\n"
		"AGE is the time since the image was built.",
	.outputs = "table|json|yaml|name", .run = run_list,
};

static const struct command command_delete = {
	.name = "delete", .alias = "rm", .summary = "remove images from the host",
	.text = "Refused while a workload uses the image. A digest will do if only one image has it.",
	.arguments = "REFERENCE...", .min_arguments = 1, .max_arguments = ARGUMENTS_ANY, .complete = COMPLETE_IMAGES,
	.run = run_delete,
};

static const struct command command_prune = {
	.name = "prune", .summary = "remove all images that no workload uses",
	.run = run_prune,
};

static const struct command *const verbs[] = { &command_push,   &command_pull,  &command_list,
					       &command_delete, &command_prune, NULL };

const struct command image_command = {
	.name = "image", .alias = "i", .summary = "what workloads run", .children = verbs,
};
