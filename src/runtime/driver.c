/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/driver.h"

#include "base/fs.h"
#include "shim/cgroup.h"

#include <errno.h>
#include <fcntl.h>

struct names {
	char **items;
	size_t n, cap;
	bool failed;
};

static void names_release(struct names *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->items[i]);
	free(s->items);
}

static void names_add(const char *name, void *arg)
{
	struct names *s = arg;
	char **items = s->items;

	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 64;
		items = realloc(s->items, s->cap * sizeof *items);
		if (items)
			s->items = items;
	}
	if (!items || !(s->items[s->n] = strdup(name)))
		s->failed = true;
	else
		s->n++;
}

static int add_directories(struct names *s, const char *root, const char *sub, struct error *err)
{
	_cleanup_free_ char *path = fs_path("%s/%s", root, sub);
	_cleanup_closedir_ DIR *dir = path ? opendir(path) : NULL;
	struct dirent *entry;

	if (!dir)
		return path && errno == ENOENT ? 0 : error_errno(err, path ? errno : ENOMEM, "cannot list %s/%s", root, sub);
	while ((entry = readdir(dir)))
		/* Temporary names are swept by whoever made them. */
		if (entry->d_name[0] != '.')
			names_add(entry->d_name, s);
	return 0;
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int driver_enumerate(const struct driver_options *o, void (*fn)(const char *name, void *arg), void *arg, struct error *err)
{
	_cleanup_(names_release) struct names names = { 0 };

	if (add_directories(&names, o->root, "workloads", err) < 0 || add_directories(&names, o->run, "workloads", err) < 0 ||
	    add_directories(&names, o->run, "runtime", err) < 0)
		return -1;
	cgroup_enumerate(o->cgroup_parent, names_add, &names);
	if (names.failed)
		return error_errno(err, ENOMEM, "cannot list the workloads");
	if (names.n)
		qsort(names.items, names.n, sizeof *names.items, compare);
	for (size_t i = 0; i < names.n; i++)
		if (i == 0 || strcmp(names.items[i], names.items[i - 1]) != 0)
			fn(names.items[i], arg);
	return 0;
}

static void layers_free(char **layers, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(layers[i]);
	free(layers);
}

void driver_instance_release(struct driver_instance *instance)
{
	cleanup_closep(&instance->shim_fd);
	free(instance->image_digest);
	layers_free(instance->layers, instance->n_layers);
	*instance = (struct driver_instance){ .shim_fd = -1 };
}

void driver_root_release(struct driver_root *root)
{
	cleanup_closep(&root->pidfd);
	cleanup_closep(&root->guest_fd);
	free(root->state_dir);
	layers_free(root->layers, root->n_layers);
	*root = DRIVER_ROOT_NONE;
}

void driver_process_release(struct driver_process *process)
{
	cleanup_closep(&process->control_fd);
	for (size_t i = 0; i < sizeof process->theirs / sizeof process->theirs[0]; i++)
		cleanup_closep(&process->theirs[i]);
	for (size_t i = 0; i < sizeof process->ours / sizeof process->ours[0]; i++)
		cleanup_closep(&process->ours[i]);
	*process = DRIVER_PROCESS_NONE;
}

int driver_process_make_streams(struct driver_process *p, struct error *err)
{
	for (int i = 0; i < 3; i++) {
		int ends[2];

		if (pipe2(ends, O_CLOEXEC) < 0)
			return error_errno(err, errno, "cannot make pipes");
		p->ours[i] = ends[i == 0];
		p->theirs[1 + i] = ends[i != 0];
	}
	return 0;
}
