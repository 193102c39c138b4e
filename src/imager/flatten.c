/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/flatten.h"

#include "base/confine.h"
#include "base/fs.h"
#include "base/overlay.h"
#include "image/payload.h"
#include "imager/write_behind.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Reads whatever the image's owners and modes are. */
static const uint64_t CAPABILITIES = CONFINE_KEEP(CAP_DAC_OVERRIDE) | CONFINE_FOREIGN;

/* A single layer, too, has to be seen through an overlay, which needs two: so there is an empty one below. */
static int mount_layers(const char *base, const char *root, char *const *layers, size_t n, struct error *err)
{
	const char *all[OVERLAY_LAYERS_MAX];

	if (n >= OVERLAY_LAYERS_MAX)
		return error_set(err, ERR_FAILED_PRECONDITION, "the image has more than %d layers", OVERLAY_LAYERS_MAX - 1);
	all[0] = base;
	for (size_t i = 0; i < n; i++)
		all[i + 1] = layers[i];
	return overlay_mount(all, n + 1, NULL, root, err);
}

int flatten(const char *stage, char *const *layers, size_t n_layers, struct error *err)
{
	_cleanup_free_ char *base = fs_path("%s/base", stage), *root = fs_path("%s/root", stage), *target = NULL;

	target = fs_path("/proc/self/fd/%d", PAYLOAD_FD);
	if (!base || !root || !target)
		return error_errno(err, ENOMEM, "cannot flatten the image");
	if (overlay_own_namespace(err) < 0 || mount_layers(base, root, layers, n_layers, err) < 0 ||
	    confine(NULL, CAPABILITIES, err) < 0)
		return -1;
	write_behind_start(PAYLOAD_FD);
	execlp("mkfs.erofs", "mkfs.erofs", "--quiet", "--preserve-mtime", target, root, NULL);
	if (errno == ENOENT)
		return error_set(err, ERR_FAILED_PRECONDITION, "mkfs.erofs is not in the daemon's PATH; install the package "
				 "erofs-utils or add /usr/bin to PATH");
	return error_errno(err, errno, "cannot run mkfs.erofs");
}
