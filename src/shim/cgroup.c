/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/cgroup.h"

#include "base/fs.h"
#include "base/timeutil.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#define DEPTH_MAX 32 /* of cgroups that a workload made below its own */
#define KILL_BATCH 256

enum cgroup_mode cgroup_mode(void)
{
	struct statfs fs;

	if (statfs(CGROUP_ROOT, &fs) < 0)
		return CGROUP_NONE;
	if (fs.f_type == CGROUP2_SUPER_MAGIC)
		return CGROUP_V2;
	if (fs.f_type != TMPFS_MAGIC)
		return CGROUP_NONE;
	if (statfs(CGROUP_ROOT "/unified", &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC)
		return CGROUP_HYBRID;
	return CGROUP_V1;
}

bool cgroup_counts_swap(void)
{
	/* On v2 a kernel that can swap counts it; the file itself stands in no root, only below. */
	return access(cgroup_mode() == CGROUP_V2 ? "/proc/swaps" : CGROUP_ROOT "/memory/memory.memsw.limit_in_bytes", F_OK) ==
	       0;
}

typedef int (*hierarchy_fn)(int rootfd, void *arg);

/* A plain directory there may hold files that look alike: crun writes such ones where it finds no v2 hierarchy. */
static bool is_hierarchy(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (fs.f_type == CGROUP_SUPER_MAGIC || fs.f_type == CGROUP2_SUPER_MAGIC);
}

/* Calls fn with each hierarchy's root; stops at the first that does not return 0. */
static int each_hierarchy(hierarchy_fn fn, void *arg)
{
	_cleanup_closedir_ DIR *dir = NULL;
	struct dirent *entry;
	int fd, r = 0;

	fd = open(CGROUP_ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (cgroup_mode() == CGROUP_V2) {
		r = fn(fd, arg);
		close(fd);
		return r;
	}
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return 0;
	}
	/* Symbolic links there are other names of combined hierarchies. */
	while (r == 0 && (entry = readdir(dir))) {
		_cleanup_close_ int root = -1;

		if (entry->d_name[0] == '.' || (entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN))
			continue;
		root = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (root >= 0 && is_hierarchy(root))
			r = fn(root, arg);
	}
	return r;
}

static const char *relative(const char *path)
{
	while (*path == '/')
		path++;
	return *path ? path : ".";
}

static int open_below(int rootfd, const char *path)
{
	return openat(rootfd, relative(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int cgroup_open(const char *controller, const char *path)
{
	_cleanup_close_ int root = open(CGROUP_ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC), hierarchy = -1;
	int fd;

	if (root < 0)
		return -errno;
	if (cgroup_mode() != CGROUP_V2) {
		hierarchy = openat(root, controller, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (hierarchy < 0)
			return -errno;
	}
	fd = open_below(hierarchy < 0 ? root : hierarchy, path);
	return fd < 0 ? -errno : fd;
}

static int write_file(int dirfd, const char *name, const char *text)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fs_write_all(fd, text, strlen(text));
}

/* The pids of one cgroup.procs, in batches; the file may change between two of them. */
struct procs {
	FILE *file;
};

static bool procs_open(struct procs *p, int dirfd)
{
	int fd = openat(dirfd, "cgroup.procs", O_RDONLY | O_CLOEXEC);

	p->file = fd < 0 ? NULL : fdopen(fd, "re");
	if (!p->file && fd >= 0)
		close(fd);
	return p->file;
}

static size_t procs_next(struct procs *p, pid_t *pids, size_t max)
{
	size_t n = 0;
	int pid;

	while (n < max && fscanf(p->file, "%d", &pid) == 1)
		/* 0 is a process that this pid namespace cannot name. */
		if (pid > 0)
			pids[n++] = pid;
	return n;
}

struct kill_pass {
	const char *path;
	pid_t session;        /* 0: all */
	struct pollfd *watch; /* pidfds of what was killed; NULL: nobody waits */
	size_t n_watch, max_watch;
	size_t killed;
};

/* What has ended does not count, though it may be listed until its parent has looked, and on v1 a while longer. */
static void kill_one(struct kill_pass *pass, pid_t pid)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	if (pass->session && getsid(pid) != pass->session)
		return;
	if (pidfd < 0 || poll(&p, 1, 0) != 0 || syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
		return;
	pass->killed++;
	if (pass->n_watch < pass->max_watch)
		pass->watch[pass->n_watch++] = (struct pollfd){ .fd = steal_fd(&pidfd), .events = POLLIN };
}

static void kill_tree(struct kill_pass *pass, int dirfd, unsigned depth)
{
	_cleanup_closedir_ DIR *dir = NULL;
	struct dirent *entry;
	pid_t pids[KILL_BATCH];
	struct procs procs;
	size_t n;
	int copy;

	if (procs_open(&procs, dirfd)) {
		while ((n = procs_next(&procs, pids, KILL_BATCH)) > 0)
			for (size_t i = 0; i < n; i++)
				kill_one(pass, pids[i]);
		fclose(procs.file);
	}
	copy = depth < DEPTH_MAX ? openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	dir = copy < 0 ? NULL : fdopendir(copy);
	while (dir && (entry = readdir(dir))) {
		_cleanup_close_ int child = -1;

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		child = openat(dirfd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (child >= 0)
			kill_tree(pass, child, depth + 1);
	}
}

static int kill_in_hierarchy(int rootfd, void *arg)
{
	struct kill_pass *pass = arg;
	_cleanup_close_ int dirfd = open_below(rootfd, pass->path);
	bool freezer;

	if (dirfd < 0)
		return 0;
	/* v2 kills all at once and atomically against forks; the walk below only finds those that are still ending.
	 * On v1 the freezer keeps them from forking. A frozen process does not die, so it is thawed after. */
	(void)write_file(dirfd, "cgroup.kill", "1");
	freezer = faccessat(dirfd, "freezer.state", W_OK, 0) == 0;
	if (freezer)
		(void)write_file(dirfd, "freezer.state", "FROZEN");
	kill_tree(pass, dirfd, 0);
	if (freezer)
		(void)write_file(dirfd, "freezer.state", "THAWED");
	return 0;
}

size_t cgroup_kill_once(const char *path)
{
	struct kill_pass pass = { .path = path };

	each_hierarchy(kill_in_hierarchy, &pass);
	return pass.killed;
}

static int kill_session_in_hierarchy(int rootfd, void *arg)
{
	struct kill_pass *pass = arg;
	_cleanup_close_ int dirfd = open_below(rootfd, pass->path);

	if (dirfd < 0)
		return 0;
	kill_tree(pass, dirfd, 0);
	return 1; /* every hierarchy has the same processes */
}

void cgroup_kill_session(const char *path, pid_t session)
{
	struct kill_pass pass = { .path = path, .session = session };

	each_hierarchy(kill_session_in_hierarchy, &pass);
}

static bool wait_gone(struct kill_pass *pass, int64_t deadline)
{
	bool gone = true;

	for (size_t i = 0; i < pass->n_watch; i++) {
		int64_t left = (deadline - time_monotonic_ns()) / NSEC_PER_MSEC;

		if (gone && poll(&pass->watch[i], 1, left < 0 ? 0 : (int)left) == 0)
			gone = false;
		close(pass->watch[i].fd);
	}
	pass->n_watch = 0;
	return gone;
}

int cgroup_kill(const char *path, int64_t timeout_ms, struct error *err)
{
	struct pollfd watch[KILL_BATCH];
	struct kill_pass pass = { .path = path, .watch = watch, .max_watch = KILL_BATCH };
	int64_t deadline = time_monotonic_ns() + timeout_ms * NSEC_PER_MSEC;

	for (;;) {
		pass.killed = 0;
		each_hierarchy(kill_in_hierarchy, &pass);
		if (pass.killed == 0)
			return 0;
		if (!wait_gone(&pass, deadline) || time_monotonic_ns() >= deadline)
			return error_set(err, ERR_DEADLINE_EXCEEDED,
					 "processes in the cgroup %s do not end although they were killed", path);
	}
}

struct join_pass {
	const char *path;
	pid_t first;
};

/* Where a process is in the v2 hierarchy, from its root; NULL when it is gone. */
static char *path_in_v2(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char proc[32], *line;

	snprintf(proc, sizeof proc, "/proc/%d/cgroup", (int)pid);
	if (fs_read(AT_FDCWD, proc, 64 << 10, &text, NULL, NULL) < 0)
		return NULL;
	line = strstr(text, "0::/");
	return line ? strndup(line + 3, strcspn(line + 3, "\n")) : NULL;
}

static int join_in_hierarchy(int rootfd, void *arg)
{
	struct join_pass *pass = arg;
	_cleanup_close_ int dirfd = open_below(rootfd, pass->path), first = -1;
	_cleanup_free_ char *of_first = NULL;
	int r;

	if (dirfd < 0)
		return errno == ENOENT ? 0 : -errno;
	/* v1: a thread that moves itself takes no lock that all forks of the machine wait for; a process would. */
	if (faccessat(dirfd, "tasks", W_OK, 0) == 0)
		return write_file(dirfd, "tasks", "0");
	r = write_file(dirfd, "cgroup.procs", "0");
	if (r != -EBUSY)
		return r;
	of_first = path_in_v2(pass->first);
	first = of_first ? open_below(rootfd, of_first) : -1;
	return first < 0 ? -EBUSY : write_file(first, "cgroup.procs", "0");
}

int cgroup_join(const char *path, pid_t first, struct error *err)
{
	struct join_pass pass = { path, first };
	int r = each_hierarchy(join_in_hierarchy, &pass);

	return r < 0 ? error_errno(err, -r, "cannot enter the cgroup %s", path) : 0;
}

/* v1: no process can enter a new cpuset before these two are set. */
static void inherit_cpuset(int parent, int child)
{
	static const char *const files[] = { "cpuset.cpus", "cpuset.mems" };

	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		_cleanup_free_ char *inherited = NULL, *own = NULL;

		if (fs_read(child, files[i], 4096, &own, NULL, NULL) == 0 && *own <= ' ' &&
		    fs_read(parent, files[i], 4096, &inherited, NULL, NULL) == 0)
			(void)write_file(child, files[i], inherited);
	}
}

/* v2: what is not enabled in a cgroup does not exist below it. A controller that the host lacks is none of ours. */
static void enable_controllers(int parent)
{
	static const char *const controllers[] = { "+cpu", "+memory", "+pids", "+io", "+cpuset" };

	for (size_t i = 0; i < sizeof controllers / sizeof controllers[0]; i++)
		(void)write_file(parent, "cgroup.subtree_control", controllers[i]);
}

static int make_in_hierarchy(int rootfd, void *arg)
{
	_cleanup_free_ char *path = strdup(relative(arg));
	_cleanup_close_ int dirfd = openat(rootfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char *rest = path, *name;

	if (!path || dirfd < 0)
		return path ? -errno : -ENOMEM;
	while ((name = strsep(&rest, "/"))) {
		int child;

		if (!*name)
			continue;
		enable_controllers(dirfd);
		if (mkdirat(dirfd, name, 0755) < 0 && errno != EEXIST)
			return -errno;
		child = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (child < 0)
			return -errno;
		inherit_cpuset(dirfd, child);
		close(dirfd);
		dirfd = child;
	}
	return 0;
}

int cgroup_make(const char *path, struct error *err)
{
	int r = each_hierarchy(make_in_hierarchy, (void *)(uintptr_t)path);

	return r < 0 ? error_errno(err, -r, "cannot make the cgroup %s", path) : 0;
}

void cgroup_hasten_moves(void)
{
	_cleanup_free_ char *path = path_in_v2(getpid());
	_cleanup_close_ int dirfd = path ? cgroup_open("unified", path) : -1;
	char pid[16];

	snprintf(pid, sizeof pid, "%d", (int)getpid());
	if (dirfd >= 0)
		(void)write_file(dirfd, "cgroup.procs", pid);
}

struct remove_pass {
	const char *path;
	int error;
};

static int remove_tree(int parentfd, const char *name, unsigned depth)
{
	_cleanup_closedir_ DIR *dir = NULL;
	struct dirent *entry;
	int fd;

	/* The files of a cgroup are not entries that need removing; only child cgroups are. */
	if (unlinkat(parentfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	if ((errno != EBUSY && errno != ENOTEMPTY) || depth >= DEPTH_MAX)
		return -errno;
	fd = openat(parentfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return -ENOMEM;
	}
	while ((entry = readdir(dir)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
			(void)remove_tree(fd, entry->d_name, depth + 1);
	return unlinkat(parentfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : -errno;
}

static int remove_in_hierarchy(int rootfd, void *arg)
{
	struct remove_pass *pass = arg;
	int r = remove_tree(rootfd, relative(pass->path), 0);

	if (r < 0 && pass->error == 0)
		pass->error = -r;
	return 0;
}

int cgroup_remove(const char *path, struct error *err)
{
	struct remove_pass pass = { .path = path };

	each_hierarchy(remove_in_hierarchy, &pass);
	return pass.error ? error_errno(err, pass.error, "cannot remove the cgroup %s", path) : 0;
}

static int remove_empty_in_hierarchy(int rootfd, void *arg)
{
	(void)unlinkat(rootfd, relative(arg), AT_REMOVEDIR);
	return 0;
}

void cgroup_remove_empty(const char *path)
{
	each_hierarchy(remove_empty_in_hierarchy, (void *)(uintptr_t)path);
}

struct directory_pass {
	const char *path;
	int (*fn)(int dirfd, void *arg);
	void *arg;
};

static int call_in_hierarchy(int rootfd, void *arg)
{
	struct directory_pass *pass = arg;
	_cleanup_close_ int dirfd = open_below(rootfd, pass->path);

	return dirfd < 0 ? 0 : pass->fn(dirfd, pass->arg);
}

int cgroup_each_directory(const char *path, int (*fn)(int dirfd, void *arg), void *arg)
{
	struct directory_pass pass = { path, fn, arg };

	return each_hierarchy(call_in_hierarchy, &pass);
}

static int exists_in_hierarchy(int rootfd, void *arg)
{
	return faccessat(rootfd, relative(arg), F_OK, 0) == 0;
}

bool cgroup_exists(const char *path)
{
	return each_hierarchy(exists_in_hierarchy, (void *)(uintptr_t)path) != 0;
}

static int oom_in_hierarchy(int rootfd, void *arg)
{
	static const char *const files[] = { "memory.events", "memory.oom_control" };
	_cleanup_close_ int dirfd = open_below(rootfd, arg);

	for (size_t i = 0; dirfd >= 0 && i < sizeof files / sizeof files[0]; i++) {
		_cleanup_free_ char *text = NULL;
		char *line;
		int n;

		if (fs_read(dirfd, files[i], 4096, &text, NULL, NULL) < 0)
			continue;
		line = strstr(text, "\noom_kill ");
		if (line && sscanf(line, " oom_kill %d", &n) == 1 && n > 0)
			return 1;
	}
	return 0;
}

bool cgroup_oom_killed(const char *path)
{
	return each_hierarchy(oom_in_hierarchy, (void *)(uintptr_t)path) != 0;
}

struct enumerate_pass {
	const char *path;
	void (*fn)(const char *name, void *arg);
	void *arg;
};

static int enumerate_hierarchy(int rootfd, void *arg)
{
	struct enumerate_pass *pass = arg;
	_cleanup_closedir_ DIR *dir = NULL;
	struct dirent *entry;
	int fd = open_below(rootfd, pass->path);

	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir && fd >= 0)
		close(fd);
	while (dir && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
			pass->fn(entry->d_name, pass->arg);
	return 0;
}

void cgroup_enumerate(const char *path, void (*fn)(const char *name, void *arg), void *arg)
{
	struct enumerate_pass pass = { path, fn, arg };

	each_hierarchy(enumerate_hierarchy, &pass);
}
