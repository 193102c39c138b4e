/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "image/layout.h"

#include "base/fs.h"
#include "image/oci.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#define LOCK_NAME ".lock"
#define PIN_PREFIX "pin-"
#define INDEX_MAX (16u << 20)
#define SPARE_NAME ".spare"
#define SPARE_SIZE (64 << 10)

static const char LAYOUT_FILE[] = "{\"imageLayoutVersion\":\"1.0.0\"}\n";
static const char EMPTY_INDEX[] =
	"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}\n";

void layout_release(struct layout *l)
{
	int *fds[] = { &l->root, &l->images, &l->blobs, &l->layers, &l->payloads };

	for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
		cleanup_closep(fds[i]);
		*fds[i] = -1;
	}
}

static int open_dir(int dirfd, const char *path, int *ret_fd, struct error *err)
{
	/* 0700: set-user-ID programs and secrets of images are not for the host's users. */
	if (fs_mkdir_all(dirfd, path, 0700, err) < 0)
		return -1;
	*ret_fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *ret_fd < 0 ? error_errno(err, errno, "cannot open %s", path) : 0;
}

static int make_file(int dirfd, const char *name, const char *content, size_t len, struct error *err)
{
	if (faccessat(dirfd, name, F_OK, 0) == 0)
		return 0;
	return fs_write_atomic(dirfd, name, content, len, 0644, err);
}

/* An empty file with blocks to its name, made while there is room. Where it cannot be made things are as they are. */
static void make_spare(const struct layout *l)
{
	_cleanup_close_ int fd = openat(l->images, SPARE_NAME, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

	if (fd >= 0 && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, SPARE_SIZE) < 0)
		unlinkat(l->images, SPARE_NAME, 0);
}

/* Images must be removable when there is no room for a second index: the spare file becomes the new one. */
static int write_spare(const struct layout *l, const char *text)
{
	_cleanup_close_ int fd = openat(l->images, SPARE_NAME, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	size_t len = strlen(text);

	/* A write that was cut off may have left something longer. */
	if (fd < 0 || fs_write_all(fd, text, len) < 0 || ftruncate(fd, (off_t)len) < 0 || fsync(fd) < 0 ||
	    renameat(l->images, SPARE_NAME, l->images, "index.json") < 0 || fsync(l->images) < 0)
		return -1;
	return 0;
}

static int layout_make_files(const struct layout *l, struct error *err)
{
	_cleanup_close_ int lock = layout_lock(l, true, err);

	if (lock < 0)
		return -1;
	if (make_file(l->images, "oci-layout", LAYOUT_FILE, sizeof LAYOUT_FILE - 1, err) < 0)
		return -1;
	if (make_file(l->images, "index.json", EMPTY_INDEX, sizeof EMPTY_INDEX - 1, err) < 0)
		return -1;
	make_spare(l);
	return 0;
}

int layout_open(const char *root, struct layout *ret, struct error *err)
{
	_cleanup_layout_ struct layout l = LAYOUT_INIT;

	if (open_dir(AT_FDCWD, root, &l.root, err) < 0 || open_dir(l.root, "images", &l.images, err) < 0 ||
	    open_dir(l.images, "blobs/sha256", &l.blobs, err) < 0 || open_dir(l.root, "layers", &l.layers, err) < 0 ||
	    open_dir(l.root, "payloads", &l.payloads, err) < 0 ||
	    layout_make_files(&l, err) < 0)
		return error_wrap(err, "cannot open the image store in %s", root);
	*ret = l;
	l = (struct layout)LAYOUT_INIT;
	return 0;
}

int layout_lock(const struct layout *l, bool exclusive, struct error *err)
{
	_cleanup_close_ int fd = openat(l->images, LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_errno(err, errno, "cannot open the lock of the image store");
	while (flock(fd, exclusive ? LOCK_EX : LOCK_SH) < 0)
		if (errno != EINTR)
			return error_errno(err, errno, "cannot lock the image store");
	return steal_fd(&fd);
}

bool layout_hex_valid(const char *hex)
{
	return strspn(hex, "0123456789abcdef") == 64 && hex[64] == '\0';
}

const char *layout_digest_hex(const char *digest)
{
	static const char prefix[] = "sha256:";

	if (strncmp(digest, prefix, sizeof prefix - 1) != 0 || !layout_hex_valid(digest + sizeof prefix - 1))
		return NULL;
	return digest + sizeof prefix - 1;
}

/* ---- stages ---- */

int layout_stage_open(const struct layout *l, struct layout_stage *ret, struct error *err)
{
	/* The lock keeps a sweep from seeing the directory before it is locked. */
	_cleanup_close_ int lock = layout_lock(l, false, err), fd = -1;
	struct layout_stage stage;
	uint64_t id;

	if (lock < 0)
		return -1;
	do {
		if (getrandom(&id, sizeof id, 0) != sizeof id)
			return error_errno(err, errno, "cannot make a random name");
		snprintf(stage.name, sizeof stage.name, FS_TMP_PREFIX "%016llx", (unsigned long long)id);
		if (mkdirat(l->images, stage.name, 0700) == 0)
			break;
		if (errno != EEXIST)
			return error_errno(err, errno, "cannot make a directory in the image store");
	} while (true);
	fd = openat(l->images, stage.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return error_errno(err, errno, "cannot lock a directory of the image store");
	stage.fd = steal_fd(&fd);
	*ret = stage;
	return 0;
}

int layout_stage_remove(const struct layout *l, struct layout_stage *stage, uint64_t *ret_freed, struct error *err)
{
	int r;

	if (ret_freed)
		*ret_freed = 0;
	if (stage->fd < 0)
		return 0;
	r = fs_remove_tree_counted(l->images, stage->name, ret_freed, err);
	close(steal_fd(&stage->fd));
	return r;
}

int layout_stage_pin(const struct layout_stage *stage, const char *hex, struct error *err)
{
	char name[sizeof PIN_PREFIX + 64];
	int fd;

	snprintf(name, sizeof name, PIN_PREFIX "%s", hex);
	fd = openat(stage->fd, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_errno(err, errno, "cannot pin %s in the image store", hex);
	close(fd);
	return 0;
}

static DIR *open_dir_stream(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir)
		cleanup_closep(&fd);
	return dir;
}

static bool is_tmp(const char *name)
{
	return strncmp(name, FS_TMP_PREFIX, sizeof FS_TMP_PREFIX - 1) == 0;
}

static int add_pins(const struct layout *l, const char *stage, json_t *set, struct error *err)
{
	_cleanup_closedir_ DIR *dir = open_dir_stream(l->images, stage);
	struct dirent *entry;

	if (!dir) /* removed meanwhile by its owner, or the temporary file of an index */
		return errno == ENOENT || errno == ENOTDIR ? 0 : error_errno(err, errno, "cannot read %s", stage);
	while ((entry = readdir(dir))) {
		const char *hex = entry->d_name + sizeof PIN_PREFIX - 1;

		if (strncmp(entry->d_name, PIN_PREFIX, sizeof PIN_PREFIX - 1) == 0 && layout_hex_valid(hex) &&
		    json_object_set_new(set, hex, json_true()) < 0)
			return error_errno(err, ENOMEM, "cannot read %s", stage);
	}
	return 0;
}

int layout_pins(const struct layout *l, json_t *set, struct error *err)
{
	_cleanup_closedir_ DIR *dir = open_dir_stream(l->images, ".");
	struct dirent *entry;

	if (!dir)
		return error_errno(err, errno, "cannot read the image store");
	while ((entry = readdir(dir)))
		if (is_tmp(entry->d_name) && add_pins(l, entry->d_name, set, err) < 0)
			return -1;
	return 0;
}

/* Finds a stage without an owner and becomes its owner, so that two sweeps do not meet. 1: found, 0: none. Removes
 * temporary files on the way: they are written under the exclusive lock, which the caller holds, so nobody's. */
static int find_dead(const struct layout *l, struct layout_stage *ret, struct error *err)
{
	_cleanup_closedir_ DIR *dir = open_dir_stream(l->images, ".");
	struct dirent *entry;

	if (!dir)
		return error_errno(err, errno, "cannot read the image store");
	while ((entry = readdir(dir))) {
		_cleanup_close_ int fd = -1;

		if (!is_tmp(entry->d_name) || strlen(entry->d_name) >= sizeof ret->name)
			continue;
		fd = openat(l->images, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0) {
			if (errno == ENOTDIR && unlinkat(l->images, entry->d_name, 0) < 0)
				return error_errno(err, errno, "cannot remove %s", entry->d_name);
			continue;
		}
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			continue;
		snprintf(ret->name, sizeof ret->name, "%s", entry->d_name);
		ret->fd = steal_fd(&fd);
		return 1;
	}
	return 0;
}

int layout_sweep(const struct layout *l, struct error *err)
{
	for (;;) {
		struct layout_stage dead = LAYOUT_STAGE_INIT;
		int lock = layout_lock(l, true, err), found;

		if (lock < 0)
			return -1;
		found = find_dead(l, &dead, err);
		close(lock);
		if (found <= 0)
			return found;
		if (layout_stage_remove(l, &dead, NULL, err) < 0)
			return error_wrap(err, "cannot sweep the image store");
	}
}

/* ---- documents ---- */

static int parse_json(const char *data, size_t len, const char *what, json_t **ret, struct error *err)
{
	json_error_t why;
	json_t *json = json_loadb(data, len, JSON_REJECT_DUPLICATES, &why);

	if (!json)
		return error_set(err, ERR_DATA_LOSS, "%s is not valid JSON: %s", what, why.text);
	*ret = json;
	return 0;
}

int layout_index_read(const struct layout *l, json_t **ret, struct error *err)
{
	_cleanup_free_ char *data = NULL;
	json_t *index, *manifests, *entry;
	size_t len, i;

	if (fs_read(l->images, "index.json", INDEX_MAX, &data, &len, err) < 0 ||
	    parse_json(data, len, "index.json", &index, err) < 0)
		return error_wrap(err, "cannot read the image index");
	manifests = json_object_get(index, "manifests");
	if (!json_is_array(manifests))
		goto damaged;
	json_array_foreach(manifests, i, entry) {
		const char *digest = json_string_value(json_object_get(entry, "digest"));

		if (!digest || !layout_digest_hex(digest))
			goto damaged;
	}
	*ret = index;
	return 0;
damaged:
	json_decref(index);
	return error_set(err, ERR_DATA_LOSS, "cannot read the image index: index.json is not an OCI image index");
}

int layout_index_write(const struct layout *l, const json_t *index, struct error *err)
{
	_cleanup_free_ char *text = json_dumps(index, JSON_COMPACT);
	_cleanup_error_ struct error failure = ERROR_INIT;

	if (!text)
		return error_errno(err, ENOMEM, "cannot write the image index");
	if (strlen(text) > INDEX_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED,
				 "the image index would be larger than %u bytes: delete images first", INDEX_MAX);
	if (fs_write_atomic(l->images, "index.json", text, strlen(text), 0644, &failure) == 0) {
		make_spare(l);
		return 0;
	}
	if (failure.code == ERR_RESOURCE_EXHAUSTED && write_spare(l, text) == 0)
		return 0;
	error_move(err, &failure);
	return -1;
}

int layout_read_json(const struct layout *l, const char *digest, json_t **ret, struct error *err)
{
	_cleanup_free_ char *data = NULL;
	const char *hex = layout_digest_hex(digest);
	size_t len;

	if (!hex)
		return error_set(err, ERR_DATA_LOSS, "\"%.80s\" is not a SHA-256 digest", digest);
	if (fs_read(l->blobs, hex, OCI_DOCUMENT_MAX, &data, &len, err) < 0)
		return -1;
	return parse_json(data, len, digest, ret, err);
}
