/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsulectl apply: everything is read, parsed and checked before the first object is sent. */
#include "capsulectl/client.h"
#include "capsulectl/commands.h"
#include "capsulectl/output.h"
#include "capsulectl/volume.h"
#include "capsulectl/watch.h"

#include "base/fs.h"
#include "manifest/manifest.h"

#include "workload.pb-c.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#define FILES_MAX 10000

/* ---- the input ---- */

struct source {
	char *path;       /* as in messages */
	struct manifest manifest;
};

struct sources {
	struct source *items;
	size_t n, capacity;
	size_t mistakes, files_with_mistakes;
};

static void sources_release(struct sources *s)
{
	for (size_t i = 0; i < s->n; i++) {
		manifest_release(&s->items[i].manifest);
		free(s->items[i].path);
	}
	free(s->items);
}

static int sources_add(struct sources *s, char *path, struct error *err)
{
	_cleanup_free_ char *owned = path;

	if (!path)
		return error_errno(err, ENOMEM, "cannot read the manifests");
	if (s->n == FILES_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "more than %d manifests", FILES_MAX);
	if (s->n == s->capacity) {
		size_t capacity = s->capacity ? s->capacity * 2 : 16;
		struct source *items = reallocarray(s->items, capacity, sizeof *items);

		if (!items)
			return error_errno(err, ENOMEM, "cannot read the manifests");
		s->items = items;
		s->capacity = capacity;
	}
	s->items[s->n++] = (struct source){ .path = steal_ptr(&owned) };
	return 0;
}

static int is_manifest(const struct dirent *entry)
{
	const char *dot = strrchr(entry->d_name, '.');

	if (entry->d_name[0] == '.' || !dot)
		return 0;
	return strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0 || strcmp(dot, ".json") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name); /* the same order in every locale */
}

static int add_directory(struct sources *s, const char *path, struct error *err)
{
	struct dirent **entries;
	int n = scandir(path, &entries, is_manifest, by_name), r = 0;

	if (n < 0)
		return error_errno(err, errno, "cannot read directory %s", path);
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = sources_add(s, fs_path("%s%s%s", path, path[strlen(path) - 1] == '/' ? "" : "/",
						   entries[i]->d_name), err);
		free(entries[i]);
	}
	free(entries);
	if (r == 0 && n == 0)
		return error_set(err, ERR_NOT_FOUND, "there is no .yaml, .yml or .json file in directory %s", path);
	return r;
}

static int find_sources(const struct cli *cli, struct sources *s, struct error *err)
{
	bool standard_input = false;

	for (size_t i = 0; i < cli->n_options; i++) {
		const char *path = cli->options[i].text;
		struct stat st;
		int r;

		if (cli->options[i].id != OPT_FILE)
			continue;
		if (!*path)
			return cli_usage(err, "-f: the file name is empty");
		if (strcmp(path, "-") == 0) {
			if (standard_input)
				return cli_usage(err, "-f -: standard input can be read once only");
			standard_input = true;
		}
		if (strcmp(path, "-") != 0 && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
			r = add_directory(s, path, err);
		else
			r = sources_add(s, strdup(path), err);
		if (r < 0)
			return r;
	}
	return s->n ? 0 : cli_usage(err, "missing -f FILE");
}

static int read_input(struct buf *text, struct error *err)
{
	for (;;) {
		uint8_t *room = buf_reserve(text, 16 << 10);
		ssize_t n;

		if (!room)
			return error_set(err, ERR_RESOURCE_EXHAUSTED, "standard input holds more than %u bytes",
					 MANIFEST_SIZE_MAX);
		n = read(STDIN_FILENO, room, 16 << 10);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(err, errno, "cannot read standard input");
		if (n == 0)
			return 0;
		buf_commit(text, (size_t)n);
	}
}

/* Mistakes are printed and counted; only what cannot be read at all is an error. */
static int load(struct sources *s, struct source *source, struct error *err)
{
	_cleanup_buf_ struct buf input = BUF_INIT(MANIFEST_SIZE_MAX + (16 << 10)), report = BUF_INIT(1 << 20);
	_cleanup_(manifest_mistakes_release) struct manifest_mistakes mistakes = { 0 };
	_cleanup_free_ char *file = NULL;
	const char *text;
	size_t len;

	if (strcmp(source->path, "-") == 0) {
		if (read_input(&input, err) < 0)
			return -1;
		text = buf_str(&input);
		len = input.len;
	} else {
		if (fs_read(AT_FDCWD, source->path, MANIFEST_SIZE_MAX, &file, &len, err) < 0)
			return -1;
		text = file;
	}
	if (manifest_parse(text, len, &source->manifest, &mistakes) == 0)
		return 0;
	if (!mistakes.n)
		return error_errno(err, ENOMEM, "cannot read %s", source->path);
	manifest_mistakes_print(&mistakes, strcmp(source->path, "-") == 0 ? "<stdin>" : source->path, &report);
	fputs(buf_str(&report), stderr);
	s->mistakes += mistakes.n;
	s->files_with_mistakes++;
	return 0;
}

static int load_all(const struct cli *cli, struct sources *s, struct error *err)
{
	bool unreadable = false;
	int r = find_sources(cli, s, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < s->n; i++)
		if (load(s, &s->items[i], err) < 0) {
			cli_report(cli, err);
			unreadable = true;
		}
	if (s->mistakes)
		return error_set(err, ERR_INVALID_ARGUMENT, "%zu mistake%s in %zu file%s; nothing was applied",
				 s->mistakes, s->mistakes == 1 ? "" : "s", s->files_with_mistakes,
				 s->files_with_mistakes == 1 ? "" : "s");
	if (unreadable)
		return error_set(err, ERR_INVALID_ARGUMENT, "nothing was applied");
	return 0;
}

/* ---- sending ---- */

/* "diff" is "apply --dry-run". */
static bool is_dry_run(const struct cli *cli)
{
	return cli->command == &diff_command || cli_has(cli, OPT_DRY_RUN);
}

static void print_changes(const Capsule__V1__WorkloadApplyResponse *reply)
{
	for (size_t i = 0; i < reply->n_changes; i++) {
		Capsule__V1__FieldChange *c = reply->changes[i];

		text_clean(c->path);
		text_clean(c->old_value);
		text_clean(c->new_value);
		if (*c->old_value && *c->new_value)
			output_text("  ~ %s: %s -> %s\n", c->path, c->old_value, c->new_value);
		else if (*c->new_value)
			output_text("  + %s: %s\n", c->path, c->new_value);
		else
			output_text("  - %s: %s\n", c->path, c->old_value);
	}
}

static void print_result(const Capsule__V1__Workload *workload, const Capsule__V1__WorkloadApplyResponse *reply,
			 bool dry_run)
{
	const char *result = reply->created ? "created" : reply->n_changes ? "configured" : "unchanged";
	const char *would = dry_run && (reply->created || reply->n_changes) ? "would be " : "";

	output_text("workload/%s %s%s\n", workload->name, would, result);
	if (dry_run)
		print_changes(reply);
}

static bool is_declared(const struct sources *s, const char *volume)
{
	for (size_t i = 0; i < s->n; i++)
		for (size_t j = 0; j < s->items[i].manifest.n; j++) {
			const struct manifest_object *object = &s->items[i].manifest.objects[j];

			if (object->kind == MANIFEST_VOLUME && strcmp(object->volume->name, volume) == 0)
				return true;
		}
	return false;
}

/* Whether all volumes of the workload exist or would be created by these very manifests. */
static bool volumes_would_exist(struct cli *cli, const struct sources *s, const Capsule__V1__Workload *w)
{
	Capsule__V1__VolumeMount *const *mounts = w->container ? w->container->mounts : w->micro_vm->mounts;
	size_t n = w->container ? w->container->n_mounts : w->micro_vm->n_mounts;

	for (size_t i = 0; i < n; i++) {
		Capsule__V1__VolumeGetRequest request = CAPSULE__V1__VOLUME_GET_REQUEST__INIT;
		_cleanup_error_ struct error e = ERROR_INIT;

		request.name = mounts[i]->volume_name;
		if (!is_declared(s, request.name) && client_call(cli, &volume_get, &request, NULL, &e) < 0)
			return false;
	}
	return n > 0;
}

/* The daemon cannot judge a workload whose volume would only be there after a real apply: compare it here. */
static int compare_workload(struct cli *cli, const Capsule__V1__Workload *wanted, struct error *err)
{
	Capsule__V1__WorkloadGetRequest request = CAPSULE__V1__WORKLOAD_GET_REQUEST__INIT;
	Capsule__V1__WorkloadApplyResponse result = CAPSULE__V1__WORKLOAD_APPLY_RESPONSE__INIT;
	_cleanup_message_ Capsule__V1__Workload *have = NULL;
	int r;

	request.name = wanted->name;
	r = client_call(cli, &workload_get, &request, &have, err);
	if (r < 0 && err->code != ERR_NOT_FOUND)
		return r;
	error_release(err);
	if (have)
		manifest_normalize_workload(have);
	if (manifest_diff(have, wanted, &result.changes, &result.n_changes) < 0)
		return error_errno(err, ENOMEM, "cannot compare");
	result.created = !have;
	print_result(wanted, &result, true);
	manifest_changes_free(result.changes, result.n_changes);
	return 0;
}

/* One that was refused for what another workload of the same manifests may give up. */
struct refusal {
	Capsule__V1__Workload *workload; /* of the manifests, as below */
	struct error err;
};

struct applied {
	Capsule__V1__Workload **workloads; /* that the daemon has accepted, in a trial too */
	size_t n;
	struct refusal *refusals;
	size_t n_refusals;
	size_t failed;
};

static void applied_release(struct applied *a)
{
	for (size_t i = 0; i < a->n_refusals; i++)
		error_release(&a->refusals[i].err);
	free(a->refusals);
	free(a->workloads);
}

static int applied_init(struct applied *a, const struct sources *s, struct error *err)
{
	size_t n = 1;

	for (size_t i = 0; i < s->n; i++)
		n += s->items[i].manifest.n;
	a->workloads = calloc(n, sizeof(*a->workloads));
	a->refusals = calloc(n, sizeof *a->refusals);
	return a->workloads && a->refusals ? 0 : error_errno(err, ENOMEM, "cannot apply");
}

static int apply_workload(struct cli *cli, const struct sources *s, Capsule__V1__Workload *workload, struct applied *applied,
			  struct error *err)
{
	Capsule__V1__WorkloadApplyRequest request = CAPSULE__V1__WORKLOAD_APPLY_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__WorkloadApplyResponse *reply = NULL;
	bool dry_run = is_dry_run(cli);
	int r;

	request.workload = workload;
	request.dry_run = dry_run;
	r = client_call(cli, &workload_apply, &request, &reply, err);
	if (r < 0 && dry_run && err->code == ERR_NOT_FOUND && volumes_would_exist(cli, s, workload)) {
		error_release(err);
		return compare_workload(cli, workload, err);
	}
	if (r == 0) {
		print_result(workload, reply, dry_run);
		applied->workloads[applied->n++] = workload;
	}
	return r;
}

static int apply_object(struct cli *cli, const struct sources *s, const struct manifest_object *object,
			struct applied *applied, struct error *err)
{
	int r;

	if (object->kind == MANIFEST_VOLUME)
		r = volume_apply(cli, object->volume, is_dry_run(cli), err);
	else
		r = apply_workload(cli, s, object->workload, applied, err);
	/* Whoever applies a directory wants to see how far it is. */
	fflush(stdout);
	if (r == -1 && !client_lost(cli))
		error_wrap(err, "%s/%s", object->kind == MANIFEST_VOLUME ? "volume" : "workload",
			   object->kind == MANIFEST_VOLUME ? object->volume->name : object->workload->name);
	return r;
}

static bool may_be_given_up(const struct manifest_object *object, const struct error *err)
{
	const Capsule__V1__Workload *w = object->workload;

	return object->kind == MANIFEST_WORKLOAD && err->code == ERR_FAILED_PRECONDITION &&
	       (w->container ? w->container->n_ports : w->micro_vm->n_ports);
}

/* All objects of one kind, in the order given. One that is refused does not keep the others from being applied; a
 * daemon that is gone does. */
static int apply_kind(struct cli *cli, const struct sources *s, enum manifest_kind kind, struct applied *applied,
		      struct error *err)
{
	for (size_t i = 0; i < s->n; i++)
		for (size_t j = 0; j < s->items[i].manifest.n; j++) {
			const struct manifest_object *object = &s->items[i].manifest.objects[j];
			int r;

			if (object->kind != kind)
				continue;
			r = apply_object(cli, s, object, applied, err);
			if (r == CLI_USAGE || (r < 0 && client_lost(cli)))
				return r;
			if (r < 0 && may_be_given_up(object, err)) {
				struct refusal *refusal = &applied->refusals[applied->n_refusals++];

				refusal->workload = object->workload;
				error_move(&refusal->err, err);
			} else if (r < 0) {
				cli_report(cli, err);
				applied->failed++;
			}
		}
	return 0;
}

/* The daemon judges n of those that were refused together: one gives up what another one takes. What it has accepted before is in
 * place by now, but for a trial. */
static int apply_together(struct cli *cli, const struct applied *applied, const struct refusal *refusals, size_t n,
			  struct error *err)
{
	size_t more = is_dry_run(cli) ? applied->n : 0;
	_cleanup_free_ Capsule__V1__Workload **others = calloc(n + more, sizeof(*others));
	Capsule__V1__WorkloadApplyRequest request = CAPSULE__V1__WORKLOAD_APPLY_REQUEST__INIT;
	_cleanup_message_ Capsule__V1__WorkloadApplyResponse *reply = NULL;
	int r;

	if (!others)
		return error_errno(err, ENOMEM, "cannot apply");
	for (size_t i = 1; i < n; i++)
		others[i - 1] = refusals[i].workload;
	for (size_t i = 0; i < more; i++)
		others[n - 1 + i] = applied->workloads[i];
	request.workload = refusals[0].workload;
	request.others = others;
	request.n_others = n - 1 + more;
	request.dry_run = is_dry_run(cli);
	r = client_call(cli, &workload_apply, &request, &reply, err);
	if (r < 0)
		return r;
	if (reply->n_others != request.n_others)
		return error_set(err, ERR_UNIMPLEMENTED, "the daemon is older than this program");
	for (size_t i = 0; i < n; i++)
		print_result(refusals[i].workload, i ? reply->others[i - 1] : reply, request.dry_run);
	return 0;
}

/* If one is refused once more, for whatever it is, what was said first is told: it is about that one alone. */
static int apply_refused(struct cli *cli, struct applied *applied, struct refusal *refusals, size_t n, struct error *err)
{
	int r = apply_together(cli, applied, refusals, n, err);

	if (r == CLI_USAGE || (r < 0 && client_lost(cli)))
		return r;
	error_release(err);
	for (size_t i = 0; r == 0 && i < n; i++)
		applied->workloads[applied->n++] = refusals[i].workload;
	if (r == 0)
		return 0;
	if (n == 1) {
		cli_report(cli, &refusals[0].err);
		applied->failed++;
		return 0;
	}
	for (size_t i = 0; i < n; i++) {
		r = apply_refused(cli, applied, &refusals[i], 1, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int wait_for_all(struct cli *cli, const struct applied *applied, struct error *err)
{
	_cleanup_free_ char **names = calloc(applied->n + 1, sizeof *names);

	if (!names)
		return error_errno(err, ENOMEM, "cannot wait");
	for (size_t i = 0; i < applied->n; i++)
		names[i] = applied->workloads[i]->name;
	return watch_wait(cli, names, applied->n, WATCH_RUNNING, 0, err);
}

static int run_apply(struct cli *cli, struct error *err)
{
	_cleanup_(sources_release) struct sources sources = { 0 };
	_cleanup_(applied_release) struct applied applied = { 0 };
	int r;

	if (cli_has(cli, OPT_WAIT) && is_dry_run(cli))
		return cli_usage(err, "--dry-run starts nothing that --wait could wait for");
	r = load_all(cli, &sources, err);
	if (r < 0)
		return r;
	if (applied_init(&applied, &sources, err) < 0)
		return -1;
	/* Volumes first: the workloads that mount them may stand before them. */
	r = apply_kind(cli, &sources, MANIFEST_VOLUME, &applied, err);
	if (r == 0)
		r = apply_kind(cli, &sources, MANIFEST_WORKLOAD, &applied, err);
	if (r == 0 && applied.n_refusals)
		r = apply_refused(cli, &applied, applied.refusals, applied.n_refusals, err);
	if (r == 0 && cli_has(cli, OPT_WAIT))
		r = wait_for_all(cli, &applied, err);
	return r < 0 ? r : applied.failed ? -1 : 0;
}

const struct command diff_command = {
	.name = "diff", .summary = "show what an apply would change: apply --dry-run",
	.text = "A line begins with + for a field that is new, - for one that goes and ~ for one that\n"
		"changes.",
	.examples = "capsulectl diff -f web.yaml",
	.options = OPTION(FILE), .run = run_apply,
};

const struct command apply_command = {
	.name = "apply", .summary = "make what manifests declare come true",
	.text = "Creates what is missing, changes what differs and leaves alone what is equal. A FILE\n"
		"may hold several documents, YAML or JSON; of a directory all *.yaml, *.yml and *.json\n"
		"are taken in the order of their names. Everything is checked first: if there is any\n"
		"mistake, all of them are shown and nothing is applied. Volumes are applied before\n"
		"workloads, otherwise the order is kept; a host port that one workload gives up another\n"
		"one may take, whichever stands first, and has it once the former run has ended.\n"
		"\n"
		"Under --wait a failure is told at once, but ends the wait only if the workload's restart\n"
		"policy is Never; otherwise it is tried again, until it runs or --timeout is over.\n"
		"\n"
		"Under --dry-run a line begins with + for a field that is new, - for one that goes and\n"
		"~ for one that changes.",
	.examples = "capsulectl apply -f web.yaml\n"
		    "capsulectl apply -f manifests/ --wait --timeout 2m\n"
		    "capsulectl apply -f web.yaml --dry-run",
	.options = OPTION(FILE) | OPTION(WAIT) | OPTION(DRY_RUN), .run = run_apply,
};
