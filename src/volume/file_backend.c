/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/backend.h"

#include "base/fs.h"
#include "volume/copy.h"
#include "volume/ext4.h"
#include "volume/freeze.h"
#include "volume/locks.h"
#include "volume/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define SUFFIX ".img"
/* What helps where there is not enough room. */
#define SMALLER "choose a smaller size or free some space"
#define FREE "free some space"
#define MIB(bytes) ((unsigned long long)((bytes) >> 20))

struct file_backend {
	struct volume_backend base;
	char *directory, *worker;
	struct volume_locks locks;

	/* Held from the look at the room that is left to the moment it is promised. */
	pthread_mutex_t room_lock;
	uint64_t pending_bytes; /* what snapshots that are being made will take, promised until then */
};

static struct file_backend *self(struct volume_backend *b)
{
	return (struct file_backend *)b;
}

/* ---- names and paths ---- */

/* The paths of one operation on one volume. */
struct image {
	char *what; /* "volume data", for messages */
	char *path;
	char *tmp;
};

static void image_release(struct image *image)
{
	free(image->what);
	free(image->path);
	free(image->tmp);
}
#define _cleanup_image_ _cleanup_(image_release)

/* Callers pass names that were checked; a path must not depend on it. */
static int image_init(const struct file_backend *fb, const char *name, struct image *ret, struct error *err)
{
	if (!*name || *name == '.' || strchr(name, '/'))
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is no name for a volume", name);
	ret->what = volume_text(name);
	ret->path = fs_path("%s/%s" SUFFIX, fb->directory, name);
	ret->tmp = fs_path("%s/" FS_TMP_PREFIX "%s" SUFFIX, fb->directory, name);
	if (!ret->what || !ret->path || !ret->tmp)
		return error_errno(err, ENOMEM, "cannot use volume %s", name);
	return 0;
}

/* The volume that a file name stands for, as a copy; NULL if it stands for none. */
static char *volume_of(const char *file)
{
	size_t len = strlen(file), suffix = strlen(SUFFIX);

	if (file[0] == '.' || len <= suffix || strcmp(file + len - suffix, SUFFIX))
		return NULL;
	return strndup(file, len - suffix);
}

static char *file_host_path(struct volume_backend *b, const char *name)
{
	return fs_path("%s/%s" SUFFIX, self(b)->directory, name);
}

/* ---- room ---- */

/* Nothing is written to one once it is made. */
static bool is_snapshot(const char *name)
{
	return strchr(name, VOLUME_SNAPSHOT_MARK) != NULL;
}

static bool is_tmp(const char *file)
{
	return !strncmp(file, FS_TMP_PREFIX, strlen(FS_TMP_PREFIX));
}

/* What the sparse files in the directory may still come to fill. To be called with the lock. */
static int promised_bytes(const struct file_backend *fb, uint64_t *ret, struct error *err)
{
	_cleanup_closedir_ DIR *dir = opendir(fb->directory);
	uint64_t sum = 0, made = 0;
	struct dirent *entry;
	struct stat st;

	if (!dir)
		return error_errno(err, errno, "cannot open %s", fb->directory);
	while ((entry = readdir(dir))) {
		if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
			continue;
		if (is_snapshot(entry->d_name))
			made += is_tmp(entry->d_name) ? (uint64_t)st.st_blocks * 512 : 0;
		else if (st.st_size > st.st_blocks * 512)
			sum += (uint64_t)(st.st_size - st.st_blocks * 512);
	}
	*ret = sum + (fb->pending_bytes > made ? fb->pending_bytes - made : 0);
	return 0;
}

/* Bytes that are free, and what the volumes there may still come to fill. To be called with the lock. */
static int look_at_room(const struct file_backend *fb, uint64_t *ret_free, uint64_t *ret_promised, struct error *err)
{
	struct statvfs vfs;

	if (statvfs(fb->directory, &vfs) < 0)
		return error_errno(err, errno, "cannot see how much room is left in %s", fb->directory);
	*ret_free = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	return promised_bytes(fb, ret_promised, err);
}

static int check_room(const struct file_backend *fb, const char *what, uint64_t needed, const char *advice, struct error *err)
{
	uint64_t free_bytes, promised;

	if (look_at_room(fb, &free_bytes, &promised, err) < 0)
		return -1;
	free_bytes = free_bytes > promised ? free_bytes - promised : 0;
	if (needed <= free_bytes)
		return 0;
	return error_set(err, ERR_RESOURCE_EXHAUSTED,
			 "there is not enough room in %s for %s: it needs %llu MiB, and %llu MiB are free that no other "
			 "volume was promised; %s",
			 fb->directory, what, MIB(needed + (1 << 20) - 1), MIB(free_bytes), advice);
}

/* Others have taken what volumes were promised. */
static int file_room(struct volume_backend *b, struct volume_room *ret, struct error *err)
{
	uint64_t free_bytes, promised;
	int r;

	pthread_mutex_lock(&self(b)->room_lock);
	r = look_at_room(self(b), &free_bytes, &promised, err);
	pthread_mutex_unlock(&self(b)->room_lock);
	if (r < 0)
		return -1;
	*ret = (struct volume_room){ 0 };
	if (promised > free_bytes)
		snprintf(ret->warning, sizeof ret->warning,
			 "the volumes in %s were promised %llu MiB that they have not used yet, and %llu MiB are free there: what "
			 "they write may fail; free some space", self(b)->directory, MIB(promised), MIB(free_bytes));
	return 0;
}

/* Makes the open file `size` bytes long if there is room for the bytes that this adds. */
static int promise(struct file_backend *fb, const char *what, int fd, uint64_t size, struct error *err)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "cannot look at the file of %s", what);
	if ((uint64_t)st.st_size >= size)
		return 0;
	pthread_mutex_lock(&fb->room_lock);
	r = check_room(fb, what, size - (uint64_t)st.st_size, SMALLER, err);
	if (r == 0 && ftruncate(fd, (off_t)size) < 0)
		r = error_errno(err, errno, "cannot make the file of %s %llu MiB long", what, MIB(size));
	pthread_mutex_unlock(&fb->room_lock);
	return r;
}

/* Before anything is changed; promise() decides. */
static int expect_room(struct file_backend *fb, const char *what, const struct stat *st, uint64_t size,
		       struct error *err)
{
	int r = 0;

	pthread_mutex_lock(&fb->room_lock);
	if (size > (uint64_t)st->st_size)
		r = check_room(fb, what, size - (uint64_t)st->st_size, SMALLER, err);
	pthread_mutex_unlock(&fb->room_lock);
	return r;
}

/* Removes a file once no tool works on it; missing: success. */
static int remove_file(const char *what, const char *path, struct error *err)
{
	_cleanup_close_ int fd = -1;

	if (access(path, F_OK) < 0 && errno == ENOENT)
		return 0;
	if (ext4_open_locked(what, path, &fd, err) < 0)
		return -1;
	return unlink(path) < 0 ? error_errno(err, errno, "cannot remove %s", path) : 0;
}

/* ---- create ---- */

/* 1: the volume is there, whole, because its name is given last. 0: it is not. */
static int existing(const struct image *image, uint64_t size, struct error *err)
{
	struct stat st;

	if (stat(image->path, &st) < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "cannot look at %s", image->path);
	if ((uint64_t)st.st_size == size)
		return 1;
	return error_set(err, ERR_ALREADY_EXISTS,
			 "%s cannot be made: %s exists with another size; move it away or choose another name",
			 image->what, image->path);
}

/* An empty file under the temporary name, locked; -1. */
static int open_tmp(const struct image *image, struct error *err)
{
	_cleanup_close_ int fd = -1;

	if (remove_file(image->what, image->tmp, err) < 0)
		return -1;
	fd = open(image->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ext4_lock(fd) < 0)
		return error_errno(err, errno, "cannot make the file of %s", image->what);
	return steal_fd(&fd);
}

/* Gives the whole file its name. */
static int publish(const struct image *image, int fd, struct error *err)
{
	if (fsync(fd) < 0 || rename(image->tmp, image->path) < 0)
		return error_errno(err, errno, "cannot write the file of %s", image->what);
	return 0;
}

static int make_under_tmp(struct file_backend *fb, const struct image *image, uint64_t size, bool blank,
			  struct error *err)
{
	_cleanup_close_ int fd = open_tmp(image, err);

	if (fd < 0 || promise(fb, image->what, fd, size, err) < 0 ||
	    (!blank && ext4_make(image->what, image->tmp, fd, err) < 0))
		return -1;
	return publish(image, fd, err);
}

static int sync_directory(const struct file_backend *fb, struct error *err)
{
	int r = fs_sync_dir(AT_FDCWD, fb->directory);

	return r < 0 ? error_errno(err, -r, "cannot sync %s", fb->directory) : 0;
}

static int create_locked(struct file_backend *fb, const struct image *image, uint64_t size, bool blank, struct error *err)
{
	int r = existing(image, size, err);

	if (r < 0)
		return -1;
	if (r == 0 && make_under_tmp(fb, image, size, blank, err) < 0) {
		unlink(image->tmp);
		return -1;
	}
	return sync_directory(fb, err);
}

static int create(struct volume_backend *b, const char *name, uint64_t size_bytes, bool blank, struct error *err)
{
	_cleanup_image_ struct image image = { 0 };
	struct volume_lock lock = { .name = name };
	int r;

	if (size_bytes < VOLUME_SIZE_MIN || size_bytes > INT64_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "volume %s cannot have %llu bytes; the least is %llu MiB",
				 name,
				 (unsigned long long)size_bytes, MIB(VOLUME_SIZE_MIN));
	if (image_init(self(b), name, &image, err) < 0)
		return -1;
	volume_lock(&self(b)->locks, &lock);
	r = create_locked(self(b), &image, size_bytes, blank, err);
	volume_unlock(&self(b)->locks, &lock);
	return r;
}

static int file_create(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err)
{
	return create(b, name, size_bytes, false, err);
}

static int file_allocate(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err)
{
	return create(b, name, size_bytes, true, err);
}

static int file_finish(struct volume_backend *b, const char *name, struct error *err)
{
	_cleanup_image_ struct image image = { 0 };
	_cleanup_close_ int fd = -1;

	if (image_init(self(b), name, &image, err) < 0 || ext4_open_locked(image.what, image.path, &fd, err) < 0 ||
	    ext4_check(image.what, image.path, fd, true, err) < 0)
		return -1;
	return fsync(fd) < 0 ? error_errno(err, errno, "cannot write the file of %s", image.what) : 0;
}

/* ---- what is attached ---- */

static int refuse_attached(const struct image *image, struct error *err)
{
	_cleanup_loop_ struct loop loop = LOOP_INIT;

	if (loop_find(image->path, &loop, err) < 0)
		return error_wrap(err, "cannot use %s", image->what);
	if (loop.fd < 0)
		return 0;
	return error_set(err, ERR_FAILED_PRECONDITION, "%s is in use as %s; stop the workload that mounts it first",
			 image->what,
			 loop.device);
}

/* ---- grow ---- */

/* The file system is checked before the file changes. Cut off anywhere, the same steps lead on from there: the file is
 * long enough or not, and resize2fs does the rest. */
static int grow_locked(struct file_backend *fb, const struct image *image, uint64_t size, struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct ext4_state state;
	struct stat st;

	if (ext4_open_locked(image->what, image->path, &fd, err) < 0)
		return -1;
	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "cannot look at %s", image->path);
	if (ext4_read_state(image->what, image->path, &state, err) < 0)
		return -1;
	if ((uint64_t)st.st_size > size)
		return error_set(err, ERR_FAILED_PRECONDITION, "%s holds %llu MiB and cannot shrink to %llu MiB",
				 image->what,
				 MIB((uint64_t)st.st_size), MIB(size));
	if ((uint64_t)st.st_size == size && ext4_fills(&state, size))
		return 0;
	if (refuse_attached(image, err) < 0 || expect_room(fb, image->what, &st, size, err) < 0 ||
	    ext4_check(image->what, image->path, fd, true, err) < 0 ||
	    promise(fb, image->what, fd, size, err) < 0 || ext4_grow(image->what, image->path, fd, err) < 0)
		return -1;
	return fsync(fd) < 0 ? error_set(err, ERR_UNAVAILABLE, "cannot write the file of %s", image->what) : 0;
}

static int file_grow(struct volume_backend *b, const char *name, uint64_t size_bytes, struct error *err)
{
	_cleanup_image_ struct image image = { 0 };
	struct volume_lock lock = { .name = name };
	int r;

	if (size_bytes > INT64_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "volume %s cannot be that large", name);
	if (image_init(self(b), name, &image, err) < 0)
		return -1;
	volume_lock(&self(b)->locks, &lock);
	r = grow_locked(self(b), &image, size_bytes, err);
	volume_unlock(&self(b)->locks, &lock);
	return r;
}

/* ---- remove ---- */

static int remove_locked(struct file_backend *fb, const struct image *image, struct error *err)
{
	if (access(image->path, F_OK) == 0 && refuse_attached(image, err) < 0)
		return -1;
	if (remove_file(image->what, image->path, err) < 0 || remove_file(image->what, image->tmp, err) < 0)
		return -1;
	return sync_directory(fb, err);
}

static int file_remove(struct volume_backend *b, const char *name, struct error *err)
{
	_cleanup_image_ struct image image = { 0 };
	struct volume_lock lock = { .name = name };
	int r;

	if (image_init(self(b), name, &image, err) < 0)
		return -1;
	volume_lock(&self(b)->locks, &lock);
	r = remove_locked(self(b), &image, err);
	volume_unlock(&self(b)->locks, &lock);
	return r;
}

/* ---- attach ---- */

/* A device is there already when the mount of a former run is just going, or when a crash came between the attach and
 * the mount. */
static int reuse(const struct image *image, bool read_only, struct loop *found, struct error *err)
{
	if (found->read_only == read_only)
		return 0;
	return error_set(err, ERR_UNAVAILABLE, "%s is still attached %s as %s; try again when that use has ended",
			 image->what,
			 found->read_only ? "read-only" : "for writing", found->device);
}

static int make_device(const struct image *image, bool read_only, struct loop *ret, struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct ext4_state state;

	if (ext4_open_locked(image->what, image->path, &fd, err) < 0 ||
	    ext4_read_state(image->what, image->path, &state, err) < 0)
		return -1;
	/* A mount would replay the journal by itself, but not through a device that cannot be written; nor would it look at what is
	 * broken if only the journal tells of it. */
	if ((state.has_errors || state.needs_recovery) &&
	    ext4_check(image->what, image->path, fd, state.has_errors, err) < 0)
		return -1;
	return loop_attach(image->path, read_only, ret, err);
}

static int attach_locked(const struct image *image, bool read_only, struct loop *ret, struct error *err)
{
	if (loop_find(image->path, ret, err) < 0)
		return error_wrap(err, "cannot use %s", image->what);
	if (ret->fd >= 0)
		return reuse(image, read_only, ret, err);
	return make_device(image, read_only, ret, err);
}

static int file_attach(struct volume_backend *b, const char *name, bool read_only, char **ret_device, int *ret_fd,
		       struct error *err)
{
	_cleanup_image_ struct image image = { 0 };
	_cleanup_loop_ struct loop loop = LOOP_INIT;
	struct volume_lock lock = { .name = name };
	int r;

	if (image_init(self(b), name, &image, err) < 0)
		return -1;
	volume_lock(&self(b)->locks, &lock);
	r = attach_locked(&image, read_only, &loop, err);
	volume_unlock(&self(b)->locks, &lock);
	if (r < 0)
		return -1;
	*ret_device = steal_ptr(&loop.device);
	*ret_fd = steal_fd(&loop.fd);
	return 0;
}

/* ---- copy, restore ---- */

/* Room for a copy. What never comes to fill its holes, or takes the place of what was promised as much, needs the blocks that are
 * copied and no more: they are *ret_pending until it is made. */
static int copy_room(struct file_backend *fb, const struct image *from, int from_fd, const struct image *to, int to_fd,
		     uint64_t *ret_pending, struct error *err)
{
	struct stat st;
	int r;

	if (fstat(from_fd, &st) < 0)
		return error_errno(err, errno, "cannot look at the file of %s", from->what);
	if (!is_snapshot(to->tmp + strlen(fb->directory)))
		return promise(fb, to->what, to_fd, (uint64_t)st.st_size, err);
	pthread_mutex_lock(&fb->room_lock);
	r = check_room(fb, to->what, (uint64_t)st.st_blocks * 512, FREE, err);
	*ret_pending = r < 0 ? 0 : (uint64_t)st.st_blocks * 512;
	fb->pending_bytes += *ret_pending;
	pthread_mutex_unlock(&fb->room_lock);
	return r;
}

static void pending_end(struct file_backend *fb, uint64_t pending)
{
	pthread_mutex_lock(&fb->room_lock);
	fb->pending_bytes -= pending;
	pthread_mutex_unlock(&fb->room_lock);
}

/* *device keeps what is mounted attached until the copy is done. */
static int hold_still(const struct file_backend *fb, const struct image *image, bool held, struct loop *device,
		      struct freeze *freeze, struct error *err)
{
	if (loop_find(image->path, device, err) < 0)
		return error_wrap(err, "cannot use %s", image->what);
	if (device->fd < 0 || device->read_only)
		return 0;
	/* What a guest has flushed may be in the device's cache yet. */
	if (held)
		return fsync(device->fd) < 0 ? error_errno(err, errno, "cannot write the file of %s", image->what) : 0;
	return freeze_begin(fb->worker, image->what, device->device, freeze, err);
}

static int copy_still(const struct file_backend *fb, const struct image *from, int from_fd, int to_fd, bool held,
		      struct error *err)
{
	_cleanup_loop_ struct loop device = LOOP_INIT;
	struct freeze freeze = FREEZE_INIT;
	int r;

	if (hold_still(fb, from, held, &device, &freeze, err) < 0)
		return -1;
	r = copy_content(from->what, from_fd, to_fd, err);
	if (freeze_end(&freeze, from->what, r < 0 ? NULL : err) < 0)
		r = -1;
	return r;
}

/* size: what the copy is to grow to. Its target was promised as much. */
static int complete_copy(const struct image *to, int to_fd, uint64_t size, struct error *err)
{
	struct stat st;

	if (fstat(to_fd, &st) < 0)
		return error_errno(err, errno, "cannot look at the file of %s", to->what);
	if (size <= (uint64_t)st.st_size)
		return publish(to, to_fd, err);
	if (ext4_check(to->what, to->tmp, to_fd, true, err) < 0)
		return -1;
	if (ftruncate(to_fd, (off_t)size) < 0)
		return error_errno(err, errno, "cannot make the file of %s %llu MiB long", to->what, MIB(size));
	return ext4_grow(to->what, to->tmp, to_fd, err) < 0 ? -1 : publish(to, to_fd, err);
}

static int copy_under_tmp(struct file_backend *fb, const struct image *from, const struct image *to, uint64_t size, bool held,
			  struct error *err)
{
	_cleanup_close_ int from_fd = -1, to_fd = open_tmp(to, err);
	uint64_t pending = 0;
	int r;

	if (to_fd < 0 || ext4_open_locked(from->what, from->path, &from_fd, err) < 0 ||
	    copy_room(fb, from, from_fd, to, to_fd, &pending, err) < 0)
		return -1;
	r = copy_still(fb, from, from_fd, to_fd, held, err);
	if (r == 0)
		r = complete_copy(to, to_fd, size, err);
	pending_end(fb, pending);
	return r;
}

/* replace: a size that the target has or is to have; 0: there must be no target. */
static int copy_locked(struct file_backend *fb, const struct image *from, const struct image *to, uint64_t replace, bool held,
		       struct error *err)
{
	if (!replace && access(to->path, F_OK) == 0)
		return error_set(err, ERR_ALREADY_EXISTS, "%s cannot be made: %s exists; move it away or choose another name",
				 to->what, to->path);
	if (replace && refuse_attached(to, err) < 0)
		return -1;
	if (copy_under_tmp(fb, from, to, replace, held, err) < 0) {
		unlink(to->tmp);
		return -1;
	}
	return sync_directory(fb, err);
}

/* A temporary file that counts as a snapshot does, while the file that it will replace counts as a volume. */
static int tmp_beside_promise(const struct file_backend *fb, const char *name, struct image *image, struct error *err)
{
	free(image->tmp);
	image->tmp = fs_path("%s/" FS_TMP_PREFIX "%s%c" SUFFIX, fb->directory, name, VOLUME_SNAPSHOT_MARK);
	return image->tmp ? 0 : error_errno(err, ENOMEM, "cannot use %s", image->what);
}

/* Both names are locked in one order, so that two copies never wait for each other. */
static int copy(struct volume_backend *b, const char *from, const char *to, uint64_t replace, bool held, struct error *err)
{
	_cleanup_image_ struct image source = { 0 }, target = { 0 };
	bool ascending = strcmp(from, to) < 0;
	struct volume_lock first = { .name = ascending ? from : to }, second = { .name = ascending ? to : from };
	int r;

	if (image_init(self(b), from, &source, err) < 0 || image_init(self(b), to, &target, err) < 0 ||
	    (replace && tmp_beside_promise(self(b), to, &target, err) < 0))
		return -1;
	volume_lock(&self(b)->locks, &first);
	volume_lock(&self(b)->locks, &second);
	r = copy_locked(self(b), &source, &target, replace, held, err);
	volume_unlock(&self(b)->locks, &second);
	volume_unlock(&self(b)->locks, &first);
	return r;
}

static int file_copy(struct volume_backend *b, const char *from, const char *to, bool held, struct error *err)
{
	return copy(b, from, to, 0, held, err);
}

static int file_restore(struct volume_backend *b, const char *name, const char *snapshot, uint64_t size_bytes, struct error *err)
{
	return copy(b, snapshot, name, size_bytes, false, err);
}

/* ---- the storage itself ---- */

static int file_open(struct volume_backend *b, const char *name, bool writable, int *ret_fd, struct error *err)
{
	_cleanup_image_ struct image image = { 0 };
	int fd;

	if (image_init(self(b), name, &image, err) < 0)
		return -1;
	fd = open(image.path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "cannot open %s at %s", image.what, image.path);
	*ret_fd = fd;
	return 0;
}

static int file_usage(struct volume_backend *b, const char *name, uint64_t *ret_bytes, struct error *err)
{
	_cleanup_image_ struct image image = { 0 };
	struct stat st;

	if (image_init(self(b), name, &image, err) < 0)
		return -1;
	if (stat(image.path, &st) < 0)
		return error_errno(err, errno, "cannot look at %s at %s", image.what, image.path);
	*ret_bytes = (uint64_t)st.st_blocks * 512;
	return 0;
}

static bool file_has_errors(struct volume_backend *b, const char *name)
{
	_cleanup_free_ char *path = file_host_path(b, name);

	return path && ext4_has_errors(path);
}

static int file_exists(struct volume_backend *b, const char *name, struct error *err)
{
	_cleanup_image_ struct image image = { 0 };

	if (image_init(self(b), name, &image, err) < 0)
		return -1;
	return access(image.path, F_OK) == 0;
}

/* ---- enumerate ---- */

/* A temporary that no operation is working on was left by a crash. */
static int sweep(struct file_backend *fb, const char *file, struct error *err)
{
	_cleanup_free_ char *name = volume_of(file + strlen(FS_TMP_PREFIX));
	_cleanup_free_ char *path = fs_path("%s/%s", fb->directory, file);
	struct volume_lock lock = { .name = name ? name : file };
	int r;

	if (!path)
		return error_errno(err, ENOMEM, "cannot sweep %s", fb->directory);
	if (!volume_trylock(&fb->locks, &lock))
		return 0;
	r = remove_file("a volume that was not finished", path, err);
	volume_unlock(&fb->locks, &lock);
	return r;
}

static int file_enumerate(struct volume_backend *b, void (*fn)(const char *name, void *arg), void *arg,
			  struct error *err)
{
	struct file_backend *fb = self(b);
	_cleanup_closedir_ DIR *dir = opendir(fb->directory);
	struct dirent *entry;

	if (!dir)
		return error_errno(err, errno, "cannot open %s", fb->directory);
	while ((errno = 0, entry = readdir(dir))) {
		_cleanup_free_ char *name = NULL;

		if (is_tmp(entry->d_name)) {
			if (sweep(fb, entry->d_name, err) < 0)
				return -1;
			continue;
		}
		name = volume_of(entry->d_name);
		if (name)
			fn(name, arg);
	}
	return errno ? error_errno(err, errno, "cannot read %s", fb->directory) : 0;
}

/* ---- the backend ---- */

static void file_free(struct volume_backend *b)
{
	struct file_backend *fb = self(b);

	volume_locks_release(&fb->locks);
	pthread_mutex_destroy(&fb->room_lock);
	free(fb->directory);
	free(fb->worker);
	free(fb);
}

static const struct volume_backend_ops file_ops = {
	.name = "file",
	.create = file_create,
	.allocate = file_allocate,
	.finish = file_finish,
	.copy = file_copy,
	.restore = file_restore,
	.grow = file_grow,
	.remove = file_remove,
	.attach = file_attach,
	.open = file_open,
	.usage = file_usage,
	.room = file_room,
	.host_path = file_host_path,
	.has_errors = file_has_errors,
	.exists = file_exists,
	.enumerate = file_enumerate,
	.free = file_free,
};

int volume_file_backend_new(const char *directory, const char *worker, struct volume_backend **ret, struct error *err)
{
	struct file_backend *fb;

	if (fs_mkdir_all(AT_FDCWD, directory, 0700, err) < 0)
		return error_wrap(err, "cannot keep volumes");
	fb = calloc(1, sizeof *fb);
	if (!fb || !(fb->directory = strdup(directory)) || !(fb->worker = strdup(worker))) {
		if (fb)
			free(fb->directory);
		free(fb);
		return error_errno(err, ENOMEM, "cannot keep volumes in %s", directory);
	}
	fb->base.ops = &file_ops;
	volume_locks_init(&fb->locks);
	pthread_mutex_init(&fb->room_lock, NULL);
	*ret = &fb->base;
	return 0;
}
