/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/microvm/cloud.h"

#include "base/buf.h"
#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define IMAGE_PREFIX "vmlinuz-"
#define RELEASE_SUFFIX "-cloud-amd64"
#define INITRAMFS_PREFIX "initramfs-"

#define MODULES_MAX 64
#define MODULES_DEP_MAX (8u << 20)
#define MODULE_MAX (16u << 20)
#define INITRAMFS_MAX (128u << 20)

void cloud_kernel_release(struct cloud_kernel *kernel)
{
	free(kernel->image);
	free(kernel->modules);
	free(kernel->release);
	*kernel = (struct cloud_kernel){ 0 };
}

/* ---- which kernel ---- */

/* A merged /usr is usual, but an unpacked package has no link. */
static char *find_modules(const char *dir, const char *release)
{
	static const char *const places[] = { "lib/modules", "usr/lib/modules" };

	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		_cleanup_free_ char *modules = fs_path("%s/%s/%s", dir, places[i], release);
		_cleanup_free_ char *dependencies = fs_path("%s/modules.dep", modules ? modules : "");

		if (modules && dependencies && access(dependencies, R_OK) == 0)
			return steal_ptr(&modules);
	}
	return NULL;
}

static bool has_suffix(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);

	return n > m && !strcmp(s + n - m, suffix);
}

static void consider(const char *dir, const char *name, struct cloud_kernel *best)
{
	const char *release = name + strlen(IMAGE_PREFIX);
	char *modules;

	if (strncmp(name, IMAGE_PREFIX, strlen(IMAGE_PREFIX)) || !has_suffix(release, RELEASE_SUFFIX) ||
	    (best->release && strverscmp(release, best->release) <= 0))
		return;
	modules = find_modules(dir, release);
	if (!modules)
		return;
	cloud_kernel_release(best);
	*best = (struct cloud_kernel){ fs_path("%s/boot/%s", dir, name), modules, strdup(release) };
}

int cloud_kernel_find(const char *dir, struct cloud_kernel *ret, struct error *err)
{
	_cleanup_cloud_kernel_ struct cloud_kernel best = { 0 };
	_cleanup_free_ char *boot = fs_path("%s/boot", dir);
	_cleanup_closedir_ DIR *d = boot ? opendir(boot) : NULL;
	const struct dirent *entry;

	if (!d && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	if (!d)
		return error_errno(err, errno, "cannot look for a kernel in %s/boot", dir);
	while ((entry = readdir(d)))
		consider(dir, entry->d_name, &best);
	if (!best.modules)
		return 0;
	if (!best.image || !best.release)
		return error_errno(err, ENOMEM, "cannot look for a kernel in %s", boot);
	*ret = best;
	best = (struct cloud_kernel){ 0 };
	return 1;
}

/* ---- which modules, in which order ---- */

/* The transports first, which no module names as its need. Those that this kernel has built in are passed over. */
static const char *const wanted[] = {
	"virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio-rng", "virtio_balloon",
	"virtio_scsi", "sd_mod", "erofs", "ext4", "overlay", "vmw_vsock_virtio_transport", "fuse", "tun",
};

struct module_list {
	char *paths[MODULES_MAX]; /* below the directory of modules; owned */
	size_t n;
};

static void module_list_release(struct module_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->paths[i]);
}

static int add_module(struct module_list *list, const char *path, struct error *err)
{
	for (size_t i = 0; i < list->n; i++)
		if (!strcmp(list->paths[i], path))
			return 0;
	if (list->n == MODULES_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "they would be more than %d", MODULES_MAX);
	list->paths[list->n] = strdup(path);
	if (!list->paths[list->n])
		return error_errno(err, ENOMEM, "cannot list them");
	list->n++;
	return 0;
}

/* A line of modules.dep names a module and all that it needs: load them from the last to the first (modules.dep(5)). */
static int add_line(struct module_list *list, const char *line, size_t len, struct error *err)
{
	_cleanup_free_ char *copy = strndup(line, len);
	char *rest = copy, *paths[MODULES_MAX], *path;
	size_t n = 0;

	if (!copy)
		return error_errno(err, ENOMEM, "cannot list them");
	while ((path = strsep(&rest, ": ")))
		if (*path && n < MODULES_MAX)
			paths[n++] = path;
	while (n-- > 0)
		if (add_module(list, paths[n], err) < 0)
			return -1;
	return 0;
}

/* Where "/<name>.ko" stands, followed by one of the characters; NULL: nowhere. */
static const char *find_name(const char *text, const char *name, const char *followed_by)
{
	char file[64];
	int n = snprintf(file, sizeof file, "/%s.ko", name);

	for (const char *at = text; (at = strstr(at, file)); at++)
		if (at[n] && strchr(followed_by, at[n]))
			return at;
	return NULL;
}

static int want(struct module_list *list, const char *name, const char *dependencies, const char *builtin,
		struct error *err)
{
	const char *line = find_name(dependencies, name, ":");

	if (line) {
		while (line > dependencies && line[-1] != '\n')
			line--;
		return add_line(list, line, strcspn(line, "\n"), err);
	}
	if (find_name(builtin, name, "\n"))
		return 0;
	return error_set(err, ERR_FAILED_PRECONDITION, "there is no %s.ko", name);
}

static int list_modules(const struct cloud_kernel *kernel, struct module_list *ret, struct error *err)
{
	_cleanup_free_ char *dependencies_path = fs_path("%s/modules.dep", kernel->modules);
	_cleanup_free_ char *builtin_path = fs_path("%s/modules.builtin", kernel->modules);
	_cleanup_free_ char *dependencies = NULL, *builtin = NULL;

	if (!dependencies_path || !builtin_path)
		return error_errno(err, ENOMEM, "cannot list them");
	if (fs_read(AT_FDCWD, dependencies_path, MODULES_DEP_MAX, &dependencies, NULL, err) < 0 ||
	    fs_read(AT_FDCWD, builtin_path, MODULES_DEP_MAX, &builtin, NULL, err) < 0)
		return -1;
	for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
		if (want(ret, wanted[i], dependencies, builtin, err) < 0)
			return -1;
	return 0;
}

/* ---- the archive ---- */

/* Linux: Documentation/driver-api/early-userspace/buffer-format.rst. */
#define CPIO_ALIGNMENT 4
#define CPIO_TRAILER "TRAILER!!!"

static void pad(struct buf *out)
{
	while (!out->failed && out->len % CPIO_ALIGNMENT)
		buf_addc(out, '\0');
}

static void add_entry(struct buf *out, const char *name, mode_t mode, const void *content, size_t len)
{
	pad(out);
	buf_addf(out, "070701%08X%08X%08X%08X%08X%08X%08zX%08X%08X%08X%08X%08zX%08X", 0u, mode, 0u, 0u, 1u, 0u, len, 0u, 0u,
		 0u, 0u, strlen(name) + 1, 0u);
	buf_add(out, name, strlen(name) + 1);
	pad(out);
	buf_add(out, content, len);
}

static int add_module_files(struct buf *out, const struct cloud_kernel *kernel, const struct module_list *list,
			    struct error *err)
{
	_cleanup_buf_ struct buf order = BUF_INIT(MODULES_MAX * 64);

	for (size_t i = 0; i < list->n; i++) {
		_cleanup_free_ char *path = fs_path("%s/%s", kernel->modules, list->paths[i]), *content = NULL;
		const char *slash = strrchr(list->paths[i], '/');
		char name[128];
		size_t len;

		if (!path)
			return error_errno(err, ENOMEM, "cannot read them");
		if (fs_read(AT_FDCWD, path, MODULE_MAX, &content, &len, err) < 0)
			return -1;
		snprintf(name, sizeof name, "modules/%s", slash ? slash + 1 : list->paths[i]);
		add_entry(out, name, S_IFREG | 0644, content, len);
		buf_addf(&order, "/%s\n", name);
	}
	add_entry(out, "modules/order", S_IFREG | 0644, buf_data(&order), order.len);
	out->failed |= order.failed;
	return 0;
}

static int write_initramfs(const struct cloud_kernel *kernel, const char *base, int cachefd, const char *name,
			   struct error *err)
{
	_cleanup_(module_list_release) struct module_list modules = { .n = 0 };
	_cleanup_buf_ struct buf out = BUF_INIT(INITRAMFS_MAX);
	_cleanup_free_ char *content = NULL;
	size_t len;

	if (fs_read(AT_FDCWD, base, INITRAMFS_MAX, &content, &len, err) < 0)
		return -1;
	buf_add(&out, content, len);
	if (list_modules(kernel, &modules, err) < 0)
		return error_wrap(err, "modules of the kernel %s", kernel->release);
	add_entry(&out, "modules", S_IFDIR | 0755, "", 0);
	if (add_module_files(&out, kernel, &modules, err) < 0)
		return error_wrap(err, "modules of the kernel %s", kernel->release);
	add_entry(&out, CPIO_TRAILER, 0, "", 0);
	pad(&out);
	if (out.failed)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the initramfs for the kernel %s is too large", kernel->release);
	return fs_write_atomic(cachefd, name, buf_data(&out), out.len, 0644, err);
}

/* ---- the kept one ---- */

static uint64_t mix(uint64_t hash, uint64_t value)
{
	for (int i = 0; i < 8; i++, value >>= 8)
		hash = (hash ^ (value & 0xff)) * UINT64_C(0x100000001b3); /* FNV-1a */
	return hash;
}

/* A file that is replaced or written to has another inode or another time of change. */
static int mix_file(uint64_t *hash, const char *path, struct error *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return error_errno(err, errno, "cannot open %s", path);
	*hash = mix(mix(mix(*hash, st.st_ino), (uint64_t)st.st_size), (uint64_t)st.st_ctim.tv_sec);
	*hash = mix(*hash, (uint64_t)st.st_ctim.tv_nsec);
	return 0;
}

static char *make_name(const struct cloud_kernel *kernel, const char *base, struct error *err)
{
	_cleanup_free_ char *dependencies = fs_path("%s/modules.dep", kernel->modules);
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	char *name;

	if (mix_file(&hash, base, err) < 0 || (dependencies && mix_file(&hash, dependencies, err) < 0))
		return NULL;
	name = dependencies ? fs_path(INITRAMFS_PREFIX "%s-%016" PRIx64 ".cpio", kernel->release, hash) : NULL;
	if (!name)
		error_errno(err, ENOMEM, "cannot name the initramfs");
	return name;
}

static void remove_others(int cachefd, const char *name)
{
	int fd = openat(cachefd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *entry;

	if (!d && fd >= 0)
		close(fd);
	while (d && (entry = readdir(d)))
		if (strcmp(entry->d_name, name) && !strncmp(entry->d_name, INITRAMFS_PREFIX, strlen(INITRAMFS_PREFIX)))
			(void)unlinkat(cachefd, entry->d_name, 0);
}

int cloud_initramfs_ensure(const struct cloud_kernel *kernel, const char *base, const char *cache, char **ret_path,
			   struct error *err)
{
	_cleanup_close_ int cachefd = -1;
	_cleanup_free_ char *name = NULL, *path = NULL;

	if (fs_mkdir_all(AT_FDCWD, cache, 0711, err) < 0)
		return -1;
	cachefd = open(cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cachefd < 0 || flock(cachefd, LOCK_EX) < 0)
		return error_errno(err, errno, "cannot open %s", cache);
	name = make_name(kernel, base, err);
	if (!name)
		return -1;
	path = fs_path("%s/%s", cache, name);
	if (!path)
		return error_errno(err, ENOMEM, "cannot make the initramfs");
	if (faccessat(cachefd, name, R_OK, 0) < 0) {
		if (fs_sweep_tmp(cachefd, ".", err) < 0 || write_initramfs(kernel, base, cachefd, name, err) < 0)
			return -1;
		remove_others(cachefd, name);
	}
	*ret_path = steal_ptr(&path);
	return 0;
}
