# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Copies of volumes that a microVM writes to: its guest holds them still, and goes on whatever happens to the daemon."""
import os
import pathlib
import signal
import struct
import subprocess

import pytest

from capsule import wait_for
from kinds import microvms_only, said
from test_volume_data import export, fsck, numbers, send, snapshots, storage, wait_until_copied_from
from test_volumes import DATA, mount, refused, run_with_volume, volume
from vm_holder import HELLO, HELD, HOLD, HOLD_ENDED, Connection, connect

pytestmark = microvms_only

# Numbers, each told when it is synced. A snapshot holds at least what was told before it began.
TELLER = ["sh", "-c", f"i=0; while :; do i=$((i+1)); echo $i >> {DATA}/numbers; sync {DATA}/numbers; echo $i; done"]


def told(capsule):
    return len(capsule.logs("w").split())


def content(capsule, name, file):
    """What a file of the volume holds, seen by a container that comes and goes."""
    capsule.run_container("reader", "busybox:test", command=["sleep", "1000"], mounts=[mount(name)])
    try:
        return capsule.inside("reader", "cat", f"{DATA}/{file}")
    finally:
        capsule.ctl("workload", "delete", "reader")


def goes_on(capsule):
    before = told(capsule)
    wait_for(lambda: told(capsule) > before, "the writer to go on")


@pytest.fixture
def writer(capsule):
    capsule.apply(volume(size="128MiB"))
    run_with_volume(capsule, command=TELLER, stopGracePeriodSeconds=2)
    wait_for(lambda: told(capsule) > 10, "some numbers")
    return capsule


def test_copies_under_a_writer_are_clean_and_have_what_was_told(writer):
    before = told(writer)
    writer.ctl("volume", "snapshot", "create", "data", "s")
    writer.ctl("volume", "clone", "data", "copy")
    stream = export(writer, "data")
    goes_on(writer)
    assert send(writer, "moved", stream) == (0, "")
    writer.ctl("volume", "clone", "--snapshot", "s", "data", "then")
    for name in ("then", "copy", "moved"):
        assert fsck(writer.root / f"volumes/{name}.img")
        assert numbers(content(writer, name, "numbers")) >= before
    assert "data+.img" not in storage(writer)


def children(pid):
    return [int(c) for c in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def expect_starting(capsule):
    for command in (("snapshot", "create", "data", "s"), ("clone", "data", "copy"), ("export", "data", "/dev/null")):
        refused(capsule.ctl("volume", *command, check=False), "cannot hold volume data still: its machine is starting; try again")


def test_a_machine_that_starts_is_to_be_waited_for(capsule):
    """Its monitor is stopped while it boots."""
    capsule.apply(volume(size="128MiB"))
    run_with_volume(capsule, command=TELLER, wait=False)
    run_dir = capsule.run_dir / "workloads/w"
    wait_for((run_dir / "shim.pid").exists, "the holder")
    holder = int((run_dir / "shim.pid").read_text().split()[0])
    monitor, = wait_for(lambda: children(holder), "the monitor")
    os.kill(monitor, signal.SIGSTOP)
    try:
        wait_for((run_dir / "config.json").exists, "the bundle")
        expect_starting(capsule)
        # As before the bundle is written.
        (run_dir / "config.json").rename(run_dir / "config")
        expect_starting(capsule)
        (run_dir / "config").rename(run_dir / "config.json")
    finally:
        os.kill(monitor, signal.SIGCONT)
    wait_for(lambda: told(capsule) > 10, "some numbers")
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    assert snapshots(capsule) == ["data/s"] and storage(capsule) == ["data+s.img", "data.img"]


@pytest.fixture
def large(capsule):
    """A volume whose copy takes a while, in a machine that counts besides."""
    capsule.apply(volume(size="1GiB"))
    # Random bytes are dear in emulation, so the same ones many times.
    fill = (f"dd if=/dev/urandom of=/part bs=1M count=8 2>/dev/null; for i in $(seq 25); do cat /part; done >{DATA}/big; rm /part; "
            "sync; echo full")
    run_with_volume(capsule, command=["sh", "-c", f"{fill}; exec {' '.join(TELLER[:2])} '{TELLER[2]}'"])
    said(capsule, "w", "full")
    wait_for(lambda: told(capsule) > 5, "some numbers")
    return capsule


def test_a_daemon_that_is_killed_while_the_guest_holds_a_volume(large):
    create = subprocess.Popen(large.ctl_argv("volume", "snapshot", "create", "data", "s"), stderr=subprocess.DEVNULL)
    wait_until_copied_from(large)
    large.kill()
    create.wait(timeout=60)
    large.start()
    goes_on(large)
    assert snapshots(large) == [] and storage(large) == ["data.img"]
    large.ctl("volume", "snapshot", "create", "data", "s")
    assert fsck(large.root / "volumes/data+s.img")


def test_a_machine_that_is_killed_while_it_holds_a_volume(large):
    """What was copied is worth nothing, and is gone."""
    create = subprocess.Popen(large.ctl_argv("volume", "snapshot", "create", "data", "s"), stderr=subprocess.PIPE)
    wait_until_copied_from(large)
    os.kill(int(large.status("w")["pid"]), signal.SIGKILL)
    error = create.communicate(timeout=120)[1].decode()
    assert create.returncode == 1 and "was not held still" in error, error
    assert snapshots(large) == [] and storage(large) == ["data.img"]


def test_the_time_that_it_is_held_has_a_limit(writer):
    connection = connect(writer.run_dir / "workloads/w/shim.sock")
    connection.expect(HELLO)
    connection.send(HOLD, struct.pack("=I64s", 3, b"data"))
    connection.expect(HELD)
    refused(writer.ctl("volume", "snapshot", "create", "data", "s", check=False), "volume data", "held still already")
    code, = struct.unpack_from("=i", connection.expect(HOLD_ENDED))
    assert code == 4, "DEADLINE_EXCEEDED"
    goes_on(writer)
    connection.close()


def test_a_stop_does_not_wait_for_a_volume_that_is_held(writer):
    connection = connect(writer.run_dir / "workloads/w/shim.sock")
    connection.expect(HELLO)
    connection.send(HOLD, struct.pack("=I64s", 60, b"data"))
    connection.expect(HELD)
    writer.ctl("workload", "stop", "--no-wait", "w")
    writer.wait_phase("w", "stopped", timeout=40)
    code, = struct.unpack_from("=i", connection.expect(HOLD_ENDED))
    assert code == 10, "ABORTED: a copy that was not done by then is worth nothing"
    connection.close()
