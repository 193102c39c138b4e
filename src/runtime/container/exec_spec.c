/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/container/exec_spec.h"

#include "base/base64.h"
#include "base/buf.h"
#include "base/fs.h"
#include "runtime/container/seccomp.h"
#include "runtime/container/security.h"
#include "runtime/container/user.h"
#include "shim/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <sys/mman.h>

#define CONFIG_MAX (4u << 20)
#define SPEC_MAX (8u << 20) /* the most that the shim takes */
#define TERM_DEFAULT "TERM=xterm"

static json_t *load_config(int dirfd, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	json_t *config;

	if (fs_read(dirfd, "config.json", CONFIG_MAX, &text, NULL, err) < 0)
		return NULL;
	config = json_loads(text, 0, NULL);
	if (!config)
		error_set(err, ERR_INTERNAL, "its config.json is damaged");
	return config;
}

static void user_of_process(const json_t *user, struct user *ret)
{
	const json_t *groups = json_object_get(user, "additionalGids"), *gid;
	size_t i;

	ret->uid = (uint32_t)json_integer_value(json_object_get(user, "uid"));
	ret->gid = (uint32_t)json_integer_value(json_object_get(user, "gid"));
	json_array_foreach(groups, i, gid)
		if (ret->n_groups < USER_GROUPS_MAX)
			ret->groups[ret->n_groups++] = (uint32_t)json_integer_value(gid);
}

static int find_user(const struct driver_exec *exec, const json_t *process, struct user *ret, struct error *err)
{
	char root[32];
	const char *roots[] = { root };

	if (!*exec->config->user) {
		user_of_process(json_object_get(process, "user"), ret);
		return 0;
	}
	snprintf(root, sizeof root, "/proc/%d/root", (int)exec->pid);
	return user_resolve(roots, 1, exec->config->user, ret, err);
}

/* ---- the environment ---- */

struct environment {
	const Capsule__V1__WorkloadExecConfig *config;
	struct buf *out;
	uint32_t n;
	bool has_term;
};

static bool is_named(const char *entry, const char *name)
{
	size_t len = strlen(name);

	return !strncmp(entry, name, len) && entry[len] == '=';
}

static bool is_requested(const struct environment *e, const char *entry)
{
	for (size_t i = 0; i < e->config->n_env; i++)
		if (is_named(entry, e->config->env[i]->key))
			return true;
	return false;
}

static void add_variable(struct environment *e, const char *entry)
{
	buf_add(e->out, entry, strlen(entry) + 1);
	e->has_term |= is_named(entry, "TERM");
	e->n++;
}

/* Unless the request sets it. */
static void add_inherited(struct environment *e, const char *entry)
{
	if (!is_requested(e, entry))
		add_variable(e, entry);
}

/* home: of the user that was asked for, or NULL. Returns how many variables were added. */
static uint32_t add_environment(struct buf *out, const struct driver_exec *exec, const json_t *process, const char *home)
{
	struct environment e = { .config = exec->config, .out = out };
	const json_t *entry;
	size_t i;

	json_array_foreach(json_object_get(process, "env"), i, entry)
		if (json_is_string(entry) && !(home && is_named(json_string_value(entry), "HOME")))
			add_inherited(&e, json_string_value(entry));
	if (home) {
		_cleanup_free_ char *variable = fs_path("HOME=%s", home);

		if (variable)
			add_inherited(&e, variable);
		else
			out->failed = true;
	}
	for (i = 0; i < exec->config->n_env; i++) {
		_cleanup_free_ char *variable = fs_path("%s=%s", exec->config->env[i]->key, exec->config->env[i]->value);

		if (variable)
			add_variable(&e, variable);
		else
			out->failed = true;
	}
	if (exec->config->tty && !e.has_term)
		add_variable(&e, TERM_DEFAULT);
	return e.n;
}

/* ---- the whole ---- */

/* The system call filter that the first process has, if any: the very code where the configuration holds it. */
static int add_filter(struct buf *out, const json_t *config, struct error *err)
{
	const json_t *code = json_object_get(json_object_get(config, "annotations"), "run.oci.seccomp_bpf_data");
	_cleanup_free_ void *decoded = NULL;
	const void *filter;
	size_t len;

	if (json_is_string(code)) {
		decoded = base64_decode(json_string_value(code), &len);
		if (!decoded)
			return error_set(err, ERR_INTERNAL, "the system call filter in its config.json is damaged");
		filter = decoded;
	} else if (!json_object_get(json_object_get(config, "linux"), "seccomp")) {
		return 0;
	} else if (seccomp_profile_bpf(&filter, &len, err) < 0) {
		return -1;
	}
	buf_add(out, filter, len);
	return 0;
}

static int build(const struct driver_exec *exec, const json_t *config, struct buf *out, struct error *err)
{
	const json_t *process = json_object_get(config, "process");
	const json_t *capabilities = json_object_get(process, "capabilities");
	const char *dir = json_string_value(json_object_get(process, "cwd"));
	_cleanup_user_ struct user user = { 0 };
	_cleanup_buf_ struct buf env = BUF_INIT(SPEC_MAX), filter = BUF_INIT(SPEC_MAX);
	struct shim_exec_spec spec = { .size = sizeof spec };

	if (find_user(exec, process, &user, err) < 0 || add_filter(&filter, config, err) < 0)
		return -1;
	spec.uid = user.uid;
	spec.gid = user.gid;
	spec.n_groups = (uint32_t)user.n_groups;
	spec.n_filter = (uint32_t)(filter.len / sizeof(struct sock_filter));
	spec.n_args = (uint32_t)exec->config->n_command;
	spec.n_env = add_environment(&env, exec, process, user.home);
	spec.no_new_privs = json_is_true(json_object_get(process, "noNewPrivileges"));
	spec.bounding = security_capability_bits(json_object_get(capabilities, "bounding"));
	spec.permitted = security_capability_bits(json_object_get(capabilities, "permitted"));
	buf_add(out, &spec, sizeof spec);
	buf_add(out, user.groups, user.n_groups * sizeof user.groups[0]);
	buf_add(out, buf_data(&filter), filter.len);
	if (*exec->config->working_dir)
		dir = exec->config->working_dir;
	buf_add(out, dir ? dir : "/", strlen(dir ? dir : "/") + 1);
	for (size_t i = 0; i < exec->config->n_command; i++)
		buf_add(out, exec->config->command[i], strlen(exec->config->command[i]) + 1);
	buf_add(out, buf_data(&env), env.len);
	if (out->failed || env.failed)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "command and environment are too large");
	return 0;
}

/* A memory file, or -1. */
static int make_spec(int run_dirfd, const struct driver_exec *exec, struct error *err)
{
	_cleanup_buf_ struct buf spec = BUF_INIT(SPEC_MAX);
	_cleanup_close_ int fd = memfd_create("capsule-exec", MFD_CLOEXEC);
	json_t *config = load_config(run_dirfd, err);
	int r = config ? build(exec, config, &spec, err) : -1;

	json_decref(config);
	if (r < 0)
		return -1;
	if (fd < 0 || (r = fs_write_all(fd, buf_data(&spec), spec.len)) < 0)
		return error_errno(err, fd < 0 ? errno : -r, "cannot describe the process");
	return steal_fd(&fd);
}

int exec_spec_prepare(int run_dirfd, const struct driver_exec *exec, struct driver_process *ret, struct error *err)
{
	struct driver_process p = DRIVER_PROCESS_NONE;

	p.terminal = exec->config->tty;
	p.theirs[0] = make_spec(run_dirfd, exec, err);
	if (p.theirs[0] < 0 || (!p.terminal && driver_process_make_streams(&p, err) < 0)) {
		driver_process_release(&p);
		return -1;
	}
	*ret = p;
	return 0;
}
