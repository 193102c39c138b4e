/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/jail_child.h"

#include "base/confine.h"
#include "base/fs.h"
#include "base/process.h"
#include "shim/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

/* Above all that are in use: where descriptors wait for their places. */
#define FD_PARKED 300

/* In the root of the jailer; what it makes is JAILER_BASE JAILER_PROGRAM "/ID/root". */
#define JAILER "/jailer"
#define JAILER_PROGRAM "/firecracker"
#define JAILER_BASE "/jail"
#define JAIL_ARGV_MAX (JAIL_ARGS_MAX + 20)
#define JAILER_FILES 2048 /* it allows so many descriptors if it is not told */
#define INNER_ROOM (64 << 10)
#define FIRST_NAME "capsule-vm-init"

/* Where the libraries of a program can be, on hosts with and without a merged /usr, with and without multiarch. */
static const char *const library_places[] = {
	"/lib", "/lib64", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/local/lib", "/etc/ld.so.cache",
};

static int make_parents(int root, const char *path, struct error *err)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *parent = strndup(path, slash > path ? (size_t)(slash - path) : 1);

	if (!parent)
		return error_errno(err, ENOMEM, "cannot make %s", path);
	return parent[1] ? fs_mkdir_all(root, parent + 1, 0755, err) : 0;
}

/* What was cloned from the host appears on a path below the new root. */
static int attach(int root, int tree, const char *path, mode_t type, struct error *err)
{
	_cleanup_close_ int target = -1;

	if (make_parents(root, path, err) < 0)
		return -1;
	if (S_ISDIR(type)) {
		if (mkdirat(root, path + 1, 0755) < 0 && errno != EEXIST)
			return error_errno(err, errno, "cannot make %s", path);
	} else {
		target = openat(root, path + 1, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
		if (target < 0)
			return error_errno(err, errno, "cannot make %s", path);
	}
	if (syscall(SYS_move_mount, tree, "", root, path + 1, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return error_errno(err, errno, "cannot mount %s", path);
	return 0;
}

static int bind_in(int root, const char *source, const char *path, bool writable, struct error *err)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | (writable ? 0 : MOUNT_ATTR_RDONLY) };
	_cleanup_close_ int tree = open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	struct stat st;

	if (tree < 0 || fstat(tree, &st) < 0 || mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof attr) < 0)
		return error_errno(err, errno, "cannot use %s", source);
	return attach(root, tree, path, st.st_mode, err);
}

/* Links are kept as they are: where they lead is here as well, or is not needed. */
static int add_library_place(int root, const char *path, struct error *err)
{
	char target[256];
	ssize_t n = readlink(path, target, sizeof target - 1);

	if (n < 0)
		return access(path, F_OK) < 0 ? 0 : bind_in(root, path, path, false, err);
	target[n] = '\0';
	if (make_parents(root, path, err) < 0)
		return -1;
	return symlinkat(target, root, path + 1) < 0 ? error_errno(err, errno, "cannot make %s", path) : 0;
}

/* A device opens for the process's user here, whomever it opens for on the host. */
static int make_device(int root, const struct jail_bind *b, const struct stat *st, uid_t uid, struct error *err)
{
	mode_t mode = (st->st_mode & S_IFMT) | S_IRUSR | (b->writable ? S_IWUSR : 0);

	if (make_parents(root, b->target, err) < 0)
		return -1;
	if (mknodat(root, b->target + 1, mode, st->st_rdev) < 0 ||
	    fchownat(root, b->target + 1, uid, uid, AT_SYMLINK_NOFOLLOW) < 0)
		return error_errno(err, errno, "cannot make %s", b->target);
	return 0;
}

static int add_bind(int root, const struct jail_bind *b, uid_t uid, struct error *err)
{
	struct stat st;

	if (stat(b->source, &st) < 0)
		return b->optional ? 0 : error_errno(err, errno, "cannot use %s", b->source);
	if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
		return make_device(root, b, &st, uid, err);
	return bind_in(root, b->source, b->target, b->writable, err);
}

static int add_libraries(int root, struct error *err)
{
	for (size_t i = 0; i < sizeof library_places / sizeof library_places[0]; i++)
		if (add_library_place(root, library_places[i], err) < 0)
			return -1;
	return 0;
}

/* The jailer makes the devices below /dev that Firecracker has a use for. */
static int add_binds(const struct jail *j, int root, struct error *err)
{
	for (size_t i = 0; i < j->n_binds; i++)
		if (!(j->jailer && !strncmp(j->binds[i].target, "/dev/", strlen("/dev/"))) &&
		    add_bind(root, &j->binds[i], j->uid, err) < 0)
			return -1;
	return 0;
}

static int make_scratch(const struct jail *j, int root, struct error *err)
{
	char options[64], path[32];

	snprintf(options, sizeof options, "size=64k,nr_inodes=64,mode=0700,uid=%u,gid=%u", (unsigned)j->uid, (unsigned)j->uid);
	snprintf(path, sizeof path, "/proc/self/fd/%d" JAIL_SCRATCH, root);
	if (mkdirat(root, &JAIL_SCRATCH[1], 0755) < 0 ||
	    mount("scratch", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
		return error_errno(err, errno, "cannot make a directory for sockets");
	return 0;
}

/* The parent has the same socket, which listens from now on. */
static int start_listening(const struct jail *j, int root, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (j->listener_fd < 0)
		return 0;
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d%s", root, j->listener_path);
	if (bind(j->listener_fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(j->listener_fd, 1) < 0 ||
	    lchown(address.sun_path, j->uid, j->uid) < 0)
		return error_errno(err, errno, "cannot listen on %s", j->listener_path);
	return 0;
}

/* What is in the root of the program, besides itself. */
static int fill_root(const struct jail *j, int root, struct error *err)
{
	if (add_libraries(root, err) < 0 || add_binds(j, root, err) < 0 || (j->scratch && make_scratch(j, root, err) < 0))
		return -1;
	return start_listening(j, root, err);
}

/* ---- with the jailer ---- */

/* What the jailer will make the root has room for the program, which it copies, and for little else. */
static int make_inner_root(const struct jail *j, int root, struct error *err)
{
	char path[128], options[64];
	struct stat st;
	int fd;

	if (stat(j->program, &st) < 0)
		return error_errno(err, errno, "cannot use %s", j->program);
	snprintf(options, sizeof options, "size=%jd,nr_inodes=256,mode=0700", (intmax_t)st.st_size + INNER_ROOM);
	snprintf(path, sizeof path, "/proc/self/fd/%d" JAILER_BASE JAILER_PROGRAM "/%s/root", root, j->id);
	if (fs_mkdir_all(AT_FDCWD, path, 0700, err) < 0)
		return -1;
	if (mount("jailer", path, "tmpfs", MS_NOSUID, options) < 0)
		return error_errno(err, errno, "cannot make a root for the jailer");
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? error_errno(err, errno, "cannot open the root for the jailer") : fd;
}

static int prepare_for_jailer(const struct jail *j, int root, struct error *err)
{
	_cleanup_close_ int inner = make_inner_root(j, root, err);

	if (inner < 0 || add_libraries(root, err) < 0 || bind_in(root, j->jailer, JAILER, false, err) < 0 ||
	    bind_in(root, j->program, JAILER_PROGRAM, false, err) < 0)
		return -1;
	return fill_root(j, inner, err);
}

static void describe_jailer(const struct jail *j, const char *argv[JAIL_ARGV_MAX])
{
	static char uid[16], files[32];
	const char *const first[] = {
		JAILER, "--exec-file", JAILER_PROGRAM, "--chroot-base-dir", JAILER_BASE, "--uid", uid, "--gid", uid, "--id", j->id,
		"--resource-limit", files, "--",
	};
	struct rlimit limit = { .rlim_max = JAILER_FILES };

	/* Its own number, unless that is more than this host allows. */
	(void)getrlimit(RLIMIT_NOFILE, &limit);
	snprintf(files, sizeof files, "no-file=%ju", (uintmax_t)(limit.rlim_max < JAILER_FILES ? limit.rlim_max : JAILER_FILES));
	snprintf(uid, sizeof uid, "%u", (unsigned)j->uid);
	memcpy(argv, first, sizeof first);
	memcpy(argv + sizeof first / sizeof first[0], j->args, sizeof j->args[0] * (j->n_args + 1));
}

/* ---- the root ---- */

static int prepare_for_program(const struct jail *j, int root, struct error *err)
{
	if (bind_in(root, "/dev/null", "/dev/null", true, err) < 0 || bind_in(root, j->program, j->program, false, err) < 0)
		return -1;
	return fill_root(j, root, err);
}

static int change_root(const struct jail *j, struct error *err)
{
	_cleanup_close_ int root = -1;

	/* Nothing of this is seen outside, and from the host only what goes away comes in. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
	    mount("jail", j->mount_point, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,nr_inodes=256,mode=0755") < 0)
		return error_errno(err, errno, "cannot make a root");
	root = open(j->mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return error_errno(err, errno, "cannot open the new root");
	if ((j->jailer ? prepare_for_jailer(j, root, err) : prepare_for_program(j, root, err)) < 0)
		return -1;
	if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0 ||
	    mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL) < 0)
		return error_errno(err, errno, "cannot change the root");
	return 0;
}

/* ---- rights ---- */

static int become_user(uid_t uid, struct error *err)
{
	if (confine(NULL, CONFINE_KEEP(CAP_SETUID) | CONFINE_KEEP(CAP_SETGID), err) < 0)
		return -1;
	if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		return error_errno(err, errno, "cannot become user %u", (unsigned)uid);
	/* A change of the user takes it away. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return error_errno(err, errno, "cannot confine the process");
	return 0;
}

/* The jailer becomes the user itself, which takes away the capabilities with which it works. */
static int give_up_rights(const struct jail *j, struct error *err)
{
	const uint64_t jailer = CONFINE_KEEP(CAP_SYS_ADMIN) | CONFINE_KEEP(CAP_MKNOD) | CONFINE_KEEP(CAP_CHOWN) |
				CONFINE_KEEP(CAP_DAC_OVERRIDE) | CONFINE_KEEP(CAP_SETUID) | CONFINE_KEEP(CAP_SETGID);

	if (!j->jailer)
		return become_user(j->uid, err);
	if (setgroups(0, NULL) < 0)
		return error_errno(err, errno, "cannot leave the groups");
	return confine(NULL, jailer, err);
}

/* Each to its place; everything else closes with the execution. */
static int place_fds(struct jail *j, int out, int err_fd, struct error *err)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), r = null_fd;

	for (size_t i = 0; r >= 0 && i < j->n_fds; i++)
		r = j->fds[i] = fcntl(j->fds[i], F_DUPFD_CLOEXEC, FD_PARKED);
	if (r >= 0 && j->listener_fd >= 0)
		r = j->listener_fd = fcntl(j->listener_fd, F_DUPFD_CLOEXEC, FD_PARKED);
	if (r >= 0)
		r = out = fcntl(out, F_DUPFD_CLOEXEC, FD_PARKED);
	if (r >= 0)
		r = err_fd = fcntl(err_fd, F_DUPFD_CLOEXEC, FD_PARKED);
	if (r < 0 || close_range(JAIL_FD_FIRST, ~0u, CLOSE_RANGE_CLOEXEC) < 0 || dup2(null_fd, 0) < 0 || dup2(out, 1) < 0 ||
	    dup2(err_fd, 2) < 0)
		return error_errno(err, errno, "cannot set up descriptors");
	for (size_t i = 0; i < j->n_fds; i++)
		if (dup2(j->fds[i], JAIL_FD_FIRST + (int)i) < 0)
			return error_errno(err, errno, "cannot set up descriptors");
	return 0;
}

/* Whether the parent died before PR_SET_PDEATHSIG: then nobody reads the report. */
static bool orphaned(int report)
{
	struct pollfd p = { .fd = report };

	return poll(&p, 1, 0) > 0 && p.revents & POLLERR;
}

static int become(struct jail *j, int out, int err_fd, int report, struct error *err)
{
	const char *argv[JAIL_ARGV_MAX] = { j->program };
	char *env[] = { NULL };

	if (j->jailer)
		describe_jailer(j, argv);
	else
		memcpy(argv + 1, j->args, sizeof j->args[0] * (j->n_args + 1));
	if (cgroup_join(j->cgroup, 0, err) < 0 || place_fds(j, out, err_fd, err) < 0 || change_root(j, err) < 0 ||
	    give_up_rights(j, err) < 0)
		return -1;
	if (orphaned(report))
		return error_set(err, ERR_CANCELLED, "the parent has ended");
	process_reset_signals();
	execve(argv[0], (char **)(uintptr_t)argv, env);
	return error_errno(err, errno, "cannot execute %s", j->jailer ? j->jailer : j->program);
}

void jail_child(struct jail *j, int out, int err_fd, int report)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	/* Out of the way of the numbers that the program expects. */
	report = fcntl(report, F_DUPFD_CLOEXEC, FD_PARKED);
	(void)become(j, out, err_fd, report, &err);
	(void)fs_write_all(report, error_message(&err), strlen(error_message(&err)));
	_exit(127);
}

/* ---- the first process ---- */

static void rename_process(const struct jail *j)
{
	(void)prctl(PR_SET_NAME, FIRST_NAME, 0, 0, 0);
	if (j->own_argv_size > sizeof FIRST_NAME) {
		memset(j->own_argv, 0, j->own_argv_size);
		memcpy(j->own_argv, FIRST_NAME, sizeof FIRST_NAME);
	}
}

static int hold_namespace(const struct jail *j, int report, struct error *err)
{
	/* Whose parent has ended is this process's, and nobody waits for it. */
	if (signal(SIGCHLD, SIG_IGN) == SIG_ERR)
		return error_errno(err, errno, "cannot ignore a signal");
	if (cgroup_join(j->cgroup, 0, err) < 0 || become_user(j->uid, err) < 0)
		return -1;
	if (orphaned(report))
		return error_set(err, ERR_CANCELLED, "the parent has ended");
	rename_process(j);
	if (close_range(0, ~0u, 0) < 0)
		return error_errno(err, errno, "cannot close descriptors");
	return 0;
}

void jail_first(const struct jail *j, int report)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (hold_namespace(j, report, &err) == 0)
		for (;;)
			pause();
	(void)fs_write_all(report, error_message(&err), strlen(error_message(&err)));
	_exit(127);
}
