/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/container/user.h"

#include "base/buf.h"
#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#define FILE_MAX (1u << 20)
#define NAME_MAX_LEN 256

void user_release(struct user *u)
{
	free(u->home);
	u->home = NULL;
}

static bool is_whiteout(int rootfd, const char *path)
{
	struct stat st;

	return fstatat(rootfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0);
}

static bool is_opaque(int rootfd, const char *path)
{
	_cleanup_close_ int fd = fs_open_in(rootfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	char value[2];

	return fd >= 0 && fgetxattr(fd, "trusted.overlay.opaque", value, sizeof value) == 1 && value[0] == 'y';
}

/* In the root of a process that runs a link may lead into its /proc or /sys. The kernel makes those files as they are read, and
 * judges the reader: for this one it would do what it refuses the container (/proc/kmsg is read once by anybody). */
static bool is_of_the_kernel(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return true;
	switch (fs.f_type) {
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
	case SECURITYFS_MAGIC:
		return true;
	default:
		return false;
	}
}

/* found: an O_PATH descriptor. What is no regular file is not even opened: of a device that a container made that is an act by
 * itself (it arms a watchdog), from which no device cgroup keeps us; and a FIFO must not hold us. */
static char *read_regular(int found)
{
	_cleanup_buf_ struct buf text = BUF_INIT(FILE_MAX);
	_cleanup_close_ int fd = -1;
	char name[32];
	struct stat st;
	uint8_t *to;
	ssize_t n;

	if (fstat(found, &st) < 0 || !S_ISREG(st.st_mode) || is_of_the_kernel(found))
		return NULL;
	snprintf(name, sizeof name, "/proc/self/fd/%d", found);
	fd = open(name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	do {
		to = buf_reserve(&text, 4096);
		n = to ? read(fd, to, 4096) : -1;
		if (n > 0)
			buf_commit(&text, (size_t)n);
	} while (n > 0);
	return n < 0 ? NULL : buf_steal(&text);
}

char *user_overlay_read(const char *const *roots, size_t n_roots, const char *path)
{
	_cleanup_free_ char *dir = strndup(path, strcspn(path, "/"));

	for (size_t i = 0; dir && i < n_roots; i++) {
		_cleanup_close_ int root = open(roots[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
		_cleanup_close_ int found = -1;

		if (root < 0)
			continue;
		found = fs_open_in(root, path, O_PATH, 0);
		if (found >= 0 && !is_whiteout(root, path))
			return read_regular(found);
		if (is_whiteout(root, path) || is_whiteout(root, dir) || is_opaque(root, dir))
			break;
	}
	return NULL;
}

static int parse_id(const char *text, uint32_t *ret)
{
	char *end;
	unsigned long n;

	if (*text < '0' || *text > '9')
		return -1;
	errno = 0;
	n = strtoul(text, &end, 10);
	/* The last value is "no change" to the kernel. */
	if (errno || *end || n >= UINT32_MAX)
		return -1;
	*ret = (uint32_t)n;
	return 0;
}

/* Cuts the next line out of the text and splits it at colons. Returns the number of fields, 0 for a line without any, -1
 * at the end. */
static int next_line(char **text, char **fields, int max)
{
	char *line = *text, *end;
	int n = 0;

	if (!line || !*line)
		return -1;
	end = strchr(line, '\n');
	if (end)
		*end = '\0';
	*text = end ? end + 1 : NULL;
	if (*line == '#' || !*line)
		return 0;
	while (n < max && line)
		fields[n++] = strsep(&line, ":");
	return n;
}

static bool lists_member(char *members, const char *name)
{
	char *member;

	while ((member = strsep(&members, ",")))
		if (!strcmp(member, name))
			return true;
	return false;
}

struct lookup {
	const char *const *roots;
	size_t n_roots;
	char name[NAME_MAX_LEN]; /* of the user, once it is known; "" else */
};

/* Finds the user by name, or by uid when `name` is NULL. Whether it is there. */
static bool find_user(struct lookup *l, const char *name, uint32_t uid, struct user *u)
{
	_cleanup_free_ char *text = user_overlay_read(l->roots, l->n_roots, "etc/passwd");
	char *rest = text, *f[7];
	int n;

	while ((n = next_line(&rest, f, 7)) >= 0) {
		uint32_t line_uid, line_gid;

		if (n < 4 || parse_id(f[2], &line_uid) < 0 || parse_id(f[3], &line_gid) < 0)
			continue;
		if (name ? strcmp(f[0], name) != 0 : line_uid != uid)
			continue;
		u->uid = line_uid;
		u->gid = line_gid;
		snprintf(l->name, sizeof l->name, "%s", f[0]);
		free(u->home);
		u->home = n > 5 && f[5][0] == '/' ? strdup(f[5]) : NULL;
		return true;
	}
	return false;
}

static bool find_group(struct lookup *l, const char *name, uint32_t *ret_gid)
{
	_cleanup_free_ char *text = user_overlay_read(l->roots, l->n_roots, "etc/group");
	char *rest = text, *f[4];
	int n;

	while ((n = next_line(&rest, f, 4)) >= 0)
		if (n >= 3 && !strcmp(f[0], name) && parse_id(f[2], ret_gid) == 0)
			return true;
	return false;
}

static void find_supplementary(struct lookup *l, struct user *u)
{
	_cleanup_free_ char *text = user_overlay_read(l->roots, l->n_roots, "etc/group");
	char *rest = text, *f[4];
	uint32_t gid;
	int n;

	while (u->n_groups < USER_GROUPS_MAX && (n = next_line(&rest, f, 4)) >= 0)
		if (n == 4 && parse_id(f[2], &gid) == 0 && gid != u->gid && lists_member(f[3], l->name))
			u->groups[u->n_groups++] = gid;
}

static int resolve(struct lookup *l, const char *name, const char *group, struct user *u, struct error *err)
{
	if (parse_id(name, &u->uid) == 0)
		(void)find_user(l, NULL, u->uid, u);
	else if (!find_user(l, name, 0, u))
		return error_set(err, ERR_FAILED_PRECONDITION, "user %s is not in the image's /etc/passwd", name);
	if (group && *group && parse_id(group, &u->gid) < 0 && !find_group(l, group, &u->gid))
		return error_set(err, ERR_FAILED_PRECONDITION, "group %s is not in the image's /etc/group", group);
	/* The own group is a supplementary one too, as after a login: what denies it access denies it still when the process
	 * changes its group. */
	u->groups[u->n_groups++] = u->gid;
	if (!(group && *group) && l->name[0])
		find_supplementary(l, u);
	if (!u->home)
		u->home = strdup("/");
	return u->home ? 0 : error_errno(err, ENOMEM, "cannot look up user %s", name);
}

int user_resolve(const char *const *roots, size_t n_roots, const char *spec, struct user *ret, struct error *err)
{
	struct lookup lookup = { .roots = roots, .n_roots = n_roots };
	_cleanup_user_ struct user u = { 0 };
	_cleanup_free_ char *name = strdup(spec ? spec : "");
	char *group;

	if (!name)
		return error_errno(err, ENOMEM, "cannot look up the image's user");
	group = strchr(name, ':');
	if (group)
		*group++ = '\0';
	if (resolve(&lookup, *name ? name : "0", group, &u, err) < 0)
		return -1;
	*ret = u;
	u.home = NULL;
	return 0;
}
