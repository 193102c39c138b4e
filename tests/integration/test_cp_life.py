# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Copies beside the life of the workload, the daemon and the client; what the wire says; what a copy costs."""
import os
import pathlib
import pty
import queue
import re
import stat
import subprocess
import threading

import pytest

import images
import trees
from capsule import CAPSULECTL, COPY_WORKER, run, wait_for
from exec_tools import run_in
from grpc_client import TIMEOUT, Client, Code, fails
from kinds import both_kinds, containers_only

# More bytes than wait between two ends that do not read. What goes into a machine and out of it is slow.
BIG = {"Container": 64 << 20, "MicroVM": 24 << 20}
# A microVM that does not run has no files that could be copied.
every_state = pytest.mark.parametrize("kind,stopped", [("container", False), ("container", True), ("microvm", False)],
                                      indirect=["kind"], scope="module")


@pytest.fixture
def client(capsule, stubs):
    with capsule.channel() as channel:
        yield Client(channel, stubs)


def run_sleeper(capsule, name="w", stopped=False, **spec):
    capsule.run_workload(name, "busybox:test", command=["sh", "-c", "ls -1 / /data; exec sleep 100000"], stopGracePeriodSeconds=0, **spec)
    if stopped:
        capsule.ctl("workload", "stop", name)


def run_with_volume(capsule, stopped=False, size="256MiB", **spec):
    capsule.ctl("volume", "create", "--size", size, "data")
    run_sleeper(capsule, stopped=stopped, mounts=[{"volumeName": "data", "mountPath": "/data"}], **spec)


def workers(capsule):
    """The capsule-copy processes of this test's daemon."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            argv = (path / "cmdline").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if argv[0] == str(COPY_WORKER).encode() and (capsule.process is None or parent == capsule.process.pid):
            found.append(int(path.name))
    return found


def wait_begun(capsule, copies, path="/held"):
    """Waits until so many copies are under way; in a microVM until the one that ends at the path has made it."""
    if capsule.kind == "MicroVM":
        wait_for(lambda: run_in(capsule, "w", "--", "ls", path).returncode == 0, "the copy to have begun")
    else:
        wait_for(lambda: len(workers(capsule)) == copies, "the copies to have begun")


class HeldTo:
    """A CopyTo that has begun and does not end by itself."""

    def __init__(self, client, name, path="/held/"):
        w = client.pb.workload
        self.queue = queue.Queue()
        self.queue.put(w.WorkloadCopyToRequest(metadata=w.WorkloadCopyToMetadata(name=name, dest_path=path)))
        self.queue.put(w.WorkloadCopyToRequest(chunk=trees.to_tar({"first": b"1"})[:1536]))
        self.call = client.workload.CopyTo.future(iter(self.queue.get, None), timeout=TIMEOUT)

    def end(self):
        self.queue.put(None)


class HeldFrom:
    """A CopyFrom that nobody reads."""

    def __init__(self, client, name, path):
        self.call = client.workload.CopyFrom(client.pb.workload.WorkloadCopyFromRequest(name=name, src_path=path), timeout=TIMEOUT)
        next(self.call)

    def end(self):
        self.call.cancel()

    def drain(self):
        for _ in self.call:
            pass


def make_big(capsule, tmp_path, place):
    with open(tmp_path / "big", "wb") as f:
        for _ in range(BIG[capsule.kind] >> 20):
            f.write(os.urandom(1 << 20))
    capsule.ctl("cp", tmp_path / "big", place)


# ---- the life of the workload ----

def test_a_start_waits_for_a_copy_of_a_stopped_workload(capsule, client, tmp_path):
    run_with_volume(capsule, stopped=True)
    held = HeldTo(client, "w", "/data/")
    wait_for(lambda: workers(capsule), "the copy to have begun")
    capsule.ctl("workload", "start", "w")
    assert capsule.phase("w") == "Pending" and capsule.status("w")["message"] == "waiting for a copy to end"
    assert capsule.shim("w") is None
    held.end()
    assert held.call.result().bytes_received == 1536
    capsule.wait_phase("w", "running")
    assert "first\n" in capsule.logs("w")


def test_a_copy_waits_while_a_workload_is_being_stopped(capsule, tmp_path):
    capsule.run_workload("w", "busybox:test", stopGracePeriodSeconds=1,
                         command=["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done"])
    wait_for(lambda: "up" in capsule.logs("w"), "the trap")
    capsule.ctl("workload", "stop", "--no-wait", "w")
    capsule.ctl("cp", "w:/etc/passwd", tmp_path)
    assert capsule.phase("w") in ("Stopped", "Pending")
    assert (tmp_path / "passwd").read_text().startswith("root:")


def test_copies_of_a_stopped_workload_take_turns(capsule, tmp_path):
    run_with_volume(capsule, stopped=True)
    for i in range(8):
        (tmp_path / f"f{i}").write_text(str(i))
    copies = [threading.Thread(target=capsule.ctl, args=("cp", tmp_path / f"f{i}", "w:/data/")) for i in range(8)]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join()
    capsule.ctl("cp", "w:/data/.", tmp_path / "back")
    assert {f"f{i}" for i in range(8)} <= set(os.listdir(tmp_path / "back"))


@both_kinds
def test_many_copies_of_a_running_workload_at_once(capsule, tmp_path):
    run_sleeper(capsule)
    (tmp_path / "f").write_text("x")
    count = 100 if capsule.kind == "Container" else 32
    processes = [subprocess.Popen([CAPSULECTL, "--capsule", f"unix:{capsule.socket}", "cp", tmp_path / "f", f"w:/many/{i}"],
                                  env={**os.environ, "CAPSULE_COPY": str(COPY_WORKER)}) for i in range(count)]
    assert [p.wait(timeout=120) for p in processes] == [0] * count
    assert len(capsule.inside("w", "ls", "/many").split()) == count


@every_state
def test_a_deletion_ends_copies(capsule, client, tmp_path, stopped):
    run_with_volume(capsule, stopped=stopped)
    held = HeldTo(client, "w")
    wait_begun(capsule, 1)
    capsule.ctl("workload", "delete", "w")
    assert re.search("stopped.* during the copy", fails(held.call.result, Code.FAILED_PRECONDITION))
    wait_for(lambda: not workers(capsule), "the worker to be gone")
    capsule.ctl("volume", "delete", "data")
    held.end()


@both_kinds
def test_a_stop_ends_copies_and_frees_the_volume(capsule, client, tmp_path):
    run_with_volume(capsule)
    make_big(capsule, tmp_path, "w:/data/big")
    held = [HeldTo(client, "w"), HeldFrom(client, "w", "/data/big")]
    wait_begun(capsule, 2)
    capsule.ctl("workload", "stop", "w")
    fails(held[0].call.result, Code.FAILED_PRECONDITION)
    fails(held[1].drain, Code.FAILED_PRECONDITION)
    capsule.ctl("volume", "resize", "data", "300MiB")
    held[0].end()


def test_the_volume_of_a_stopped_workload_is_claimed_by_a_copy(capsule, client):
    run_with_volume(capsule, stopped=True)
    held = HeldTo(client, "w")
    wait_for(lambda: workers(capsule), "the copy to have begun")
    done = capsule.ctl("volume", "resize", "data", "300MiB", check=False)
    assert done.returncode == 1 and "w" in done.err
    held.end()
    held.call.result()
    wait_for(lambda: capsule.ctl("volume", "resize", "data", "300MiB", check=False).returncode == 0, "the claim to be given up")


def test_a_changed_spec_has_no_files_until_it_has_run(capsule, tmp_path):
    run_sleeper(capsule, stopped=True)
    (tmp_path / "f").write_text("x")
    capsule.ctl("cp", tmp_path / "f", "w:/f")
    run_sleeper(capsule, wait=False, env={"A": "1"})
    for ends in (("w:/f", tmp_path / "back"), (tmp_path / "f", "w:/f")):
        done = capsule.ctl("cp", *ends, check=False)
        assert done.returncode == 1 and "start it first" in done.err


def test_what_is_copied_to_a_stopped_workload_is_there_when_it_runs(capsule, tmp_path):
    run_with_volume(capsule, stopped=True)
    (tmp_path / "mark").write_text("x")
    capsule.ctl("cp", tmp_path / "mark", "w:/mark-root")
    capsule.ctl("cp", tmp_path / "mark", "w:/data/mark-data")
    capsule.ctl("workload", "start", "--wait", "w")
    wait_for(lambda: "mark-root\n" in capsule.logs("w") and "mark-data\n" in capsule.logs("w"), "the files in its listing")


# ---- what a copy may do ----

@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
@containers_only("processes of this host")
def test_a_copy_cannot_open_devices_of_the_workload(capsule, client, stopped):
    """It is outside the container's device cgroup: a file that becomes a device under its hands must not be opened by it."""
    run_with_volume(capsule, stopped=stopped)
    for place in ("w:/", "w:/data"):
        capsule.ctl("cp", "-", place, input=images.layer_tar([images.Device("zero", 1, 5)]))
    held = HeldTo(client, "w")
    worker = wait_for(lambda: (found := workers(capsule)) and os.path.exists(f"/proc/{found[0]}/root/held/first") and found[0],
                      "the copy to have begun")
    for path in ("zero", "data/zero") + (() if stopped else ("dev/zero",)):
        seen = f"/proc/{worker}/root/{path}"
        assert stat.S_ISCHR(os.stat(seen).st_mode)
        with pytest.raises(PermissionError):
            open(seen, "rb").close()
    if not stopped:  # whose own mounts are as they were
        with open(f"/proc/{capsule.status('w')['pid']}/root/zero", "rb") as f:
            assert f.read(1) == b"\0"
    held.end()
    held.call.result()


@containers_only("hostPid")
def test_a_container_that_sees_a_copy_cannot_go_to_it(capsule, client):
    run_sleeper(capsule)
    capsule.run_container("spy", "busybox:test", command=["sleep", "100000"], hostPid=True, stopGracePeriodSeconds=0)
    held = HeldTo(client, "w")
    worker = wait_for(lambda: (found := workers(capsule)) and os.path.exists(f"/proc/{found[0]}/root/held/first") and found[0],
                      "the copy to have begun")
    assert "capsule-copy" in run_in(capsule, "spy", "--", "cat", f"/proc/{worker}/cmdline").stdout.decode()
    for path in ("root/", "cwd/", "fd/", "exe"):
        done = run_in(capsule, "spy", "--", "ls", "-L", f"/proc/{worker}/{path}")
        assert done.returncode != 0 and not done.stdout, path
    held.end()
    held.call.result()


@containers_only("changed from outside")
def test_files_that_become_devices_while_they_are_copied_are_left_out(capsule, client):
    run_with_volume(capsule)
    there = pathlib.Path(f"/proc/{capsule.status('w')['pid']}/root/data/many")
    there.mkdir()
    for i in range(20):
        (there / f"f{i}").write_bytes(bytes([i]) * (4 << 20))
    held = HeldFrom(client, "w", "/data/many")
    worker = wait_for(lambda: len(found := workers(capsule)) == 1 and found[0], "the copy to have begun")
    open_now = {os.readlink(path) for path in pathlib.Path(f"/proc/{worker}/fd").iterdir()}
    for path in there.iterdir():
        if f"/data/many/{path.name}" not in open_now:
            path.unlink()
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    held.drain()


# ---- the life of the daemon and of the client ----

@every_state
def test_a_killed_daemon_leaves_nothing_of_a_copy(capsule, client, tmp_path, stopped):
    run_with_volume(capsule)
    make_big(capsule, tmp_path, "w:/data/big")
    if stopped:
        capsule.ctl("workload", "stop", "w")
    held = [HeldTo(client, "w")] if stopped else [HeldTo(client, "w"), HeldFrom(client, "w", "/data/big")]
    wait_begun(capsule, len(held))
    pids = workers(capsule)
    capsule.kill()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the workers to be gone")
    if stopped:
        assert not run("losetup", "-j", capsule.root / "volumes/data.img").stdout
    capsule.start()
    if stopped:
        capsule.ctl("workload", "start", "--wait", "w")
    capsule.ctl("cp", "w:/data/big", tmp_path / "back")
    run("cmp", tmp_path / "big", tmp_path / "back")
    for h in held:
        h.end()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_client_that_leaves_ends_its_copy(capsule, client, stopped):
    run_sleeper(capsule, stopped=stopped)
    held = HeldTo(client, "w")
    wait_for(lambda: workers(capsule), "the copy to have begun")
    held.call.cancel()
    wait_for(lambda: not workers(capsule), "the worker to be gone")
    held.end()


def test_an_orderly_end_of_the_daemon_ends_copies(capsule, client):
    run_sleeper(capsule, stopped=True)
    held = HeldTo(client, "w")
    pids = wait_for(lambda: workers(capsule), "the copy to have begun")
    capsule.stop()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    held.end()


def test_an_interrupted_capsulectl_leaves_no_helper(capsule, tmp_path):
    run_sleeper(capsule)
    os.mkfifo(tmp_path / "in")
    keep = os.open(tmp_path / "in", os.O_RDWR)
    with open(tmp_path / "in", "rb") as stream:
        ctl = subprocess.Popen([CAPSULECTL, "--capsule", f"unix:{capsule.socket}", "cp", "-", "w:/x"], stdin=stream,
                               stderr=subprocess.PIPE)
    wait_for(lambda: workers(capsule), "the copy to have begun")
    ctl.terminate()
    assert ctl.wait(timeout=60) == 128 + 15
    wait_for(lambda: not workers(capsule), "the worker to be gone")
    os.close(keep)


# ---- the wire ----

def copy_to(client, *messages):
    w = client.pb.workload
    requests = [w.WorkloadCopyToRequest(chunk=m) if isinstance(m, bytes) else
                w.WorkloadCopyToRequest(metadata=w.WorkloadCopyToMetadata(name=m[0], dest_path=m[1])) for m in messages]
    return client.workload.CopyTo(iter(requests), timeout=TIMEOUT)


def copy_from(client, name, path):
    return b"".join(m.data for m in client.workload.CopyFrom(
        client.pb.workload.WorkloadCopyFromRequest(name=name, src_path=path), timeout=TIMEOUT))


@both_kinds
def test_the_wire(capsule, client):
    run_sleeper(capsule)
    tar = trees.to_tar({"f": b"content"})
    assert copy_to(client, ("w", "/new/name"), tar[:100], tar[100:]).bytes_received == len(tar)
    assert copy_to(client, ("w", "/dir/"), tar).bytes_received == len(tar)
    assert copy_to(client, ("w", "/dir"), tar).bytes_received == len(tar)
    assert trees.from_tar(copy_from(client, "w", "/new/name")) == {"name": b"content"}
    assert trees.from_tar(copy_from(client, "w", "/dir/")) == {"dir/f": b"content"}
    assert trees.from_tar(copy_from(client, "w", "new/name")) == {"name": b"content"}


@both_kinds
def test_errors(capsule, client):
    run_sleeper(capsule)
    tar, two = trees.to_tar({"f": b"x"}), trees.to_tar({"f": b"x", "g": b"y"})
    assert "nobody" in fails(lambda: copy_to(client, ("nobody", "/x"), tar), Code.NOT_FOUND)
    assert "nobody" in fails(lambda: copy_from(client, "nobody", "/x"), Code.NOT_FOUND)
    assert "/nope" in fails(lambda: copy_from(client, "w", "/nope"), Code.NOT_FOUND)
    fails(lambda: copy_from(client, "w", "/etc/passwd/x"), Code.NOT_FOUND)
    fails(lambda: copy_from(client, "No", "/x"), Code.INVALID_ARGUMENT)
    fails(lambda: copy_from(client, "w", ""), Code.INVALID_ARGUMENT)
    fails(lambda: copy_from(client, "w", "/" + "x" * 5000), Code.INVALID_ARGUMENT)
    fails(lambda: copy_to(client), Code.INVALID_ARGUMENT)
    fails(lambda: copy_to(client, tar), Code.INVALID_ARGUMENT)
    fails(lambda: copy_to(client, ("w", "/"), ("w", "/")), Code.INVALID_ARGUMENT)
    fails(lambda: copy_to(client, ("w", "/x/"), b"no tar at all" * 1000), Code.INVALID_ARGUMENT)
    assert "several entries" in fails(lambda: copy_to(client, ("w", "/new"), two), Code.INVALID_ARGUMENT)
    assert "not a directory" in fails(lambda: copy_to(client, ("w", "/etc/passwd/"), tar), Code.FAILED_PRECONDITION)
    fails(lambda: copy_to(client, ("w", "/etc/hosts"), tar), Code.FAILED_PRECONDITION)
    assert not workers(capsule)


@both_kinds
def test_a_full_volume(capsule, client, tmp_path):
    run_with_volume(capsule, size="16MiB")
    with open(tmp_path / "big", "wb") as f:
        f.write(b"x" * (64 << 20))
    done = capsule.ctl("--verbose", "cp", tmp_path / "big", "w:/data/", check=False)
    assert done.returncode == 1 and "RESOURCE_EXHAUSTED" in done.err and "No space left" in done.err


@both_kinds
def test_a_volume_that_is_mounted_read_only(capsule, tmp_path):
    capsule.ctl("volume", "create", "--size", "32MiB", "data")
    run_sleeper(capsule, mounts=[{"volumeName": "data", "mountPath": "/data", "readOnly": True}])
    (tmp_path / "f").write_text("x")
    for state in ("running", "stopped") if capsule.kind == "Container" else ("running",):
        done = capsule.ctl("--verbose", "cp", tmp_path / "f", "w:/data/", check=False)
        assert done.returncode == 1 and "FAILED_PRECONDITION" in done.err and "Read-only" in done.err, state
        capsule.ctl("workload", "stop", "w")


def test_a_microvm_that_does_not_run_says_why_its_files_cannot_be_copied(capsule, client):
    capsule.apply({"name": "vm", "kind": "MicroVM", "desiredState": "Stopped", "microVm": {"image": "busybox:test"}})
    assert "start it first" in fails(lambda: copy_from(client, "vm", "/x"), Code.FAILED_PRECONDITION)


# ---- what it costs, what it shows ----

def peak(pid):
    """The most memory that a process has had, in bytes."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) << 10


@pytest.mark.shipped
def test_the_daemon_keeps_little_of_a_large_copy_that_nobody_reads(capsule, client, tmp_path):
    run_with_volume(capsule)
    make_big(capsule, tmp_path, "w:/data/big")
    held = [HeldFrom(client, "w", "/data/big") for _ in range(4)]
    held_pids = wait_for(lambda: len(found := workers(capsule)) == 4 and found, "the copies to have begun")
    before = peak(capsule.process.pid)
    capsule.ctl("cp", "w:/data/big", tmp_path / "back")
    run("cmp", tmp_path / "big", tmp_path / "back")
    assert peak(capsule.process.pid) - before < 16 << 20 and peak(capsule.process.pid) < 48 << 20
    assert all(peak(pid) < 16 << 20 for pid in held_pids)
    for h in held:
        h.end()


def test_progress_is_shown_on_a_terminal(capsule, tmp_path):
    run_sleeper(capsule)
    (tmp_path / "f").write_text("x")
    for ends in ((tmp_path / "f", "w:/f"), ("w:/f", tmp_path / "g")):
        master, slave = pty.openpty()
        subprocess.run([CAPSULECTL, "--capsule", f"unix:{capsule.socket}", "cp", *ends], stderr=slave, check=True,
                       env={**os.environ, "CAPSULE_COPY": str(COPY_WORKER)})
        os.close(slave)
        shown = os.read(master, 65536).decode()
        os.close(master)
        assert "B/s" in shown and shown.endswith("\r\x1b[K")
