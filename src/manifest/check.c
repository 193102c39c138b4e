/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/check.h"
#include "manifest/fields.h"
#include "manifest/mistake.h"

#include "base/timeutil.h"
#include "base/utf8.h"

#include <string.h>

/* Both specs have these; the entries of env have the same form under two names. */
typedef Capsule__V1__ContainerSpec__EnvEntry env_entry;
_Static_assert(sizeof(env_entry) == sizeof(Capsule__V1__MicroVMSpec__EnvEntry) &&
	       offsetof(env_entry, key) == offsetof(Capsule__V1__MicroVMSpec__EnvEntry, key) &&
	       offsetof(env_entry, value) == offsetof(Capsule__V1__MicroVMSpec__EnvEntry, value), "one form of env");

struct process {
	char *const *command, *const *args;
	size_t n_command, n_args;
	env_entry *const *env;
	size_t n_env;
};

#define mistake(m, path, ...) mistake_add((m), (path), 0, 0, __VA_ARGS__)

/* ---- strings ---- */

/* UTF-8 of a limited length; what a gRPC peer sends may be neither. */
static bool check_text(const char *s, size_t max, const struct path *path, struct manifest_mistakes *m)
{
	size_t len = strlen(s);

	if (len > max) {
		mistake(m, path, "has %zu bytes; %zu are allowed", len, max);
		return false;
	}
	if (!utf8_is_valid(s, len)) {
		mistake(m, path, "is not UTF-8");
		return false;
	}
	return true;
}

static void check_label(const char *name, const struct path *path, struct manifest_mistakes *m)
{
	char text[LABEL_PROBLEM_MAX];
	const char *problem = label_problem(name, text);

	if (problem)
		mistake(m, path, "%s", problem);
}

/* Space, control characters and DEL. */
static bool has_blank(const char *s)
{
	for (; *s; s++)
		if ((uint8_t)*s <= ' ' || *s == 0x7f)
			return true;
	return false;
}

static bool check_count(size_t n, size_t max, const struct path *path, struct manifest_mistakes *m)
{
	if (n <= max)
		return true;
	mistake(m, path, "has %zu entries; %zu are allowed", n, max);
	return false;
}

/* ---- paths ---- */

void path_normalize(char *path)
{
	char *to = path;
	const char *from = path;
	size_t n;

	if (*path != '/')
		return;
	while (*from) {
		from += strspn(from, "/");
		n = strcspn(from, "/");
		if (n > 0 && !(n == 1 && *from == '.')) {
			*to++ = '/';
			memmove(to, from, n);
			to += n;
		}
		from += n;
	}
	if (to == path)
		*to++ = '/';
	*to = '\0';
}

static bool has_parent_step(const char *path)
{
	for (size_t n; *path; path += n + (path[n] == '/')) {
		n = strcspn(path, "/");
		if (n == 2 && path[0] == '.' && path[1] == '.')
			return true;
	}
	return false;
}

static bool check_absolute(const char *s, const struct path *path, struct manifest_mistakes *m)
{
	struct excerpt e;

	if (!*s)
		mistake(m, path, "is required: an absolute path");
	else if (!check_text(s, MANIFEST_PATH_MAX, path, m))
		return false;
	else if (*s != '/')
		mistake(m, path, "must be an absolute path, not %s", excerpt(&e, s, strlen(s)));
	else if (has_parent_step(s))
		mistake(m, path, "must not hold \"..\"");
	else
		return true;
	return false;
}

/* Whether a normalized path is the directory or below it. */
static bool is_below(const char *path, const char *directory)
{
	size_t n = strlen(directory);

	return strncmp(path, directory, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* The targets of mounts and binds: each may be used once. */
struct targets {
	char *paths[MANIFEST_MOUNTS_MAX + MANIFEST_BINDS_MAX];
	size_t n;
};

static void targets_release(struct targets *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->paths[i]);
}

/* Takes the normalized path. */
static void check_target(char *target, struct targets *t, const struct path *path, struct manifest_mistakes *m)
{
	struct excerpt e;

	if (strcmp(target, "/") == 0)
		mistake(m, path, "must not be \"/\": it is the image's own");
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->paths[i], target) == 0) {
			mistake(m, path, "%s is used twice", excerpt(&e, target, strlen(target)));
			break;
		}
	t->paths[t->n++] = target;
}

/* ---- mounts ---- */

static void check_mount(const Capsule__V1__VolumeMount *mount, struct targets *t, const struct path *path,
			struct manifest_mistakes *m)
{
	static const char *const kernels[] = { "/proc", "/sys", "/dev" };
	struct path name = path_field(path, "volumeName"), target = path_field(path, "mountPath");
	char *normal;

	check_label(mount->volume_name, &name, m);
	if (!check_absolute(mount->mount_path, &target, m))
		return;
	normal = strdup(mount->mount_path);
	if (!normal) {
		m->out_of_memory = true;
		return;
	}
	path_normalize(normal);
	for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
		if (is_below(normal, kernels[i]))
			mistake(m, &target, "must not be in %s: it is the kernel's own", kernels[i]);
	check_target(normal, t, &target, m);
}

static void check_mounts(Capsule__V1__VolumeMount *const *mounts, size_t n, size_t max, struct targets *t,
			 const struct path *spec, struct manifest_mistakes *m)
{
	struct path path = path_field(spec, "mounts");

	if (!check_count(n, max, &path, m))
		return;
	for (size_t i = 0; i < n; i++) {
		struct path at = path_index(&path, i), name = path_field(&at, "volumeName");

		check_mount(mounts[i], t, &at, m);
		for (size_t j = 0; j < i && *mounts[i]->volume_name; j++)
			if (strcmp(mounts[i]->volume_name, mounts[j]->volume_name) == 0) {
				mistake(m, &name, "is mounted already by mounts[%zu]; a volume can be mounted once", j);
				break;
			}
	}
}

/* "/source[:/target[:ro|rw]]". A target in /dev or /sys is what such a bind is often for. */
static void check_bind(const char *bind, struct targets *t, const struct path *path, struct manifest_mistakes *m)
{
	_cleanup_free_ char *source = strdup(bind), *target = NULL;
	char *colon = source ? strchr(source, ':') : NULL, *mode = NULL;

	if (!source) {
		m->out_of_memory = true;
		return;
	}
	if (colon) {
		*colon = '\0';
		mode = strchr(colon + 1, ':');
		if (mode)
			*mode++ = '\0';
	}
	if (!check_absolute(source, path, m) || (colon && !check_absolute(colon + 1, path, m)))
		return;
	if (mode && strcmp(mode, "ro") != 0 && strcmp(mode, "rw") != 0) {
		mistake(m, path, "must be \"/source\", \"/source:/target\" or \"/source:/target:ro\" (or \":rw\")");
		return;
	}
	target = strdup(colon ? colon + 1 : source);
	if (!target) {
		m->out_of_memory = true;
		return;
	}
	path_normalize(target);
	check_target(steal_ptr(&target), t, path, m);
}

static void check_binds(const Capsule__V1__ContainerSpec *spec, struct targets *t, const struct path *up,
			struct manifest_mistakes *m)
{
	struct path path = path_field(up, "hostBindPaths");

	if (!check_count(spec->n_host_bind_paths, MANIFEST_BINDS_MAX, &path, m))
		return;
	for (size_t i = 0; i < spec->n_host_bind_paths; i++) {
		struct path at = path_index(&path, i);

		check_bind(spec->host_bind_paths[i], t, &at, m);
	}
}

/* ---- ports ---- */

/* "" is tcp; NULL is neither. */
static const char *protocol_of(const Capsule__V1__PortMapping *port)
{
	if (!*port->protocol || strcmp(port->protocol, "tcp") == 0)
		return "tcp";
	return strcmp(port->protocol, "udp") == 0 ? "udp" : NULL;
}

static bool is_same_port(const Capsule__V1__PortMapping *a, const Capsule__V1__PortMapping *b)
{
	const char *x = protocol_of(a), *y = protocol_of(b);

	return a->host_port && a->host_port == b->host_port && x && y && strcmp(x, y) == 0;
}

static void check_port_number(uint32_t number, const struct path *up, const char *field, struct manifest_mistakes *m)
{
	struct path path = path_field(up, field);

	if (number == 0)
		mistake(m, &path, "is required: a port from 1 to 65535");
	else if (number > 65535)
		mistake(m, &path, "must be a port from 1 to 65535, not %u", number);
}

static void check_port(const Capsule__V1__PortMapping *port, const struct path *path, struct manifest_mistakes *m)
{
	struct path protocol = path_field(path, "protocol");
	struct excerpt e;

	check_port_number(port->container_port, path, "containerPort", m);
	check_port_number(port->host_port, path, "hostPort", m);
	if (!protocol_of(port))
		mistake(m, &protocol, "must be tcp or udp, not %s%s",
			excerpt(&e, port->protocol, strlen(port->protocol)),
			strcasecmp(port->protocol, "tcp") == 0 ? "; did you mean tcp?" :
			strcasecmp(port->protocol, "udp") == 0 ? "; did you mean udp?" : "");
}

static void check_ports(Capsule__V1__PortMapping *const *ports, size_t n, const struct path *spec,
			struct manifest_mistakes *m)
{
	struct path path = path_field(spec, "ports");

	if (!check_count(n, MANIFEST_PORTS_MAX, &path, m))
		return;
	for (size_t i = 0; i < n; i++) {
		struct path at = path_index(&path, i), host = path_field(&at, "hostPort");

		check_port(ports[i], &at, m);
		for (size_t j = 0; j < i; j++)
			if (is_same_port(ports[i], ports[j])) {
				mistake(m, &host, "%u/%s is published already by ports[%zu]", ports[i]->host_port,
					protocol_of(ports[i]), j);
				break;
			}
	}
}

/* ---- command, args, env ---- */

static size_t check_words(char *const *words, size_t n, const struct path *spec, const char *field,
			  struct manifest_mistakes *m)
{
	struct path path = path_field(spec, field);
	size_t total = 0;

	if (!check_count(n, MANIFEST_WORDS_MAX, &path, m))
		return 0;
	for (size_t i = 0; i < n; i++) {
		struct path at = path_index(&path, i);

		check_text(words[i], MANIFEST_STRING_MAX, &at, m);
		total += strlen(words[i]) + 1;
	}
	return total;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp((*(env_entry *const *)a)->key, (*(env_entry *const *)b)->key);
}

static void check_env_twice(env_entry *const *env, size_t n, const struct path *path, struct manifest_mistakes *m)
{
	env_entry *sorted[MANIFEST_ENV_MAX];

	if (n)
		memcpy(sorted, env, n * sizeof *sorted);
	qsort(sorted, n, sizeof *sorted, compare_names);
	for (size_t i = 1; i < n; i++) {
		struct path at = path_field(path, sorted[i]->key);

		if (strcmp(sorted[i]->key, sorted[i - 1]->key) == 0)
			mistake(m, &at, "is given twice");
	}
}

static size_t check_env(env_entry *const *env, size_t n, const struct path *spec, struct manifest_mistakes *m)
{
	struct path path = path_field(spec, "env");
	size_t total = 0, len;

	if (!check_count(n, MANIFEST_ENV_MAX, &path, m))
		return 0;
	for (size_t i = 0; i < n; i++) {
		struct path at = path_field(&path, env[i]->key);

		if (!*env[i]->key)
			mistake(m, &path, "a variable has no name");
		else if (strchr(env[i]->key, '='))
			mistake(m, &at, "the name of a variable must not hold \"=\"");
		else if (!utf8_is_valid(env[i]->key, strlen(env[i]->key)))
			mistake(m, &at, "the name of a variable is not UTF-8");
		len = strlen(env[i]->key) + 1 + strlen(env[i]->value);
		total += len + 1;
		if (len > MANIFEST_STRING_MAX)
			mistake(m, &at, "has %zu bytes with its name; %d are allowed", len, MANIFEST_STRING_MAX);
		else
			check_text(env[i]->value, MANIFEST_STRING_MAX, &at, m);
	}
	check_env_twice(env, n, &path, m);
	return total;
}

static void check_process(const struct process *p, const struct path *spec, struct manifest_mistakes *m)
{
	size_t total = 0;

	total += check_words(p->command, p->n_command, spec, "command", m);
	total += check_words(p->args, p->n_args, spec, "args", m);
	total += check_env(p->env, p->n_env, spec, m);
	if (total > MANIFEST_STRINGS_MAX)
		mistake(m, spec, "command, args and env have %zu bytes together; %u are allowed", total,
			MANIFEST_STRINGS_MAX);
}

/* ---- specs ---- */

/* The full rules of references are the image store's; what is said here needs none of them. */
static void check_image(const char *image, const struct path *path, struct manifest_mistakes *m)
{
	struct excerpt e;

	if (!*image)
		mistake(m, path, "is required, for example docker.io/library/nginx:1.27");
	else if (check_text(image, MANIFEST_IMAGE_MAX, path, m) && has_blank(image))
		mistake(m, path, "%s is not an image reference: it holds a space or a control character",
			excerpt(&e, image, strlen(image)));
}

static void check_enum(const ProtobufCEnumDescriptor *descriptor, int value, const struct path *path,
		       struct manifest_mistakes *m)
{
	if (!protobuf_c_enum_descriptor_get_value(descriptor, value))
		mistake(m, path, "%d is not a known value", value);
}

static void check_container(const Capsule__V1__ContainerSpec *c, struct manifest_mistakes *m)
{
	struct path spec = path_field(NULL, "container"), image = path_field(&spec, "image");
	struct path mode = path_field(&spec, "networkMode"), ports = path_field(&spec, "ports");
	struct process process = { c->command, c->args, c->n_command, c->n_args, c->env, c->n_env };
	_cleanup_(targets_release) struct targets targets = { .n = 0 };

	check_image(c->image, &image, m);
	check_process(&process, &spec, m);
	check_mounts(c->mounts, c->n_mounts, MANIFEST_MOUNTS_MAX, &targets, &spec, m);
	check_binds(c, &targets, &spec, m);
	check_enum(&capsule__v1__network_mode__descriptor, c->network_mode, &mode, m);
	check_ports(c->ports, c->n_ports, &spec, m);
	if (c->n_ports && c->network_mode == CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_HOST)
		mistake(m, &ports,
			"cannot stand beside networkMode NETWORK_MODE_HOST: such a container listens on the host's "
			"own addresses; remove ports or use NETWORK_MODE_BRIDGE");
}

/* Either an image, or a kernel and a root file system. */
static void check_boot(const Capsule__V1__MicroVMSpec *v, const struct path *spec, struct manifest_mistakes *m)
{
	struct path image = path_field(spec, "image");
	struct path kernel = path_field(spec, "kernelPath"), rootfs = path_field(spec, "rootfsPath");
	bool own = *v->kernel_path || *v->rootfs_path;

	if (*v->image && own) {
		mistake(m, &image,
			"cannot stand beside kernelPath and rootfsPath; a microVM boots from one or the other");
	} else if (own) {
		check_absolute(v->kernel_path, &kernel, m);
		check_absolute(v->rootfs_path, &rootfs, m);
	} else if (*v->image) {
		check_image(v->image, &image, m);
	} else {
		mistake(m, &image, "is required, or kernelPath and rootfsPath in its place");
	}
}

static void check_disk_size(uint64_t bytes, const struct path *spec, struct manifest_mistakes *m)
{
	struct path disk = path_field(spec, "diskSize");

	if (bytes && bytes < MANIFEST_DISK_SIZE_MIN)
		mistake(m, &disk, "must be at least %uMiB", (unsigned)(MANIFEST_DISK_SIZE_MIN >> 20));
	else if (bytes > MANIFEST_DISK_SIZE_MAX)
		mistake(m, &disk, "must be at most %uTiB", (unsigned)(MANIFEST_DISK_SIZE_MAX >> 40));
}

/* Behind it stand arguments of the first process, and QEMU writes where the devices are at the very end. */
static bool ends_with_arguments(const char *cmdline)
{
	for (const char *p = cmdline; (p = strstr(p, "--")); p += 2)
		if ((p == cmdline || strchr(" \t", p[-1])) && strchr(" \t", p[2])) /* or the end of the text */
			return true;
	return false;
}

/* The kernel takes what follows for a part of the same word. */
static bool has_open_quotation(const char *cmdline)
{
	bool open = false;

	for (; *cmdline; cmdline++)
		open ^= *cmdline == '"';
	return open;
}

static void check_cmdline(const char *text, const struct path *spec, struct manifest_mistakes *m)
{
	struct path cmdline = path_field(spec, "kernelCmdlineExtra");

	if (!check_text(text, MANIFEST_CMDLINE_MAX, &cmdline, m))
		return;
	if (strpbrk(text, "\n\r"))
		mistake(m, &cmdline, "must be one line");
	else if (has_open_quotation(text))
		mistake(m, &cmdline, "has a \" without its counterpart, behind which no device would be found");
	else if (ends_with_arguments(text))
		mistake(m, &cmdline, "must not hold \"--\", behind which no device would be found; let init= name a program that needs "
			"no arguments");
}

static void check_micro_vm(const Capsule__V1__MicroVMSpec *v, struct manifest_mistakes *m)
{
	struct path spec = path_field(NULL, "microVm"), backend = path_field(&spec, "backend");
	struct path vcpus = path_field(&spec, "vcpus"), memory = path_field(&spec, "memoryMib");
	uint32_t memory_min = *v->kernel_path ? MANIFEST_MEMORY_MIB_MIN : MANIFEST_IMAGE_MEMORY_MIB_MIN;
	struct process process = { v->command, v->args, v->n_command, v->n_args, (env_entry *const *)v->env, v->n_env };
	_cleanup_(targets_release) struct targets targets = { .n = 0 };

	check_boot(v, &spec, m);
	check_process(&process, &spec, m);
	check_mounts(v->mounts, v->n_mounts, MANIFEST_MOUNTS_MAX, &targets, &spec, m);
	check_ports(v->ports, v->n_ports, &spec, m);
	check_enum(&capsule__v1__micro_vmbackend__descriptor, v->backend, &backend, m);
	check_disk_size(v->disk_size, &spec, m);
	if (v->vcpus > MANIFEST_VCPUS_MAX)
		mistake(m, &vcpus, "must be 1 to %d, not %u", MANIFEST_VCPUS_MAX, v->vcpus);
	if (v->memory_mib && (v->memory_mib < memory_min || v->memory_mib > MANIFEST_MEMORY_MIB_MAX))
		mistake(m, &memory, "must be %u to %u, not %u", memory_min, MANIFEST_MEMORY_MIB_MAX, v->memory_mib);
	check_cmdline(v->kernel_cmdline_extra, &spec, m);
}

static void check_limit(uint32_t value, uint32_t min, uint32_t max, const struct path *up, const char *field,
			struct manifest_mistakes *m)
{
	struct path path = path_field(up, field);

	if (value && (value < min || value > max))
		mistake(m, &path, "must be %u to %u, not %u", min, max, value);
}

static void check_resources(const Capsule__V1__Workload *w, struct manifest_mistakes *m)
{
	struct path resources = path_field(NULL, "resources"), cpus = path_field(&resources, "cpus");
	struct path memory = path_field(&resources, "memoryMib");
	const Capsule__V1__Resources *r = w->resources;

	/* The comparison is false for what is not a number, too. */
	if (r->cpus != 0 && !(r->cpus >= MANIFEST_CPUS_MIN && r->cpus <= MANIFEST_CPUS_MAX))
		mistake(m, &cpus, "must be %g to %d, not %g", MANIFEST_CPUS_MIN, MANIFEST_CPUS_MAX, r->cpus);
	check_limit(r->memory_mib, MANIFEST_LIMIT_MIB_MIN, MANIFEST_MEMORY_MIB_MAX, &resources, "memoryMib", m);
	check_limit(r->pids_max, 1, MANIFEST_PIDS_MAX, &resources, "pidsMax", m);
	if (w->micro_vm && w->micro_vm->memory_mib && r->memory_mib >= w->micro_vm->memory_mib)
		mistake(m, &memory, "must be less than microVm.memoryMib (%u): it is a limit inside the machine",
			w->micro_vm->memory_mib);
}

static void check_probe_port(uint32_t port, const struct path *probe, struct manifest_mistakes *m)
{
	struct path path = path_field(probe, "port");

	if (port == 0)
		mistake(m, &path, "is required");
	check_limit(port, 1, UINT16_MAX, probe, "port", m);
}

static void check_exec_probe(const Capsule__V1__ExecProbe *exec, const struct path *probe, struct manifest_mistakes *m)
{
	struct path path = path_field(probe, "command");

	if (exec->n_command == 0 || !*exec->command[0])
		mistake(m, &path, "must name a program");
	check_words(exec->command, exec->n_command, probe, "command", m);
}

static void check_http_probe(const Capsule__V1__HttpProbe *http, const struct path *probe, struct manifest_mistakes *m)
{
	struct path path = path_field(probe, "path");

	check_probe_port(http->port, probe, m);
	if (!check_text(http->path, MANIFEST_URL_PATH_MAX, &path, m))
		return;
	if (*http->path && *http->path != '/')
		mistake(m, &path, "must begin with \"/\"");
	else if (has_blank(http->path))
		mistake(m, &path, "must not hold a space or a control character");
}

static void check_probe(const Capsule__V1__HealthCheck *check, const struct path *up, struct manifest_mistakes *m)
{
	struct path exec = path_field(up, "exec"), http = path_field(up, "http"), tcp = path_field(up, "tcp");

	switch (check->probe_case) {
	case CAPSULE__V1__HEALTH_CHECK__PROBE_EXEC:
		check_exec_probe(check->exec, &exec, m);
		break;
	case CAPSULE__V1__HEALTH_CHECK__PROBE_HTTP:
		check_http_probe(check->http, &http, m);
		break;
	case CAPSULE__V1__HEALTH_CHECK__PROBE_TCP:
		check_probe_port(check->tcp->port, &tcp, m);
		break;
	default:
		mistake(m, up, "needs one of exec, http and tcp");
		break;
	}
}

/* Returns what it is, or what it is taken for where nothing is said or nothing that can be understood. */
static int64_t check_duration(const char *text, int64_t absent_ns, int64_t min_ns, const struct path *up, const char *field,
			      struct manifest_mistakes *m)
{
	struct path path = path_field(up, field);
	int64_t ns = absent_ns;
	struct excerpt e;

	if (!*text)
		return absent_ns;
	if (time_parse_duration(text, &ns) < 0)
		mistake(m, &path, "must be a duration such as 10s, not %s", excerpt(&e, text, strlen(text)));
	else if (ns < min_ns)
		mistake(m, &path, "must be at least %lldms, not %s", (long long)(min_ns / NSEC_PER_MSEC), text);
	else if (ns > MANIFEST_INTERVAL_MAX_S * NSEC_PER_SEC)
		mistake(m, &path, "must be at most %dh, not %s", MANIFEST_INTERVAL_MAX_S / 3600, text);
	else
		return ns;
	return absent_ns;
}

static void check_health_check(const Capsule__V1__HealthCheck *check, struct manifest_mistakes *m)
{
	struct path health = path_field(NULL, "healthCheck"), timeout_path = path_field(&health, "timeout");
	int64_t interval, timeout;

	check_probe(check, &health, m);
	interval = check_duration(check->interval, MANIFEST_INTERVAL_MAX_S * NSEC_PER_SEC,
				  MANIFEST_INTERVAL_MIN_MS * NSEC_PER_MSEC, &health, "interval", m);
	timeout = check_duration(check->timeout, 0, MANIFEST_TIMEOUT_MIN_MS * NSEC_PER_MSEC, &health, "timeout", m);
	check_duration(check->start_period, 0, 0, &health, "startPeriod", m);
	if (timeout > interval)
		mistake(m, &timeout_path, "must not be longer than the interval");
	check_limit(check->retries, 1, MANIFEST_RETRIES_MAX, &health, "retries", m);
}

/* Exactly the section that the kind asks for. */
/* What Capsule does inside a machine it does through its own first process there. */
static void check_own_system(const Capsule__V1__Workload *w, struct manifest_mistakes *m)
{
	const Capsule__V1__MicroVMSpec *v = w->micro_vm;
	const Capsule__V1__HealthCheck *health = w->health_check;
	struct path spec = path_field(NULL, "microVm"), health_path = path_field(NULL, "healthCheck");
	const struct {
		bool set;
		struct path path;
	} inside[] = {
		{ v->n_command > 0, path_field(&spec, "command") },
		{ v->n_args > 0, path_field(&spec, "args") },
		{ v->n_env > 0, path_field(&spec, "env") },
		{ v->disk_size > 0, path_field(&spec, "diskSize") },
		{ w->resources, path_field(NULL, "resources") },
		{ health && health->probe_case == CAPSULE__V1__HEALTH_CHECK__PROBE_EXEC, path_field(&health_path, "exec") },
	};

	for (size_t i = 0; i < sizeof inside / sizeof *inside; i++)
		if (inside[i].set)
			mistake(m, &inside[i].path,
				"cannot stand beside kernelPath and rootfsPath; that root file system decides what runs in it");
}

static void check_sections(const Capsule__V1__Workload *w, struct manifest_mistakes *m)
{
	struct path kind = path_field(NULL, "kind");
	struct path container = path_field(NULL, "container"), micro_vm = path_field(NULL, "microVm");

	switch (w->kind) {
	case CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_CONTAINER:
		if (!w->container)
			mistake(m, &container, "is required for a Container");
		if (w->micro_vm)
			mistake(m, &micro_vm, "has no place in a Container; set kind to MicroVM or use \"container\"");
		break;
	case CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_MICRO_VM:
		if (!w->micro_vm)
			mistake(m, &micro_vm, "is required for a MicroVM");
		if (w->container)
			mistake(m, &container, "has no place in a MicroVM; set kind to Container or use \"microVm\"");
		break;
	case CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_UNSPECIFIED:
		mistake(m, &kind, "is required: Container or MicroVM");
		break;
	default:
		check_enum(&capsule__v1__workload_kind__descriptor, (int)w->kind, &kind, m);
		break;
	}
}

int manifest_check_workload(const Capsule__V1__Workload *w, struct manifest_mistakes *ret_mistakes)
{
	struct path name = path_field(NULL, "name"), state = path_field(NULL, "desiredState");
	struct path policy = path_field(NULL, "restartPolicy");
	struct manifest_mistakes *m = ret_mistakes;
	size_t before = m->n;

	check_label(w->name, &name, m);
	check_sections(w, m);
	if (w->container)
		check_container(w->container, m);
	if (w->micro_vm)
		check_micro_vm(w->micro_vm, m);
	if (w->micro_vm && *w->micro_vm->kernel_path && !*w->micro_vm->image)
		check_own_system(w, m);
	if (w->resources)
		check_resources(w, m);
	if (w->health_check)
		check_health_check(w->health_check, m);
	check_enum(&capsule__v1__restart_policy__descriptor, (int)w->restart_policy, &policy, m);
	if (w->desired_state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING)
		mistake(m, &state, "must be Running or Stopped; to remove a workload, delete it");
	else
		check_enum(&capsule__v1__desired_state__descriptor, (int)w->desired_state, &state, m);
	return m->n > before || m->out_of_memory ? -1 : 0;
}

/* "VOLUME/SNAPSHOT". */
static void check_from_snapshot(const char *text, struct manifest_mistakes *m)
{
	const char *slash = strchr(text, '/');
	_cleanup_free_ char *volume = strndup(text, slash ? (size_t)(slash - text) : 0);
	struct path path = path_field(NULL, "fromSnapshot");

	if (volume && (!slash || manifest_check_name("volume name", volume, NULL) < 0 ||
		       manifest_check_name("snapshot name", slash + 1, NULL) < 0))
		mistake(m, &path, "must name a volume and a snapshot of it, for example data/before");
}

int manifest_check_volume(const Capsule__V1__VolumeCreateRequest *volume, struct manifest_mistakes *ret_mistakes)
{
	struct path name = path_field(NULL, "name"), size = path_field(NULL, "size");
	struct path backend = path_field(NULL, "backend");
	struct manifest_mistakes *m = ret_mistakes;
	size_t before = m->n;

	check_label(volume->name, &name, m);
	/* 0 is the daemon's default. */
	if (volume->size_mib && volume->size_mib < MANIFEST_VOLUME_MIB_MIN)
		mistake(m, &size, "must be at least %dMiB", MANIFEST_VOLUME_MIB_MIN);
	else if (volume->size_mib > MANIFEST_VOLUME_MIB_MAX)
		mistake(m, &size, "must be at most %uTiB", MANIFEST_VOLUME_MIB_MAX >> 20);
	if (*volume->backend && strcmp(volume->backend, "file") != 0 && strcmp(volume->backend, "lvm") != 0)
		mistake(m, &backend, "must be file or lvm");
	if (*volume->from_snapshot)
		check_from_snapshot(volume->from_snapshot, m);
	return m->n > before || m->out_of_memory ? -1 : 0;
}
