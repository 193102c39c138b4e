# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Volumes in an LVM thin pool, on a host with a device mapper: made, grown, copied, moved, repaired."""
import json
import os
import subprocess

import pytest

from capsule import run, wait_for
from test_volume_data import COUNTER, content, export, numbers, send, snapshots, write
from test_volumes import DATA, MIB, get, mount, refused, run_with_volume, size_of, volume
from thin_pool import ThinPool

pytestmark = pytest.mark.device_mapper

@pytest.fixture
def pool(tmp_path):
    with ThinPool(tmp_path) as pool:
        yield pool


@pytest.fixture
def capsule(pool, make_capsule):
    return make_capsule("--volumes", f"lvm:{pool.name}", env=pool.env)


# ---- made, grown, deleted ----

def test_a_volume_is_a_thin_volume(capsule, pool):
    capsule.apply(volume(size="1GiB"))
    assert pool.volumes() == ["vol-data"], "larger than the pool, and thin"
    v = get(capsule)
    assert (v["backend"], v["hostPath"]) == ("lvm", f"/dev/{pool.vg}/vol-data")
    write(capsule, "kept")
    usage, = json.loads(capsule.ctl("volume", "du", "-o", "json").out)["volumes"]
    assert usage["backend"] == "lvm" and 0 < int(usage["storedBytes"]) < 64 * MIB
    capsule.ctl("volume", "resize", "data", "2GiB")
    run_with_volume(capsule)
    assert capsule.inside("w", "cat", f"{DATA}/file") == "kept\n"
    assert int(capsule.inside("w", "df", "-kP", DATA).splitlines()[-1].split()[1]) > 1 << 20
    refused(capsule.ctl("volume", "resize", "data", "3GiB", check=False), "in use by w")
    capsule.ctl("workload", "delete", "w")
    capsule.ctl("volume", "delete", "data")
    assert pool.volumes() == []


def test_both_backends_side_by_side(capsule, pool):
    capsule.apply(volume())
    capsule.apply({**volume("plain", size="50MiB"), "backend": "file"})
    assert (get(capsule)["backend"], get(capsule, "plain")["backend"]) == ("lvm", "file")
    run_with_volume(capsule, mounts=[mount(), mount("plain", "/plain")])
    capsule.inside("w", "sh", "-c", f"echo a > {DATA}/file; echo b > /plain/file; sync")
    capsule.ctl("workload", "delete", "w")
    refused(capsule.ctl("volume", "create", "--from-snapshot", "data/s", "--backend", "file", "x", check=False), "no snapshot s")
    assert send(capsule, "moved", export(capsule, "plain")) == (0, "")
    assert get(capsule, "moved")["backend"] == "lvm" and content(capsule, "moved") == "b\n"
    assert size_of(capsule, "moved") == 50 * MIB, "what was asked for; the device is of whole extents, and so is its file system"
    assert f"Block count:              {52 * MIB // 4096}" in run("dumpe2fs", "-h", f"/dev/{pool.vg}/vol-moved").stdout.decode()
    capsule.stop()
    capsule.options = []
    capsule.start()
    refused(run_with_volume(capsule, check=False, mounts=[mount("none")]), "none")
    capsule.apply({"name": "late", "kind": "Container", "container": {
        "image": "busybox:test", "command": ["sleep", "1000"], "mounts": [mount()]}})
    wait_for(lambda: "--volumes lvm:VG/POOL" in capsule.status("late").get("message", ""), "the reason")
    capsule.ctl("workload", "delete", "late")


def test_what_others_made_is_not_taken_over(capsule, pool):
    pool.lvm("lvcreate", "-q", "-y", "--thinpool", "pool", "--virtualsize", "64m", "--name", "vol-data", pool.vg)
    refused(capsule.apply(volume(), check=False), f"/dev/{pool.vg}/vol-data", "belongs to no volume")
    pool.lvm("lvremove", "-y", f"{pool.vg}/vol-data")
    capsule.apply(volume())
    pool.lvm("lvchange", "--deltag", "capsule", f"{pool.vg}/vol-data")
    refused(capsule.ctl("volume", "delete", "data", check=False), "was not made by this daemon")
    assert pool.volumes() == ["vol-data"]
    pool.lvm("lvchange", "--addtag", "capsule", f"{pool.vg}/vol-data")
    capsule.restart()
    assert pool.volumes() == [] and capsule.ctl("volume", "list", "-o", "name").out == "", "its deletion is led on"


@pytest.mark.parametrize("where, word", [("nothing/pool", 'Volume group "nothing" not found'), ("file/", "neither file nor"), ("pool", "neither file nor")])
def test_a_pool_that_is_none(make_capsule, pool, where, word):
    capsule = make_capsule(env=pool.env)
    capsule.stop()
    capsule.options = ["--volumes", f"lvm:{where}"]
    capsule.start(wait=False)
    assert capsule.process.wait(timeout=60) != 0
    capsule.process = None
    assert word in capsule.stderr()
    capsule.options = []
    capsule.start()


def test_a_volume_group_is_one_daemons(capsule, make_capsule, pool):
    """The names of devices are the group's, also of another pool there."""
    other = make_capsule(env=pool.env, push=())
    other.stop()
    for where in (pool.name, f"{pool.vg}/other"):
        done = run(*other.argv(), "--volumes", f"lvm:{where}", check=False)
        assert done.returncode == 1
        assert (f"another capsuled, pid {capsule.process.pid}, uses --volumes lvm:{pool.vg}; stop it, or give this one a pool in "
                "another volume group, or none") in done.stderr.decode()
    run(*other.argv(), "--volumes", f"lvm:{pool.name}", "--down")
    other.start()
    capsule.stop()
    other.stop()
    other.options = ["--volumes", f"lvm:{pool.name}"]
    other.start()
    other.stop()
    other.options = []
    other.start()
    capsule.start()


def test_a_pool_that_does_not_zero(make_capsule, pool):
    """What was not written would read as what another volume had there."""
    capsule = make_capsule(env=pool.env)
    capsule.stop()
    pool.lvm("lvchange", "--zero", "n", pool.name)
    capsule.options = ["--volumes", f"lvm:{pool.name}"]
    capsule.start(wait=False)
    assert capsule.process.wait(timeout=60) != 0
    capsule.process = None
    assert f"lvchange --zero y {pool.name}" in capsule.stderr()
    pool.lvm("lvchange", "--zero", "y", pool.name)
    capsule.start()


# ---- copies ----

def test_snapshots_restore_and_clones_are_instant_and_thin(capsule, pool):
    capsule.apply(volume(size="256MiB"))
    write(capsule, "before")
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    write(capsule, "after")
    capsule.ctl("volume", "clone", "data", "copy")
    capsule.ctl("volume", "resize", "data", "320MiB")
    capsule.ctl("volume", "snapshot", "restore", "data", "s")
    assert content(capsule, "data") == "before\n" and content(capsule, "copy") == "after\n"
    assert size_of(capsule) == 320 * MIB
    capsule.ctl("volume", "clone", "--snapshot", "s", "data", "then")
    assert content(capsule, "then") == "before\n"
    assert pool.volumes() == ["vol-copy", "vol-data", "vol-data+s", "vol-then"]
    capsule.ctl("volume", "delete", "--force", "data")
    assert pool.volumes() == ["vol-copy", "vol-then"] and content(capsule, "then") == "before\n"


def test_a_snapshot_under_a_writer(capsule, pool):
    capsule.apply(volume(size="128MiB"))
    run_with_volume(capsule, command=COUNTER)
    root = f"/proc/{capsule.status('w')['pid']}/root{DATA}/numbers"
    wait_for(lambda: os.path.exists(root) and os.path.getsize(root) > 50, "some numbers")
    with open(root) as f:
        synced = f.read().rsplit("\n", 2)[0].split()
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    run("e2fsck", "-fn", f"/dev/{pool.vg}/vol-data+s")
    assert send(capsule, "out", export(capsule, "data")) == (0, "")
    capsule.ctl("volume", "clone", "--snapshot", "s", "data", "copy")
    for name in ("copy", "out"):
        assert numbers(content(capsule, name, "numbers")) >= len(synced)
    assert "vol-data+" not in pool.volumes()


# ---- after a crash ----

def cut_off(pool, *steps):
    """What a restore of volume data from snapshot s leaves after its first steps."""
    pool.lvm("lvcreate", "-y", "--snapshot", "--setactivationskip", "n", "--addtag", "capsule", "--name", "new-data",
             f"{pool.vg}/vol-data+s")
    if "removed" in steps:
        pool.lvm("lvremove", "-y", f"{pool.vg}/vol-data")


@pytest.mark.parametrize("steps, text", [((), "after\n"), (("removed",), "before\n")])
def test_a_restore_that_was_cut_off(capsule, pool, steps, text):
    capsule.apply(volume())
    write(capsule, "before")
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    write(capsule, "after")
    capsule.kill()
    cut_off(pool, *steps)
    capsule.start()
    assert pool.volumes() == ["vol-data", "vol-data+s"]
    assert content(capsule, "data") == text


def test_a_growth_that_was_cut_off(capsule, pool):
    """The database has the new size, the device has it or not, the file system has not."""
    capsule.apply(volume())
    write(capsule, "kept")
    capsule.ctl("volume", "resize", "data", "128MiB")
    capsule.kill()
    device = f"/dev/{pool.vg}/vol-data"
    run("e2fsck", "-fp", device)
    run("resize2fs", device, "64M")
    capsule.start()
    assert content(capsule, "data") == "kept\n"
    assert int(run("blockdev", "--getsize64", device).stdout) == 128 * MIB
    assert f"Block count:              {128 * MIB // 4096}" in run("dumpe2fs", "-h", device).stdout.decode()


def test_kills_at_any_moment_leave_nothing_half_made(capsule, pool):
    """Ten daemons, each killed somewhere in the midst of a creation, a snapshot or a deletion."""
    capsule.apply(volume())
    for i in range(10):
        verb = (("volume", "create", "--size", "32MiB", "new"), ("volume", "snapshot", "create", "data", "s"),
                ("volume", "clone", "data", "new"))[i % 3]
        call = subprocess.Popen(capsule.ctl_argv(*verb), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            call.wait(timeout=0.1 * (i + 1))
        except subprocess.TimeoutExpired:
            pass
        capsule.kill()
        call.wait(timeout=60)
        capsule.start()
        names = capsule.ctl("volume", "list", "-o", "name").out.split()
        expected = [f"vol-{n}" for n in names] + [f"vol-{s.replace('/', '+')}" for s in snapshots(capsule)]
        assert pool.volumes() == sorted(expected)
        for name in names:
            if name != "data":
                capsule.ctl("volume", "delete", name)
        for s in snapshots(capsule):
            capsule.ctl("volume", "snapshot", "delete", *s.split("/"))
