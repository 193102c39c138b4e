# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What volumes take of the disk below them: deleted data gives its room back, and a disk that others fill never loses data
silently."""
import os
import pathlib
import signal

from capsule import run, wait_for
from kinds import both_kinds
from test_volumes import DATA, MIB, get, mount, run_with_volume, volume


def stored(capsule, name="data"):
    """The bytes that the volume takes of the disk."""
    return os.stat(capsule.root / f"volumes/{name}.img").st_blocks * 512


@both_kinds
def test_deleted_data_gives_its_room_back(capsule):
    capsule.apply(volume())
    run_with_volume(capsule)
    capsule.inside("w", "sh", "-c", f"dd if=/dev/urandom of={DATA}/big bs=1M count=30 2>/dev/null; sync")
    assert stored(capsule) > 30 * MIB
    capsule.inside("w", "sh", "-c", f"rm {DATA}/big; sync")
    wait_for(lambda: stored(capsule) < 8 * MIB, "the room to come back")


def fill(path):
    """To the last byte."""
    with open(path, "ab", buffering=0) as f:
        for size in (1 << 20, 4096):
            try:
                while True:
                    f.write(b"x" * size)
            except OSError:
                os.fsync(f.fileno())


ERROR = "an error made read-only: volume data"


def knows_the_error(capsule):
    wait_for(lambda: ERROR in capsule.status("w").get("message", ""), "the error in the workload's status")
    # What a guest writes of it may stay in the host's cache of the device for half a minute.
    wait_for(lambda: get(capsule).get("hasErrors"), "the error in the volume")
    assert [row.split()[3] for row in capsule.ctl("volume", "list").out.splitlines()] == ["BY", "errors"]


def knows_no_error(capsule):
    assert ERROR not in capsule.status("w").get("message", "")
    assert not get(capsule).get("hasErrors")


@both_kinds
def test_a_disk_that_others_filled_loses_no_data_silently(small_disk, make_capsule):
    """What the workload was told is written is there; what could not be written is an error for it, at the latest at fsync."""
    capsule = make_capsule(root=small_disk / "root")
    capsule.apply(volume(size="64MiB"))
    run_with_volume(capsule)
    capsule.inside("w", "sh", "-c", f"echo kept > {DATA}/kept; sync")
    knows_no_error(capsule)
    fill(small_disk / "filler")
    write = f"dd if=/dev/urandom of={DATA}/big bs=1M count=32 conv=fsync 2>&1 || echo refused"
    assert "refused" in capsule.inside("w", "sh", "-c", write)
    more = f"{{ echo x > {DATA}/more; sync; }} 2>&1; true"
    wait_for(lambda: "Read-only" in capsule.inside("w", "sh", "-c", more), "the volume to be read-only")
    assert capsule.inside("w", "cat", f"{DATA}/kept") == "kept\n"
    knows_the_error(capsule)
    capsule.stop(signal.SIGKILL)
    (small_disk / "filler").unlink()
    capsule.start()
    knows_the_error(capsule)
    capsule.ctl("workload", "restart", "w")
    capsule.wait_phase("w", "running")
    assert capsule.inside("w", "sh", "-c", f"cat {DATA}/kept; echo more > {DATA}/more && cat {DATA}/more") == "kept\nmore\n"
    knows_no_error(capsule)


def test_an_error_of_one_volume_says_nothing_of_the_other(capsule):
    capsule.apply(volume())
    capsule.apply(volume("other"))
    run_with_volume(capsule, mounts=[mount("other", "/other"), mount()])
    device, = run("losetup", "-n", "-O", "NAME", "-j", capsule.root / "volumes/data.img").stdout.decode().split()
    pathlib.Path("/sys/fs/ext4", device.removeprefix("/dev/"), "trigger_fs_error").write_text("test")
    wait_for(lambda: ERROR in capsule.status("w").get("message", ""), "the error")
    assert "other" not in capsule.status("w")["message"]
    capsule.inside("w", "sh", "-c", "echo on > /other/file; sync")
    assert "Read-only" in capsule.inside("w", "sh", "-c", f"{{ echo x > {DATA}/file; }} 2>&1; true")
    capsule.ctl("workload", "stop", "w")
    assert (get(capsule)["hasErrors"], get(capsule, "other").get("hasErrors", False)) == (True, False)
    capsule.ctl("workload", "start", "w")
    capsule.wait_phase("w", "running")
    knows_no_error(capsule)
