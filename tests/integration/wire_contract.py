# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What every client of this API relies on: names, numbers and types that never change. Extensions are not listed.

Written down a second time on purpose: a change of proto/ that breaks other people's clients must not go unnoticed.
"""
import re

CONTRACT = """
service WorkloadService
  Apply: WorkloadApplyRequest -> WorkloadApplyResponse
  Get: WorkloadGetRequest -> Workload
  List: WorkloadListRequest -> WorkloadListResponse
  Delete: WorkloadDeleteRequest -> WorkloadDeleteResponse
  Logs: WorkloadLogsRequest -> stream WorkloadLogChunk
  Exec: stream WorkloadExecClientMessage -> stream WorkloadExecServerMessage
  Restart: WorkloadRestartRequest -> WorkloadRestartResponse
  Stop: WorkloadStopRequest -> WorkloadStopResponse
  Start: WorkloadStartRequest -> WorkloadStartResponse
  CopyTo: stream WorkloadCopyToRequest -> WorkloadCopyToResponse
  CopyFrom: WorkloadCopyFromRequest -> stream WorkloadCopyFromChunk
enum DesiredState: DESIRED_STATE_UNSPECIFIED=0, DESIRED_STATE_RUNNING=1, DESIRED_STATE_STOPPED=2,
        DESIRED_STATE_DELETING=3
enum WorkloadKind: WORKLOAD_KIND_UNSPECIFIED=0, WORKLOAD_KIND_CONTAINER=1, WORKLOAD_KIND_MICRO_VM=2
enum WorkloadPhase: WORKLOAD_PHASE_UNSPECIFIED=0, WORKLOAD_PHASE_PENDING=1, WORKLOAD_PHASE_RUNNING=2,
        WORKLOAD_PHASE_FAILED=3, WORKLOAD_PHASE_STOPPED=4
enum NetworkMode: NETWORK_MODE_UNSPECIFIED=0, NETWORK_MODE_HOST=1, NETWORK_MODE_BRIDGE=2
enum MicroVMBackend: MICRO_VM_BACKEND_UNSPECIFIED=0, MICRO_VM_BACKEND_FIRECRACKER=1,
        MICRO_VM_BACKEND_SMOLVM=2
enum LogSource: LOG_SOURCE_UNSPECIFIED=0, LOG_SOURCE_PAYLOAD=1, LOG_SOURCE_SERIAL=2
Workload: 1 name string; 2 kind WorkloadKind; 3 container ContainerSpec; 4 micro_vm MicroVMSpec; 5
        status WorkloadStatus; 6 desired_state DesiredState
ContainerSpec: 1 image string; 2 command repeated string; 3 args repeated string; 4 env map<string,
        string>; 5 mounts repeated VolumeMount; 6 network_mode NetworkMode; 7 ports repeated PortMapping; 8
        privileged bool; 9 host_pid bool; 10 host_mount bool; 11 host_ipc bool; 12 host_bind_paths repeated
        string
PortMapping: 1 container_port uint32; 2 host_port uint32; 3 protocol string
MicroVMSpec: 1 kernel_path string; 2 rootfs_path string; 3 vcpus uint32; 4 memory_mib uint32; 5 mounts
        repeated VolumeMount; 6 kernel_cmdline_extra string; 7 backend MicroVMBackend; 8 image string; 9 command
        repeated string; 10 args repeated string; 11 env map<string, string>; 12 ports repeated PortMapping
VolumeMount: 1 volume_name string; 2 mount_path string; 3 read_only bool
WorkloadStatus: 1 phase WorkloadPhase; 2 message string; 3 restart_count uint32
WorkloadApplyRequest: 1 workload Workload
WorkloadApplyResponse: 1 workload Workload
WorkloadGetRequest: 1 name string
WorkloadListRequest: empty
WorkloadListResponse: 1 workloads repeated Workload
WorkloadDeleteRequest: 1 name string
WorkloadDeleteResponse: empty
WorkloadLogsRequest: 1 name string; 2 follow bool; 3 tail_lines int32; 4 source LogSource
WorkloadLogChunk: 1 data bytes
WorkloadExecClientMessage: 1 config WorkloadExecConfig (oneof payload); 2 stdin bytes (oneof payload); 3
        resize WorkloadExecResize (oneof payload)
WorkloadExecConfig: 1 name string; 2 command repeated string; 3 tty bool; 4 env map<string, string>
WorkloadExecResize: 1 cols uint32; 2 rows uint32
WorkloadExecServerMessage: 1 stdout bytes (oneof payload); 2 stderr bytes (oneof payload); 3 exit
        WorkloadExecExit (oneof payload)
WorkloadExecExit: 1 exit_code int32
WorkloadRestartRequest: 1 name string
WorkloadRestartResponse: empty
WorkloadStopRequest: 1 name string
WorkloadStopResponse: empty
WorkloadStartRequest: 1 name string
WorkloadStartResponse: empty
WorkloadCopyToRequest: 1 metadata WorkloadCopyToMetadata (oneof payload); 2 chunk bytes (oneof payload)
WorkloadCopyToMetadata: 1 name string; 2 dest_path string
WorkloadCopyToResponse: 1 bytes_received int64
WorkloadCopyFromRequest: 1 name string; 2 src_path string
WorkloadCopyFromChunk: 1 data bytes
service VolumeService
  Create: VolumeCreateRequest -> Volume
  Get: VolumeGetRequest -> Volume
  List: VolumeListRequest -> VolumeListResponse
  Delete: VolumeDeleteRequest -> VolumeDeleteResponse
  Resize: VolumeResizeRequest -> Volume
Volume: 1 name string; 2 size_bytes uint64; 3 host_path string; 4 mounted_by repeated string; 5
        created_at_unix int64
VolumeCreateRequest: 1 name string; 2 size_mib uint64
VolumeGetRequest: 1 name string
VolumeListRequest: empty
VolumeListResponse: 1 volumes repeated Volume
VolumeDeleteRequest: 1 name string; 2 force bool
VolumeDeleteResponse: empty
VolumeResizeRequest: 1 name string; 2 new_size_mib uint64
service ImageService
  List: ImageListRequest -> ImageListResponse
  Push: stream ImagePushRequest -> ImagePushResponse
ImageListRequest: empty
ImageListResponse: 1 images repeated Image
Image: 1 name string; 2 digest string; 3 size_bytes int64; 4 created_unix int64
ImagePushRequest: 1 metadata ImagePushMetadata (oneof msg); 2 chunk bytes (oneof msg)
ImagePushMetadata: 1 total_bytes uint64
ImagePushResponse: 1 image_refs repeated string; 2 bytes_received uint64
service CapsuleService
  GetInfo: GetInfoRequest -> GetInfoResponse
  StreamLogs: CapsuleLogsRequest -> stream CapsuleLogChunk
  UpdateOS: stream UpdateOSRequest -> UpdateOSResponse
  UpdateConfirm: UpdateConfirmRequest -> UpdateConfirmResponse
  RebootNode: RebootNodeRequest -> RebootNodeResponse
GetInfoRequest: empty
GetInfoResponse: 1 hostname string; 2 kernel_release string; 3 kernel_version string; 4 architecture
        string; 5 uptime_seconds uint64; 6 capsule_version string; 7 active_slot string; 8 pending_slot string;
        9 pending_deadline_unix int64; 10 last_version string; 11 memory_total_bytes uint64; 12
        memory_available_bytes uint64; 13 cpu_cores uint32; 14 cpu_model string; 15 boot_disk string; 16
        disk_total_bytes uint64; 17 thinpool_total_bytes uint64; 18 thinpool_used_bytes uint64; 19
        local_time_unix int64; 20 perm_total_bytes uint64; 21 perm_used_bytes uint64; 22 short_id string
CapsuleLogsRequest: 1 follow bool; 2 tail_lines int32
CapsuleLogChunk: 1 data bytes
UpdateOSRequest: 1 metadata UpdateOSMetadata (oneof msg); 2 chunk bytes (oneof msg)
UpdateOSMetadata: 1 total_bytes uint64; 2 sha256_hex string
UpdateOSResponse: 1 next_slot string; 2 next_version string; 3 reboot_scheduled bool
UpdateConfirmRequest: empty
UpdateConfirmResponse: 1 committed_slot string; 2 committed_version string
RebootNodeRequest: empty
RebootNodeResponse: 1 message string
service IdentityService
  Adopt: AdoptRequest -> AdoptResponse
  WhoAmI: WhoAmIRequest -> WhoAmIResponse
  KeyAdd: KeyAddRequest -> KeyAddResponse
  KeyList: KeyListRequest -> KeyListResponse
  KeyRemove: KeyRemoveRequest -> KeyRemoveResponse
AdoptRequest: 1 pubkey bytes; 2 name string
AdoptResponse: 1 capsule_id string; 2 kid string; 3 tls_fingerprint_sha256 string
WhoAmIRequest: empty
WhoAmIResponse: 1 capsule_id string; 2 kid string; 3 name string
AuthorizedKey: 1 kid string; 2 name string; 3 added_by_kid string; 4 added_at_unix int64
KeyAddRequest: 1 pubkey bytes; 2 name string
KeyAddResponse: 1 key AuthorizedKey
KeyListRequest: empty
KeyListResponse: 1 keys repeated AuthorizedKey
KeyRemoveRequest: 1 kid string
KeyRemoveResponse: empty
"""
EXTENSIONS_FROM = 1000


def lines():
    """The contract's lines; those that were folded are whole again."""
    return re.sub(r"\n {8}", " ", CONTRACT).strip().split("\n")


def services():
    """Service -> method -> (request, request streams, reply, reply streams)."""
    found, methods = {}, None
    for line in lines():
        if line.startswith("service "):
            methods = found.setdefault(line.split()[1], {})
        elif line.startswith("  "):
            name, request, reply = re.fullmatch(r"  (\w+): (.+) -> (.+)", line).groups()
            methods[name] = (request.split()[-1], request.startswith("stream "),
                             reply.split()[-1], reply.startswith("stream "))
    return found


def enums():
    """Enum -> value name -> number."""
    found = {}
    for line in lines():
        match = re.fullmatch(r"enum (\w+): (.+)", line)
        if match:
            found[match[1]] = {name: int(n) for name, n in (v.split("=") for v in match[2].split(", "))}
    return found


def messages():
    """Message -> field number -> (name, type, repeated or map, oneof or None). A map's type is "map"."""
    found = {}
    for line in lines():
        match = re.fullmatch(r"(\w+): (empty|\d.*)", line)
        if not match:
            continue
        fields = found[match[1]] = {}
        for text in ([] if match[2] == "empty" else match[2].split("; ")):
            number, name, repeated, type, oneof = re.fullmatch(
                r"(\d+) (\w+) (repeated )?(map<string, string>|\w+)(?: \(oneof (\w+)\))?", text).groups()
            is_map = type.startswith("map<")
            fields[int(number)] = (name, "map" if is_map else type, bool(repeated) or is_map, oneof)
    return found
