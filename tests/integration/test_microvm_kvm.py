# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""MicroVMs where KVM runs guests, as on most hosts: in the emulated machine, whose processor has AMD's virtualisation."""
import os
import pathlib
import stat

import pytest

from capsule import GUEST_KERNEL, PATIENCE, alive, free_port, http_get, wait_for
from exec_tools import output

pytestmark = pytest.mark.kvm

BOOT = 3 * PATIENCE  # a guest of a guest
PAYLOAD = ("cat /data/log", "echo machine >>/data/log", "mkdir /www", "echo page >/www/index.html", "httpd -p 80 -h /www",
           "trap 'echo bye; exit 3' TERM", "while :; do sleep 1; done")


def how_microvms_run(capsule):
    return capsule.ctl("capsule", "info").out.split("MicroVMs:")[1].splitlines()[0].strip()


def run_writer(capsule, line):
    """A container that adds a line to the volume, and says what is there."""
    capsule.run_container("writer", "busybox:test", command=["sh", "-c", f"echo {line} >>/data/log; cat /data/log"],
                          restartPolicy="Never", wait=False, mounts=[{"volumeName": "shared", "mountPath": "/data"}])
    capsule.wait_phase("writer", "stopped")
    return capsule.logs("writer")


def expect_kvm(pid):
    assert "anon_inode:kvm-vm" in [os.readlink(p) for p in pathlib.Path(f"/proc/{pid}/fd").iterdir()]


def expect_kvm_without_rights(pid):
    """The monitor's user has nothing but a device of its own, as the host's may be root's alone."""
    expect_kvm(pid)
    process = pathlib.Path(f"/proc/{pid}")
    uid = process.stat().st_uid
    assert uid >= 0x70000000
    assert "Groups:" in [line.strip() for line in (process / "status").read_text().splitlines()]
    assert {p.name for p in (process / "root/dev").iterdir()} == {"null", "kvm"}
    device = (process / "root/dev/kvm").stat()
    assert (device.st_uid, stat.S_IMODE(device.st_mode)) == (uid, 0o600)


def test_a_microvm_runs_on_kvm(capsule):
    """One boot: what a container wrote, port, exec, console, a new daemon, stop; and the volume back to a container."""
    port = free_port()
    assert how_microvms_run(capsule) == "qemu, KVM"
    capsule.apply({"name": "shared", "kind": "Volume", "size": "16MiB"})
    run_writer(capsule, "container")
    capsule.ctl("workload", "delete", "writer")

    capsule.run_vm("web", "busybox:test", *PAYLOAD, mounts=[{"volumeName": "shared", "mountPath": "/data"}],
                   ports=[{"containerPort": 80, "hostPort": port}])
    status = capsule.status("web")
    assert "message" not in status, "it is not emulated"
    expect_kvm_without_rights(status["pid"])
    wait_for(lambda: capsule.logs("web") == "container\n", "what the container wrote", BOOT)
    assert wait_for(lambda: http_get("127.0.0.1", port), "the page", BOOT) == "page\n"
    assert output(capsule, "web", "--", "cat", "/data/log") == "container\nmachine\n"
    assert "hypervisor" in output(capsule, "web", "--", "grep", "-m1", "flags", "/proc/cpuinfo")
    capsule.ctl("workload", "logs", "--serial", "web")

    capsule.kill()
    capsule.start()
    assert capsule.status("web") == status
    assert output(capsule, "web", "--", "echo", "again") == "again\n"

    capsule.ctl("workload", "stop", "web", timeout=BOOT)
    assert capsule.status("web")["exitCode"] == 3 and capsule.logs("web").endswith("bye\n") and not alive(int(status["pid"]))
    capsule.ctl("workload", "delete", "web")
    assert run_writer(capsule, "again") == "container\nmachine\nagain\n"


def test_an_own_kernel_runs_on_kvm(capsule, own_rootfs):
    """Its console is the log."""
    capsule.run_vm("own", "", kernelPath=str(GUEST_KERNEL), rootfsPath=str(own_rootfs), kernelCmdlineExtra="word")
    for words in ("own root 1", capsule.address("own")):
        wait_for(lambda: words in capsule.logs("own"), words, BOOT)
    expect_kvm(capsule.status("own")["pid"])


def test_emulation_by_choice_is_said(make_capsule):
    assert how_microvms_run(make_capsule("--vm-accel", "emulated", push=())) == "qemu, emulated"
    assert how_microvms_run(make_capsule("--vm-accel", "kvm", push=())) == "qemu, KVM"
