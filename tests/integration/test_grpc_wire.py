# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What the wire must stand: unknown fields, deadlines, cancelled calls, broken connections, TCP, many clients."""
import concurrent.futures
import os

import grpc
import pytest

import images
from capsule import IMAGE_WORKER, free_port, wait_for
from grpc_client import TIMEOUT, Client, Code, fails


# ---- unknown fields ----

def varint(n):
    out = b""
    while n > 0x7f:
        out += bytes([n & 0x7f | 0x80])
        n >>= 7
    return out + bytes([n])


def of_the_future():
    """One field of each wire type, with numbers that nobody has given out."""
    return (varint(900 << 3 | 0) + varint(7) + varint(901 << 3 | 1) + bytes(8) +
            varint(5000 << 3 | 2) + varint(3) + b"new" + varint(5001 << 3 | 5) + bytes(4))


def test_unknown_fields_are_ignored(client, capsule):
    """As a newer client would send them, at every level of a message."""
    w = client.pb.workload
    container = w.ContainerSpec.FromString(w.ContainerSpec(image="busybox:test").SerializeToString() + of_the_future())
    spec = client.spec("web", desired="STOPPED")
    spec.container.CopyFrom(container)
    spec = w.Workload.FromString(spec.SerializeToString() + of_the_future())
    request = w.WorkloadApplyRequest(workload=spec).SerializeToString() + of_the_future()
    assert request.count(b"new") == 3
    reply = client.channel.unary_unary("/capsule.v1.WorkloadService/Apply")(request, timeout=TIMEOUT)
    stored = w.WorkloadApplyResponse.FromString(reply).workload
    assert stored.name == "web" and stored.container.image == "busybox:test"
    assert client.names() == ["web"]


def test_health_watch_tells_of_the_end(capsule, standard_stubs):
    health = standard_stubs.health
    with capsule.channel() as channel:
        request = health.HealthCheckRequest(service="capsule.v1.WorkloadService")
        watch = standard_stubs.HealthStub(channel).Watch(request, timeout=TIMEOUT)
        assert next(watch).status == health.HealthCheckResponse.SERVING
        capsule.process.terminate()
        assert next(watch).status == health.HealthCheckResponse.NOT_SERVING
        fails(lambda: next(watch), Code.UNAVAILABLE)
    assert capsule.process.wait(TIMEOUT) == 0
    capsule.process = None


# ---- deadlines, cancelled calls ----

def test_a_deadline_in_the_middle_of_a_forced_delete(client, capsule):
    """It waits for a workload that takes its time. When the client does not, the stop stands, and the volume stays."""
    client.create_volume("data")
    spec = client.spec("web", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000 & wait; done")
    spec.stop_grace_period_seconds = 2
    spec.container.mounts.add(volume_name="data", mount_path="/data")
    client.apply(spec)
    wait_for(lambda: client.logs("web") == b"up\n", "the trap")
    request = client.pb.volume.VolumeDeleteRequest(name="data", force=True)
    fails(lambda: client.volume.Delete(request, timeout=0.5), Code.DEADLINE_EXCEEDED)
    client.wait_phase("web", "STOPPED")
    assert [v.name for v in client.volumes()] == ["data"]
    client.delete_volume("data", force=True)
    assert client.volumes() == []


def is_transferring(capsule):
    """Whether a capsule-image of this daemon runs."""
    for pid in capsule.pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if f.read().startswith(str(IMAGE_WORKER).encode() + b"\0"):
                    return True
        except OSError:
            pass
    return False


def test_a_client_that_leaves_in_the_middle_of_a_push(client, capsule):
    archive = images.make_image(None, "big:1", [images.File("/noise", os.urandom(4 << 20))])
    half = list(client.push_requests(archive))[:8]
    gone = []

    def requests():
        yield from half
        wait_for(lambda: gone, "the call to be cancelled")

    call = client.image.Push.future(requests(), timeout=TIMEOUT)
    wait_for(lambda: is_transferring(capsule), "the transfer")
    call.cancel()
    gone.append(True)
    wait_for(lambda: not is_transferring(capsule), "the end of the transfer")
    assert [i.name for i in client.images()] == ["docker.io/library/busybox:test"]
    assert client.push(archive).bytes_received == len(archive)
    assert [f for f in os.listdir(capsule.root / "images/blobs/sha256") if f.startswith(".")] == []


def test_followers_that_leave_are_forgotten(client, capsule):
    client.apply(client.spec("web", "sh", "-c", "echo up; exec sleep 1000"))
    wait_for(lambda: client.logs("web") == b"up\n", "the line")

    def descriptors():
        return len(os.listdir(f"/proc/{capsule.process.pid}/fd"))
    before = descriptors()
    request = client.pb.workload.WorkloadLogsRequest(name="web", follow=True)
    calls = [client.workload.Logs(request, timeout=TIMEOUT) for _ in range(10)] + [client.watch() for _ in range(10)]
    for call in calls:
        next(call)
    assert descriptors() > before
    for call in calls:
        call.cancel()
        fails(lambda: list(call), Code.CANCELLED)
    wait_for(lambda: descriptors() <= before, "the followers to be forgotten")
    assert client.names() == ["web"]


def test_a_connection_that_breaks_under_calls(client, capsule, stubs):
    channel = capsule.channel()
    other = Client(channel, stubs)
    events = other.watch()
    next(events)
    channel.close()
    fails(lambda: list(events), Code.CANCELLED)
    assert client.names() == []


# ---- addresses ----

@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_over_tcp(make_capsule, stubs, host):
    port = free_port()
    listen = "[::1]" if host == "[::1]" else "127.0.0.1"
    capsule = make_capsule("--listen", "unix:{run}/capsule.sock", "--listen", f"{listen}:{port}")
    with grpc.insecure_channel(f"{host}:{port}") as tcp, capsule.channel() as local:
        over_tcp, over_unix = Client(tcp, stubs), Client(local, stubs)
        over_tcp.apply(over_tcp.spec("web", "sh", "-c", "echo up; exec sleep 1000"))
        wait_for(lambda: over_tcp.logs("web") == b"up\n", "the line")
        assert over_tcp.get("web") == over_unix.get("web")
        archive = images.make_image(None, "small:1", [images.File("/a", os.urandom(1 << 20))])
        assert over_tcp.push(archive, chunk=100001).bytes_received == len(archive)


# ---- many clients ----

def whole_life(capsule, stubs, n):
    """What one of many clients does, on a connection of its own. Returns what its workload said."""
    name, volume = f"w{n}", f"v{n}"
    with grpc.insecure_channel(f"unix:{capsule.socket}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        client = Client(channel, stubs)
        client.create_volume(volume)
        spec = client.spec(name, "sh", "-c", f"echo I am {n} | tee /data/mark; exec sleep 1000")
        spec.container.mounts.add(volume_name=volume, mount_path="/data")
        client.apply(spec)
        client.wait_phase(name, "RUNNING")
        said = wait_for(lambda: client.logs(name), "its log")
        assert name in client.names() and list(client.get_volume(volume).mounted_by) == [name]
        client.push(images.make_image(None, f"image:{n}", [images.File("/mark", str(n).encode())]))
        client.delete(name)
        client.wait_gone(name)
        client.delete_volume(volume)
        return said


def test_twenty_clients_at_once(client, capsule, stubs):
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        said = list(pool.map(lambda n: whole_life(capsule, stubs, n), range(20)))
    assert said == [f"I am {n}\n".encode() for n in range(20)]
    assert client.names() == [] and client.volumes() == []
    assert len(client.images()) == 21
