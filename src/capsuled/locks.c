/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsuled/locks.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#define VOLUMES "--volumes"
#define NAMES_FILE "/run/capsule.lock"

/* A name is a byte at its hash (FNV-1a, 64 bits), far beyond the file's end: nothing is ever written, nothing has to be removed. */
static off_t place_of(const char *what, const char *name)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (; *what; what++)
		hash = (hash ^ (unsigned char)*what) * UINT64_C(0x100000001b3);
	hash *= UINT64_C(0x100000001b3);
	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
	return (off_t)(hash >> 2);
}

static int open_file(const char *path, int *ret, struct error *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_errno(err, errno, "cannot open %s", path);
	*ret = fd;
	return 0;
}

static int in_use(const struct flock *theirs, const char *option, const char *value, struct error *err)
{
	return error_set(err, ERR_FAILED_PRECONDITION, "another capsuled, pid %d, uses %s %s%s; stop it, or give this one %s",
			 (int)theirs->l_pid, option, value, theirs->l_type == F_RDLCK ? "/..." : "",
			 !strcmp(option, VOLUMES) ? "a pool in another volume group, or none" :
			 "a --root, --run, --cgroup-parent, --bridge, --subnet and --table of its own");
}

/* type: F_WRLCK, or F_RDLCK for what others may use too as long as nobody has it for itself. */
static int lock(int fd, short type, off_t place, const char *option, const char *value, struct error *err)
{
	struct flock mine = { .l_type = type, .l_whence = SEEK_SET, .l_start = place, .l_len = 1 }, other;

	do {
		if (fcntl(fd, F_SETLK, &mine) == 0)
			return 0;
		other = mine;
		if ((errno != EAGAIN && errno != EACCES) || fcntl(fd, F_GETLK, &other) < 0)
			return error_errno(err, errno, "cannot lock %s %s", option, value);
	} while (other.l_type == F_UNLCK); /* its holder has ended in between */
	return in_use(&other, option, value, err);
}

static int lock_root(const char *option, const char *root, int *ret, struct error *err)
{
	_cleanup_free_ char *path = fs_path("%s/lock", root);

	if (!path)
		return error_errno(err, ENOMEM, "cannot lock %s", root);
	if (open_file(path, ret, err) < 0)
		return -1;
	return lock(*ret, F_WRLCK, 0, option, root, err);
}

/* "/a/b" of "/a//b/": one name for one cgroup. There are no symbolic links among them. */
static char *plain_path(const char *path)
{
	char *plain = malloc(strlen(path) + 2);
	size_t len = 0, n;

	for (; plain && *path; path += n) {
		path += strspn(path, "/");
		n = strcspn(path, "/");
		if (n == 2 && !strncmp(path, "..", 2)) {
			while (len && plain[--len] != '/')
				;
		} else if (n && !(n == 1 && *path == '.')) {
			plain[len++] = '/';
			memcpy(plain + len, path, n);
			len += n;
		}
	}
	if (plain)
		plain[len] = '\0';
	return plain;
}

/* A cgroup below another daemon's parent would be one of its workloads to that one. So what is above is locked too, in a way that
 * the parents of others beside this one do not exclude. */
static int lock_cgroup(int fd, const char *parent, struct error *err)
{
	static const char option[] = "--cgroup-parent";
	_cleanup_free_ char *path = plain_path(parent);
	short type = F_WRLCK;
	char *slash;

	if (!path)
		return error_errno(err, ENOMEM, "cannot lock %s %s", option, parent);
	for (;;) {
		if (lock(fd, type, place_of(option, path), option, *path ? path : "/", err) < 0)
			return -1;
		slash = strrchr(path, '/');
		if (!slash)
			return 0;
		*slash = '\0';
		type = F_RDLCK;
	}
}

/* Each network namespace has bridges and tables of its own. */
static int lock_network(int fd, const char *option, const char *name, struct error *err)
{
	_cleanup_free_ char *what = NULL;
	struct stat ns;

	if (stat("/proc/self/ns/net", &ns) < 0)
		return error_errno(err, errno, "cannot lock %s %s: /proc/self/ns/net", option, name);
	what = fs_path("%s %" PRIuMAX, option, (uintmax_t)ns.st_ino);
	if (!what)
		return error_errno(err, ENOMEM, "cannot lock %s %s", option, name);
	return lock(fd, F_WRLCK, place_of(what, name), option, name, err);
}

/* The names of volumes are those of their devices, which all pools of a group share. --down touches none. */
static int lock_volumes(int fd, const struct options *o, struct error *err)
{
	const size_t prefix = strlen(OPTIONS_LVM);
	_cleanup_free_ char *group = NULL;

	if (o->down || strncmp(o->volumes, OPTIONS_LVM, prefix) != 0)
		return 0;
	group = strndup(o->volumes, prefix + strcspn(o->volumes + prefix, "/"));
	if (!group)
		return error_errno(err, ENOMEM, "cannot lock " VOLUMES " %s", o->volumes);
	return lock(fd, F_WRLCK, place_of(VOLUMES, group), VOLUMES, group, err);
}

int locks_take(const struct options *o, struct locks *ret, struct error *err)
{
	_cleanup_(locks_release) struct locks locks = LOCKS_NONE;

	if (lock_root("--root", o->root, &locks.root, err) < 0 || lock_root("--run", o->run, &locks.run, err) < 0 ||
	    open_file(NAMES_FILE, &locks.names, err) < 0 || lock_cgroup(locks.names, o->cgroup_parent, err) < 0 ||
	    lock_network(locks.names, "--bridge", o->bridge, err) < 0 ||
	    lock_network(locks.names, "--table", o->table, err) < 0 || lock_volumes(locks.names, o, err) < 0)
		return -1;
	*ret = locks;
	locks = LOCKS_NONE;
	return 0;
}

void locks_release(struct locks *locks)
{
	cleanup_closep(&locks->names);
	cleanup_closep(&locks->run);
	cleanup_closep(&locks->root);
	*locks = LOCKS_NONE;
}
