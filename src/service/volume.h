/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What the files of VolumeService share.
 *
 * One call at a time works on a volume: a second one is told to come back, so that a create, a resize, a snapshot and a
 * delete of the same volume never meet half-way.
 */
#ifndef CAPSULE_SERVICE_VOLUME_H
#define CAPSULE_SERVICE_VOLUME_H

#include "service/unary.h"

#include "volume.pb-c.h"

#define VOLUME_NAME "volume name"
#define SNAPSHOT_NAME "snapshot name"

/* ---- on the loop's thread ---- */

/* UNAVAILABLE while another call works on it. The name was checked. */
int volume_busy_begin(const char *name, struct error *err);
void volume_busy_end(const char *name);

/* The same for two volumes, one of which may be "": none. */
int volume_busy_begin_both(const char *name, const char *other, struct error *err);

/* Checks what a volume of this description must be. */
int volume_check(const Capsule__V1__VolumeCreateRequest *wanted, struct error *err);

/* ---- on a task's thread ---- */

/* u->reply becomes the volume as the API shows it, or u->err is set. */
int volume_load(struct unary *u, const char *name);

/* The same as a message of its own; NULL with err. Freed with protobuf-c. */
Capsule__V1__Volume *volume_get_message(struct service_host *host, const char *name, struct error *err);

/* The entry of a volume that is ready, and where it is; NULL with err. */
struct volume_backend *volume_find(struct service_host *host, const char *name, struct store_volume *ret,
				   struct error *err);

/* What stands where `key` (backend.h) would come and is in no store is somebody's data, which a failed creation would remove:
 * ALREADY_EXISTS. To be asked before anything is recorded. */
int volume_refuse_stranger(struct volume_backend *backend, const char *key, struct error *err);

/* Records a volume that is about to be made, unless something stands in its place. NULL with err. */
struct volume_backend *volume_begin(struct service_host *host, const char *name, const char *backend, uint64_t size_bytes,
				    struct error *err);

/* Its storage is whole. */
int volume_complete(struct service_host *host, const char *name, struct error *err);

/* It is not to be: removes what there is of it. */
void volume_undo(struct service_host *host, struct volume_backend *backend, const char *name);

/* Makes `to` in storage a copy of the volume as it is now, consistent whoever writes to it. What a failure leaves of it is the
 * caller's to remove. */
int volume_copy_present(struct service_host *host, struct volume_backend *backend, const struct store_volume *v,
			const char *to, struct error *err);

/* A new volume with the content of another one or of a snapshot. */
struct volume_source {
	const char *volume;
	const char *snapshot; /* "": as the volume is now */
};

/* size_bytes 0: that of the source. backend "": that of the source. */
int volume_make_copy(struct service_host *host, const struct volume_source *source, const char *name, const char *backend,
		     uint64_t size_bytes, struct error *err);

/* ---- the tables ---- */

int volume_snapshot_register(struct rpc_server *server, struct service_host *host);
int volume_transfer_register(struct rpc_server *server, struct service_host *host);

#endif
