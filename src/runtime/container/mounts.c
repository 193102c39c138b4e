/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/container/mounts.h"

#include "base/fs.h"

#include <errno.h>
#include <sys/stat.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* Mounts that come from the manifest, and the files over /etc: sorted by destination, so that what is mounted on /data comes before
 * what is mounted on /data/cache. */
struct bind {
	char *source, *destination; /* owned */
	bool read_only;
	bool slave;                 /* later mounts below the source appear */
	bool yields;                /* to another one with the same destination */
};

struct binds {
	struct bind *items;
	size_t n, cap;
};

static void binds_release(struct binds *b)
{
	for (size_t i = 0; i < b->n; i++) {
		free(b->items[i].source);
		free(b->items[i].destination);
	}
	free(b->items);
}

/* Takes over both strings. */
static int binds_add(struct binds *b, char *source, char *destination, struct bind options)
{
	struct bind *items = b->items;

	if (b->n == b->cap) {
		b->cap = b->cap ? 2 * b->cap : 8;
		items = realloc(b->items, b->cap * sizeof *items);
		if (items)
			b->items = items;
	}
	if (!items || !source || !destination) {
		free(source);
		free(destination);
		return -1;
	}
	options.source = source;
	options.destination = destination;
	b->items[b->n++] = options;
	return 0;
}

static int by_destination(const void *a, const void *b)
{
	const struct bind *x = a, *y = b;
	int r = strcmp(x->destination, y->destination);

	return r ? r : (int)y->yields - (int)x->yields;
}

/* "/source[:/target[:ro]]" */
static int add_host_path(struct binds *binds, const char *text, struct error *err)
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy, *source = strsep(&rest, ":"), *target = strsep(&rest, ":"), *mode = strsep(&rest, ":");
	struct stat st;

	if (!copy)
		return error_errno(err, ENOMEM, "cannot mount %s", text);
	if (*source != '/' || (target && *target != '/') || (mode && strcmp(mode, "ro") != 0 && strcmp(mode, "rw") != 0) ||
	    rest)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "\"%s\" is no host bind path; the form is /source[:/target[:ro]]", text);
	if (stat(source, &st) < 0)
		return error_set(err, ERR_FAILED_PRECONDITION, "the host path %s cannot be mounted: %s", source,
				 strerror(errno));
	if (binds_add(binds, strdup(source), strdup(target ? target : source),
		      (struct bind){ .read_only = mode && !strcmp(mode, "ro") }) < 0)
		return error_errno(err, ENOMEM, "cannot mount %s", text);
	return 0;
}

static int collect_binds(const struct bundle *b, struct binds *binds, struct error *err)
{
	static const char *const files[] = { "hosts", "hostname", "resolv.conf" };
	const struct bundle_payload *spec = b->payload;
	int r = 0;

	for (size_t i = 0; i < COUNT(files); i++)
		r |= binds_add(binds, fs_path("%s/%s", b->files_dir, files[i]), fs_path("/etc/%s", files[i]),
			       (struct bind){ .yields = true });
	for (size_t i = 0; i < b->plan->n_volumes; i++) {
		const struct driver_volume *v = &b->plan->volumes[i];

		r |= binds_add(binds, fs_path("%s/%s", b->volumes_dir, v->name), strdup(v->mount_path),
			       (struct bind){ .read_only = v->read_only });
	}
	if (spec->host_mount)
		r |= binds_add(binds, strdup("/"), strdup("/host"), (struct bind){ .slave = true });
	if (r < 0)
		return error_errno(err, ENOMEM, "cannot write the container's mounts");
	for (size_t i = 0; i < spec->n_host_bind_paths; i++)
		if (add_host_path(binds, spec->host_bind_paths[i], err) < 0)
			return -1;
	return 0;
}

static int append_bind(json_t *mounts, const struct bind *b, struct error *err)
{
	/* nosuid and nodev are left to the source: a volume is the user's own, and a host path was asked for. */
	json_t *m = json_pack("{s:s, s:s, s:s, s:[s, s, s]}", "destination", b->destination, "type", "bind", "source",
			      b->source, "options", "rbind", b->slave ? "rslave" : "rprivate", b->read_only ? "ro" : "rw");

	if (!m)
		return error_set(err, ERR_INVALID_ARGUMENT, "a mount path is not valid UTF-8");
	return json_array_append_new(mounts, m) < 0 ? error_errno(err, ENOMEM, "cannot write the container's mounts") : 0;
}

static void append_kernel(json_t *mounts, const char *type, const char *destination, const char *options)
{
	json_t *list = json_array();

	while (*options) {
		size_t n = strcspn(options, ",");

		json_array_append_new(list, json_stringn(options, n));
		options += n + (options[n] == ',');
	}
	json_array_append_new(mounts, json_pack("{s:s, s:s, s:s, s:o}", "destination", destination, "type", type, "source",
						type, "options", list));
}

static int append_kernel_mounts(json_t *mounts, const struct bundle_payload *spec, struct error *err)
{
	const char *sys = spec->privileged ? "nosuid,noexec,nodev,rw" : "nosuid,noexec,nodev,ro";

	append_kernel(mounts, "proc", "/proc", "nosuid,noexec,nodev");
	append_kernel(mounts, "tmpfs", "/dev", "nosuid,strictatime,mode=755,size=65536k");
	append_kernel(mounts, "devpts", "/dev/pts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5");
	append_kernel(mounts, "sysfs", "/sys", sys);
	append_kernel(mounts, "cgroup", "/sys/fs/cgroup", sys);
	if (spec->host_ipc) {
		/* Shared memory and queues by name belong to the IPC namespace, so they are the host's too. */
		struct bind shm = { .source = (char *)(uintptr_t)"/dev/shm", .destination = (char *)(uintptr_t)"/dev/shm" };
		struct bind queues = { .source = (char *)(uintptr_t)"/dev/mqueue",
				       .destination = (char *)(uintptr_t)"/dev/mqueue" };

		if ((access("/dev/shm", F_OK) == 0 && append_bind(mounts, &shm, err) < 0) ||
		    (access("/dev/mqueue", F_OK) == 0 && append_bind(mounts, &queues, err) < 0))
			return -1;
		return 0;
	}
	append_kernel(mounts, "tmpfs", "/dev/shm", "nosuid,noexec,nodev,mode=1777,size=65536k");
	append_kernel(mounts, "mqueue", "/dev/mqueue", "nosuid,noexec,nodev");
	return 0;
}

json_t *mounts_json(const struct bundle *b, struct error *err)
{
	struct binds binds = { 0 };
	json_t *mounts = json_array();
	int r = mounts ? append_kernel_mounts(mounts, b->payload, err)
		       : error_errno(err, ENOMEM, "cannot write the container's mounts");

	if (r == 0)
		r = collect_binds(b, &binds, err);
	if (r == 0)
		qsort(binds.items, binds.n, sizeof *binds.items, by_destination);
	for (size_t i = 0; r == 0 && i < binds.n; i++) {
		const struct bind *next = i + 1 < binds.n ? &binds.items[i + 1] : NULL;

		if (binds.items[i].yields && next && !strcmp(next->destination, binds.items[i].destination))
			continue;
		r = append_bind(mounts, &binds.items[i], err);
	}
	binds_release(&binds);
	if (r < 0) {
		json_decref(mounts);
		return NULL;
	}
	return mounts;
}
