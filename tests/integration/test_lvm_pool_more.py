# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""A thin pool without room for metadata, and the room that LVM adds by itself. Slow, and no part of `make check-vm`."""
import pytest

from capsule import wait_for
from test_lvm_pool import (TELLER, capsule, fill, finds_what_was_told, impatient_kernel, message, pool, refuses_new,  # noqa: F401
                           survives, told)
from test_volumes import DATA, refused, run_with_volume, volume
from thin_pool import POOL_SIZE

pytestmark = pytest.mark.device_mapper


def test_a_pool_without_room_for_metadata(capsule, pool, impatient_kernel):
    capsule.apply(volume(size="1GiB"))
    run_with_volume(capsule, command=TELLER)
    wait_for(lambda: told(capsule) > 20, "some numbers")
    devices = 1000
    while pool.message(f"create_thin {devices}"):
        devices += 1
    assert devices > 1000
    for i in range(64):  # until a write needs metadata
        capsule.inside("w", "sh", "-c", f"dd if=/dev/zero of={DATA}/f{i} bs=64k count=16 conv=fsync", check=False)
        if pool.field("lv_health_status"):
            break
    full = f"thin pool {pool.name} has no room for metadata"
    wait_for(lambda: full in message(capsule), "the status")
    refuses_new(capsule, full)
    survives(capsule, full)
    pool.lvm("lvextend", "-q", "--poolmetadatasize", "+4m", pool.name)
    finds_what_was_told(capsule)


# ---- what LVM adds by itself ----

# The pool is extended at 99 %, so that there is time to look at it before.
AUTOEXTEND = "monitoring=1 thin_pool_autoextend_threshold=99 thin_pool_autoextend_percent=50"


@pytest.mark.parametrize("pool", [AUTOEXTEND], indirect=True, ids=["extending"])
def test_room_that_lvm_adds_counts(capsule, pool):  # noqa: F811
    capsule.apply(volume(size="1GiB"))
    run_with_volume(capsule)
    fill(capsule, 246)
    assert 95 < float(pool.field("data_percent")) < 99
    assert "Warning" not in capsule.ctl("info").out and message(capsule) == ""
    capsule.apply(volume("other", size="16MiB"))
    # What others take of the volume group is no room of the pool's.
    pool.lvm("lvcreate", "-q", "-y", "--size", "300m", "--name", "others", pool.vg)
    assert "nearly full" in capsule.ctl("info").out
    refused(capsule.ctl("volume", "create", "--size", "16MiB", "new", check=False), "nearly full")
    pool.lvm("lvremove", "-q", "-y", f"{pool.vg}/others")
    fill(capsule, 300)
    assert int(pool.field("lv_size")) > POOL_SIZE, "LVM has extended it"
