# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The API as an independent client sees it: grpcio, with stubs generated from our .proto files."""
import grpc
import pytest

Code = grpc.StatusCode
TIMEOUT = 60


def fails(call, code):
    """The details of the error that the call must end with."""
    with pytest.raises(grpc.RpcError) as e:
        call()
    assert e.value.code() == code, e.value.details()
    return e.value.details()


class Client:
    """One connection with a stub for each service. pb has the messages: pb.workload, pb.volume, ..."""

    def __init__(self, channel, pb):
        self.channel, self.pb = channel, pb
        self.workload = pb.workload_grpc.WorkloadServiceStub(channel)
        self.volume = pb.volume_grpc.VolumeServiceStub(channel)
        self.image = pb.image_grpc.ImageServiceStub(channel)
        self.host = pb.capsule_grpc.CapsuleServiceStub(channel)

    def spec(self, name, *command, desired="UNSPECIFIED", **fields):
        """A container of busybox that runs the command."""
        w = self.pb.workload
        container = w.ContainerSpec(image="busybox:test", command=command)
        state = w.DesiredState.Value("DESIRED_STATE_" + desired)
        return w.Workload(name=name, kind=w.WORKLOAD_KIND_CONTAINER, container=container, desired_state=state,
                          stop_grace_period_seconds=0, **fields)

    def apply(self, workload, **options):
        return self.workload.Apply(self.pb.workload.WorkloadApplyRequest(workload=workload, **options), timeout=TIMEOUT)

    def get(self, name):
        return self.workload.Get(self.pb.workload.WorkloadGetRequest(name=name), timeout=TIMEOUT)

    def names(self):
        reply = self.workload.List(self.pb.workload.WorkloadListRequest(), timeout=TIMEOUT)
        return [w.name for w in reply.workloads]

    def start(self, name):
        self.workload.Start(self.pb.workload.WorkloadStartRequest(name=name), timeout=TIMEOUT)

    def stop(self, name):
        self.workload.Stop(self.pb.workload.WorkloadStopRequest(name=name), timeout=TIMEOUT)

    def restart(self, name):
        self.workload.Restart(self.pb.workload.WorkloadRestartRequest(name=name), timeout=TIMEOUT)

    def delete(self, name):
        self.workload.Delete(self.pb.workload.WorkloadDeleteRequest(name=name), timeout=TIMEOUT)

    def watch(self, *names, timeout=TIMEOUT):
        return self.workload.Watch(self.pb.workload.WorkloadWatchRequest(names=names), timeout=timeout)

    def wait(self, name, condition):
        """The workload, as soon as condition(workload) holds; None stands for one that is not there (any more)."""
        w, events, known = self.pb.workload, self.watch(name), None
        try:
            for event in events:
                if event.type == w.WORKLOAD_EVENT_TYPE_STATE:
                    known = event.workload
                elif event.type == w.WORKLOAD_EVENT_TYPE_DELETED:
                    known = None
                if condition(known):
                    return known
        finally:
            events.cancel()

    def wait_phase(self, name, phase):
        value = self.pb.workload.WorkloadPhase.Value("WORKLOAD_PHASE_" + phase)
        return self.wait(name, lambda w: w is not None and w.status.phase == value)

    def wait_gone(self, name):
        self.wait(name, lambda w: w is None)

    def logs(self, name, **options):
        """All that the stream brings until it ends."""
        request = self.pb.workload.WorkloadLogsRequest(name=name, **options)
        return b"".join(chunk.data for chunk in self.workload.Logs(request, timeout=TIMEOUT))

    def exec_requests(self, name, command, stdin=(), **config):
        """stdin: an iterable of bytes; at its end the client's side is closed."""
        w = self.pb.workload
        yield w.WorkloadExecClientMessage(config=w.WorkloadExecConfig(name=name, command=command, **config))
        for data in stdin:
            yield w.WorkloadExecClientMessage(stdin=data)

    def exec(self, name, *command, timeout=TIMEOUT, **options):
        """The call: an iterator of the server's messages."""
        return self.workload.Exec(self.exec_requests(name, command, **options), timeout=timeout)

    def run(self, name, *command, **options):
        """Standard output, standard error, exit code."""
        out, err, code = b"", b"", None
        for message in self.exec(name, *command, **options):
            assert code is None, "the exit is the last message"
            out, err = out + message.stdout, err + message.stderr
            if message.WhichOneof("payload") == "exit":
                code = message.exit.exit_code
        return out.decode(), err.decode(), code

    def push_requests(self, archive, chunk=256 << 10, total=None):
        i = self.pb.image
        yield i.ImagePushRequest(metadata=i.ImagePushMetadata(total_bytes=len(archive) if total is None else total))
        for at in range(0, len(archive), chunk):
            yield i.ImagePushRequest(chunk=archive[at:at + chunk])

    def push(self, archive, **options):
        return self.image.Push(self.push_requests(archive, **options), timeout=TIMEOUT)

    def images(self):
        return list(self.image.List(self.pb.image.ImageListRequest(), timeout=TIMEOUT).images)

    def create_volume(self, name, size_mib=16):
        return self.volume.Create(self.pb.volume.VolumeCreateRequest(name=name, size_mib=size_mib), timeout=TIMEOUT)

    def get_volume(self, name):
        return self.volume.Get(self.pb.volume.VolumeGetRequest(name=name), timeout=TIMEOUT)

    def resize_volume(self, name, size_mib):
        return self.volume.Resize(self.pb.volume.VolumeResizeRequest(name=name, new_size_mib=size_mib), timeout=TIMEOUT)

    def delete_volume(self, name, force=False):
        self.volume.Delete(self.pb.volume.VolumeDeleteRequest(name=name, force=force), timeout=TIMEOUT)

    def volumes(self):
        return list(self.volume.List(self.pb.volume.VolumeListRequest(), timeout=TIMEOUT).volumes)
