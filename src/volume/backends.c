/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/backend.h"

#include "base/fs.h"

#include <string.h>

char *volume_snapshot_key(const char *volume, const char *snapshot)
{
	return fs_path("%s%c%s", volume, VOLUME_SNAPSHOT_MARK, snapshot);
}

char *volume_text(const char *name)
{
	const char *mark = strchr(name, VOLUME_SNAPSHOT_MARK);

	if (!mark)
		return fs_path("volume %s", name);
	if (!mark[1])
		return fs_path("the copy of volume %.*s for an export", (int)(mark - name), name);
	return fs_path("snapshot %s of volume %.*s", mark + 1, (int)(mark - name), name);
}

struct volume_backend *volume_backend_find(const struct volume_backends *backends, const char *name, struct error *err)
{
	for (size_t i = 0; i < backends->n; i++)
		if (!*name || !strcmp(backends->items[i]->ops->name, name))
			return backends->items[i];
	if (!strcmp(name, "lvm"))
		error_set(err, ERR_FAILED_PRECONDITION,
			  "the daemon has no volumes in LVM; start it with --volumes lvm:VG/POOL");
	else
		error_set(err, ERR_INVALID_ARGUMENT, "there is no volume backend \"%s\"; choose file or lvm", name);
	return NULL;
}

void volume_backends_free(struct volume_backends *backends)
{
	for (size_t i = 0; i < backends->n; i++)
		backends->items[i]->ops->free(backends->items[i]);
	backends->n = 0;
}
