/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "reconcile/volumes.h"

#include "base/log.h"

#include <string.h>

/* ---- snapshots ---- */

/* One that was not finished was never promised to anyone; one that was being removed goes. With a volume that goes, see there. */
static int recover_snapshot(const struct reconciler_host *host, const struct store_snapshot *s, struct error *err)
{
	_cleanup_free_ char *key = volume_snapshot_key(s->volume, s->name);
	_cleanup_store_volume_ struct store_volume v = { 0 };
	struct volume_backend *backend;

	if (!key)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	if (store_volume_get(host->store, s->volume, &v, err) < 0)
		return -1;
	if (s->ready || !v.ready)
		return 0;
	log_info("volume %s: removing its snapshot %s, which is not to be", s->volume, s->name);
	backend = volume_backend_find(host->volumes, v.backend, err);
	if (!backend || backend->ops->remove(backend, key, err) < 0)
		return -1;
	return store_snapshot_remove(host->store, s->volume, s->name, err);
}

static int recover_snapshots(const struct reconciler_host *host, struct error *err)
{
	struct store_snapshot *snapshots;
	size_t n;

	if (store_snapshot_list(host->store, NULL, &snapshots, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		_cleanup_error_ struct error why = ERROR_INIT;

		if (recover_snapshot(host, &snapshots[i], &why) < 0)
			log_warn("volume %s: snapshot %s: %s", snapshots[i].volume, snapshots[i].name, error_message(&why));
	}
	store_snapshots_free(snapshots, n);
	return 0;
}

/* ---- volumes ---- */

int volumes_remove(struct store *store, struct volume_backend *backend, const char *name, struct error *err)
{
	struct store_snapshot *snapshots;
	size_t n;
	int r = 0;

	if (store_snapshot_list(store, name, &snapshots, &n, err) < 0)
		return -1;
	for (size_t i = 0; r == 0 && i < n; i++) {
		_cleanup_free_ char *key = volume_snapshot_key(name, snapshots[i].name);

		r = key ? backend->ops->remove(backend, key, err) : error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	}
	store_snapshots_free(snapshots, n);
	return r < 0 ? -1 : backend->ops->remove(backend, name, err);
}

/* A volume whose creation or removal was cut off has never been promised to anyone, or no longer is. A resize that was cut
 * off is completed. */
static int recover_volume(const struct reconciler_host *host, const struct store_volume *v, struct error *err)
{
	struct volume_backend *backend = volume_backend_find(host->volumes, v->backend, err);

	if (!backend)
		return -1;
	if (!v->ready) {
		log_info("volume %s: removing what an interrupted creation or removal left", v->name);
		if (volumes_remove(host->store, backend, v->name, err) < 0)
			return -1;
		return store_volume_remove(host->store, v->name, err);
	}
	return v->claimed_by ? 0 : backend->ops->grow(backend, v->name, v->size_bytes, err);
}

static int recover_all(const struct reconciler_host *host, struct error *err)
{
	struct store_volume *volumes;
	size_t n;

	if (store_volume_list(host->store, &volumes, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		_cleanup_error_ struct error why = ERROR_INIT;

		if (recover_volume(host, &volumes[i], &why) < 0)
			log_warn("volume %s: %s", volumes[i].name, error_message(&why));
		store_volume_release(&volumes[i]);
	}
	free(volumes);
	return 0;
}

/* ---- what is in storage ---- */

struct finding {
	const struct reconciler_host *host;
	struct volume_backend *backend;
};

static bool is_known(const struct finding *f, const char *volume, const char *snapshot)
{
	_cleanup_store_volume_ struct store_volume v = { 0 };
	_cleanup_store_snapshot_ struct store_snapshot s = { 0 };

	if (snapshot)
		return store_snapshot_get(f->host->store, volume, snapshot, &s, NULL) == 0;
	return store_volume_get(f->host->store, volume, &v, NULL) == 0 && !strcmp(v.backend, f->backend->ops->name);
}

static void judge_found(const char *name, void *arg)
{
	const struct finding *f = arg;
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *volume = strdup(name), *text = volume_text(name);
	char *snapshot = volume ? strchr(volume, VOLUME_SNAPSHOT_MARK) : NULL;

	if (!volume || !text)
		return;
	if (snapshot)
		*snapshot++ = '\0';
	/* What an export that was cut off read from. */
	if (snapshot && !*snapshot) {
		if (f->backend->ops->remove(f->backend, name, &err) < 0)
			log_warn("%s: %s", text, error_message(&err));
		return;
	}
	/* Never removed: this is somebody's data, and the store may be the one that is wrong. */
	if (!is_known(f, volume, snapshot))
		log_warn("%s is in storage but not in the store; it is left alone", text);
}

int volumes_recover(const struct reconciler_host *host, struct error *err)
{
	/* Storage that is full or out of reach must not keep the daemon from what does not need it. */
	for (size_t i = 0; i < host->volumes->n; i++) {
		struct finding finding = { host, host->volumes->items[i] };
		_cleanup_error_ struct error why = ERROR_INIT;

		if (finding.backend->ops->enumerate(finding.backend, judge_found, &finding, &why) < 0)
			log_warn("%s volumes: %s", finding.backend->ops->name, error_message(&why));
	}
	return recover_snapshots(host, err) < 0 ? -1 : recover_all(host, err);
}
