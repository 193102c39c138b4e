# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Many requests at once, and requests that cross what is under way."""
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import threading

import grpc
import pytest

import images
import tidy
from capsule import wait_for
from grpc_client import Client, Code, fails
from registry_servers import FakeRegistry, Image

FOREVER = ["sleep", "1000"]
# Ends only when its grace is over, or by kill.
STUBBORN = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000 & wait; done"]


@pytest.fixture
def client(capsule, stubs):
    with capsule.channel() as channel:
        yield Client(channel, stubs)


@pytest.fixture
def many():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


def expect_footprint(capsule, running, volumes=()):
    """running: name -> names of its volumes; all of them on the bridge."""
    tidy.expect(capsule, {n: {"bridge": True, "ports": [], "volumes": v} for n, v in running.items()}, volumes)


def environment(pid):
    """Nothing for a process that is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    except OSError:
        return []


def running_with(client, name, variable):
    """The pid of the workload's process once it is one with this variable ("A=1")."""
    def there():
        w = client.get(name)
        return w.status.pid if w.status.pid and os.path.exists(f"/proc/{w.status.pid}") and \
            variable in environment(w.status.pid) else None
    return wait_for(there, f"{name} to run with {variable}")


# ---- many workloads ----

def test_thirty_are_restarted_stopped_started_and_deleted_at_once(capsule):
    names = [f"w{i}" for i in range(30)]
    documents = [json.dumps({"name": n, "kind": "Container", "stopGracePeriodSeconds": 0,
                             "container": {"image": "busybox:test", "command": FOREVER}}) for n in names]
    capsule.apply("\n---\n".join(documents), "--wait", timeout=180)
    running = {n: [] for n in names}
    expect_footprint(capsule, running)
    before = {n: capsule.status(n)["pid"] for n in names}
    capsule.ctl("workload", "restart", "--all", timeout=180)
    capsule.kill()
    capsule.start()
    capsule.ctl("workload", "restart", "--all", timeout=180)
    for n in names:
        wait_for(lambda: capsule.status(n).get("pid", before[n]) != before[n], f"a new process of {n}")
    expect_footprint(capsule, running)
    capsule.ctl("workload", "stop", "--all", timeout=180)
    assert {capsule.phase(n) for n in names} == {"Stopped"}
    expect_footprint(capsule, {})
    capsule.ctl("workload", "start", "--all", timeout=180)
    capsule.ctl("workload", "delete", "--all", timeout=180)
    assert capsule.names() == []
    expect_footprint(capsule, {})
    assert tidy.names_in(capsule.root / "workloads") == []


# ---- many requests for one workload ----

def test_ten_clients_apply_the_same_name(capsule, stubs, many):
    def apply(i):
        with capsule.channel() as channel:
            client = Client(channel, stubs)
            for k in range(5):
                workload = client.spec("w", *FOREVER)
                workload.container.env["MARK"] = f"{i}-{k}"
                client.apply(workload)
    for done in [many.submit(apply, i) for i in range(10)]:
        done.result()
    with capsule.channel() as channel:
        client = Client(channel, stubs)
        mark = client.get("w").container.env["MARK"]
        assert re.fullmatch("[0-9]-4", mark), "the last word is the last one of some client"
        running_with(client, "w", f"MARK={mark}")
    expect_footprint(capsule, {"w": []})


def test_a_storm_of_restarts_ends_with_one_process(capsule, client, many):
    client.apply(client.spec("w", *FOREVER))
    before = client.wait_phase("w", "RUNNING").status.pid
    list(many.map(lambda _: client.restart("w"), range(40)))
    client.wait(name="w", condition=lambda w: w.status.pid not in (0, before) and not w.status.message)
    assert client.get("w").status.restart_count == 0
    expect_footprint(capsule, {"w": []})


def test_stops_and_starts_from_all_sides(capsule, client, many):
    client.apply(client.spec("w", *FOREVER))
    list(many.map(lambda i: client.stop("w") if i % 2 else client.start("w"), range(40)))
    client.stop("w")
    client.wait_phase("w", "STOPPED")
    expect_footprint(capsule, {})
    client.start("w")
    client.wait_phase("w", "RUNNING")
    expect_footprint(capsule, {"w": []})


# ---- what crosses a start ----

def test_a_delete_during_the_start(capsule, client):
    for i in range(15):
        client.apply(client.spec("w", *FOREVER))
        if i % 3:
            client.wait("w", lambda w: w is None or w.status.message == "starting" or w.status.pid)
        client.delete("w")
        client.wait_gone("w")
    expect_footprint(capsule, {})


def test_an_apply_right_after_the_delete_is_refused_or_kept(client):
    """A workload that is applied at the moment when the former one of its name disappears is not lost."""
    def apply_when_gone():
        while True:
            try:
                return client.apply(client.spec("w", *FOREVER, desired="STOPPED"))
            except grpc.RpcError as e:
                assert e.code() == Code.FAILED_PRECONDITION and "being deleted" in e.details()
    for _ in range(60):
        apply_when_gone()
        assert client.get("w").name == "w"
        client.delete("w")
    client.wait_gone("w")


def test_a_spec_that_replaces_one_that_cannot_start(client):
    """The failure of the former spec does not count against the new one."""
    for i in range(8):
        bad = client.spec("w", "/bin/nope", restart_policy=client.pb.workload.RESTART_POLICY_NEVER)
        good = client.spec("w", *FOREVER, restart_policy=client.pb.workload.RESTART_POLICY_NEVER)
        good.container.env["ROUND"] = bad.container.env["ROUND"] = str(i)
        client.apply(bad)
        client.wait("w", lambda w: w.status.message == "starting" or "nope" in w.status.message)
        client.apply(good)
        running_with(client, "w", f"ROUND={i}")


# ---- what crosses a pull ----

class SlowRegistry(FakeRegistry):
    """Its layers come only when `open` is set."""

    def __init__(self, image):
        super().__init__()
        self.open, self.asked = threading.Event(), threading.Event()
        self.put("slow", "1", image)

        def hold(handler):
            self.asked.set()
            self.open.wait(60)
            return False
        for layer in image.layers:
            self.rules[f"/v2/slow/blobs/{layer}"] = hold

    def close(self):
        self.open.set()
        super().close()


@pytest.fixture
def slow_registry():
    own = images.File("/slow", b"no other image has this layer\n")
    registry = SlowRegistry(Image([images.layer_tar(images.busybox_entries() + [own])], {"config": {"Env": ["PATH=/bin"]}}))
    yield registry
    registry.close()


@pytest.fixture
def pulling(client, slow_registry):
    """A workload whose image is under way."""
    workload = client.spec("w", *FOREVER)
    workload.container.image = f"{slow_registry.address}/slow:1"
    client.apply(workload)
    assert slow_registry.asked.wait(60)
    client.wait("w", lambda w: w.status.message.startswith("pulling"))
    return workload


def test_a_stop_during_the_pull(capsule, client, pulling, slow_registry):
    client.stop("w")
    client.wait_phase("w", "STOPPED")
    expect_footprint(capsule, {})
    slow_registry.open.set()
    client.start("w")
    client.wait_phase("w", "RUNNING")
    expect_footprint(capsule, {"w": []})
    client.delete("w")
    client.wait_gone("w")
    assert tidy.temporary_files(capsule) == []


def test_a_delete_during_the_pull(capsule, client, pulling):
    client.delete("w")
    client.wait_gone("w")
    expect_footprint(capsule, {})


def test_another_image_during_the_pull(client, pulling):
    client.apply(client.spec("w", *FOREVER))
    client.wait_phase("w", "RUNNING")


def test_a_kill_during_the_pull(capsule, pulling, slow_registry):
    capsule.kill()
    capsule.start()
    slow_registry.open.set()
    capsule.wait_phase("w", "running")
    expect_footprint(capsule, {"w": []})


# ---- what crosses an end ----

@pytest.fixture
def stubborn(client):
    workload = client.spec("w", *STUBBORN)
    workload.stop_grace_period_seconds = 3
    client.apply(workload)
    client.wait_phase("w", "RUNNING")
    return workload


def test_everything_but_a_delete_is_refused_during_the_delete(client, stubborn):
    client.delete("w")
    for call in (lambda: client.apply(stubborn), lambda: client.start("w"), lambda: client.stop("w"), lambda: client.restart("w")):
        details = fails(call, Code.FAILED_PRECONDITION)
        assert "w is being deleted" in details
    client.delete("w")
    client.wait_gone("w")
    client.apply(client.spec("w", *FOREVER))
    client.wait_phase("w", "RUNNING")


def test_a_start_during_the_stop(client, stubborn):
    pid = client.get("w").status.pid
    client.stop("w")
    client.start("w")
    client.wait("w", lambda w: w.status.pid not in (0, pid) and w.status.phase == client.pb.workload.WORKLOAD_PHASE_RUNNING)


def test_a_job_that_was_restarted_is_left_alone_by_the_next_daemon(capsule):
    capsule.run_container("job", "busybox:test", wait=False, restartPolicy="Never", stopGracePeriodSeconds=0,
                          command=["sh", "-c", "test -e /ran && exec sleep 1000; touch /ran"])
    capsule.wait_phase("job", "stopped")
    capsule.ctl("workload", "restart", "job")
    capsule.wait_phase("job", "running")
    before = capsule.status("job")
    capsule.kill()
    capsule.start()
    assert capsule.status("job") == before
    os.kill(before["pid"], signal.SIGKILL)
    capsule.wait_phase("job", "failed")


# ---- volumes ----

def with_volume(client, name, *command, volume="data", **fields):
    workload = client.spec(name, *command, **fields)
    if volume:
        workload.container.mounts.add(volume_name=volume, mount_path="/data")
    return workload


@pytest.fixture
def volume(client):
    client.volume.Create(client.pb.volume.VolumeCreateRequest(name="data", size_mib=16))
    return "data"


def delete_volume(client):
    return client.volume.Delete(client.pb.volume.VolumeDeleteRequest(name="data", force=True), timeout=60)


def test_a_start_keeps_the_volume_from_others(client, volume):
    """Also one that comes while the leftovers of the last run are removed, which gives up the claims of that run."""
    client.apply(with_volume(client, "holder", *FOREVER))
    for _ in range(15):
        client.wait_phase("holder", "RUNNING")
        client.stop("holder")
        client.wait("holder", lambda w: w.status.message != "stopping")
        client.start("holder")
        assert "in use by workload holder" in fails(lambda: client.apply(with_volume(client, "other", *FOREVER)),
                                                    Code.FAILED_PRECONDITION)


def test_a_volume_that_is_no_longer_named_is_free(client, volume):
    """Also if its former holder had no process when it was changed."""
    client.apply(with_volume(client, "w", "false"))
    client.wait("w", lambda w: "restarting in" in w.status.message)
    client.apply(client.spec("w", *FOREVER))
    client.wait_phase("w", "RUNNING")
    client.apply(with_volume(client, "other", *FOREVER))
    client.wait_phase("other", "RUNNING")


def test_a_forced_delete_waits_for_the_holder(capsule, client, volume):
    client.apply(with_volume(client, "holder", *STUBBORN))
    client.wait_phase("holder", "RUNNING")
    delete_volume(client)
    assert client.get("holder").desired_state == client.pb.workload.DESIRED_STATE_STOPPED
    expect_footprint(capsule, {})


@pytest.fixture
def waiting_delete(client, volume, many):
    """A forced delete of the volume that waits for a holder whose end takes seconds."""
    holder = with_volume(client, "holder", *STUBBORN)
    holder.stop_grace_period_seconds = 4
    client.apply(holder)
    client.wait_phase("holder", "RUNNING")
    done = many.submit(delete_volume, client)
    client.wait("holder", lambda w: w.status.message == "stopping")
    return done


def test_a_holder_that_is_started_again_keeps_its_volume(client, waiting_delete):
    client.start("holder")
    with pytest.raises(grpc.RpcError) as e:
        waiting_delete.result(60)
    assert e.value.code() == Code.FAILED_PRECONDITION and "in use by workload holder" in e.value.details()
    client.wait_phase("holder", "RUNNING")


def test_the_daemon_ends_during_a_forced_delete(capsule, client, waiting_delete):
    capsule.stop()
    with pytest.raises(grpc.RpcError):
        waiting_delete.result(60)
    capsule.start()
    capsule.wait_phase("holder", "stopped")
    assert "data" in capsule.ctl("volume", "list").out
