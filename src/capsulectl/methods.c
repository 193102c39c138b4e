/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/methods.h"

#include "capsule.pb-c.h"
#include "image.pb-c.h"
#include "volume.pb-c.h"
#include "workload.pb-c.h"

#define METHOD(variable, service, name, takes, gives, ...)                                                            \
	const struct method variable = { "/capsule.v1." service "/" name, &capsule__v1__##takes##__descriptor,        \
					 &capsule__v1__##gives##__descriptor, ##__VA_ARGS__ }
#define STREAM true

METHOD(workload_apply, "WorkloadService", "Apply", workload_apply_request, workload_apply_response);
METHOD(workload_get, "WorkloadService", "Get", workload_get_request, workload);
METHOD(workload_list, "WorkloadService", "List", workload_list_request, workload_list_response);
METHOD(workload_delete, "WorkloadService", "Delete", workload_delete_request, workload_delete_response);
METHOD(workload_logs, "WorkloadService", "Logs", workload_logs_request, workload_log_chunk, STREAM);
METHOD(workload_restart, "WorkloadService", "Restart", workload_restart_request, workload_restart_response);
METHOD(workload_stop, "WorkloadService", "Stop", workload_stop_request, workload_stop_response);
METHOD(workload_start, "WorkloadService", "Start", workload_start_request, workload_start_response);
METHOD(workload_watch, "WorkloadService", "Watch", workload_watch_request, workload_event, STREAM);
METHOD(workload_events, "WorkloadService", "Events", workload_events_request, workload_occurrence, STREAM);
METHOD(workload_stats, "WorkloadService", "Stats", workload_stats_request, workload_stats_response);
METHOD(workload_exec, "WorkloadService", "Exec", workload_exec_client_message, workload_exec_server_message, STREAM);
METHOD(workload_copy_to, "WorkloadService", "CopyTo", workload_copy_to_request, workload_copy_to_response);
METHOD(workload_copy_from, "WorkloadService", "CopyFrom", workload_copy_from_request, workload_copy_from_chunk, STREAM);

METHOD(volume_create, "VolumeService", "Create", volume_create_request, volume);
METHOD(volume_get, "VolumeService", "Get", volume_get_request, volume);
METHOD(volume_list, "VolumeService", "List", volume_list_request, volume_list_response);
METHOD(volume_delete, "VolumeService", "Delete", volume_delete_request, volume_delete_response);
METHOD(volume_resize, "VolumeService", "Resize", volume_resize_request, volume);

METHOD(snapshot_create, "VolumeService", "CreateSnapshot", volume_snapshot_request, volume_snapshot);
METHOD(snapshot_list, "VolumeService", "ListSnapshots", volume_snapshot_list_request, volume_snapshot_list_response);
METHOD(snapshot_delete, "VolumeService", "DeleteSnapshot", volume_snapshot_request, volume_snapshot_delete_response);
METHOD(snapshot_restore, "VolumeService", "RestoreSnapshot", volume_snapshot_request, volume);
METHOD(volume_clone, "VolumeService", "Clone", volume_clone_request, volume);
METHOD(volume_export, "VolumeService", "Export", volume_export_request, volume_export_chunk, STREAM);
METHOD(volume_import, "VolumeService", "Import", volume_import_request, volume);
METHOD(volume_usage, "VolumeService", "Usage", volume_usage_request, volume_usage_response);

METHOD(image_list, "ImageService", "List", image_list_request, image_list_response);
METHOD(image_push, "ImageService", "Push", image_push_request, image_push_response);
METHOD(image_pull, "ImageService", "Pull", image_pull_request, image_pull_progress, STREAM);
METHOD(image_delete, "ImageService", "Delete", image_delete_request, image_delete_response);
METHOD(image_prune, "ImageService", "Prune", image_prune_request, image_prune_response);

METHOD(capsule_get_info, "CapsuleService", "GetInfo", get_info_request, get_info_response);
METHOD(capsule_stream_logs, "CapsuleService", "StreamLogs", capsule_logs_request, capsule_log_chunk, STREAM);
