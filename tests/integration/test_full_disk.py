# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The state root is on a disk that becomes full: errors are clear, nothing that runs is disturbed, all goes on when there is room."""
import errno
import os

import pytest

from capsule import GUEST_KERNEL, PATIENCE, run, wait_for
from exec_tools import run_in

TICKER = ["sh", "-c", "while :; do echo tick; sleep 0.1; done"]


class Disk:
    """A small ext4 file system."""

    def __init__(self, directory):
        self.image, self.path, self.filler = directory / "disk.img", directory / "disk", directory / "disk/filler"
        self.path.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(64 << 20)
        run("mkfs.ext4", "-q", "-m", "0", self.image)
        run("mount", "-o", "loop", self.image, self.path)

    def fill(self):
        """To the last byte, and again until nobody has found a hole meanwhile."""
        with open(self.filler, "ab", buffering=0) as f:
            for size in (1 << 20, 4096, 4096, 4096):
                try:
                    while True:
                        f.write(b"x" * size)
                except OSError as e:
                    assert e.errno == errno.ENOSPC
                os.fsync(f.fileno())

    def empty(self):
        self.filler.unlink()
        os.sync()

    def close(self):
        run("umount", self.path)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path)
    yield disk
    disk.close()


@pytest.fixture
def capsule(disk, make_capsule):
    """With a workload that prints all the time."""
    capsule = make_capsule(root=disk.path / "root")
    capsule.run_container("ticker", "busybox:test", command=TICKER, stopGracePeriodSeconds=0)
    wait_for(lambda: "tick" in capsule.logs("ticker"), "the first line")
    return capsule


def is_refused(done):
    if done.returncode == 0:
        return False
    assert "RESOURCE_EXHAUSTED" in done.err, done.err
    assert "full" in done.err or "No space left" in done.err or "room" in done.err, done.err
    assert len(done.err.splitlines()) == 1, done.err
    return True


def manifest(name, **spec):
    return {"name": name, "kind": "Container", "stopGracePeriodSeconds": 0, "container": {"image": "busybox:test", **spec}}


def apply_until_refused(capsule):
    """Returns the names that were accepted: for some the room may have sufficed."""
    accepted = []
    for i in range(100):
        if is_refused(capsule.apply(manifest(f"n{i}", command=["sleep", "1000"]), "--verbose", check=False)):
            return accepted
        accepted.append(f"n{i}")
    raise AssertionError("a full disk took a hundred applies")


def test_errors_are_clear_and_what_runs_goes_on(capsule, disk, archives):
    before = capsule.status("ticker")
    disk.fill()
    accepted = apply_until_refused(capsule)
    assert sorted(capsule.ctl("workload", "list", "-o", "name").out.replace("workload/", "").split()) == sorted(accepted + ["ticker"])
    for name in accepted:
        wait_for(lambda: "No space left" in capsule.status(name).get("message", ""), f"the reason of {name}")
    assert is_refused(capsule.ctl("image", "push", "--verbose", archives["nginx:test"], check=False))
    assert "nginx" not in capsule.ctl("image", "list").out
    assert is_refused(capsule.ctl("volume", "create", "--verbose", "--size", "16MiB", "data", check=False))
    assert capsule.ctl("volume", "list", "-o", "name").out == ""
    assert "tick" in capsule.logs("ticker", "-n", "1")
    assert capsule.status("ticker") == before

    disk.empty()
    lines = len(capsule.logs("ticker").splitlines())
    wait_for(lambda: len(capsule.logs("ticker").splitlines()) > lines, "the log to go on")
    assert capsule.status("ticker") == before
    for name in accepted:
        capsule.wait_phase(name, "running")
    capsule.ctl("volume", "create", "--size", "16MiB", "data")
    capsule.apply(manifest("late", command=["sleep", "1000"]), "--wait")


def test_what_makes_room_is_possible(capsule, disk, archives):
    """Stop, start and delete are recorded and done on a full disk, also by a daemon that starts there."""
    capsule.push(archives["nginx:test"])
    for i in range(20):
        capsule.apply(manifest(f"w{i}", command=["sleep", "1000"]))
    capsule.wait_phase("w0", "running")
    disk.fill()
    assert is_refused(capsule.apply(manifest("more", command=["sleep", "1000"]), "--verbose", check=False))
    capsule.ctl("workload", "stop", "w0")
    assert capsule.phase("w0") == "Stopped"
    capsule.kill()
    capsule.start()
    capsule.wait_phase("w0", "stopped")
    capsule.restart()
    disk.fill()
    capsule.ctl("workload", "delete", *(f"w{i}" for i in range(20)))
    disk.fill()
    assert "nginx:test" in capsule.ctl("image", "delete", "nginx:test").out
    assert "nginx" not in capsule.ctl("image", "list").out
    assert capsule.names() == ["ticker"]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_daemon_starts_on_a_full_disk(capsule, disk, end):
    before = capsule.status("ticker")
    disk.fill()
    accepted = apply_until_refused(capsule)
    getattr(capsule, end)()
    disk.fill()
    capsule.start()
    assert capsule.status("ticker") == before
    assert "tick" in capsule.logs("ticker", "-n", "1")
    assert len(capsule.names()) == len(accepted) + 1
    disk.empty()
    capsule.apply(manifest("late", command=["sleep", "1000"]), "--wait")
    assert capsule.status("ticker") == before


@pytest.mark.skipif(not GUEST_KERNEL.exists(), reason=f"there is no guest kernel {GUEST_KERNEL}: make guest-kernel")
def test_a_microvm_meets_the_full_disk_as_errors_of_its_own_disk(capsule, disk):
    """What it writes beyond the host's room fails in it; the machine goes on, and another one starts when there is room again."""
    boot = 3 * PATIENCE
    disk.filler.write_bytes(bytes(4 << 20))
    capsule.run_vm("vm", "busybox:test", "while :; do sleep 1; done", stopGracePeriodSeconds=0)
    done = run_in(capsule, "vm", "--", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=100; sync; echo >/synced", timeout=boot)
    assert "Read-only file system" in done.err  # ext4's answer to an error of its disk
    assert run_in(capsule, "vm", "--", "echo", "goes on", timeout=boot).out == "goes on\n"
    disk.empty()
    capsule.ctl("workload", "delete", "vm", timeout=boot)
    capsule.run_vm("late", "busybox:test", "while :; do sleep 1; done", stopGracePeriodSeconds=0)
