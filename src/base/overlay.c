/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/overlay.h"

#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

/* mount(2) copies one page of options. */
#define MOUNT_OPTIONS_MAX 4095

int overlay_own_namespace(struct error *err)
{
	if (unshare(CLONE_NEWNS) < 0)
		return error_errno(err, errno, "cannot make a mount namespace");
	/* Slave, not private: an unmount on the host reaches this namespace too, so a workload pins none of the host's
	 * file systems; nothing goes the other way. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return error_errno(err, errno, "cannot separate the mount namespace from the host's");
	return 0;
}

/* Layers are named by descriptor: their real paths would not fit into one page of options. */
int overlay_mount(const char *const *layers, size_t n_layers, const char *state_dir, const char *target,
		  struct error *err)
{
	_cleanup_buf_ struct buf data = BUF_INIT(MOUNT_OPTIONS_MAX);
	int fds[OVERLAY_LAYERS_MAX], r = 0;
	size_t opened;

	if (n_layers > OVERLAY_LAYERS_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the image has more than %d layers", OVERLAY_LAYERS_MAX);
	for (opened = 0; opened < n_layers; opened++) {
		fds[opened] = open(layers[opened], O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fds[opened] < 0) {
			r = error_errno(err, errno, "cannot open the layer %s", layers[opened]);
			break;
		}
	}
	if (r == 0) {
		buf_adds(&data, "lowerdir=");
		for (size_t i = opened; i-- > 0;)
			buf_addf(&data, "/proc/self/fd/%d%s", fds[i], i ? ":" : "");
		if (state_dir)
			buf_addf(&data, ",upperdir=%s/upper,workdir=%s/work", state_dir, state_dir);
		if (data.failed)
			r = error_set(err, ERR_RESOURCE_EXHAUSTED, "the image has too many layers (%zu) to be mounted",
				      opened);
		else if (mount("overlay", target, "overlay", 0, buf_str(&data)) < 0)
			r = error_errno(err, errno, "cannot mount the root file system on %s", target);
	}
	while (opened > 0)
		close(fds[--opened]);
	return r;
}
