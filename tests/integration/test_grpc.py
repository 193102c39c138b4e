# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Every method of the API, called by an independent client. What the wire itself must do is in test_grpc_wire.py."""
import os
import threading
import time

import pytest

import images
from capsule import free_port, wait_for
from grpc_client import TIMEOUT, Code, fails

SLEEP = ("sleep", "1000")
STUBBORN = ("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000 & wait; done")
MIB = 1 << 20


@pytest.fixture
def w(stubs):
    return stubs.workload


# ---- Apply, Get, List ----

def test_apply_stores_and_tells_what_it_stored(client, w):
    port = free_port()
    spec = client.spec("web", *SLEEP)
    spec.container.env["B"] = "2"
    spec.container.env["A"] = "1"
    spec.container.ports.add(container_port=80, host_port=port)
    before = int(time.time())
    reply = client.apply(spec)
    assert reply.created
    stored = reply.workload
    assert stored.container.network_mode == w.NETWORK_MODE_BRIDGE
    assert stored.container.ports[0].protocol == "tcp"
    assert dict(stored.container.env) == {"A": "1", "B": "2"}
    assert stored.desired_state == w.DESIRED_STATE_RUNNING
    assert stored.restart_policy == w.RESTART_POLICY_ALWAYS
    assert before <= stored.created_at_unix <= time.time()
    running = client.wait_phase("web", "RUNNING")
    assert running.container == stored.container
    assert running.status.address and os.path.exists(f"/proc/{running.status.pid}")
    assert running.status.image_digest == client.images()[0].digest
    assert client.get("web") == running
    assert client.names() == ["web"]


def test_an_equal_spec_leaves_the_process_alone_and_a_changed_one_does_not(client):
    client.apply(client.spec("web", *SLEEP))
    first = client.wait_phase("web", "RUNNING")
    again = client.apply(client.spec("web", *SLEEP))
    assert not again.created and not again.changes
    assert client.get("web") == first
    reply = client.apply(client.spec("web", "sleep", "2000"))
    assert [(c.path, c.old_value, c.new_value) for c in reply.changes] == [
        ("container.command", '["sleep","1000"]', '["sleep","2000"]')]
    second = client.wait("web", lambda now: now.status.pid not in (0, first.status.pid))
    assert second.status.started_at_unix_ms > first.status.started_at_unix_ms
    assert second.status.address == first.status.address


def test_what_a_client_says_of_the_status_is_ignored(client, w):
    spec = client.spec("web", *SLEEP, desired="STOPPED", created_at_unix=1,
                       status=w.WorkloadStatus(phase=w.WORKLOAD_PHASE_RUNNING, message="mine", pid=1))
    client.apply(spec)
    stored = client.wait_phase("web", "STOPPED")
    assert stored.created_at_unix > 1
    assert stored.status.message != "mine" and stored.status.pid == 0


def test_a_dry_run_changes_nothing(client):
    assert client.apply(client.spec("web", *SLEEP), dry_run=True).created
    assert client.names() == []
    client.apply(client.spec("web", *SLEEP, desired="STOPPED"))
    before = client.wait_phase("web", "STOPPED")
    changes = client.apply(client.spec("web", "other"), dry_run=True).changes
    assert [c.path for c in changes] == ["container.command"]
    assert client.get("web") == before


def test_workloads_of_one_apply_are_stored_all_or_none(client, w):
    one, two, no_volume = (client.spec(name, *SLEEP) for name in ("one", "two", "three"))
    no_volume.container.mounts.add(volume_name="none", mount_path="/data")
    assert fails(lambda: client.apply(one, others=[no_volume]), Code.NOT_FOUND).startswith("workload three: volume none,")
    assert fails(lambda: client.apply(one, others=[client.spec("Two")]), Code.INVALID_ARGUMENT).startswith("workload Two: ")
    assert fails(lambda: client.apply(one, others=[two, one]), Code.INVALID_ARGUMENT) == "workload one is given twice"
    assert "more than 1000" in fails(lambda: client.apply(one, others=[two] * 1000), Code.INVALID_ARGUMENT)
    assert client.apply(one, others=[two], dry_run=True).others[0].created
    assert client.names() == []
    reply = client.apply(one, others=[two])
    assert (reply.workload.name, [other.workload.name for other in reply.others]) == ("one", ["two"])
    client.wait_phase("one", "RUNNING")
    client.wait_phase("two", "RUNNING")
    again = client.apply(client.spec("two", "sleep", "2000"), others=[one])
    assert [c.path for c in again.changes] == ["container.command"] and not again.others[0].changes


def test_desired_state_of_an_apply(client, w):
    """UNSPECIFIED is RUNNING for a new workload and keeps what is stored of an old one."""
    assert client.apply(client.spec("new", *SLEEP)).workload.desired_state == w.DESIRED_STATE_RUNNING
    client.apply(client.spec("web", *SLEEP, desired="STOPPED"))
    assert client.wait_phase("web", "STOPPED").status.started_at_unix_ms == 0, "it must never have run"
    assert client.apply(client.spec("web", "sleep", "2000")).workload.desired_state == w.DESIRED_STATE_STOPPED
    assert client.get("web").status.started_at_unix_ms == 0
    reply = client.apply(client.spec("web", "sleep", "2000", desired="RUNNING"))
    assert reply.workload.desired_state == w.DESIRED_STATE_RUNNING
    client.wait_phase("web", "RUNNING")
    assert client.apply(client.spec("web", "sleep", "2000")).workload.desired_state == w.DESIRED_STATE_RUNNING
    client.apply(client.spec("web", "sleep", "2000", desired="STOPPED"))
    client.wait_phase("web", "STOPPED")


def test_the_extensions_of_a_workload(client, w):
    """Fields from 1000 upward: kept as they were sent, with presence where 0 means something."""
    spec = client.spec("job", "sh", "-c", "exit 3", restart_policy=w.RESTART_POLICY_NEVER)
    assert client.apply(spec).workload.WhichOneof("stop_grace") == "stop_grace_period_seconds"
    job = client.wait_phase("job", "FAILED")
    assert job.restart_policy == w.RESTART_POLICY_NEVER and job.stop_grace_period_seconds == 0
    assert job.status.exit_code == 3 and job.status.restart_count == 0
    assert 0 < job.status.started_at_unix_ms <= job.status.finished_at_unix_ms
    spec.ClearField("stop_grace_period_seconds")
    reply = client.apply(spec)
    assert reply.workload.WhichOneof("stop_grace") is None
    assert [c.path for c in reply.changes] == ["stopGracePeriodSeconds"]


def test_a_conflict_names_the_holder(client):
    port = free_port()
    first, second = client.spec("first", *SLEEP, desired="STOPPED"), client.spec("second", *SLEEP)
    for spec in (first, second):
        spec.container.ports.add(container_port=80, host_port=port)
    client.apply(first)
    details = fails(lambda: client.apply(second), Code.FAILED_PRECONDITION)
    assert f"{port}/tcp" in details and "first" in details
    assert client.names() == ["first"]


# ---- Stop, Start, Restart, Delete ----

def test_stop_start_restart(client, w):
    client.apply(client.spec("web", *SLEEP))
    first = client.wait_phase("web", "RUNNING").status.pid
    client.stop("web")
    stopped = client.wait_phase("web", "STOPPED")
    assert stopped.desired_state == w.DESIRED_STATE_STOPPED and stopped.status.pid == 0
    client.stop("web")
    assert "web is stopped" in fails(lambda: client.restart("web"), Code.FAILED_PRECONDITION)
    client.start("web")
    second = client.wait_phase("web", "RUNNING")
    assert second.status.pid != first and second.desired_state == w.DESIRED_STATE_RUNNING
    client.restart("web")
    client.wait("web", lambda now: now.status.pid not in (0, second.status.pid))


def test_delete_may_be_sent_again_while_it_is_under_way(client, w):
    spec = client.spec("web", *STUBBORN)
    spec.stop_grace_period_seconds = 3
    client.apply(spec)
    client.wait_phase("web", "RUNNING")
    wait_for(lambda: client.logs("web") == b"up\n", "the trap")
    client.delete("web")
    assert client.get("web").desired_state == w.DESIRED_STATE_DELETING
    client.delete("web")
    for refused in (lambda: client.start("web"), lambda: client.stop("web"), lambda: client.restart("web"),
                    lambda: client.apply(client.spec("web", *SLEEP))):
        assert "web is being deleted" in fails(refused, Code.FAILED_PRECONDITION)
    client.wait_gone("web")
    assert fails(lambda: client.delete("web"), Code.NOT_FOUND) == "there is no workload web"


# ---- Watch ----

def test_watch_tells_the_present_then_the_changes(client, w):
    client.apply(client.spec("old", *SLEEP, desired="STOPPED"))
    client.wait_phase("old", "STOPPED")
    events = client.watch()
    first, second = next(events), next(events)
    assert first.type == w.WORKLOAD_EVENT_TYPE_STATE and first.workload == client.get("old")
    assert second.type == w.WORKLOAD_EVENT_TYPE_SYNCED and not second.HasField("workload")
    assert abs(second.time_unix_ms / 1000 - time.time()) < TIMEOUT
    client.apply(client.spec("web", *SLEEP))
    phases = []
    for event in events:
        assert event.workload.name == "web"
        phases.append(event.workload.status.phase)
        if phases[-1] == w.WORKLOAD_PHASE_RUNNING:
            break
    assert set(phases[:-1]) == {w.WORKLOAD_PHASE_PENDING}
    client.delete("web")
    for event in events:
        if event.type == w.WORKLOAD_EVENT_TYPE_DELETED:
            break
    assert event.workload == w.Workload(name="web")
    events.cancel()


def test_watch_of_names_that_need_not_exist_yet(client, w):
    events = client.watch("later")
    assert next(events).type == w.WORKLOAD_EVENT_TYPE_SYNCED
    client.apply(client.spec("other", *SLEEP, desired="STOPPED"))
    client.apply(client.spec("later", *SLEEP, desired="STOPPED"))
    assert next(events).workload.name == "later"
    events.cancel()


# ---- Logs ----

def run_to_end(client, w, name, script):
    client.apply(client.spec(name, "sh", "-c", script, restart_policy=w.RESTART_POLICY_NEVER))
    return client.wait_phase(name, "STOPPED")


def test_logs_are_the_bytes_that_were_written(client, w):
    run_to_end(client, w, "bin", r"printf 'a\000b\377\303\n\r\n\nno newline'")
    assert client.logs("bin") == b"a\0b\xff\xc3\n\r\n\nno newline"
    assert client.logs("bin", source=w.LOG_SOURCE_PAYLOAD) == client.logs("bin")
    assert client.logs("bin", tail_lines=1) == b"no newline"
    assert client.logs("bin", tail_lines=3) == b"\r\n\nno newline"
    assert client.logs("bin", tail_lines=2**31 - 1) == client.logs("bin")


def test_logs_hold_both_streams(client, w):
    run_to_end(client, w, "both", "echo one; sleep 0.3; echo two >&2; sleep 0.3; printf three")
    assert client.logs("both") == b"one\ntwo\nthree"


def test_logs_of_every_byte_and_of_a_long_line(client, w):
    run_to_end(client, w, "all", "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i+1)); done;"
                                 " head -c 300000 /dev/zero; echo end")
    assert client.logs("all") == bytes(range(256)) + bytes(300000) + b"end\n"


def test_logs_by_time(client, w):
    run_to_end(client, w, "web", "echo one; sleep 0.3; echo two")
    stamped = client.logs("web", timestamps=True).decode().splitlines()
    assert [line.split(" ", 1)[1] for line in stamped] == ["one", "two"]
    first, second = (time.strptime(line[:19], "%Y-%m-%dT%H:%M:%S") for line in stamped)
    assert first <= second
    nanos = client.get("web").status.finished_at_unix_ms * 1_000_000 - 200_000_000
    assert client.logs("web", since_unix_nanos=nanos) == b"two\n"
    assert client.logs("web", since_unix_nanos=time.time_ns()) == b""
    assert client.logs("web", since_unix_nanos=2**63 - 1) == b""


def follow(client, name, **options):
    """Follows on a thread. A list that grows by the chunks, and the thread, which ends with the stream."""
    chunks = []
    call = client.workload.Logs(client.pb.workload.WorkloadLogsRequest(name=name, follow=True, **options), timeout=TIMEOUT)

    def read():
        for chunk in call:
            chunks.append(chunk.data)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return chunks, thread


def test_a_follower_sees_restarts_and_ends_with_the_workload(client):
    client.apply(client.spec("web", "sh", "-c", "echo up; exec sleep 1000"))
    client.wait_phase("web", "RUNNING")
    chunks, thread = follow(client, "web")
    wait_for(lambda: b"".join(chunks) == b"up\n", "the first line")
    client.stop("web")
    client.wait_phase("web", "STOPPED")
    client.start("web")
    wait_for(lambda: b"".join(chunks) == b"up\nup\n", "the line of the second run")
    assert thread.is_alive()
    client.delete("web")
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert b"".join(chunks) == b"up\nup\n"


def test_a_follower_that_begins_at_the_end(client):
    client.apply(client.spec("web", "sh", "-c", "for i in 1 2 3; do echo $i; done; sleep 1000"))
    wait_for(lambda: client.logs("web") == b"1\n2\n3\n", "three lines")
    chunks, thread = follow(client, "web", tail_lines=1)
    wait_for(lambda: b"".join(chunks) == b"3\n", "the last line")
    client.delete("web")
    thread.join(TIMEOUT)
    assert b"".join(chunks) == b"3\n"


def test_logs_of_a_workload_that_never_ran(client, w):
    client.apply(client.spec("web", *SLEEP, desired="STOPPED"))
    assert client.logs("web") == b""
    details = fails(lambda: client.logs("web", source=w.LOG_SOURCE_SERIAL), Code.FAILED_PRECONDITION)
    assert details == "workload web has no serial console; only a microVM has one"


# ---- volumes ----

def test_volumes(client):
    assert client.volumes() == []
    made = client.create_volume("data", 32)
    assert (made.name, made.size_bytes, list(made.mounted_by)) == ("data", 32 * MIB, [])
    assert os.stat(made.host_path).st_size == 32 * MIB
    assert abs(made.created_at_unix - time.time()) < TIMEOUT
    assert client.get_volume("data") == made
    assert client.volumes() == [made]
    fails(lambda: client.create_volume("data", 32), Code.ALREADY_EXISTS)
    grown = client.resize_volume("data", 64)
    assert grown.size_bytes == 64 * MIB == os.stat(made.host_path).st_size
    assert client.resize_volume("data", 64) == grown
    assert "only grow" in fails(lambda: client.resize_volume("data", 32), Code.FAILED_PRECONDITION)
    client.delete_volume("data")
    assert fails(lambda: client.get_volume("data"), Code.NOT_FOUND) == "there is no volume data"
    assert not os.path.exists(made.host_path)


def test_a_volume_of_the_default_size(client):
    assert client.create_volume("data", 0).size_bytes >= 1 << 30


def test_a_volume_in_use(client, w):
    client.create_volume("data")
    user = client.spec("web", *SLEEP)
    user.container.mounts.add(volume_name="data", mount_path="/data")
    client.apply(user)
    client.wait_phase("web", "RUNNING")
    assert list(client.get_volume("data").mounted_by) == ["web"]
    for refused in (lambda: client.resize_volume("data", 32), lambda: client.delete_volume("data")):
        assert "web" in fails(refused, Code.FAILED_PRECONDITION)
    client.delete_volume("data", force=True)
    assert client.get("web").desired_state == w.DESIRED_STATE_STOPPED
    assert client.get("web").status.pid == 0
    assert "data" in fails(lambda: client.start("web"), Code.NOT_FOUND)


def test_a_name_that_is_too_long_leaves_no_trace(client):
    """A name of 64 characters is refused, and the volume of its first 63 is not taken for busy."""
    for call in (client.delete_volume, client.get_volume, client.create_volume):
        assert "64 characters; 63 are allowed" in fails(lambda: call("a" * 64), Code.INVALID_ARGUMENT)
    client.create_volume("a" * 63)
    client.delete_volume("a" * 63)


# ---- images ----

def small_image(reference="small:1", text=b"hello\n"):
    return images.make_image(None, reference, [images.File("/motd", text)], {"Cmd": ["/motd"]})


@pytest.mark.parametrize("chunk", [1, 7, 511, 513, 65537, 3 * MIB])
def test_push_in_chunks_of_any_size(client, chunk):
    archive = small_image()
    if chunk == 3 * MIB:
        archive = images.make_image(None, "small:1", [images.File("/noise", os.urandom(7 * MIB))])
    reply = client.push(archive, chunk=chunk, total=len(archive) if chunk % 2 else 0)
    assert list(reply.image_refs) == ["docker.io/library/small:1"]
    assert reply.bytes_received == len(archive)
    assert [i.name for i in client.images()] == ["docker.io/library/busybox:test", "docker.io/library/small:1"]


def test_push_with_empty_chunks_and_several_images(client):
    i = client.pb.image
    layers = [images.layer_tar([images.File("/a", b"a")])]
    both = [("one:1", layers, {}), ("two:2", layers, {})]
    archive = images.make_images(None, both, compression="gzip", fmt="oci", outer="zstd")
    requests = [i.ImagePushRequest(metadata=i.ImagePushMetadata()), i.ImagePushRequest(chunk=b""),
                i.ImagePushRequest(chunk=archive), i.ImagePushRequest(chunk=b"")]
    reply = client.image.Push(iter(requests), timeout=TIMEOUT)
    assert sorted(reply.image_refs) == ["docker.io/library/one:1", "docker.io/library/two:2"]


def test_list_tells_name_digest_size_and_time(client, archives):
    image, = client.images()
    assert image.name == "docker.io/library/busybox:test"
    assert image.digest.startswith("sha256:") and len(image.digest) == 71
    assert 0 < image.size_bytes <= os.path.getsize(archives["busybox:test"])
    assert image.created_unix == images.MTIME


def test_pull_of_what_cannot_be_had(client):
    def pull(reference):
        return list(client.image.Pull(client.pb.image.ImagePullRequest(reference=reference), timeout=TIMEOUT))
    port = free_port()
    assert f"localhost:{port}" in fails(lambda: pull(f"localhost:{port}/no/such:1"), Code.UNAVAILABLE)
    assert "lower case" in fails(lambda: pull("localhost:1/Upper"), Code.INVALID_ARGUMENT)
    fails(lambda: pull(""), Code.INVALID_ARGUMENT)


def test_delete_of_images(client):
    i = client.pb.image

    def delete(reference):
        return list(client.image.Delete(i.ImageDeleteRequest(reference=reference), timeout=TIMEOUT).removed)
    client.push(small_image("one:1"))
    client.push(small_image("two:1", b"other\n"))
    client.push(small_image("three:1", b"other\n"))
    assert delete("one:1") == ["docker.io/library/one:1"]
    digest = next(image.digest for image in client.images() if "two" in image.name)
    assert "2 images" in fails(lambda: delete(digest), Code.FAILED_PRECONDITION)
    assert delete("docker.io/library/three:1") == ["docker.io/library/three:1"]
    assert delete(digest[7:20]) == ["docker.io/library/two:1"]
    assert "there is no image" in fails(lambda: delete("two:1"), Code.NOT_FOUND)
    client.apply(client.spec("web", *SLEEP, desired="STOPPED"))
    details = fails(lambda: delete("busybox:test"), Code.FAILED_PRECONDITION)
    assert "docker.io/library/busybox:test" in details and "web" in details


def test_prune_keeps_what_a_workload_names(client, capsule):
    client.push(small_image())
    client.apply(client.spec("web", *SLEEP, desired="STOPPED"))
    reply = client.image.Prune(client.pb.image.ImagePruneRequest(), timeout=TIMEOUT)
    assert list(reply.removed) == ["docker.io/library/small:1"] and reply.freed_bytes > 0
    assert [image.name for image in client.images()] == ["docker.io/library/busybox:test"]
    assert len(os.listdir(capsule.root / "layers")) == 2


# ---- the host ----

def test_info(client):
    info = client.host.GetInfo(client.pb.capsule.GetInfoRequest(), timeout=TIMEOUT)
    uname = os.uname()
    assert (info.hostname, info.kernel_release, info.kernel_version) == (uname.nodename, uname.release, uname.version)
    assert info.cpu_cores == os.cpu_count()
    assert info.capsule_version and info.short_id
    assert 0 < info.memory_available_bytes < info.memory_total_bytes
    assert 0 < info.perm_used_bytes < info.perm_total_bytes
    with open("/proc/uptime") as f:
        assert abs(info.uptime_seconds - float(f.read().split()[0])) < TIMEOUT
    assert abs(info.local_time_unix - time.time()) < TIMEOUT
    assert not info.boot_disk or os.path.exists(info.boot_disk)
    assert (info.active_slot, info.pending_slot, info.last_version, info.thinpool_total_bytes) == ("", "", "", 0)


def test_the_daemons_log(client, capsule):
    def logs(**options):
        return client.host.StreamLogs(client.pb.capsule.CapsuleLogsRequest(**options), timeout=TIMEOUT)
    text = b"".join(chunk.data for chunk in logs())
    assert text == (capsule.root / "capsuled.log").read_bytes()
    assert b"".join(chunk.data for chunk in logs(tail_lines=1)) == text.splitlines(keepends=True)[-1]
    assert "-1" in fails(lambda: list(logs(tail_lines=-1)), Code.INVALID_ARGUMENT)


def test_a_follower_of_the_daemons_log_hears_its_end(client, capsule):
    call = client.host.StreamLogs(client.pb.capsule.CapsuleLogsRequest(follow=True), timeout=TIMEOUT)
    heard = next(call).data
    assert b"ready" in heard
    capsule.process.terminate()
    fails(lambda: [c for c in call], Code.UNAVAILABLE)
    assert capsule.process.wait(TIMEOUT) == 0
    capsule.process = None
