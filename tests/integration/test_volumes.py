# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Volumes as users see them: made, grown, mounted by one workload at a time, kept when workloads and machines go."""
import json
import os
import re
import signal
import time

import pytest

from capsule import free_port, http_get, run, wait_for
from exec_tools import run_in
from kinds import both_kinds, said

MIB = 1 << 20
DATA = "/data"
SLEEP = ["sleep", "10000"]


def volume(name="data", size="64MiB"):
    return {"name": name, "kind": "Volume", "size": size}


def mount(name="data", path=DATA, **more):
    return {"volumeName": name, "mountPath": path, **more}


def run_with_volume(capsule, name="w", mounts=None, check=True, command=SLEEP, **spec):
    return capsule.run_workload(name, "busybox:test", check=check, command=command, mounts=mounts or [mount()], **spec)


def refused(done, *words):
    assert done.returncode == 1
    for word in words:
        assert word in done.err, done.err


def get(capsule, name="data"):
    return json.loads(capsule.ctl("volume", "get", name, "-o", "json").out)


def size_of(capsule, name="data"):
    return int(get(capsule, name)["sizeBytes"])


def loops_of(capsule):
    """The loop devices over files of this daemon."""
    lines = run("losetup", "-n", "-O", "NAME,BACK-FILE").stdout.decode().splitlines()
    return [line.split()[0] for line in lines if str(capsule.root) in line]


def kilobytes_inside(capsule, name="w"):
    """The size of the file system as a workload sees it."""
    return int(capsule.inside(name, "df", "-k", DATA).splitlines()[-1].split()[1])


# ---- made, grown, deleted ----

@both_kinds
def test_manifests_make_and_grow(capsule):
    assert "volume/data created" in capsule.apply(volume(size="32MiB")).out
    assert "volume/data unchanged" in capsule.apply(volume(size="32MiB")).out
    run_with_volume(capsule, command=["sh", "-c", f"echo kept > {DATA}/file; echo written; exec sleep 10000"])
    said(capsule, "w", "written\n")
    before = kilobytes_inside(capsule)
    capsule.ctl("workload", "delete", "w")
    assert "volume/data grown" in capsule.apply(volume(size="0.125GiB")).out
    assert size_of(capsule) == 128 * MIB
    run_with_volume(capsule)
    assert kilobytes_inside(capsule) > 3 * before
    assert capsule.inside("w", "cat", f"{DATA}/file") == "kept\n"


def test_a_manifest_that_asks_for_less_leaves_the_volume_alone(capsule):
    capsule.apply(volume(size="64MiB"))
    capsule.apply(volume(size="32MiB"))
    assert size_of(capsule) == 64 * MIB


def test_verbs(capsule):
    capsule.ctl("volume", "create", "--size", "20M", "data")
    refused(capsule.ctl("volume", "create", "data", check=False), "data", "exists already")
    assert size_of(capsule) == 20 * MIB and get(capsule)["hostPath"] == str(capsule.root / "volumes/data.img")
    capsule.ctl("volume", "resize", "data", "40MiB")
    assert size_of(capsule) == 40 * MIB
    refused(capsule.ctl("volume", "resize", "data", "39MiB", check=False), "data", "40MiB", "39MiB", "only grow")
    refused(capsule.ctl("volume", "resize", "nothing", "40MiB", check=False), "there is no volume nothing")
    assert re.search(r"^data +40", capsule.ctl("volume", "list").out, re.M)
    capsule.ctl("volume", "delete", "data")
    refused(capsule.ctl("volume", "get", "data", check=False), "there is no volume data")
    assert os.listdir(capsule.root / "volumes") == []


@pytest.mark.parametrize("size", ["15MiB", "0", "65TiB"])
def test_sizes_that_cannot_be(capsule, size):
    refused_by_client = capsule.ctl("volume", "create", "--size", size, "data", check=False)
    assert refused_by_client.returncode in (1, 2) and refused_by_client.err
    assert capsule.ctl("volume", "list", "-o", "name").out == ""


def test_a_volume_that_is_not_there(capsule):
    refused(run_with_volume(capsule, check=False), "volume data, which workload w names, does not exist")
    assert capsule.names() == []


# ---- one mounter ----

@both_kinds
def test_a_second_workload_is_refused_by_name_until_the_first_is_deleted(capsule):
    capsule.apply(volume())
    run_with_volume(capsule, "first", command=["sh", "-c", f"echo from first > {DATA}/file; echo written; exec sleep 10000"])
    said(capsule, "first", "written\n")
    assert get(capsule)["mountedBy"] == ["first"]
    refused(run_with_volume(capsule, "second", check=False), "volume data is in use by workload first")
    assert capsule.names() == ["first"]
    capsule.ctl("workload", "delete", "first")
    run_with_volume(capsule, "second")
    assert get(capsule)["mountedBy"] == ["second"]
    assert capsule.inside("second", "cat", f"{DATA}/file") == "from first\n"


@both_kinds
def test_a_stopped_workload_lets_go_and_is_refused_when_it_comes_back(capsule):
    capsule.apply(volume())
    run_with_volume(capsule, "first")
    capsule.ctl("workload", "stop", "first")
    assert "mountedBy" not in get(capsule)
    run_with_volume(capsule, "second")
    refused(capsule.ctl("workload", "start", "first", check=False), "volume data is in use by workload second")
    assert capsule.phase("first") == "Stopped"


def test_a_run_that_cannot_be_cleaned_up_keeps_its_volumes(capsule):
    """Its processes may be there yet. So its next run does not begin either."""
    capsule.apply(volume())
    run_with_volume(capsule)
    place = capsule.run_dir / "workloads/w/busy"
    place.mkdir()
    run("mount", "-t", "tmpfs", "none", place)
    try:
        capsule.apply(capsule.manifest("w", "busybox:test", command=["sleep", "2000"]))
        wait_for(lambda: "cannot clean up after it" in capsule.status("w").get("message", ""), "the failure")
        time.sleep(4)  # attempts
        refused(run_with_volume(capsule, "other", check=False), "volume data is in use by workload w")
    finally:
        run("umount", place)
    capsule.wait_phase("w", "Running")
    run_with_volume(capsule, "other")


@both_kinds
def test_in_use_is_neither_resized_nor_deleted(capsule):
    capsule.apply(volume())
    run_with_volume(capsule)
    refused(capsule.ctl("volume", "resize", "data", "128MiB", check=False), "data", "in use by w")
    refused(capsule.apply(volume(size="128MiB"), check=False), "data", "in use by w")
    refused(capsule.ctl("volume", "delete", "data", check=False), "data", "w")
    assert size_of(capsule) == 64 * MIB and capsule.phase("w") == "Running"


def test_a_spec_protects_its_volume_while_stopped_unless_forced(capsule):
    capsule.apply(volume())
    run_with_volume(capsule)
    capsule.ctl("workload", "stop", "w")
    refused(capsule.ctl("volume", "delete", "data", check=False), "data", "w")
    capsule.ctl("volume", "resize", "data", "80MiB")
    capsule.ctl("volume", "delete", "--force", "data")
    refused(capsule.ctl("workload", "start", "w", check=False), "volume data, which workload w names, does not exist")


@both_kinds
def test_force_stops_the_holder_first(capsule):
    capsule.apply(volume())
    writer = f"trap 'sync; exit 0' TERM; while :; do echo x >> {DATA}/f; sleep 0.01; done"
    run_with_volume(capsule, command=["sh", "-c", writer])
    pid = capsule.status("w")["pid"]
    capsule.ctl("volume", "delete", "--force", "data")
    assert not os.path.exists(f"/proc/{pid}")
    assert capsule.phase("w") == "Stopped" and loops_of(capsule) == []
    assert capsule.ctl("volume", "list", "-o", "name").out == ""


# ---- mounts ----

@both_kinds
def test_read_only_is_read_only(capsule):
    capsule.apply(volume())
    run_with_volume(capsule, "writer", command=["sh", "-c", f"echo kept > {DATA}/file; sync; echo written; exec sleep 10000"])
    said(capsule, "writer", "written\n")
    capsule.ctl("workload", "delete", "writer")
    run_with_volume(capsule, "reader", mounts=[mount(readOnly=True)])
    assert capsule.inside("reader", "cat", f"{DATA}/file") == "kept\n"
    for attempt in (f"echo x > {DATA}/file", f"mount -o remount,rw {DATA} && echo x > {DATA}/file"):
        assert capsule.inside("reader", "sh", "-c", f"{attempt} || echo refused") == "refused\n"
    assert capsule.inside("reader", "cat", f"{DATA}/file") == "kept\n"


@both_kinds
def test_several_volumes_one_below_the_other(capsule):
    capsule.apply("\n---\n".join(json.dumps(volume(name)) for name in ("outer", "inner", "other")))
    run_with_volume(capsule, mounts=[mount("inner", "/data/deep/inner"), mount("outer", "/data"),
                                     mount("other", "/etc/other")])
    for path in ("/data", "/data/deep/inner", "/etc/other"):
        capsule.inside("w", "sh", "-c", f"echo {path} > {path}/file")
    mounted = [line.split() for line in capsule.inside("w", "cat", "/proc/self/mountinfo").splitlines()]
    options = {fields[4]: fields[-1].split(",") for fields in mounted}
    for path in ("/data", "/data/deep/inner", "/etc/other"):
        assert {"discard", "lazytime"} <= set(options[path])
    assert len(loops_of(capsule)) == 3
    assert not [line for line in open("/proc/self/mountinfo") if str(capsule.root) in line], "no mount on the host"
    capsule.ctl("workload", "delete", "w")
    wait_for(lambda: loops_of(capsule) == [], "the loop devices to go")


@both_kinds
def test_a_full_volume_is_the_workloads_affair(capsule):
    capsule.apply(volume(size="16MiB"))
    run_with_volume(capsule)
    fill = f"dd if=/dev/zero of={DATA}/big bs=1M count=32 2>&1; true"
    assert "No space left" in capsule.inside("w", "sh", "-c", fill)
    assert capsule.phase("w") == "Running"
    capsule.ctl("workload", "restart", "w")
    capsule.wait_phase("w", "running")


# ---- what outlives what ----

def counter(capsule):
    """A workload that counts its runs in the volume, durably."""
    capsule.apply(volume())
    run_with_volume(capsule, command=["sh", "-c", f"echo run >> {DATA}/runs; sync; echo counted; exec sleep 10000"])
    said(capsule, "w", "counted\n")
    assert runs(capsule) == 1


def runs(capsule):
    """What the file says now; 0 where no process is there to show it."""
    return run_in(capsule, "w", "--", "cat", f"{DATA}/runs").out.count("run\n")


def test_data_outlives_restarts_and_the_writable_layer_does_not(capsule):
    counter(capsule)
    capsule.inside("w", "touch", "/outside")
    capsule.ctl("workload", "delete", "w")
    counter_spec = ["sh", "-c", f"echo run >> {DATA}/runs; sync; ls /outside; exec sleep 10000"]
    run_with_volume(capsule, command=counter_spec)
    wait_for(lambda: runs(capsule) == 2, "the second run")
    wait_for(lambda: "No such file" in capsule.logs("w"), "the word of ls")


@both_kinds
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_a_mounted_volume_outlives_the_daemon(capsule, sig):
    counter(capsule)
    pid = capsule.status("w")["pid"]
    capsule.stop(sig)
    capsule.start()
    assert capsule.status("w")["pid"] == pid and runs(capsule) == 1
    assert get(capsule)["mountedBy"] == ["w"]
    refused(capsule.ctl("volume", "resize", "data", "128MiB", check=False), "in use by w")


@both_kinds
def test_data_outlives_a_power_cut(capsule):
    counter(capsule)
    capsule.power_cut()
    wait_for(lambda: loops_of(capsule) == [], "the loop devices to go")
    capsule.start()
    capsule.wait_phase("w", "running")
    wait_for(lambda: runs(capsule) == 2, "the second run")


@both_kinds
def test_a_killed_workload_finds_its_data_again(capsule):
    counter(capsule)
    os.kill(capsule.status("w")["pid"], signal.SIGKILL)
    wait_for(lambda: capsule.phase("w") == "Running" and runs(capsule) == 2, "the second run")
    assert capsule.status("w")["restartCount"] == 1


def test_an_nginx_page_survives_delete_and_a_new_apply(make_capsule):
    capsule = make_capsule(push=("busybox:test", "nginx:test"))
    html, port = "/usr/share/nginx/html", free_port()
    manifest = [volume("nginx-html", "1GiB"),
                {"name": "nginx-data", "kind": "Container",
                 "container": {"image": "nginx:test", "networkMode": "NETWORK_MODE_BRIDGE",
                               "ports": [{"containerPort": 80, "hostPort": port}],
                               "mounts": [mount("nginx-html", html)]}}]
    text = "\n---\n".join(map(json.dumps, manifest))
    capsule.apply(text, "--wait")
    root = f"/proc/{capsule.status('nginx-data')['pid']}/root"
    with open(f"{root}{html}/index.html", "w") as page:
        page.write("my page\n")
    wait_for(lambda: http_get("127.0.0.1", port) == "my page\n", "the page")
    capsule.ctl("workload", "delete", "nginx-data")
    assert http_get("127.0.0.1", port) is None
    capsule.apply(text, "--wait")
    wait_for(lambda: http_get("127.0.0.1", port) == "my page\n", "the page")


# ---- room ----

def free_room(directory):
    vfs = os.statvfs(directory)
    return vfs.f_bavail * vfs.f_frsize


def test_no_room_is_told_before_anything_is_made(small_disk, make_capsule):
    capsule = make_capsule("--root", small_disk / "root")
    refused(capsule.apply(volume(size="1GiB"), check=False), "not enough room", "1024 MiB")
    assert capsule.ctl("volume", "list", "-o", "name").out == ""
    capsule.apply(volume("first", "100MiB"))
    # The first one is nearly empty, but it was promised all of it.
    refused(capsule.apply(volume("second", "100MiB"), check=False), "not enough room", "second")
    refused(capsule.ctl("volume", "resize", "first", "300MiB", check=False), "not enough room", "first")
    assert size_of(capsule, "first") == 100 * MIB
    capsule.ctl("volume", "delete", "first")
    capsule.apply(volume("second", "100MiB"))
    run_with_volume(capsule, mounts=[mount("second")])
    assert "No space" in capsule.inside("w", "sh", "-c", f"dd if=/dev/zero of={DATA}/big bs=1M 2>&1; true")
    assert free_room(small_disk) > 0, "a volume that is full leaves the disk what it was not promised"


# ---- after a crash ----

def test_what_a_crash_left_half_made_is_removed(capsule):
    capsule.apply(volume())
    capsule.kill()
    (capsule.root / "volumes/.tmp-half.img").write_bytes(b"half")
    capsule.start()
    assert os.listdir(capsule.root / "volumes") == ["data.img"]
    run_with_volume(capsule)


def test_a_device_that_somebody_left_over_the_file(capsule):
    capsule.apply(volume())
    device = run("losetup", "--find", "--show", capsule.root / "volumes/data.img").stdout.decode().strip()
    try:
        refused(capsule.ctl("volume", "resize", "data", "128MiB", check=False), "data", device)
        run_with_volume(capsule)
        assert loops_of(capsule) == [device], "two devices over one file would be two caches over one file system"
        capsule.ctl("workload", "delete", "w")
        assert size_of(capsule) == 64 * MIB
    finally:
        run("losetup", "--detach", device, check=False)
    wait_for(lambda: loops_of(capsule) == [], "the device to go")
    capsule.ctl("volume", "resize", "data", "128MiB")


def test_what_is_not_there_is_deleted_by_force_only(capsule):
    """It may be on a disk that is not mounted."""
    capsule.apply(volume())
    file = capsule.root / "volumes/data.img"
    file.rename(capsule.dir / "away")
    refused(capsule.ctl("volume", "delete", "data", check=False), "volume data is not at", str(file), "by force")
    (capsule.dir / "away").rename(file)
    run_with_volume(capsule)
    capsule.ctl("workload", "delete", "w")
    file.unlink()
    capsule.ctl("volume", "delete", "--force", "data")
    assert capsule.ctl("volume", "list", "-o", "name").out == ""


def test_a_file_that_is_nobodys_volume_is_left_alone(capsule):
    stranger = capsule.root / "volumes/stranger.img"
    stranger.write_bytes(b"somebody's data")
    os.truncate(stranger, 64 * MIB)
    capsule.restart()
    assert "stranger" in capsule.ctl("capsule", "logs").out
    for size in ("64MiB", "65MiB"):
        refused(capsule.ctl("volume", "create", "--size", size, "stranger", check=False), str(stranger),
                "belongs to no volume")
    capsule.restart()
    assert stranger.read_bytes().rstrip(b"\0") == b"somebody's data"
