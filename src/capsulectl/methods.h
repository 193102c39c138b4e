/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The methods of the API that this program calls. */
#ifndef CAPSULE_CAPSULECTL_METHODS_H
#define CAPSULE_CAPSULECTL_METHODS_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

struct method {
	const char *path;
	const ProtobufCMessageDescriptor *request, *reply;
	bool replies_stream;
};

extern const struct method workload_apply, workload_get, workload_list, workload_delete, workload_logs,
	workload_restart, workload_stop, workload_start, workload_watch, workload_events, workload_stats, workload_exec,
	workload_copy_to, workload_copy_from;
extern const struct method volume_create, volume_get, volume_list, volume_delete, volume_resize, volume_clone,
	volume_export, volume_import, volume_usage, snapshot_create, snapshot_list, snapshot_delete, snapshot_restore;
extern const struct method image_list, image_push, image_pull, image_delete, image_prune;
extern const struct method capsule_get_info, capsule_stream_logs;

#endif
