# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""A thin pool that gets full: told before, told when it is so, nothing acknowledged is lost, and all
goes on when it was extended."""
import json
import pathlib
import signal

import pytest

from capsule import wait_for
from test_volume_data import numbers
from test_volumes import DATA, MIB, refused, run_with_volume, volume
from thin_pool import POOL_SIZE, ThinPool

pytestmark = pytest.mark.device_mapper

NO_SPACE_TIMEOUT = pathlib.Path("/sys/module/dm_thin_pool/parameters/no_space_timeout")

# Numbers, each told on standard output when it is synced, until one is refused.
TELLER = ["sh", "-c", f"i=0; while i=$((i+1)); echo $i >> {DATA}/numbers && sync {DATA}/numbers; do echo $i; done; "
                      "echo refused; sleep 10000"]


@pytest.fixture
def pool(tmp_path, request):
    """A parameter is what lvm.conf says of its monitoring."""
    with ThinPool(tmp_path, *([request.param] if hasattr(request, "param") else [])) as pool:
        yield pool


@pytest.fixture
def capsule(pool, make_capsule):
    return make_capsule("--volumes", f"lvm:{pool.name}", env=pool.env)


@pytest.fixture
def impatient_kernel():
    """Writers to a full pool wait for five seconds, not for a minute, before they get an error."""
    before = NO_SPACE_TIMEOUT.read_text()
    NO_SPACE_TIMEOUT.write_text("5")
    yield
    NO_SPACE_TIMEOUT.write_text(before)


def info(capsule):
    return json.loads(capsule.ctl("info", "-o", "json").out)


def message(capsule, name="w"):
    return capsule.status(name).get("message", "")


def fill(capsule, mebibytes):
    capsule.inside("w", "sh", "-c", f"dd if=/dev/zero of={DATA}/big bs=1M count={mebibytes} 2>/dev/null; sync")


def refuses_new(capsule, *words):
    for verb in (("create", "--size", "16MiB", "new"), ("clone", "data", "new"), ("snapshot", "create", "data", "s")):
        refused(capsule.ctl("volume", *verb, check=False), "there is no room for", *words)


def survives(capsule, *words):
    """A daemon that is killed on it starts again, knows what is wrong, and has not touched what runs."""
    pid = capsule.status("w")["pid"]
    capsule.stop(signal.SIGKILL)
    capsule.start()
    for word in words:
        assert word in capsule.ctl("info").out
        wait_for(lambda: word in message(capsule), "the workload's status")
    assert capsule.status("w")["pid"] == pid


def told(capsule):
    """How many numbers the writer was told are synced."""
    return len([line for line in capsule.logs("w").split() if line.isdigit()])


def finds_what_was_told(capsule):
    """After a restart, which repairs the volume."""
    acknowledged = told(capsule)
    capsule.run_workload("w", "busybox:test", command=["sleep", "10000"], mounts=[{"volumeName": "data", "mountPath": DATA}])
    capsule.wait_phase("w", "running")
    assert numbers(capsule.inside("w", "cat", f"{DATA}/numbers")) >= acknowledged > 0
    capsule.inside("w", "sh", "-c", f"echo on > {DATA}/file; sync {DATA}/file")
    wait_for(lambda: message(capsule) == "", "nothing to be wrong any more")


def test_a_pool_that_gets_full(capsule, pool):
    """Told before it is full; what runs has the rest; all goes on when there is room."""
    assert int(info(capsule)["thinpoolTotalBytes"]) == POOL_SIZE
    assert "Warning" not in capsule.ctl("info").out
    capsule.apply(volume(size="1GiB"))
    run_with_volume(capsule)
    fill(capsule, 246)
    assert int(info(capsule)["thinpoolUsedBytes"]) > 0.95 * POOL_SIZE
    nearly = f"thin pool {pool.name} is nearly full"
    assert nearly in capsule.ctl("info").out
    refuses_new(capsule, nearly, "lvextend")
    capsule.ctl("workload", "stop", "w")
    capsule.ctl("workload", "start", "w")
    wait_for(lambda: "there is no room for volume data" in message(capsule), "the reason why it does not start")
    capsule.stop(signal.SIGKILL)
    capsule.start()
    assert pool.volumes() == ["vol-data"]
    pool.lvm("lvextend", "-q", "--size", "+256m", pool.name)
    capsule.wait_phase("w", "running")
    wait_for(lambda: message(capsule) == "", "the warning to be taken back")
    capsule.inside("w", "sh", "-c", f"rm {DATA}/big; sync")
    wait_for(lambda: int(info(capsule)["thinpoolUsedBytes"]) < 0.3 * POOL_SIZE, "the room to come back")


def test_a_pool_without_room_for_data(capsule, pool, impatient_kernel):
    capsule.apply(volume(size="1GiB"))
    run_with_volume(capsule, command=TELLER)
    wait_for(lambda: told(capsule) > 20, "some numbers")
    fill(capsule, POOL_SIZE // MIB)
    full = f"thin pool {pool.name} is full"
    wait_for(lambda: full in message(capsule), "the status")
    wait_for(lambda: "refused" in capsule.logs("w"), "an error for the writer")
    refuses_new(capsule, full)
    survives(capsule, full)
    pool.lvm("lvextend", "-q", "--size", "+256m", pool.name)
    finds_what_was_told(capsule)
