/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/container/bundle.h"

#include "base/buf.h"
#include "base/fs.h"
#include "runtime/container/mounts.h"
#include "runtime/container/seccomp.h"
#include "runtime/container/security.h"
#include "runtime/container/user.h"
#include "runtime/limit.h"
#include "shim/protocol.h"

#include <errno.h>
#include <fcntl.h>

#define HOSTS_MAX (256u << 10)

static int no_memory(struct error *err)
{
	return error_errno(err, ENOMEM, "cannot write the container's configuration");
}

struct bundle_payload bundle_of_container(const Capsule__V1__ContainerSpec *spec)
{
	return (struct bundle_payload){
		.section = "container",
		.command = spec->command, .n_command = spec->n_command,
		.args = spec->args, .n_args = spec->n_args,
		.env = spec->env, .n_env = spec->n_env,
		.privileged = spec->privileged, .host_pid = spec->host_pid, .host_ipc = spec->host_ipc,
		.host_mount = spec->host_mount,
		.host_bind_paths = spec->host_bind_paths, .n_host_bind_paths = spec->n_host_bind_paths,
	};
}

struct bundle_payload bundle_of_micro_vm(const Capsule__V1__MicroVMSpec *spec)
{
	return (struct bundle_payload){
		.section = "microVm",
		.command = spec->command, .n_command = spec->n_command,
		.args = spec->args, .n_args = spec->n_args,
		/* One form of env: manifest/check.c asserts it. */
		.env = (Capsule__V1__ContainerSpec__EnvEntry *const *)spec->env, .n_env = spec->n_env,
	};
}

/* ---- process ---- */

static int append(json_t *array, const char *text, const char *what, struct error *err)
{
	json_t *s = json_string(text);

	/* jansson takes valid UTF-8 only, and so does the OCI config. */
	if (!s)
		return error_set(err, ERR_INVALID_ARGUMENT, "%s is not valid UTF-8", what);
	return json_array_append_new(array, s) < 0 ? no_memory(err) : 0;
}

static int append_all(json_t *array, char *const *list, size_t n, const char *what, struct error *err)
{
	for (size_t i = 0; i < n; i++)
		if (append(array, list[i], what, err) < 0)
			return -1;
	return 0;
}

static size_t count(char *const *list)
{
	size_t n = 0;

	while (list && list[n])
		n++;
	return n;
}

static json_t *args_of(const struct bundle *b, struct error *err)
{
	const struct bundle_payload *spec = b->payload;
	const struct image_config *image = &b->plan->image->config;
	json_t *args = json_array();
	char command[32], arguments[32];
	int r;

	snprintf(command, sizeof command, "%s.command", spec->section);
	snprintf(arguments, sizeof arguments, "%s.args", spec->section);
	if (!args) {
		no_memory(err);
		return NULL;
	}
	if (spec->n_command)
		r = append_all(args, spec->command, spec->n_command, command, err);
	else
		r = append_all(args, image->entrypoint, count(image->entrypoint), "the image's entrypoint", err);
	if (r == 0 && spec->n_args)
		r = append_all(args, spec->args, spec->n_args, arguments, err);
	else if (r == 0 && !spec->n_command)
		r = append_all(args, image->cmd, count(image->cmd), "the image's command", err);
	if (r == 0 && json_array_size(args) == 0)
		r = error_set(err, ERR_FAILED_PRECONDITION,
			      "the image %s names no program to run; set %s", b->plan->image->reference, command);
	if (r == 0 && !*json_string_value(json_array_get(args, 0)))
		r = error_set(err, ERR_FAILED_PRECONDITION, "the first word of the command is empty");
	if (r < 0) {
		json_decref(args);
		return NULL;
	}
	return args;
}

/* Later settings win. The object keeps one value a name; "KEY=VALUE" strings are made of it at the end. */
static int set_env(json_t *vars, const char *name, const char *value, struct error *err)
{
	json_t *s;

	if (!*name || strchr(name, '='))
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is no name for an environment variable", name);
	s = json_string(value);
	if (!s)
		return error_set(err, ERR_INVALID_ARGUMENT, "the environment variable %s is not valid UTF-8", name);
	return json_object_set_new(vars, name, s) < 0 ? no_memory(err) : 0;
}

static int set_image_env(json_t *vars, char *const *env, struct error *err)
{
	for (size_t i = 0; env && env[i]; i++) {
		const char *value = strchr(env[i], '=');
		_cleanup_free_ char *name = value ? strndup(env[i], (size_t)(value - env[i])) : strdup(env[i]);

		if (!name)
			return no_memory(err);
		/* An image may hold nonsense that other tools pass over. */
		if (*name && set_env(vars, name, value ? value + 1 : "", err) < 0)
			return -1;
	}
	return 0;
}

static int collect_env(const struct bundle *b, const struct user *user, json_t *vars, struct error *err)
{
	const struct bundle_payload *spec = b->payload;

	if (set_env(vars, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", err) < 0 ||
	    set_env(vars, "HOSTNAME", b->plan->spec->name, err) < 0 || set_env(vars, "HOME", user->home, err) < 0 ||
	    set_image_env(vars, b->plan->image->config.env, err) < 0)
		return -1;
	for (size_t i = 0; i < spec->n_env; i++)
		if (set_env(vars, spec->env[i]->key, spec->env[i]->value, err) < 0)
			return -1;
	return 0;
}

static json_t *env_of(const struct bundle *b, const struct user *user, struct error *err)
{
	json_t *vars = json_object(), *env = json_array(), *value;
	int r = vars && env ? collect_env(b, user, vars, err) : no_memory(err);
	const char *name;

	if (r == 0)
		json_object_foreach(vars, name, value) {
			json_t *entry = json_sprintf("%s=%s", name, json_string_value(value));

			if (json_array_append_new(env, entry) < 0)
				r = no_memory(err);
		}
	json_decref(vars);
	if (r < 0) {
		json_decref(env);
		return NULL;
	}
	return env;
}

static json_t *user_json(const struct user *user)
{
	json_t *groups = json_array();

	for (size_t i = 0; i < user->n_groups; i++)
		json_array_append_new(groups, json_integer(user->groups[i]));
	return json_pack("{s:I, s:I, s:o}", "uid", (json_int_t)user->uid, "gid", (json_int_t)user->gid, "additionalGids",
			 groups);
}

static int find_user(const struct bundle *b, struct user *ret, struct error *err)
{
	const struct image *image = b->plan->image;
	const char *roots[SHIM_LAYERS_MAX + 1];
	size_t n = 0;

	if (b->upper_dir)
		roots[n++] = b->upper_dir;
	if (image->n_layers > SHIM_LAYERS_MAX)
		return error_set(err, ERR_FAILED_PRECONDITION, "the image %s has %zu layers; at most %d can be mounted",
				 image->reference, image->n_layers, SHIM_LAYERS_MAX);
	for (size_t i = image->n_layers; i-- > 0;)
		roots[n++] = image->layers[i];
	return user_resolve(roots, n, image->config.user, ret, err);
}

static json_t *process_of(const struct bundle *b, struct error *err)
{
	_cleanup_user_ struct user user = { 0 };
	const char *dir = b->plan->image->config.working_dir;
	bool privileged = b->payload->privileged;
	json_t *args, *env, *process;

	if (find_user(b, &user, err) < 0)
		return NULL;
	args = args_of(b, err);
	env = args ? env_of(b, &user, err) : NULL;
	if (!env) {
		json_decref(args);
		return NULL;
	}
	process = json_pack("{s:b, s:o, s:o, s:o, s:s, s:b, s:o}", "terminal", 0, "user", user_json(&user), "args", args,
			    "env", env, "cwd", dir && *dir == '/' ? dir : "/", "noNewPrivileges", !privileged, "capabilities",
			    security_capabilities(privileged));
	if (!process)
		error_set(err, ERR_FAILED_PRECONDITION, "the image's working directory is not valid UTF-8");
	return process;
}

/* ---- the rest ---- */

static json_t *namespaces_of(const struct bundle *b)
{
	const struct bundle_payload *spec = b->payload;
	json_t *list = json_pack("[{s:s}, {s:s}]", "type", "mount", "type", "uts");

	/* No network namespace: the container takes over the shim's, or its guest's. */
	if (!spec->host_pid)
		json_array_append_new(list, json_pack("{s:s}", "type", "pid"));
	if (!spec->host_ipc)
		json_array_append_new(list, json_pack("{s:s}", "type", "ipc"));
	if (b->cgroup_namespace)
		json_array_append_new(list, json_pack("{s:s}", "type", "cgroup"));
	return list;
}

/* A limit on memory holds for swap too, where the kernel counts that: else a workload over its limit would not end but
 * slow the host down. */
static void limit_memory(json_t *resources, int64_t bytes, bool counts_swap)
{
	json_t *memory = json_pack("{s:I}", "limit", (json_int_t)bytes);

	if (counts_swap)
		json_object_set_new(memory, "swap", json_integer(bytes));
	json_object_set_new(resources, "memory", memory);
}

static json_t *resources_of(const struct bundle *b)
{
	json_t *resources = json_pack("{s:o}", "devices", security_device_rules(b->payload->privileged));
	const struct limits limits = limits_of(b->plan->spec->resources);

	if (!resources)
		return NULL;
	if (limits.memory_bytes)
		limit_memory(resources, limits.memory_bytes, b->counts_swap);
	if (limits.cpu_quota_us)
		json_object_set_new(resources, "cpu", json_pack("{s:I, s:I}", "quota", (json_int_t)limits.cpu_quota_us,
								"period", (json_int_t)LIMITS_CPU_PERIOD_US));
	if (limits.pids_max)
		json_object_set_new(resources, "pids", json_pack("{s:I}", "limit", (json_int_t)limits.pids_max));
	return resources;
}

static json_t *linux_of(const struct bundle *b, struct error *err)
{
	const struct bundle_payload *spec = b->payload;
	json_t *linux_part;

	linux_part = json_pack("{s:s, s:o, s:o}", "cgroupsPath", b->cgroup_path, "namespaces", namespaces_of(b),
			       "resources", resources_of(b));
	if (!linux_part) {
		no_memory(err);
		return NULL;
	}
	if (spec->host_mount)
		json_object_set_new(linux_part, "rootfsPropagation", json_string("rslave"));
	if (security_confine(linux_part, spec->privileged, !b->runtime->is_crun, err) < 0) {
		json_decref(linux_part);
		return NULL;
	}
	return linux_part;
}

static int annotate(const struct bundle *b, json_t *config, struct error *err)
{
	const char *bpf;

	/* Ready-made code instead of a list of names: saves crun the compilation, which is most of its time. */
	if (!b->runtime->is_crun || b->payload->privileged)
		return 0;
	if (seccomp_profile_base64(&bpf, err) < 0)
		return -1;
	if (json_object_set_new(config, "annotations", json_pack("{s:s}", "run.oci.seccomp_bpf_data", bpf)) < 0)
		return no_memory(err);
	return 0;
}

json_t *bundle_config(const struct bundle *b, struct error *err)
{
	json_t *process = process_of(b, err), *mounts = NULL, *linux_part = NULL, *config;

	if (process)
		mounts = mounts_json(b, err);
	if (mounts)
		linux_part = linux_of(b, err);
	if (!linux_part) {
		json_decref(process);
		json_decref(mounts);
		return NULL;
	}
	config = json_pack("{s:s, s:{s:s}, s:s, s:o, s:o, s:o}", "ociVersion", "1.0.2", "root", "path", "rootfs", "hostname",
			   b->plan->spec->name, "process", process, "mounts", mounts, "linux", linux_part);
	if (!config)
		no_memory(err);
	else if (annotate(b, config, err) < 0) {
		json_decref(config);
		config = NULL;
	}
	return config;
}

static int write_hosts(const struct bundle *b, int dirfd, struct error *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(HOSTS_MAX + 4096);
	_cleanup_free_ char *host = NULL;
	const char *name = b->plan->spec->name;

	/* On the host's network the host's names are valid too. */
	if (!b->plan->address && fs_read(AT_FDCWD, "/etc/hosts", HOSTS_MAX, &host, NULL, NULL) == 0)
		buf_addf(&text, "%s\n", host);
	else
		buf_adds(&text, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
	buf_addf(&text, "%s\t%s\n", b->plan->address ? b->plan->address : "127.0.1.1", name);
	if (text.failed)
		return no_memory(err);
	return fs_write_replace(dirfd, "hosts", buf_data(&text), text.len, 0644, err);
}

int bundle_write(const struct bundle *b, struct error *err)
{
	_cleanup_close_ int dirfd = open(b->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const char *resolv = b->plan->resolv_conf ? b->plan->resolv_conf : "";
	_cleanup_free_ char *text = NULL;
	char hostname[128];
	json_t *config;

	if (dirfd < 0)
		return error_errno(err, errno, "cannot open %s", b->run_dir);
	config = bundle_config(b, err);
	if (!config)
		return -1;
	text = json_dumps(config, JSON_COMPACT);
	json_decref(config);
	if (!text)
		return no_memory(err);
	snprintf(hostname, sizeof hostname, "%s\n", b->plan->spec->name);
	if (fs_write_replace(dirfd, "config.json", text, strlen(text), 0600, err) < 0 || write_hosts(b, dirfd, err) < 0 ||
	    fs_write_replace(dirfd, "hostname", hostname, strlen(hostname), 0644, err) < 0 ||
	    fs_write_replace(dirfd, "resolv.conf", resolv, strlen(resolv), 0644, err) < 0)
		return -1;
	return 0;
}
