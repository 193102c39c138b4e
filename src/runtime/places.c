/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/places.h"

#include "base/fs.h"
#include "runtime/holder.h"
#include "runtime/origin.h"
#include "shim/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>

int driver_common_init(struct driver_common *d, const struct driver_ops *ops, const struct driver_options *o,
		       struct error *err)
{
	d->base.ops = ops;
	d->leaving = eventfd(0, EFD_CLOEXEC);
	if (d->leaving < 0)
		return error_errno(err, errno, "cannot make the %s driver", ops->name);
	if (o->root[0] != '/' || o->run[0] != '/' || o->cgroup_parent[0] != '/')
		return error_set(err, ERR_INVALID_ARGUMENT, "root, run and cgroup parent must be absolute paths");
	d->root = strdup(o->root);
	d->run = strdup(o->run);
	d->cgroup_parent = strdup(o->cgroup_parent);
	d->log_max_bytes = o->log_max_bytes;
	d->log_max_files = o->log_max_files;
	if (!d->root || !d->run || !d->cgroup_parent)
		return error_errno(err, ENOMEM, "cannot make the %s driver", ops->name);
	return 0;
}

void driver_common_release(struct driver_common *d)
{
	free(d->root);
	free(d->run);
	free(d->cgroup_parent);
	cleanup_closep(&d->leaving);
}

void driver_common_leave(struct driver *driver)
{
	eventfd_write(((struct driver_common *)driver)->leaving, 1);
}

void places_release(struct places *p)
{
	free(p->run_dir);
	free(p->state_dir);
	free(p->cgroup);
	free(p->volumes_dir);
	free(p->upper);
	free(p->work);
	free(p->disk);
	free(p->runtime_root);
	free(p->runtime_state);
}

int places_init(struct places *p, const struct driver *driver, const char *name, struct error *err)
{
	const struct driver_common *d = (const struct driver_common *)driver;

	p->run_dir = fs_path("%s/workloads/%s", d->run, name);
	p->state_dir = fs_path("%s/workloads/%s", d->root, name);
	p->cgroup = fs_path("%s/%s", d->cgroup_parent, name);
	p->volumes_dir = fs_path("%s/workloads/%s/volumes", d->run, name);
	p->upper = fs_path("%s/workloads/%s/upper", d->root, name);
	p->work = fs_path("%s/workloads/%s/work", d->root, name);
	p->disk = fs_path("%s/workloads/%s/disk.img", d->root, name);
	p->runtime_root = fs_path("%s/runtime", d->run);
	p->runtime_state = fs_path("%s/runtime/%s", d->run, name);
	if (!p->run_dir || !p->state_dir || !p->cgroup || !p->volumes_dir || !p->upper || !p->work || !p->disk ||
	    !p->runtime_root || !p->runtime_state)
		return error_errno(err, ENOMEM, "cannot find the places of %s", name);
	return 0;
}

int places_prepare(struct places *p, struct driver *driver, const struct driver_plan *plan, struct error *err)
{
	const char *name = plan->spec->name;

	if (places_init(p, driver, name, err) < 0)
		return -1;
	return access(p->run_dir, F_OK) == 0 ? places_cleanup(driver, name, err) : 0;
}

int places_make_state(const struct places *p, const struct origin *origin, struct error *err)
{
	bool keep = origin_matches(p->state_dir, origin);

	if (!keep && (fs_remove_tree(AT_FDCWD, p->upper, err) < 0 || fs_remove_tree(AT_FDCWD, p->work, err) < 0 ||
		      fs_remove_tree(AT_FDCWD, p->disk, err) < 0))
		return -1;
	if (fs_mkdir_all(AT_FDCWD, p->state_dir, 0711, err) < 0)
		return -1;
	/* After the old layer is gone: a record never speaks of an older layer than it stands beside. */
	return origin_write(p->state_dir, origin, err);
}

int places_cleanup(struct driver *driver, const char *name, struct error *err)
{
	_cleanup_places_ struct places p = { 0 };
	_cleanup_close_ int dirfd = -1;

	if (places_init(&p, driver, name, err) < 0)
		return -1;
	dirfd = open(p.run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd >= 0 && holder_kill(dirfd, err) < 0)
		return error_wrap(err, "cannot clean up after %s", name);
	/* The runtime's state directory is removed as a file tree: it describes processes that are gone, and its own delete
	 * command would cost a process. */
	if (cgroup_kill(p.cgroup, HOLDER_KILL_TIMEOUT_MS, err) < 0 || cgroup_remove(p.cgroup, err) < 0 ||
	    fs_remove_tree(AT_FDCWD, p.runtime_state, err) < 0 || fs_remove_tree(AT_FDCWD, p.run_dir, err) < 0)
		return error_wrap(err, "cannot clean up after %s", name);
	return 0;
}

int places_remove(struct driver *driver, const char *name, struct error *err)
{
	_cleanup_places_ struct places p = { 0 };

	if (places_cleanup(driver, name, err) < 0 || places_init(&p, driver, name, err) < 0)
		return -1;
	if (fs_remove_tree(AT_FDCWD, p.state_dir, err) < 0)
		return error_wrap(err, "cannot remove %s", name);
	return 0;
}
