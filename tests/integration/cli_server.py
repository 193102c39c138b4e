# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""A gRPC server that keeps workloads, volumes and images in memory, for tests of the client alone.

    cli_server.py STUBS SOCKET

listens on the Unix socket and on a free port of 127.0.0.1, and prints "ready PORT". What a workload does follows from
its image: "fail..." fails, "slow..." stays pending, "once..." ends by itself, anything else runs after a moment. The
log of the daemon (StreamLogs) is a record of what clients did.
"""
import hashlib
import json
import queue
import sys
import threading
import time
from concurrent import futures

sys.path.insert(0, sys.argv[1])
import grpc  # noqa: E402
from google.protobuf import json_format  # noqa: E402
import capsule_pb2 as capsule  # noqa: E402
import capsule_pb2_grpc as capsule_grpc  # noqa: E402
import image_pb2 as image  # noqa: E402
import image_pb2_grpc as image_grpc  # noqa: E402
import volume_pb2 as volume  # noqa: E402
import volume_pb2_grpc as volume_grpc  # noqa: E402
import workload_pb2 as workload  # noqa: E402
import workload_pb2_grpc as workload_grpc  # noqa: E402

MOMENT = 0.05
LINES = 5

record = []
record_lock = threading.Lock()


def note(text):
    with record_lock:
        record.append(text)


def flat(message, path=""):
    """{"container.image": '"nginx"', ...}"""
    found = {}

    def walk(value, at):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{at}.{key}" if at else key)
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                walk(inner, f"{at}[{i}]")
        else:
            found[at] = json.dumps(value)

    walk(json_format.MessageToDict(message), path)
    return found


def spec_of(w):
    spec = workload.Workload()
    spec.CopyFrom(w)
    spec.ClearField("status")
    spec.ClearField("desired_state")
    spec.ClearField("created_at_unix")
    return spec


class Workloads(workload_grpc.WorkloadServiceServicer):
    def __init__(self, volumes):
        self.lock = threading.RLock()
        self.all = {}
        self.watchers = []
        self.volumes = volumes

    def find(self, name, context):
        if name not in self.all:
            context.abort(grpc.StatusCode.NOT_FOUND, f'workload "{name}" does not exist')
        return self.all[name]

    def tell(self, kind, w):
        event = workload.WorkloadEvent(type=kind, time_unix_ms=int(time.time() * 1000))
        event.workload.CopyFrom(w)
        for names, events in self.watchers:
            if not names or w.name in names:
                events.put(event)

    def later(self, name, change):
        def run():
            with self.lock:
                if name in self.all:
                    change(self.all[name])

        timer = threading.Timer(MOMENT, run)
        timer.daemon = True
        timer.start()

    def phase(self, w, phase, message=""):
        w.status.phase = phase
        w.status.message = message
        self.tell(workload.WORKLOAD_EVENT_TYPE_STATE, w)

    def launch(self, w):
        what = (w.container.image or w.micro_vm.image).split("/")[-1]
        self.phase(w, workload.WORKLOAD_PHASE_PENDING, f"pulling {what}: 43 %")
        if what.startswith("slow"):
            return
        outcome = (workload.WORKLOAD_PHASE_RUNNING, "")
        if what.startswith("fail"):
            outcome = (workload.WORKLOAD_PHASE_FAILED, "exited 1")
        elif what.startswith("once"):
            outcome = (workload.WORKLOAD_PHASE_STOPPED, "exited 0")
        elif what.startswith("rude"):
            outcome = (workload.WORKLOAD_PHASE_RUNNING, "\x1b[2Jcleared your screen")
        self.later(w.name, lambda x: self.phase(x, *outcome))

    def Apply(self, request, context):
        with self.lock:
            new = request.workload
            if new.name.startswith("refused"):
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "host port 80/tcp is held by workload/other")
            for mount in [*new.container.mounts, *new.micro_vm.mounts]:
                if mount.volume_name not in self.volumes.all:
                    context.abort(grpc.StatusCode.NOT_FOUND, f'volume "{mount.volume_name}" does not exist')
            old = self.all.get(new.name)
            before = flat(spec_of(old)) if old else {}
            after = flat(spec_of(new))
            reply = workload.WorkloadApplyResponse(created=old is None)
            for path in sorted(before.keys() | after.keys()):
                if before.get(path) != after.get(path):
                    reply.changes.add(path=path, old_value=before.get(path, ""), new_value=after.get(path, ""))
            if not request.dry_run and (reply.changes or not old):
                note(f"applied {new.name}")
                w = workload.Workload()
                w.CopyFrom(new)
                w.desired_state = workload.DESIRED_STATE_RUNNING
                w.created_at_unix = old.created_at_unix if old else int(time.time()) - 10800
                self.all[new.name] = w
                self.launch(w)
            reply.workload.CopyFrom(self.all.get(new.name, new))
            return reply

    def Get(self, request, context):
        with self.lock:
            return self.find(request.name, context)

    def List(self, request, context):
        with self.lock:
            return workload.WorkloadListResponse(workloads=[self.all[n] for n in sorted(self.all)])

    def Delete(self, request, context):
        with self.lock:
            w = self.find(request.name, context)
            w.desired_state = workload.DESIRED_STATE_DELETING
            self.tell(workload.WORKLOAD_EVENT_TYPE_STATE, w)

            def remove(x):
                del self.all[x.name]
                self.tell(workload.WORKLOAD_EVENT_TYPE_DELETED, workload.Workload(name=x.name))

            if not request.name.startswith("stuck"):
                self.later(w.name, remove)
            return workload.WorkloadDeleteResponse()

    def Stop(self, request, context):
        with self.lock:
            w = self.find(request.name, context)
            w.desired_state = workload.DESIRED_STATE_STOPPED
            self.tell(workload.WORKLOAD_EVENT_TYPE_STATE, w)
            if not request.name.startswith("stuck"):
                self.later(w.name, lambda x: self.phase(x, workload.WORKLOAD_PHASE_STOPPED))
            return workload.WorkloadStopResponse()

    def Start(self, request, context):
        with self.lock:
            w = self.find(request.name, context)
            w.desired_state = workload.DESIRED_STATE_RUNNING
            self.launch(w)
            return workload.WorkloadStartResponse()

    def Restart(self, request, context):
        with self.lock:
            w = self.find(request.name, context)
            w.status.restart_count += 1
            self.launch(w)
            return workload.WorkloadRestartResponse()

    def Logs(self, request, context):
        with self.lock:
            w = self.find(request.name, context)
        if request.source == workload.LOG_SOURCE_SERIAL:
            if w.kind != workload.WORKLOAD_KIND_MICRO_VM:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f'workload "{w.name}" is a container and has no serial console')
            yield workload.WorkloadLogChunk(data=b"kernel booted\n")
            return
        # Line i was written 10 * (LINES - i) + 1 minutes ago.
        now = time.time() - 60
        lines = [(now - 600 * (LINES - i), f"line {i}\n") for i in range(1, LINES + 1)]
        lines = [(t, s) for t, s in lines if t * 1e9 >= request.since_unix_nanos]
        lines = lines[-request.tail_lines:] if request.tail_lines else lines
        gone = threading.Event()
        if not context.add_callback(gone.set):
            gone.set()
        try:
            for t, s in lines:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime(t)) if request.timestamps else ""
                yield workload.WorkloadLogChunk(data=(stamp + s).encode())
            if request.follow:
                gone.wait()
        finally:  # the client may leave in the middle of a yield
            if request.follow:
                note(f"left the logs of {w.name}")

    def Watch(self, request, context):
        events = queue.Queue()
        if not context.add_callback(lambda: events.put(None)):
            return
        with self.lock:
            names = set(request.names)
            for name in sorted(self.all):
                if not names or name in names:
                    event = workload.WorkloadEvent(type=workload.WORKLOAD_EVENT_TYPE_STATE)
                    event.workload.CopyFrom(self.all[name])
                    events.put(event)
            events.put(workload.WorkloadEvent(type=workload.WORKLOAD_EVENT_TYPE_SYNCED))
            entry = (names, events)
            self.watchers.append(entry)
        try:
            for event in iter(events.get, None):
                yield event
        finally:  # the client may leave in the middle of a yield
            with self.lock:
                self.watchers.remove(entry)
            note("left the watch")


class Volumes(volume_grpc.VolumeServiceServicer):
    def __init__(self):
        self.lock = threading.Lock()
        self.all = {}

    def find(self, name, context):
        if name not in self.all:
            context.abort(grpc.StatusCode.NOT_FOUND, f'volume "{name}" does not exist')
        return self.all[name]

    def Create(self, request, context):
        with self.lock:
            if request.name in self.all:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, f'volume "{request.name}" exists already')
            v = volume.Volume(name=request.name, host_path=f"/somewhere/{request.name}.img",
                              size_bytes=(request.size_mib or 1024) << 20, created_at_unix=int(time.time()) - 10800)
            if request.name.startswith("used"):
                v.mounted_by.append("web")
            self.all[v.name] = v
            note(f"created {v.name}")
            return v

    def Get(self, request, context):
        with self.lock:
            return self.find(request.name, context)

    def List(self, request, context):
        with self.lock:
            return volume.VolumeListResponse(volumes=[self.all[n] for n in sorted(self.all)])

    def Resize(self, request, context):
        with self.lock:
            v = self.find(request.name, context)
            if request.new_size_mib << 20 < v.size_bytes:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f'volume "{v.name}" can only grow')
            v.size_bytes = request.new_size_mib << 20
            return v

    def Delete(self, request, context):
        with self.lock:
            v = self.find(request.name, context)
            if v.mounted_by and not request.force:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f'volume "{v.name}" is in use by workload/web')
            del self.all[v.name]
            return volume.VolumeDeleteResponse()


class Images(image_grpc.ImageServiceServicer):
    def __init__(self):
        self.all = {}

    def List(self, request, context):
        return image.ImageListResponse(images=[self.all[n] for n in sorted(self.all)])

    def add(self, name, digest, size):
        self.all[name] = image.Image(name=name, digest="sha256:" + digest, size_bytes=size, created_unix=int(time.time()) - 7200)
        return self.all[name]

    def Push(self, requests, context):
        digest, size, total = hashlib.sha256(), 0, None
        for request in requests:
            if request.WhichOneof("msg") == "metadata":
                total = request.metadata.total_bytes
                continue
            if size == 0 and request.chunk.startswith(b"BAD"):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is not an image archive")
            digest.update(request.chunk)
            size += len(request.chunk)
        if total is None or (total and total != size):
            context.abort(grpc.StatusCode.DATA_LOSS, f"{size} bytes came of {total}")
        name = f"docker.io/library/{digest.hexdigest()[:16]}:latest"
        self.add(name, digest.hexdigest(), size)
        note(f"push of {size} bytes, announced {total}")
        return image.ImagePushResponse(image_refs=[name], bytes_received=size)

    def Pull(self, request, context):
        if "missing" in request.reference:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{request.reference}: the registry has no such image")
        total = 100 << 20
        for done in range(0, total + 1, total // 4):
            yield image.ImagePullProgress(done_bytes=done, total_bytes=total, status="layer 1 of 1")
            time.sleep(0.15 if "slowly" in request.reference else 0)
        name = f"docker.io/library/{request.reference}"
        yield image.ImagePullProgress(image=self.add(name, hashlib.sha256(name.encode()).hexdigest(), total))

    def Delete(self, request, context):
        if request.reference not in self.all:
            context.abort(grpc.StatusCode.NOT_FOUND, f"image {request.reference} is not here")
        del self.all[request.reference]
        return image.ImageDeleteResponse(removed=[request.reference])

    def Prune(self, request, context):
        removed = sorted(self.all)
        freed = sum(i.size_bytes for i in self.all.values())
        self.all.clear()
        return image.ImagePruneResponse(removed=removed, freed_bytes=freed)


class Capsule(capsule_grpc.CapsuleServiceServicer):
    def GetInfo(self, request, context):
        return capsule.GetInfoResponse(
            hostname="testhost", kernel_release="6.1.0", architecture="x86_64", uptime_seconds=7200, capsule_version="9.9.9",
            memory_total_bytes=8 << 30, memory_available_bytes=6 << 30, cpu_cores=2, cpu_model="Test CPU",
            local_time_unix=1700000000, perm_total_bytes=100 << 30, perm_used_bytes=25 << 30)

    def StreamLogs(self, request, context):
        with record_lock:
            lines = record[-request.tail_lines:] if request.tail_lines else list(record)
        for line in lines:
            yield capsule.CapsuleLogChunk(data=(line + "\n").encode())


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    volumes = Volumes()
    workload_grpc.add_WorkloadServiceServicer_to_server(Workloads(volumes), server)
    volume_grpc.add_VolumeServiceServicer_to_server(volumes, server)
    image_grpc.add_ImageServiceServicer_to_server(Images(), server)
    capsule_grpc.add_CapsuleServiceServicer_to_server(Capsule(), server)
    server.add_insecure_port("unix:" + sys.argv[2])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("ready", port, flush=True)
    sys.stdin.read()  # until the test ends
    server.stop(0)


main()
