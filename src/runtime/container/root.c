/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/container/root.h"

#include "base/fs.h"
#include "runtime/origin.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#define PROC_FILE_MAX 8192

/* Whether /proc/PID/cgroup ("N:controllers:path" lines) names the cgroup or one below it. */
static bool is_in_cgroup(pid_t pid, const char *cgroup)
{
	_cleanup_free_ char *path = fs_path("/proc/%d/cgroup", (int)pid), *text = NULL;
	size_t len = strlen(cgroup);

	if (!path || fs_read(AT_FDCWD, path, PROC_FILE_MAX, &text, NULL, NULL) < 0)
		return false;
	for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
		const char *name = strchr(line, ':');

		name = name ? strchr(name + 1, ':') : NULL;
		if (name && !strncmp(name + 1, cgroup, len) && (name[len + 1] == '/' || !name[len + 1]))
			return true;
	}
	return false;
}

int root_of_process(pid_t pid, const char *cgroup, struct driver_root *ret, struct error *err)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	/* If it takes a signal after that, what was looked up by its number was its own. */
	if (pidfd < 0 || !is_in_cgroup(pid, cgroup) || syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) < 0)
		return error_set(err, ERR_FAILED_PRECONDITION, "it has just ended; try again");
	*ret = DRIVER_ROOT_NONE;
	ret->pidfd = steal_fd(&pidfd);
	return 0;
}

int root_of_last_run(const char *state_dir, uint64_t generation, struct driver_root *ret, struct error *err)
{
	struct driver_root root = DRIVER_ROOT_NONE;

	if (origin_layers(state_dir, generation, &root.layers, &root.n_layers) < 0)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "it has no files yet: it has not run since it was applied or its spec was changed; "
				 "start it first");
	root.state_dir = strdup(state_dir);
	if (!root.state_dir)
		error_errno(err, ENOMEM, "cannot reach its root");
	for (size_t i = 0; root.state_dir && i < root.n_layers; i++)
		if (access(root.layers[i], F_OK) < 0) {
			error_set(err, ERR_FAILED_PRECONDITION,
				  "the image that it last ran from is not on this host any more; start it first");
			free(steal_ptr(&root.state_dir));
		}
	if (!root.state_dir) {
		driver_root_release(&root);
		return -1;
	}
	*ret = root;
	return 0;
}
