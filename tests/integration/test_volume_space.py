# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What volumes take of the disk below them: deleted data gives its room back, and a disk that others fill never loses data
silently."""
import os

from capsule import wait_for
from kinds import both_kinds
from test_volumes import DATA, MIB, run_with_volume, volume


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


@both_kinds
def test_a_disk_that_others_filled_loses_no_data_silently(small_disk, make_capsule):
    """What the workload was told is written is there; what could not be written is an error for it, at the latest at fsync."""
    capsule = make_capsule(root=small_disk / "root")
    capsule.apply(volume(size="64MiB"))
    run_with_volume(capsule)
    capsule.inside("w", "sh", "-c", f"echo kept > {DATA}/kept; sync")
    fill(small_disk / "filler")
    write = f"dd if=/dev/urandom of={DATA}/big bs=1M count=32 conv=fsync 2>&1 || echo refused"
    assert "refused" in capsule.inside("w", "sh", "-c", write)
    more = f"{{ echo x > {DATA}/more; sync; }} 2>&1; true"
    wait_for(lambda: "Read-only" in capsule.inside("w", "sh", "-c", more), "the volume to be read-only")
    assert capsule.inside("w", "cat", f"{DATA}/kept") == "kept\n"
    (small_disk / "filler").unlink()
    capsule.ctl("workload", "restart", "w")
    capsule.wait_phase("w", "running")
    assert capsule.inside("w", "sh", "-c", f"cat {DATA}/kept; echo more > {DATA}/more && cat {DATA}/more") == "kept\nmore\n"
