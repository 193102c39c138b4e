/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/backend.h"

#include "base/fs.h"
#include "volume/dm_events.h"
#include "volume/ext4.h"
#include "volume/locks.h"
#include "volume/lvm.h"
#include "volume/lvm_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define PREFIX "vol-"
/* What a restore has made and not yet put in the place of the volume. */
#define NEW_PREFIX "new-"

struct lvm_backend {
	struct volume_backend base;
	char *vg, *pool;
	struct volume_locks locks;
};

static struct lvm_backend *self(struct volume_backend *b)
{
	return (struct lvm_backend *)b;
}

/* ---- names ---- */

/* One operation on one volume. */
struct place {
	char *what;   /* "volume data", for messages */
	char *lv;     /* "vol-data" */
	char *path;   /* "vg/vol-data", as LVM's commands want it */
	char *device; /* "/dev/vg/vol-data" */
};

static void place_release(struct place *place)
{
	free(place->what);
	free(place->lv);
	free(place->path);
	free(place->device);
}
#define _cleanup_place_ _cleanup_(place_release)

static int place_init_as(const struct lvm_backend *lb, const char *prefix, const char *name, struct place *ret,
			 struct error *err)
{
	ret->what = volume_text(name);
	ret->lv = fs_path("%s%s", prefix, name);
	ret->path = fs_path("%s/%s%s", lb->vg, prefix, name);
	ret->device = fs_path("/dev/%s/%s%s", lb->vg, prefix, name);
	if (!ret->what || !ret->lv || !ret->path || !ret->device)
		return error_errno(err, ENOMEM, "cannot use volume %s", name);
	/* The device mapper's name is group and volume together, with each hyphen twice. */
	if (strlen(ret->path) >= LVM_NAME_MAX - 16)
		return error_set(err, ERR_INVALID_ARGUMENT, "%s has too long a name for LVM; choose a shorter one", ret->what);
	return 0;
}

/* Callers pass names that were checked; a command must not depend on it. */
static int place_init(const struct lvm_backend *lb, const char *name, struct place *ret, struct error *err)
{
	if (!*name || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-+") != strlen(name))
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is no name for a volume", name);
	return place_init_as(lb, PREFIX, name, ret, err);
}

static char *lvm_host_path(struct volume_backend *b, const char *name)
{
	return fs_path("/dev/%s/" PREFIX "%s", self(b)->vg, name);
}

/* ---- what is there ---- */

static int find(const struct lvm_backend *lb, const struct place *place, struct lvm_volume *ret, struct error *err)
{
	if (lvm_find(lb->vg, place->lv, ret, err) < 0)
		return error_wrap(err, "cannot look for %s", place->what);
	if (ret->exists && !ret->ours)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "%s exists but was not made by this daemon (it lacks the tag " LVM_TAG "); rename it or choose "
				 "another name for %s",
				 place->device, place->what);
	return 0;
}

/* The same for one that must be there. */
static int find_existing(const struct lvm_backend *lb, const struct place *place, struct lvm_volume *ret, struct error *err)
{
	if (find(lb, place, ret, err) < 0)
		return -1;
	if (!ret->exists)
		return error_set(err, ERR_DATA_LOSS, "%s is not in volume group %s any more", place->what, lb->vg);
	return 0;
}

/* What was open for writing udev looks at once more, and has it open meanwhile. */
static int refuse_used(const struct lvm_backend *lb, const struct place *place, struct lvm_volume *v, struct error *err)
{
	const char *const settle[] = { "udevadm", "settle", "--timeout=10", NULL };

	if (v->in_use) {
		(void)lvm_run(settle, NULL);
		if (find_existing(lb, place, v, err) < 0)
			return -1;
	}
	if (!v->in_use)
		return 0;
	return error_set(err, ERR_FAILED_PRECONDITION, "%s is in use as %s; stop the workload that uses it first", place->what,
			 place->device);
}

/* A tool of a daemon that was killed may be working on the file system yet, and holds the lock (ext4.h). It is waited for before
 * anybody looks at the device, which it has open. Opened for reading: what was open for writing udev looks at once more. */
static int await_tools(const struct place *place, struct error *err)
{
	_cleanup_close_ int fd = open(place->device, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "cannot open %s", place->device);
	return ext4_lock(fd) < 0 ? error_errno(err, errno, "cannot lock %s", place->device) : 0;
}

/* After a reboot it depends on the host's settings whether its volumes are active. */
static int activate(const struct place *place, struct error *err)
{
	const char *const argv[] = { "lvchange", "-y", "--activate", "y", "--ignoreactivationskip", place->path, NULL };

	return access(place->device, F_OK) == 0 ? 0 : lvm_run(argv, err);
}

/* ---- room ---- */

static int check_room(const struct lvm_backend *lb, const char *what, struct error *err)
{
	return lvm_pool_check_room(lb->vg, lb->pool, what, err);
}

static int lvm_room(struct volume_backend *b, struct volume_room *ret, struct error *err)
{
	struct lvm_pool pool;

	if (lvm_pool_look(self(b)->vg, self(b)->pool, &pool, err) < 0)
		return -1;
	ret->pool_total_bytes = pool.size_bytes;
	ret->pool_used_bytes = (uint64_t)((double)pool.size_bytes * pool.data_percent / 100);
	lvm_pool_warning(self(b)->vg, self(b)->pool, &pool, ret->warning, sizeof ret->warning);
	return 0;
}

/* ---- create ---- */

static int make_thin(const struct lvm_backend *lb, const struct place *place, uint64_t size, struct error *err)
{
	_cleanup_free_ char *bytes = fs_path("%llub", (unsigned long long)size);
	const char *const argv[] = { "lvcreate", "-y", "--wipesignatures", "n", "--addtag", LVM_TAG, "--virtualsize", bytes,
				     "--thinpool", lb->pool, "--name", place->lv, lb->vg, NULL };

	if (!bytes)
		return error_errno(err, ENOMEM, "cannot make %s", place->what);
	return lvm_run(argv, err);
}

static int create_locked(const struct lvm_backend *lb, const struct place *place, uint64_t size, bool blank,
			 struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct lvm_volume v;

	if (find(lb, place, &v, err) < 0)
		return -1;
	if (v.exists)
		return error_set(err, ERR_ALREADY_EXISTS, "%s exists already; choose another name for %s", place->device,
				 place->what);
	if (check_room(lb, place->what, err) < 0 || make_thin(lb, place, size, err) < 0)
		return -1;
	if (blank)
		return 0;
	if (ext4_open_locked(place->what, place->device, &fd, err) < 0)
		return -1;
	return ext4_make(place->what, place->device, fd, err);
}

static int create(struct volume_backend *b, const char *name, uint64_t size_bytes, bool blank, struct error *err)
{
	_cleanup_place_ struct place place = { 0 };
	struct volume_lock lock = { .name = name };
	int r;

	if (size_bytes < VOLUME_SIZE_MIN || size_bytes > INT64_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "volume %s cannot have that size", name);
	if (place_init(self(b), name, &place, err) < 0)
		return -1;
	volume_lock(&self(b)->locks, &lock);
	r = create_locked(self(b), &place, size_bytes, blank, err);
	volume_unlock(&self(b)->locks, &lock);
	return r;
}

static int lvm_create(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err)
{
	return create(b, name, size_bytes, false, err);
}

static int lvm_allocate(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err)
{
	return create(b, name, size_bytes, true, err);
}

/* The device is larger than what was written to it where that is no multiple of the group's extents. */
static int lvm_finish(struct volume_backend *b, const char *name, struct error *err)
{
	_cleanup_place_ struct place place = { 0 };
	_cleanup_close_ int fd = -1;

	if (place_init(self(b), name, &place, err) < 0 || ext4_open_locked(place.what, place.device, &fd, err) < 0 ||
	    ext4_check(place.what, place.device, fd, true, err) < 0 ||
	    ext4_grow(place.what, place.device, fd, err) < 0)
		return -1;
	return fsync(fd) < 0 ? error_errno(err, errno, "cannot write %s", place.what) : 0;
}

/* ---- grow ---- */

static int extend(const struct place *place, uint64_t size, struct error *err)
{
	_cleanup_free_ char *bytes = fs_path("%llub", (unsigned long long)size);
	const char *const argv[] = { "lvextend", "-y", "--size", bytes, place->path, NULL };

	return bytes ? lvm_run(argv, err) : error_errno(err, ENOMEM, "cannot grow %s", place->what);
}

/* Makes the device at least that large, and its file system as large as the device. */
static int grow_device(const struct place *place, uint64_t device_bytes, uint64_t size, struct error *err)
{
	_cleanup_close_ int fd = -1;

	if (ext4_open_locked(place->what, place->device, &fd, err) < 0 ||
	    ext4_check(place->what, place->device, fd, true, err) < 0)
		return -1;
	if (device_bytes < size && extend(place, size, err) < 0)
		return -1;
	return ext4_grow(place->what, place->device, fd, err);
}

/* The device may be larger than what was asked for: LVM counts in extents. Cut off anywhere, the same steps lead on. */
static int grow_locked(const struct lvm_backend *lb, const struct place *place, uint64_t size, struct error *err)
{
	struct ext4_state state;
	struct lvm_volume v;

	if (await_tools(place, err) < 0 || find_existing(lb, place, &v, err) < 0 || activate(place, err) < 0 ||
	    ext4_read_state(place->what, place->device, &state, err) < 0)
		return -1;
	if (v.size_bytes >= size && ext4_fills(&state, v.size_bytes))
		return 0;
	if (refuse_used(lb, place, &v, err) < 0 || check_room(lb, place->what, err) < 0)
		return -1;
	return grow_device(place, v.size_bytes, size, err);
}

static int lvm_grow(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err)
{
	_cleanup_place_ struct place place = { 0 };
	struct volume_lock lock = { .name = name };
	int r;

	if (place_init(self(b), name, &place, err) < 0)
		return -1;
	volume_lock(&self(b)->locks, &lock);
	r = grow_locked(self(b), &place, size_bytes, err);
	volume_unlock(&self(b)->locks, &lock);
	return r;
}

/* ---- remove ---- */

/* Missing: success. */
static int remove_place(const struct lvm_backend *lb, const struct place *place, struct error *err)
{
	const char *const argv[] = { "lvremove", "-y", place->path, NULL };
	struct lvm_volume v;

	if (await_tools(place, err) < 0 || find(lb, place, &v, err) < 0)
		return -1;
	if (!v.exists)
		return 0;
	return refuse_used(lb, place, &v, err) < 0 ? -1 : lvm_run(argv, err);
}

static int lvm_remove(struct volume_backend *b, const char *name, struct error *err)
{
	_cleanup_place_ struct place place = { 0 }, fresh = { 0 };
	struct volume_lock lock = { .name = name };
	int r;

	if (place_init(self(b), name, &place, err) < 0 || place_init_as(self(b), NEW_PREFIX, name, &fresh, err) < 0)
		return -1;
	volume_lock(&self(b)->locks, &lock);
	r = remove_place(self(b), &place, err) < 0 ? -1 : remove_place(self(b), &fresh, err);
	volume_unlock(&self(b)->locks, &lock);
	return r;
}

/* ---- copy, restore ---- */

/* LVM freezes what is mounted for the moment that it takes. The copy is a device like any other, active at once and after
 * a reboot. */
static int take_snapshot(const struct lvm_backend *lb, const struct place *from, const struct place *to, struct error *err)
{
	const char *const argv[] = { "lvcreate", "-y", "--snapshot", "--setactivationskip", "n", "--addtag", LVM_TAG,
				     "--name", to->lv, from->path, NULL };
	struct lvm_volume v;

	if (find_existing(lb, from, &v, err) < 0 || check_room(lb, to->what, err) < 0)
		return -1;
	return lvm_run(argv, err);
}

static int copy_locked(const struct lvm_backend *lb, const struct place *from, const struct place *to, struct error *err)
{
	struct lvm_volume v;

	if (find(lb, to, &v, err) < 0)
		return -1;
	if (v.exists)
		return error_set(err, ERR_ALREADY_EXISTS, "%s exists already; choose another name for %s", to->device, to->what);
	return take_snapshot(lb, from, to, err);
}

static int lvm_copy(struct volume_backend *b, const char *from, const char *to, bool held, struct error *err)
{
	_cleanup_place_ struct place source = { 0 }, target = { 0 };
	struct volume_lock lock = { .name = to };
	int r;

	if (place_init(self(b), from, &source, err) < 0 || place_init(self(b), to, &target, err) < 0)
		return -1;
	volume_lock(&self(b)->locks, &lock);
	r = copy_locked(self(b), &source, &target, err);
	volume_unlock(&self(b)->locks, &lock);
	return r;
}

static int rename_place(const struct lvm_backend *lb, const struct place *from, const struct place *to, struct error *err)
{
	const char *const argv[] = { "lvrename", "-y", lb->vg, from->lv, to->lv, NULL };

	return lvm_run(argv, err);
}

/* A restore that was cut off: if the volume is gone, what it shall be takes its place. *ret is what is there then. */
static int end_restore(const struct lvm_backend *lb, const struct place *place, const struct place *fresh, struct lvm_volume *ret,
		       struct error *err)
{
	if (find(lb, place, ret, err) < 0)
		return -1;
	if (ret->exists)
		return remove_place(lb, fresh, err);
	return find_existing(lb, fresh, ret, err) < 0 ? -1 : rename_place(lb, fresh, place, err);
}

static int make_fresh(const struct lvm_backend *lb, const struct place *snapshot, const struct place *fresh, uint64_t size,
		      struct error *err)
{
	struct lvm_volume v;

	if (take_snapshot(lb, snapshot, fresh, err) < 0 || find_existing(lb, fresh, &v, err) < 0)
		return -1;
	return v.size_bytes < size ? grow_device(fresh, v.size_bytes, size, err) : 0;
}

/* The volume is there under its name, or else what it shall be is there under the other one: end_restore() leads on from
 * either. */
static int restore_locked(const struct lvm_backend *lb, const struct place *place, const struct place *snapshot,
			  const struct place *fresh, uint64_t size, struct error *err)
{
	struct lvm_volume v;

	if (end_restore(lb, place, fresh, &v, err) < 0 || refuse_used(lb, place, &v, err) < 0)
		return -1;
	if (make_fresh(lb, snapshot, fresh, size, err) == 0 && remove_place(lb, place, err) == 0)
		return rename_place(lb, fresh, place, err);
	/* A command that fails may have done its work all the same: then only the other one is left. */
	if (find(lb, place, &v, NULL) == 0 && v.exists)
		(void)remove_place(lb, fresh, NULL);
	return -1;
}

static int lvm_restore(struct volume_backend *b, const char *name, const char *snapshot, uint64_t size_bytes, struct error *err)
{
	_cleanup_place_ struct place place = { 0 }, source = { 0 }, fresh = { 0 };
	struct volume_lock lock = { .name = name };
	int r;

	if (place_init(self(b), name, &place, err) < 0 || place_init(self(b), snapshot, &source, err) < 0 ||
	    place_init_as(self(b), NEW_PREFIX, name, &fresh, err) < 0)
		return -1;
	volume_lock(&self(b)->locks, &lock);
	r = restore_locked(self(b), &place, &source, &fresh, size_bytes, err);
	volume_unlock(&self(b)->locks, &lock);
	return r;
}

/* ---- attach ---- */

static int check_before_mount(const struct place *place, struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct ext4_state state;

	if (ext4_read_state(place->what, place->device, &state, err) < 0)
		return -1;
	/* A mount would replay the journal by itself, but not one that must not write; nor would it look at what is broken if only
	 * the journal tells of it. */
	if (!state.has_errors && !state.needs_recovery)
		return 0;
	if (ext4_open_locked(place->what, place->device, &fd, err) < 0)
		return -1;
	return ext4_check(place->what, place->device, fd, state.has_errors, err);
}

static int attach_locked(const struct lvm_backend *lb, const struct place *place, bool read_only, struct error *err)
{
	struct lvm_volume v;

	if (await_tools(place, err) < 0 || find_existing(lb, place, &v, err) < 0 ||
	    (!read_only && check_room(lb, place->what, err) < 0) || activate(place, err) < 0)
		return -1;
	return v.in_use ? 0 : check_before_mount(place, err);
}

static int lvm_attach(struct volume_backend *b, const char *name, bool read_only, char **ret_device, int *ret_fd,
		      struct error *err)
{
	_cleanup_place_ struct place place = { 0 };
	struct volume_lock lock = { .name = name };
	_cleanup_close_ int fd = -1;
	int r;

	if (place_init(self(b), name, &place, err) < 0)
		return -1;
	volume_lock(&self(b)->locks, &lock);
	r = attach_locked(self(b), &place, read_only, err);
	volume_unlock(&self(b)->locks, &lock);
	if (r < 0)
		return -1;
	fd = open(place.device, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "cannot open %s", place.device);
	*ret_device = steal_ptr(&place.device);
	*ret_fd = steal_fd(&fd);
	return 0;
}

/* ---- the storage itself ---- */

static int lvm_open(struct volume_backend *b, const char *name, bool writable, int *ret_fd, struct error *err)
{
	_cleanup_place_ struct place place = { 0 };
	int fd;

	if (place_init(self(b), name, &place, err) < 0 || activate(&place, err) < 0)
		return -1;
	fd = open(place.device, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "cannot open %s", place.device);
	*ret_fd = fd;
	return 0;
}

static int lvm_usage(struct volume_backend *b, const char *name, uint64_t *ret_bytes, struct error *err)
{
	_cleanup_place_ struct place place = { 0 };
	struct lvm_volume v;

	if (place_init(self(b), name, &place, err) < 0 || find_existing(self(b), &place, &v, err) < 0)
		return -1;
	*ret_bytes = (uint64_t)((double)v.size_bytes * v.data_percent / 100);
	return 0;
}

static bool lvm_has_errors(struct volume_backend *b, const char *name)
{
	_cleanup_free_ char *device = lvm_host_path(b, name);

	/* Its device is not there while it is not active. */
	return device && access(device, F_OK) == 0 && ext4_has_errors(device);
}

static int lvm_exists(struct volume_backend *b, const char *name, struct error *err)
{
	_cleanup_place_ struct place place = { 0 };
	struct lvm_volume v;

	if (place_init(self(b), name, &place, err) < 0 || lvm_find(self(b)->vg, place.lv, &v, err) < 0)
		return -1;
	return v.exists;
}

/* ---- enumerate ---- */

struct enumeration {
	struct lvm_backend *lb;
	void (*fn)(const char *name, void *arg);
	void *arg;
};

static int lead_on(struct lvm_backend *lb, const char *name, struct error *err)
{
	_cleanup_place_ struct place place = { 0 }, fresh = { 0 };
	struct lvm_volume v;

	if (place_init(lb, name, &place, err) < 0 || place_init_as(lb, NEW_PREFIX, name, &fresh, err) < 0)
		return -1;
	return end_restore(lb, &place, &fresh, &v, err);
}

static int visit(const struct lvm_volume *v, void *arg, struct error *err)
{
	const struct enumeration *e = arg;
	const char *name = NULL;

	if (!strncmp(v->name, NEW_PREFIX, strlen(NEW_PREFIX))) {
		name = v->name + strlen(NEW_PREFIX);
		if (lead_on(e->lb, name, err) < 0)
			return -1;
	} else if (!strncmp(v->name, PREFIX, strlen(PREFIX))) {
		name = v->name + strlen(PREFIX);
	}
	if (name)
		e->fn(name, e->arg);
	return 0;
}

static int lvm_enumerate(struct volume_backend *b, void (*fn)(const char *name, void *arg), void *arg, struct error *err)
{
	struct enumeration e = { self(b), fn, arg };

	return lvm_each(self(b)->vg, visit, &e, err);
}

/* ---- the backend ---- */

static void lvm_free(struct volume_backend *b)
{
	struct lvm_backend *lb = self(b);

	volume_locks_release(&lb->locks);
	free(lb->vg);
	free(lb->pool);
	free(lb);
}

static const struct volume_backend_ops lvm_ops = {
	.name = "lvm",
	.create = lvm_create,
	.allocate = lvm_allocate,
	.finish = lvm_finish,
	.copy = lvm_copy,
	.restore = lvm_restore,
	.grow = lvm_grow,
	.remove = lvm_remove,
	.attach = lvm_attach,
	.open = lvm_open,
	.usage = lvm_usage,
	.room = lvm_room,
	.events_open = dm_events_open,
	.events_arm = dm_events_arm,
	.host_path = lvm_host_path,
	.has_errors = lvm_has_errors,
	.exists = lvm_exists,
	.enumerate = lvm_enumerate,
	.free = lvm_free,
};

static int expect_pool(const struct lvm_backend *lb, struct error *err)
{
	struct lvm_pool found;

	if (lvm_pool_look(lb->vg, lb->pool, &found, err) < 0)
		return -1;
	if (found.zeroes)
		return 0;
	return error_set(err, ERR_FAILED_PRECONDITION,
			 "thin pool %s/%s does not zero what it gives to a volume, which would read what another one had written there; "
			 "change that with lvchange --zero y %s/%s", lb->vg, lb->pool, lb->vg, lb->pool);
}

int volume_lvm_backend_new(const char *pool, struct volume_backend **ret, struct error *err)
{
	const char *slash = strchr(pool, '/');
	struct lvm_backend *lb = calloc(1, sizeof *lb);

	if (!lb)
		return error_errno(err, ENOMEM, "cannot keep volumes in %s", pool);
	lb->base.ops = &lvm_ops;
	volume_locks_init(&lb->locks);
	lb->vg = slash ? strndup(pool, (size_t)(slash - pool)) : NULL;
	lb->pool = slash ? strdup(slash + 1) : NULL;
	if (!lb->vg || !lb->pool || expect_pool(lb, err) < 0) {
		lvm_free(&lb->base);
		return -1;
	}
	*ret = &lb->base;
	return 0;
}
