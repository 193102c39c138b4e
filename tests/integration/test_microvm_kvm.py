# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""MicroVMs where KVM runs guests, as on most hosts: in the emulated machine, whose processor has AMD's virtualisation.

All of it with QEMU and with Firecracker, which is no Debian package: CAPSULE_FIRECRACKER names its program, or PATH has it. And
with Firecracker's jailer, which lies beside it.
"""
import errno
import os
import pathlib
import shutil
import signal
import stat

import pytest

import tidy
from capsule import BOOT, GUEST_KERNEL, alive, free_port, http_get, wait_for
from exec_tools import MIB, on_terminal, output
from kinds import said, wait_new_run

pytestmark = pytest.mark.kvm

FIRECRACKER = shutil.which(os.environ.get("CAPSULE_FIRECRACKER", "firecracker"))
JAILER = FIRECRACKER and shutil.which("jailer".join(os.path.realpath(FIRECRACKER).rsplit("firecracker", 1)))
NAMES = {"qemu": "QEMU", "firecracker": "Firecracker"}
IDLE = "while :; do sleep 1; done"
PAYLOAD = ("cat /data/log", "echo machine >>/data/log", "mkdir /www", "echo page >/www/index.html", "httpd -p 80 -h /www",
           "trap 'echo bye; exit 3' TERM", IDLE)
needs_firecracker = pytest.mark.skipif(not FIRECRACKER, reason="there is no Firecracker: CAPSULE_FIRECRACKER names none, PATH "
                                                               "has none")
needs_jailer = pytest.mark.skipif(not JAILER, reason="there is no jailer beside Firecracker")


@pytest.fixture(params=["qemu", pytest.param("firecracker", marks=needs_firecracker), pytest.param("jailer", marks=needs_jailer)])
def way(request):
    return request.param


@pytest.fixture
def monitor(way):
    return "qemu" if way == "qemu" else "firecracker"


@pytest.fixture
def jailed(way):
    return way == "jailer"


@pytest.fixture
def path_with_firecracker(tmp_path):
    """An environment in which it is found under its usual name."""
    (tmp_path / "bin").mkdir()
    if FIRECRACKER:
        (tmp_path / "bin/firecracker").symlink_to(FIRECRACKER)
    return {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


@pytest.fixture
def capsule(make_capsule, monitor, way, path_with_firecracker):
    return make_capsule("--vm-monitor", monitor, *(["--vm-jailer", "none"] if way == "firecracker" else []), env=path_with_firecracker)


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


def status_of(process):
    return dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)


def first_in_namespace(pid):
    """The first process of its pid namespace: itself, or the one that was put before it."""
    own = os.readlink(f"/proc/{pid}/ns/pid")
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "ns/pid") == own and status_of(process)["NSpid"].split()[-1] == "1":
                return process
        except OSError:
            pass
    raise AssertionError(f"{pid} has a namespace without a first process")


def expect_kvm_without_rights(pid, monitor, jailed):
    """The monitor's user has nothing but devices of its own, as the host's may be root's alone."""
    expect_kvm(pid)
    process = pathlib.Path(f"/proc/{pid}")
    uid = process.stat().st_uid
    assert uid >= 0x70000000
    status = status_of(process)
    assert status["Groups"].strip() == "" and {status[f"Cap{kind}"].strip("0\n") for kind in ("Inh", "Prm", "Eff", "Amb")} == {""}
    for thread in (process / "task").iterdir():
        assert (status_of(thread)["NoNewPrivs"], status_of(thread)["Seccomp"]) == ("1", "2"), "a filter of its own"
    devices = {"null", "kvm"} if monitor == "qemu" else {"kvm", "net", "urandom"} if jailed else {"null", "kvm", "net"}
    assert {p.name for p in (process / "root/dev").iterdir()} == devices
    device = (process / "root/dev/kvm").stat()
    assert (device.st_uid, stat.S_IMODE(device.st_mode)) == (uid, 0o600)
    shared = {name for name in ("mnt", "pid", "ipc", "uts", "net")
              if os.readlink(process / f"ns/{name}") == os.readlink(f"/proc/self/ns/{name}")}
    assert shared == (set() if monitor == "qemu" else {"net"}), "a TAP is opened by name where it is"
    with pytest.raises(OSError) as refused:
        (process / "root/written").write_text("")
    assert refused.value.errno == errno.EROFS
    if jailed:
        assert {p.name for p in (process / "root").iterdir()} <= {
            "dev", "disks", "etc", "firecracker", "firecracker.pid", "initramfs", "kernel", "lib", "lib64", "run", "scratch", "usr"}
    expect_first_process(process, uid, jailed)


def expect_first_process(process, uid, jailed):
    """Where that is not the monitor it holds nothing that could outlast it."""
    first = first_in_namespace(process.name)
    assert (first.name != process.name) == jailed
    if jailed:
        status = status_of(first)
        assert (first / "comm").read_text() == "capsule-vm-init\n" and status["Uid"].split() == [str(uid)] * 4
        assert (int(status["CapPrm"], 16), status["NoNewPrivs"]) == (0, "1") and not list((first / "fd").iterdir())


def expect_in_cgroup(capsule, name, pid):
    assert pathlib.Path(f"/proc/{pid}/cgroup").read_text().strip().endswith(f"/{capsule.table}/{name}")


def test_a_microvm_runs_on_kvm(capsule, monitor, jailed, tmp_path):
    """One boot: what a container wrote, port, exec, files, console, a new daemon, stop; and the volume back to a container."""
    port = free_port()
    assert how_microvms_run(capsule) == f"{monitor}{' with its jailer' if jailed else ''}, KVM"
    capsule.apply({"name": "shared", "kind": "Volume", "size": "16MiB"})
    run_writer(capsule, "container")
    capsule.ctl("workload", "delete", "writer")

    capsule.run_vm("web", "busybox:test", *PAYLOAD, mounts=[{"volumeName": "shared", "mountPath": "/data"}],
                   ports=[{"containerPort": 80, "hostPort": port}], kernelCmdlineExtra="loglevel=6")
    status = capsule.status("web")
    assert "message" not in status, "it is not emulated"
    expect_kvm_without_rights(status["pid"], monitor, jailed)
    for pid in (status["pid"], first_in_namespace(status["pid"]).name):
        expect_in_cgroup(capsule, "web", pid)
    said(capsule, "web", "container\n")
    assert wait_for(lambda: http_get("127.0.0.1", port), "the page", BOOT) == "page\n"
    assert output(capsule, "web", "--", "cat", "/data/log") == "container\nmachine\n"
    assert "hypervisor" in output(capsule, "web", "--", "grep", "-m1", "flags", "/proc/cpuinfo")
    expect_terminal(capsule)
    expect_copies(capsule, tmp_path)

    capsule.kill()
    capsule.start()
    assert capsule.status("web") == status
    assert output(capsule, "web", "--", "echo", "again") == "again\n"
    assert http_get("127.0.0.1", port) == "page\n"

    capsule.ctl("workload", "restart", "web", timeout=BOOT)
    wait_new_run(capsule, "web", status["pid"])
    assert not alive(int(status["pid"]))
    status = capsule.status("web")
    said(capsule, "web", "container\nmachine\n")
    assert output(capsule, "web", "--", "cat", "/copied") == "x" * MIB, "its disk lasts"
    said(capsule, "web", "Linux version", "--serial")

    capsule.ctl("workload", "stop", "web", timeout=BOOT)
    assert capsule.status("web")["exitCode"] == 3 and capsule.logs("web").endswith("bye\n") and not alive(int(status["pid"]))
    capsule.ctl("workload", "delete", "web")
    assert tidy.bridge_ports(capsule) == []
    assert run_writer(capsule, "again") == "container\nmachine\nmachine\nagain\n"


def expect_terminal(capsule):
    terminal = on_terminal(capsule, "-t", "web", "--", "sh", columns=100)
    terminal.type("stty size; tty\n")
    terminal.read_until("24 100")
    terminal.resize(90, 30)
    terminal.type("until stty size | grep '30 9''0'; do sleep 0.1; done; exit 5\n")
    terminal.read_until("30 90")
    assert terminal.end() == 5


def expect_copies(capsule, directory):
    (directory / "there").write_text("x" * MIB)
    capsule.ctl("cp", directory / "there", "web:/copied")
    capsule.ctl("cp", "web:/copied", directory / "back")
    assert (directory / "back").read_text() == "x" * MIB


def test_a_monitor_that_is_killed(capsule, monitor):
    """In its boot: another one boots. Later: the workload is started again, and its disk is what was synced."""
    capsule.run_vm("vm", "busybox:test", "echo run >>/runs; sync; wc -l </runs", IDLE, wait=False)
    first = wait_for(lambda: tidy.monitors(capsule), "the monitor", BOOT)[0]
    os.kill(first, signal.SIGKILL)
    capsule.wait_phase("vm", "running", BOOT)
    second = int(capsule.status("vm")["pid"])
    assert second != first and "restartCount" not in capsule.status("vm"), "in the same start"
    said(capsule, "vm", "1\n")

    os.kill(second, signal.SIGKILL)
    wait_new_run(capsule, "vm", str(second))
    said(capsule, "vm", "2\n")
    capsule.ctl("workload", "delete", "vm")

    capsule.run_vm("once", "busybox:test", IDLE, restartPolicy="Never")
    os.kill(int(capsule.status("once")["pid"]), signal.SIGKILL)
    capsule.wait_phase("once", "failed", BOOT)
    assert capsule.status("once")["message"].startswith(f"exited 255: {NAMES[monitor]} was killed by signal 9")


def test_a_machine_ends_with_its_holder_and_with_its_namespace(capsule, monitor):
    """And the workload is started again, with nothing left of the former machine."""
    capsule.run_vm("vm", "busybox:test", "echo run >>/runs; sync; wc -l </runs", IDLE)
    said(capsule, "vm", "1\n")
    pid = capsule.status("vm")["pid"]
    first = first_in_namespace(pid).name
    os.kill(capsule.shim("vm"), signal.SIGKILL)
    wait_new_run(capsule, "vm", pid)
    said(capsule, "vm", "2\n")
    assert not alive(pid) and not alive(first)

    pid = capsule.status("vm")["pid"]
    os.kill(int(first_in_namespace(pid).name), signal.SIGKILL)
    wait_new_run(capsule, "vm", pid)
    said(capsule, "vm", "3\n")
    assert len(tidy.monitors(capsule)) == 1 and not alive(pid)
    capsule.ctl("workload", "delete", "vm", timeout=BOOT)
    assert tidy.monitors(capsule) == [] and tidy.cgroups(capsule) == []


def resident(pid):
    return int(status_of(pathlib.Path(f"/proc/{pid}"))["VmRSS"].split()[0]) << 10


def test_memory_that_a_guest_frees_goes_back_to_the_host(capsule):
    """But for what lies in blocks (2 MiB) of which a part is in use: some 12 MiB after a boot, however much is freed."""
    capsule.run_vm("vm", "busybox:test", IDLE, memoryMib=256)
    pid = capsule.status("vm")["pid"]
    before = resident(pid)
    output(capsule, "vm", "--", "dd", "if=/dev/zero", "of=/dev/shm/fill", "bs=1M", "count=60", "status=none")
    filled = resident(pid)
    assert filled > before + 48 * MIB
    output(capsule, "vm", "--", "rm", "/dev/shm/fill")
    wait_for(lambda: resident(pid) < filled - 36 * MIB, "the memory to be the host's again", BOOT)


def test_an_own_kernel_runs_on_kvm(capsule, own_rootfs):
    """Its console is the log, and nothing else is in it; its reset is its end. It has no driver for a power button."""
    capsule.run_vm("own", "", kernelPath=str(GUEST_KERNEL), rootfsPath=str(own_rootfs), kernelCmdlineExtra="word",
                   restartPolicy="Never")
    for words in ("own root 1", capsule.address("own")):
        wait_for(lambda: words in capsule.logs("own"), words, BOOT)
    expect_kvm(capsule.status("own")["pid"])
    assert wait_for(lambda: http_get(capsule.address("own"), 80), "the page", BOOT) == "own page\n"
    capsule.ctl("workload", "stop", "own", timeout=BOOT)
    assert capsule.status("own")["exitCode"] == 137
    capsule.ctl("workload", "delete", "own", timeout=BOOT)

    capsule.run_vm("resets", "", kernelPath=str(GUEST_KERNEL), rootfsPath=str(own_rootfs), restartPolicy="Never", wait=False,
                   kernelCmdlineExtra="init=/sbin/reset")
    wait_for(lambda: capsule.phase("resets") in ("Stopped", "Failed"), "its end", BOOT)
    assert capsule.phase("resets") == "Stopped" and capsule.status("resets").get("exitCode", 0) == 0, capsule.status("resets")


@needs_firecracker
def test_firecracker_is_taken_where_it_is_installed(make_capsule, path_with_firecracker):
    """Unless the daemon, or the manifest, says otherwise."""
    capsule = make_capsule(env=path_with_firecracker)
    assert how_microvms_run(capsule) == ("firecracker with its jailer, KVM" if JAILER else "firecracker, KVM")
    capsule.run_vm("vm", "busybox:test", IDLE)
    assert os.path.basename(os.readlink(f"/proc/{capsule.status('vm')['pid']}/exe")).startswith("firecracker")
    assert (first_in_namespace(capsule.status("vm")["pid"]).name != capsule.status("vm")["pid"]) == bool(JAILER), "its jailer, too"
    capsule.run_vm("vm", "busybox:test", IDLE, backend="QEMU")
    assert "qemu" in os.readlink(f"/proc/{capsule.status('vm')['pid']}/exe")


def test_emulation_by_choice_is_said(make_capsule):
    assert how_microvms_run(make_capsule("--vm-monitor", "qemu", "--vm-accel", "emulated", push=())) == "qemu, emulated"
    assert how_microvms_run(make_capsule("--vm-monitor", "qemu", "--vm-accel", "kvm", push=())) == "qemu, KVM"
