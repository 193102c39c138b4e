/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/lvm.h"

#include "base/fs.h"
#include "base/process.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#define TIMEOUT_MS (2 * 60 * 1000)
/* Of a change. LVM heeds SIGTERM where it can; killed elsewhere it would leave devices suspended, and whoever uses them would hang. */
#define PATIENCE_MS (30 * 60 * 1000)
#define REPORT_MAX (4u << 20)

/* Numbers are read, so they come in one language. */
static int run(const char *const *argv, size_t output_max, int64_t patience_ms, struct process_result *ret, struct error *err)
{
	const char *system_dir = getenv("LVM_SYSTEM_DIR");
	_cleanup_free_ char *settings = fs_path("LVM_SYSTEM_DIR=%s", system_dir ? system_dir : "/etc/lvm");
	const char *const env[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1",
				    settings, NULL };
	const struct process_run command = {
		.spawn = { .argv = argv, .env = env },
		.timeout_ms = TIMEOUT_MS,
		.patience_ms = patience_ms,
		.output_max = output_max,
	};

	if (!settings)
		return error_errno(err, ENOMEM, "cannot run %s", argv[0]);
	if (process_run(&command, ret, err) == 0)
		return 0;
	if (err && err->code == ERR_NOT_FOUND)
		return error_set(err, ERR_FAILED_PRECONDITION, "%s is not there; install the package lvm2", argv[0]);
	return -1;
}

/* The last line, which is why it failed; the ones before it are warnings. Edits the text. */
static const char *last_line(char *text)
{
	char *end = text + strlen(text), *line;

	while (end > text && (end[-1] == '\n' || end[-1] == ' '))
		*--end = '\0';
	line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	return line + strspn(line, " ");
}

/* The first line that is neither a warning nor of the report, in whose midst it stands. Edits the text. */
static const char *first_message(char *text)
{
	for (char *line = text, *end; *line; line = end) {
		end = line + strcspn(line, "\n");
		end += *end ? (*end = '\0', 1) : 0;
		line += strspn(line, " ");
		if (*line && !strchr("{}[]\"", *line) && strncmp(line, "WARNING", strlen("WARNING")) != 0)
			return line;
	}
	return "it did not say why";
}

static bool is_full(const char *output)
{
	return strstr(output, "insufficient free space") || strstr(output, "Insufficient free space") ||
	       strstr(output, "reached threshold") || strstr(output, "No space left");
}

static int failed(const char *command, struct process_result *result, struct error *err)
{
	enum error_code code = is_full(result->output) ? ERR_RESOURCE_EXHAUSTED : ERR_INTERNAL;

	return error_set(err, code, "%s failed: %s", command, last_line(result->output));
}

int lvm_run(const char *const *argv, struct error *err)
{
	_cleanup_process_result_ struct process_result result = { 0 };

	if (run(argv, 0, PATIENCE_MS, &result, err) < 0)
		return -1;
	return result.exit_code ? failed(argv[0], &result, err) : 0;
}

/* ---- settings ---- */

/* The number behind "name="; unset where there is none. */
static unsigned setting(const char *text, const char *name, unsigned unset)
{
	const char *value = strstr(text, name);

	return value && value[strlen(name)] == '=' ? (unsigned)strtoul(value + strlen(name) + 1, NULL, 10) : unset;
}

int lvm_autoextend(const char *profile, struct lvm_autoextend *ret, struct error *err)
{
	const char *const argv[] = { "lvmconfig", "--type", "full", "activation/thin_pool_autoextend_threshold",
				     "activation/thin_pool_autoextend_percent", *profile ? "--profile" : NULL, profile, NULL };
	_cleanup_process_result_ struct process_result result = { 0 };

	if (run(argv, REPORT_MAX, 0, &result, err) < 0)
		return -1;
	if (result.exit_code)
		return failed("lvmconfig", &result, err);
	ret->threshold = setting(result.output, "thin_pool_autoextend_threshold", 100);
	ret->percent = setting(result.output, "thin_pool_autoextend_percent", 0);
	return 0;
}

/* ---- reports ---- */

#define FIELDS                                                                                                        \
	"lv_name,lv_size,lv_tags,lv_device_open,segtype,data_percent,metadata_percent,lv_metadata_size,seg_monitor,"  \
	"lv_check_needed,lv_health_status,lv_profile,zero,vg_free,vg_extent_size"

static const char *text_of(const json_t *row, const char *field)
{
	const char *text = json_string_value(json_object_get(row, field));

	return text ? text : "";
}

static bool has_tag(const char *tags)
{
	size_t len = strlen(LVM_TAG);

	for (const char *tag = tags; *tag; tag += strcspn(tag, ","), tag += *tag == ',')
		if (strcspn(tag, ",") == len && !strncmp(tag, LVM_TAG, len))
			return true;
	return false;
}

static void read_row(const json_t *row, struct lvm_volume *ret)
{
	*ret = (struct lvm_volume){
		.exists = true,
		.ours = has_tag(text_of(row, "lv_tags")),
		.in_use = !strcmp(text_of(row, "lv_device_open"), "open"),
		.is_pool = !strcmp(text_of(row, "segtype"), "thin-pool"),
		.size_bytes = strtoull(text_of(row, "lv_size"), NULL, 10),
		.data_percent = strtod(text_of(row, "data_percent"), NULL),
		.metadata_percent = strtod(text_of(row, "metadata_percent"), NULL),
		.metadata_bytes = strtoull(text_of(row, "lv_metadata_size"), NULL, 10),
		.monitored = !strcmp(text_of(row, "seg_monitor"), "monitored"),
		.zeroes = !strcmp(text_of(row, "zero"), "zero"),
		.check_needed = !strcmp(text_of(row, "lv_check_needed"), "check needed"),
		.vg_free_bytes = strtoull(text_of(row, "vg_free"), NULL, 10),
		.vg_extent_bytes = strtoull(text_of(row, "vg_extent_size"), NULL, 10),
	};
	snprintf(ret->name, sizeof ret->name, "%s", text_of(row, "lv_name"));
	snprintf(ret->health, sizeof ret->health, "%s", text_of(row, "lv_health_status"));
	snprintf(ret->profile, sizeof ret->profile, "%s", text_of(row, "lv_profile"));
}

/* What is printed before and after the JSON are warnings. */
static json_t *parse(const char *output, struct error *err)
{
	const char *begin = strchr(output, '{');
	json_t *report = begin ? json_loads(begin, JSON_DISABLE_EOF_CHECK, NULL) : NULL;

	if (!report)
		error_set(err, ERR_INTERNAL, "lvs printed no report");
	return report;
}

/* The rows that the selection finds (lvmreport(7)); *ret_report owns them. */
static json_t *select_rows(const char *vg, const char *selection, json_t **ret_report, struct error *err)
{
	const char *const argv[] = { "lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", FIELDS, "-S", selection,
				     vg, NULL };
	_cleanup_process_result_ struct process_result result = { 0 };
	json_t *rows;

	if (run(argv, REPORT_MAX, 0, &result, err) < 0)
		return NULL;
	if (result.exit_code) {
		error_set(err, ERR_INTERNAL, "lvs failed: %s", first_message(result.output));
		return NULL;
	}
	*ret_report = parse(result.output, err);
	if (!*ret_report)
		return NULL;
	rows = json_object_get(json_array_get(json_object_get(*ret_report, "report"), 0), "lv");
	if (json_is_array(rows))
		return rows;
	json_decref(*ret_report);
	error_set(err, ERR_INTERNAL, "lvs printed a report without volumes");
	return NULL;
}

int lvm_find(const char *vg, const char *name, struct lvm_volume *ret, struct error *err)
{
	_cleanup_free_ char *selection = fs_path("lv_name=\"%s\"", name);
	json_t *report = NULL, *rows;

	if (!selection)
		return error_errno(err, ENOMEM, "cannot look for a logical volume");
	rows = select_rows(vg, selection, &report, err);
	if (!rows)
		return -1;
	*ret = (struct lvm_volume){ 0 };
	if (json_array_size(rows))
		read_row(json_array_get(rows, 0), ret);
	json_decref(report);
	return 0;
}

int lvm_each(const char *vg, int (*fn)(const struct lvm_volume *v, void *arg, struct error *err), void *arg,
	     struct error *err)
{
	json_t *report = NULL, *rows = select_rows(vg, "lv_tags=" LVM_TAG, &report, err), *row;
	struct lvm_volume v;
	size_t i;
	int r = 0;

	if (!rows)
		return -1;
	json_array_foreach(rows, i, row) {
		read_row(row, &v);
		if (fn(&v, arg, r < 0 ? NULL : err) < 0)
			r = -1;
	}
	json_decref(report);
	return r;
}
