# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The kernels of microVMs (docs/microvm.md, Kernel): ours, and Debian's cloud kernel where ours is not installed."""
import pytest

from capsule import CLOUD_KERNEL, GUEST_DIR, PATIENCE

BOOT = 3 * PATIENCE  # an emulated machine that shares its host with others


@pytest.fixture
def cloud_capsule(make_capsule, tmp_path):
    """A daemon whose guest directory has no kernel of ours, but Debian's, unpacked."""
    if not CLOUD_KERNEL.exists():
        pytest.skip(f"{CLOUD_KERNEL} is missing: tests/check kernel")
    guest = tmp_path / "guest"
    guest.mkdir()
    (guest / "initramfs.cpio").symlink_to(GUEST_DIR / "initramfs.cpio")
    (guest / "cloud").symlink_to(CLOUD_KERNEL)
    return make_capsule("--guest-dir", guest)


def log_at_the_end(capsule, name):
    capsule.wait_phase(name, "stopped", BOOT)
    return capsule.logs(name)


def test_debians_cloud_kernel_boots(cloud_capsule):
    """Twice: its initramfs is made for the first start, and serves the second as it is."""
    cloud_capsule.run_vm("first", "busybox:test", "uname -r", wait=False, restartPolicy="Never")
    assert log_at_the_end(cloud_capsule, "first") == next(CLOUD_KERNEL.glob("lib/modules/*")).name + "\n"
    [initramfs] = (cloud_capsule.root / "guest").iterdir()
    made = initramfs.stat()
    cloud_capsule.run_vm("second", "busybox:test", "touch /written && ls /written", wait=False, restartPolicy="Never")
    assert log_at_the_end(cloud_capsule, "second") == "/written\n"
    assert [initramfs] == list((cloud_capsule.root / "guest").iterdir())
    assert (initramfs.stat().st_ino, initramfs.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


@pytest.mark.parametrize("daemon,count", [("capsule", 64), ("cloud_capsule", 8)])
def test_many_volumes(request, daemon, count):
    """More than the machine has devices for. Each is the right one, which a container sees afterwards."""
    capsule = request.getfixturevalue(daemon)
    names = [f"v{i}" for i in range(count)]
    capsule.apply("\n---\n".join(f"{{name: {name}, kind: Volume, size: 16MiB}}" for name in names))
    mounts = [{"volumeName": name, "mountPath": f"/{name}", "readOnly": name == "v7"} for name in names]
    script = f"for v in {' '.join(names)}; do echo $v > /$v/name || echo refused $v; done 2>/dev/null; sync; df -a | grep -c ' /v[0-9]'"
    capsule.run_vm("vm", "busybox:test", script, wait=False, restartPolicy="Never", mounts=mounts)
    assert log_at_the_end(capsule, "vm") == f"refused v7\n{count}\n"
    capsule.ctl("workload", "delete", "vm")
    capsule.run_container("c", "busybox:test", wait=False, restartPolicy="Never", mounts=mounts, command=["sh", "-c", "cat /v*/name"])
    assert sorted(log_at_the_end(capsule, "c").split()) == sorted(set(names) - {"v7"})


def test_a_payload_finds_what_containers_find(capsule):
    """Of our kernel, which was built for them and has nothing to load."""
    capsule.run_vm("vm", "busybox:test", "uname -r", "cat /proc/filesystems", "cat /sys/fs/cgroup/cgroup.controllers",
                   "ls /proc/self/ns", "cat /proc/net/if_inet6", wait=False, restartPolicy="Never")
    log = log_at_the_end(capsule, "vm")
    assert log.splitlines()[0].endswith("-capsule")
    words = set(log.split())
    assert {"ext4", "erofs", "overlay", "tmpfs"} <= words
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= words
    assert {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} <= words
    assert f"{1:032x}" in words  # ::1
