/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsuled/options.h"

#include "base/fs.h"
#include "base/timeutil.h"
#include "manifest/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <string.h>
#include <yaml.h>

#define CONFIG_DEFAULT "/etc/capsule/capsuled.yaml"
#define CONFIG_SIZE_MAX (1u << 20)
#define OPTION_KEY_FIRST 256 /* getopt_long's value of the table's first row */

#ifndef CAPSULE_LIBEXECDIR
#define CAPSULE_LIBEXECDIR "/usr/libexec/capsule"
#endif

struct option_row;

typedef int set_fn(struct options *o, const struct option_row *row, const char *value, struct error *err);

/* What the option's field holds. */
enum holds { HOLDS_VALUE, HOLDS_TEXT, HOLDS_LIST };

struct option_row {
	const char *name, *arg, *fallback;
	const char *help;
	set_fn *set;
	size_t offset;
	enum holds holds;
	const char *const *words; /* the only values, if any; ends with a NULL */
};

static void *field(struct options *o, const struct option_row *row)
{
	return (char *)o + row->offset;
}

static int keep(char **text, const char *value, struct error *err)
{
	char *copy;

	if (!*value)
		return error_set(err, ERR_INVALID_ARGUMENT, "must not be empty");
	copy = strdup(value);
	if (!copy)
		return error_errno(err, ENOMEM, "cannot keep it");
	free(*text);
	*text = copy;
	return 0;
}

static int set_text(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	return keep(field(o, row), value, err);
}

static int set_directory(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	if (*value != '/')
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is not an absolute path", value);
	return set_text(o, row, value, err);
}

static int set_list(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	struct option_list *list = field(o, row);

	if (list->n == OPTIONS_LIST_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "is given more than %d times", OPTIONS_LIST_MAX);
	list->items[list->n] = NULL;
	if (keep(&list->items[list->n], value, err) < 0)
		return -1;
	list->n++;
	return 0;
}

static int set_mirror(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	const char *equals = strchr(value, '=');

	if (!equals || equals == value || (strncmp(equals + 1, "http://", 7) && strncmp(equals + 1, "https://", 8)))
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is not of the form HOST=URL with an http or https URL",
				 value);
	return set_list(o, row, value, err);
}

/* "VG/POOL" */
static bool is_pool(const char *text)
{
	const char *slash = strchr(text, '/');

	return slash && slash > text && slash[1] && !strchr(slash + 1, '/');
}

static int set_volumes(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	size_t prefix = strlen(OPTIONS_LVM);

	if (strcmp(value, "file") != 0 && (strncmp(value, OPTIONS_LVM, prefix) || !is_pool(value + prefix)))
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is neither file nor of the form lvm:VG/POOL", value);
	return set_text(o, row, value, err);
}

static int set_word(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	char all[64] = "";

	for (const char *const *word = row->words; *word; word++) {
		size_t len = strlen(all);

		if (!strcmp(value, *word))
			return set_text(o, row, value, err);
		snprintf(all + len, sizeof all - len, "%s%s", len ? ", " : "", *word);
	}
	return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is not one of %s", value, all);
}

static int set_level(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	if (log_level_parse(value, &o->log_level) < 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is not one of error, warn, info, debug", value);
	return 0;
}

static int set_size(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	uint64_t bytes;

	if (manifest_parse_size(value, &bytes, err) < 0)
		return -1;
	if (bytes < 4096)
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is less than 4KiB", value);
	*(uint64_t *)field(o, row) = bytes;
	return 0;
}

static int set_files(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	char *end;
	long n = strtol(value, &end, 10);

	if (*end || end == value || n < 1 || n > 1000)
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is not a number from 1 to 1000", value);
	o->log_max_files = (unsigned)n;
	return 0;
}

static int set_duration(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	if (time_parse_duration(value, &o->stop_grace_ns) < 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is not a duration such as 10s or 1m30s", value);
	return 0;
}

static int set_flag(struct options *o, const struct option_row *row, const char *value, struct error *err)
{
	*(bool *)field(o, row) = true;
	return 0;
}

#define FIELD(f) offsetof(struct options, f)

#define TEXT_BY(set, f) set, FIELD(f), HOLDS_TEXT, NULL
#define TEXT(f) TEXT_BY(set_text, f)
#define DIRECTORY(f) TEXT_BY(set_directory, f)
#define WORD(f, words) set_word, FIELD(f), HOLDS_TEXT, words
#define LIST_BY(set, f) set, FIELD(f), HOLDS_LIST, NULL
#define LIST(f) LIST_BY(set_list, f)
#define VALUE_BY(set, f) set, FIELD(f), HOLDS_VALUE, NULL

static const char *const monitors[] = { "auto", "qemu", "firecracker", NULL };
static const char *const accelerations[] = { "auto", "kvm", "emulated", NULL };
static const char *const jailers[] = { "auto", "none", NULL };

static const struct option_row rows[] = {
	{ "config", "FILE", NULL, "configuration file (default: " CONFIG_DEFAULT ", if it exists)", TEXT(config) },
	{ "root", "DIR", "/var/lib/capsule", "state that survives a reboot", DIRECTORY(root) },
	{ "run", "DIR", "/run/capsule", "state that does not", DIRECTORY(run) },
	{ "listen", "ADDRESS", NULL,
	  "where the API is served: unix:PATH, or HOST:PORT on loopback; may be given several times\n"
	  "(default: unix:<run>/capsule.sock)", LIST(listen) },
	{ "bridge", "NAME", "br0", "bridge that workloads are connected to", TEXT(bridge) },
	{ "subnet", "CIDR", "172.20.254.1/24", "address of the bridge and size of its subnet", TEXT(subnet) },
	{ "table", "NAME", "capsule", "nftables table that holds the daemon's rules", TEXT(table) },
	{ "dnsmasq", "PROGRAM", "dnsmasq", "resolver for the names of workloads", TEXT(dnsmasq) },
	{ "oci-runtime", "RUNTIME", "auto", "auto, crun, runc, or the path of another OCI runtime", TEXT(oci_runtime) },
	{ "cgroup-parent", "PATH", "/capsule", "cgroup below which each workload has its own", DIRECTORY(cgroup_parent) },
	{ "shim", "PROGRAM", CAPSULE_LIBEXECDIR "/capsule-shim", "program that holds a running workload", TEXT(shim) },
	{ "image-worker", "PROGRAM", CAPSULE_LIBEXECDIR "/capsule-image", "program that pulls and unpacks images",
	  TEXT(image_worker) },
	{ "copy-worker", "PROGRAM", CAPSULE_LIBEXECDIR "/capsule-copy",
	  "program that copies files to and from workloads", TEXT(copy_worker) },
	{ "volume-worker", "PROGRAM", CAPSULE_LIBEXECDIR "/capsule-volume",
	  "program that exports, imports and holds volumes", TEXT(volume_worker) },
	{ "volumes", "WHERE", "file", "where volumes are made that do not say: file, or lvm:VG/POOL for a thin pool",
	  TEXT_BY(set_volumes, volumes) },
	{ "vm-holder", "PROGRAM", CAPSULE_LIBEXECDIR "/capsule-vm", "program that holds a running microVM", TEXT(vm_holder) },
	{ "vm-monitor", "MONITOR", "auto", "auto, qemu or firecracker: what runs microVMs that do not say",
	  WORD(vm_monitor, monitors) },
	{ "vm-accel", "HOW", "auto", "auto, kvm or emulated: how; auto takes KVM where it works",
	  WORD(vm_accel, accelerations) },
	{ "vm-jailer", "WHETHER", "auto", "auto or none: whether Firecracker's jailer is used where it is installed",
	  WORD(vm_jailer, jailers) },
	{ "guest-dir", "DIR", CAPSULE_LIBEXECDIR "/guest", "kernel and initramfs that microVMs boot from",
	  DIRECTORY(guest_dir) },
	{ "guest-kernel", "FILE", NULL, "another kernel than the one in there", DIRECTORY(guest_kernel) },
	{ "log-level", "LEVEL", "info", "error, warn, info or debug", VALUE_BY(set_level, log_level) },
	{ "log-max-size", "SIZE", "10MiB", "size at which a log, of a workload or of the daemon, is rotated",
	  VALUE_BY(set_size, log_max_size) },
	{ "log-max-files", "N", "3", "files kept of each log, the one being written included",
	  VALUE_BY(set_files, log_max_files) },
	{ "stop-grace", "DURATION", "10s", "time between stop signal and kill, for workloads that do not say",
	  VALUE_BY(set_duration, stop_grace_ns) },
	{ "registry-mirror", "HOST=URL", NULL, "ask this mirror before the registry HOST; may be given several times",
	  LIST_BY(set_mirror, mirrors) },
	{ "plain-http", "HOST", NULL, "speak plain HTTP with this registry; may be given several times",
	  LIST(plain_http) },
	{ "credentials", "FILE", NULL, "registry credentials in the format of Docker's config.json", TEXT(credentials) },
	{ "metrics", "HOST:PORT", NULL,
	  "where figures for Prometheus are served, as http://HOST:PORT/metrics, to whoever asks (default: nowhere)",
	  TEXT(metrics) },
	{ "down", NULL, NULL, "end all workloads and take away the bridge, then exit; what is declared stays",
	  VALUE_BY(set_flag, down) },
	{ "help", NULL, NULL, "print this text", VALUE_BY(set_flag, help) },
	{ "version", NULL, NULL, "print the version", VALUE_BY(set_flag, version) },
};
#define N_ROWS (sizeof rows / sizeof rows[0])

static void list_release(struct option_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->items[i]);
	list->n = 0;
}

void options_release(struct options *o)
{
	for (size_t i = 0; i < N_ROWS; i++)
		if (rows[i].holds == HOLDS_TEXT)
			free(*(char **)field(o, &rows[i]));
		else if (rows[i].holds == HOLDS_LIST)
			list_release(field(o, &rows[i]));
	memset(o, 0, sizeof *o);
}

void options_print_help(void)
{
	printf("Usage: capsuled [OPTION]...\n\n"
	       "Keeps this host's containers, microVMs and volumes in the state that was applied with capsulectl.\n\nOptions:\n");
	for (size_t i = 0; i < N_ROWS; i++) {
		char left[64];
		const char *help = rows[i].help, *newline = strchr(help, '\n');

		snprintf(left, sizeof left, "--%s%s%s", rows[i].name, rows[i].arg ? " " : "", rows[i].arg ? rows[i].arg : "");
		printf("  %-28s %.*s", left, newline ? (int)(newline - help) : (int)strlen(help), help);
		if (newline)
			printf("\n  %-28s %s", "", newline + 1);
		if (rows[i].fallback)
			printf(" (default: %s)", rows[i].fallback);
		printf("\n");
	}
	printf("\nThe configuration file is YAML: each option under its name without the dashes, for example\n\n"
	       "  subnet: 10.88.0.1/16\n  listen: [\"unix:/run/capsule/capsule.sock\", \"127.0.0.1:50000\"]\n\n"
	       "The command line wins over the file. SIGTERM ends the daemon and leaves the workloads running.\n");
}

static const struct option_row *row_of(const char *name)
{
	for (size_t i = 0; i < N_ROWS; i++)
		if (!strcmp(rows[i].name, name))
			return &rows[i];
	return NULL;
}

/* ---- the configuration file ---- */

struct config {
	yaml_document_t document;
	const char *file;
	struct options *options;
};

static int config_error(const struct config *c, const yaml_node_t *node, struct error *err, const char *what)
{
	return error_set(err, ERR_INVALID_ARGUMENT, "%s:%zu: %s", c->file, node->start_mark.line + 1, what);
}

static int config_value(struct config *c, const struct option_row *row, const yaml_node_t *value, struct error *err)
{
	_cleanup_error_ struct error why = ERROR_INIT;

	if (value->type != YAML_SCALAR_NODE)
		return config_error(c, value, err, "a plain value is expected here");
	if (row->set(c->options, row, (const char *)value->data.scalar.value, &why) < 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "%s:%zu: %s %s", c->file, value->start_mark.line + 1, row->name,
				 error_message(&why));
	return 0;
}

static int config_pair(struct config *c, const yaml_node_pair_t *pair, struct error *err)
{
	const yaml_node_t *key = yaml_document_get_node(&c->document, pair->key);
	yaml_node_t *value = yaml_document_get_node(&c->document, pair->value);
	const struct option_row *row = NULL;

	if (key->type == YAML_SCALAR_NODE)
		row = row_of((const char *)key->data.scalar.value);
	if (!row || !row->arg || row->offset == FIELD(config))
		return config_error(c, key, err, "there is no such option; see capsuled --help");
	if (row->holds == HOLDS_LIST && value->type == YAML_SEQUENCE_NODE) {
		for (yaml_node_item_t *item = value->data.sequence.items.start; item < value->data.sequence.items.top; item++)
			if (config_value(c, row, yaml_document_get_node(&c->document, *item), err) < 0)
				return -1;
		return 0;
	}
	return config_value(c, row, value, err);
}

static int config_apply(struct config *c, struct error *err)
{
	yaml_node_t *top = yaml_document_get_root_node(&c->document);

	if (!top)
		return 0;
	if (top->type != YAML_MAPPING_NODE)
		return config_error(c, top, err, "the file must hold a mapping of option names to values");
	for (yaml_node_pair_t *pair = top->data.mapping.pairs.start; pair < top->data.mapping.pairs.top; pair++)
		if (config_pair(c, pair, err) < 0)
			return -1;
	return 0;
}

static int config_read(const char *file, bool required, struct options *o, struct error *err)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	_cleanup_free_ char *text = NULL;
	struct config c = { .file = file, .options = o };
	yaml_parser_t parser;
	size_t len;
	int result;

	if (fs_read(AT_FDCWD, file, CONFIG_SIZE_MAX, &text, &len, &why) < 0)
		return why.code == ERR_NOT_FOUND && !required ? 0 : error_move(err, &why);
	if (!yaml_parser_initialize(&parser))
		return error_errno(err, ENOMEM, "cannot read %s", file);
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	if (!yaml_parser_load(&parser, &c.document)) {
		result = error_set(err, ERR_INVALID_ARGUMENT, "%s:%zu: %s", file, parser.problem_mark.line + 1,
				   parser.problem ? parser.problem : "not YAML");
	} else {
		result = config_apply(&c, err);
		yaml_document_delete(&c.document);
	}
	yaml_parser_delete(&parser);
	return result;
}

/* ---- the command line ---- */

static void long_options(struct option out[N_ROWS + 1])
{
	memset(out, 0, (N_ROWS + 1) * sizeof *out);
	for (size_t i = 0; i < N_ROWS; i++) {
		out[i].name = rows[i].name;
		out[i].has_arg = rows[i].arg ? required_argument : no_argument;
		out[i].val = OPTION_KEY_FIRST + (int)i;
	}
}

/* Lists given on the command line replace those of the file. */
static int command_line(int argc, char **argv, struct options *o, bool only_config, struct error *err)
{
	struct option longs[N_ROWS + 1];
	bool fresh[N_ROWS] = { false };
	int key;

	long_options(longs);
	optind = 0;
	opterr = 0;
	while ((key = getopt_long(argc, argv, "+:hV", longs, NULL)) != -1) {
		_cleanup_error_ struct error why = ERROR_INIT;
		size_t i = key == 'h' ? N_ROWS - 2 : key == 'V' ? N_ROWS - 1 : (size_t)(key - OPTION_KEY_FIRST);

		if (key == ':')
			return error_set(err, ERR_INVALID_ARGUMENT, "%s needs a value; see capsuled --help", argv[optind - 1]);
		if (key == '?')
			return error_set(err, ERR_INVALID_ARGUMENT, "there is no option %s; see capsuled --help",
					 argv[optind - 1]);
		if (only_config != (rows[i].offset == FIELD(config) || rows[i].set == set_flag))
			continue;
		if (rows[i].holds == HOLDS_LIST && !fresh[i])
			list_release(field(o, &rows[i]));
		fresh[i] = true;
		if (rows[i].set(o, &rows[i], optarg, &why) < 0)
			return error_set(err, ERR_INVALID_ARGUMENT, "--%s %s", rows[i].name, error_message(&why));
	}
	if (optind < argc)
		return error_set(err, ERR_INVALID_ARGUMENT, "unexpected argument \"%s\"; see capsuled --help", argv[optind]);
	return 0;
}

int options_parse(int argc, char **argv, struct options *ret, struct error *err)
{
	struct options o = { 0 };

	for (size_t i = 0; i < N_ROWS; i++)
		if (rows[i].fallback && rows[i].set(&o, &rows[i], rows[i].fallback, err) < 0)
			goto fail;
	if (command_line(argc, argv, &o, true, err) < 0)
		goto fail;
	if (!o.help && !o.version &&
	    (config_read(o.config ? o.config : CONFIG_DEFAULT, o.config, &o, err) < 0 ||
	     command_line(argc, argv, &o, false, err) < 0))
		goto fail;
	*ret = o;
	return 0;
fail:
	options_release(&o);
	return -1;
}

/* ---- for capsule-image ---- */

static json_t *registry_of(json_t *registries, const char *host)
{
	json_t *r = json_object_get(registries, host);

	if (!r) {
		r = json_object();
		json_object_set_new(registries, host, r);
	}
	return r;
}

char *options_registries_json(const struct options *o, struct error *err)
{
	json_t *top = json_object(), *registries = json_object();
	char *text;

	json_object_set_new(top, "registries", registries);
	for (size_t i = 0; i < o->mirrors.n; i++) {
		const char *url = strchr(o->mirrors.items[i], '=') + 1;
		_cleanup_free_ char *host = strndup(o->mirrors.items[i], (size_t)(url - 1 - o->mirrors.items[i]));
		json_t *r = registry_of(registries, host ? host : "");

		if (!json_object_get(r, "mirrors"))
			json_object_set_new(r, "mirrors", json_array());
		json_array_append_new(json_object_get(r, "mirrors"), json_string(url));
	}
	for (size_t i = 0; i < o->plain_http.n; i++)
		json_object_set_new(registry_of(registries, o->plain_http.items[i]), "plainHttp", json_true());
	if (o->credentials)
		json_object_set_new(top, "credentialsFile", json_string(o->credentials));
	text = json_dumps(top, JSON_INDENT(2) | JSON_SORT_KEYS);
	json_decref(top);
	if (!text)
		error_errno(err, ENOMEM, "cannot write the registries' settings");
	return text;
}
