# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What is of microVMs only, through the whole product; what is of containers too is in the tests for both kinds (kinds.py).
Emulated where the host's KVM runs no guest."""
import os
import pathlib
import signal

import pytest

import tidy
from capsule import BOOT, GUEST_KERNEL, alive, free_port, http_get, run, wait_for
from exec_tools import output, run_in
from kinds import said, wait_new_run

pytestmark = pytest.mark.skipif(not GUEST_KERNEL.exists(), reason=f"there is no guest kernel {GUEST_KERNEL}: make guest-kernel")

IDLE = "while :; do sleep 1; done"
STOPPABLE = ("trap 'echo bye; exit 3' TERM", IDLE)


# ---- what is shown of it, what lasts ----

def test_a_microvm_beside_a_container(capsule, tmp_path):
    """One boot: how it runs and as whom, port, names both ways, figures, console, a new daemon, stop."""
    port = free_port()
    capsule.run_vm("web", "busybox:test", "echo $GREETING; uname -r", "mkdir /www", "echo page >/www/index.html",
                   "httpd -p 80 -h /www", *STOPPABLE, env={"GREETING": "hello"},
                   ports=[{"containerPort": 80, "hostPort": port}])
    said(capsule, "web", "hello\n")
    how = capsule.ctl("capsule", "info").out.split("MicroVMs:")[1].splitlines()[0].strip()
    assert (how, capsule.status("web").get("message", "")) in [("qemu, emulated", "emulated"), ("qemu, KVM", ""),
                                                               ("firecracker, KVM", ""), ("firecracker with its jailer, KVM", "")]
    assert os.uname().release not in capsule.logs("web")
    status = capsule.status("web")
    assert status["imageDigest"].startswith("sha256:") and status["address"].startswith(capsule.net)
    assert pathlib.Path(f"/proc/{status['pid']}").stat().st_uid >= 0x70000000  # a user of its own
    assert wait_for(lambda: http_get("127.0.0.1", port), "the page", BOOT) == "page\n"

    capsule.run_container("client", "busybox:test", command=["sleep", "1000"])
    assert output(capsule, "client", "--", "wget", "-q", "-O", "-", "http://web/") == "page\n"
    assert output(capsule, "web", "--", "nslookup", "client", f"{capsule.net}.1").count(capsule.address("client")) == 1

    # Not ticks, of which a busy host loses many. "tsc-early" is the same counter in the kernel's first second.
    clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    assert output(capsule, "web", "--", "cat", clock) in ("tsc-early\n", "tsc\n", "kvm-clock\n")

    table = capsule.ctl("workload", "stats", "--no-stream", "web").out.splitlines()[1].split()
    assert table[0] == "web" and table[2].endswith("MiB")
    assert "MicroVM" in capsule.ctl("workload", "list").out
    said(capsule, "web", "capsule-guest: the payload runs", "--serial")
    assert "Linux version" in capsule.logs("web", "--serial"), "the kernel's boot, from its first line on"

    capsule.kill()
    capsule.start()
    assert capsule.status("web")["pid"] == status["pid"] and capsule.phase("web") == "Running"
    assert output(capsule, "web", "--", "echo", "again") == "again\n"
    assert http_get("127.0.0.1", port) == "page\n"
    assert "unchanged" in capsule.ctl("apply", "-f", "-", input=capsule.ctl("workload", "get", "-o", "manifest", "web").out).out

    capsule.ctl("workload", "stop", "web")
    ended = capsule.status("web")
    assert ended["exitCode"] == 3 and capsule.logs("web").endswith("bye\n") and not alive(int(status["pid"]))
    assert "start it first" in capsule.ctl("cp", "web:/www", tmp_path / "x", check=False).err


def test_its_disk_lasts_as_long_as_a_containers_layer(capsule):
    count = "echo run >>/runs; wc -l </runs; mount | grep ' /data '"
    capsule.apply({"name": "data", "kind": "Volume", "size": "16MiB"})
    spec = {"mounts": [{"volumeName": "data", "mountPath": "/data", "readOnly": True}], "diskSize": "64MiB"}
    capsule.run_vm("vm", "busybox:test", count, *STOPPABLE, **spec)
    said(capsule, "vm", "1\n")
    said(capsule, "vm", "/data type ext4 (ro")
    assert run_in(capsule, "vm", "--", "touch", "/data/x").returncode == 1
    disk = capsule.root / "workloads/vm/disk.img"
    assert disk.stat().st_size == 64 << 20 and disk.stat().st_blocks * 512 < 16 << 20
    capsule.ctl("workload", "restart", "vm")
    said(capsule, "vm", "2\n")
    capsule.run_vm("vm", "busybox:test", count, *STOPPABLE, memoryMib=192, **spec)  # a changed spec begins anew
    wait_for(lambda: capsule.logs("vm").count("1\n") == 2, "a fresh disk", BOOT)
    assert int(output(capsule, "vm", "--", "sh", "-c", "sed -n 's/MemTotal: *//p' /proc/meminfo").split()[0]) < 192 << 10


def test_a_workload_becomes_the_other_kind_and_back(capsule):
    """And its volume goes with it: one mounter at a time, the same data."""
    capsule.apply({"name": "shared", "kind": "Volume", "size": "16MiB"})
    mounts = [{"volumeName": "shared", "mountPath": "/data"}]
    script = "echo $0 >>/data/log; cat /data/log | tr '\\n' ' '; echo .; touch /mine; ls / | grep -c mine"
    as_container = {"command": ["/bin/sh", "-c", f"{script}; exec sleep 1000", "container"], "mounts": mounts}
    capsule.run_container("w", "busybox:test", **as_container)
    said(capsule, "w", "container .")
    capsule.apply({"name": "w", "kind": "MicroVM", "microVm": {
        "image": "busybox:test", "command": ["/bin/sh", "-c", f"{script}; {IDLE}", "machine"], "mounts": mounts}},
        "--wait")
    said(capsule, "w", "container machine .")
    assert not (capsule.root / "workloads/w/upper").exists()
    other = capsule.run_container("other", "busybox:test", wait=False, check=False, mounts=mounts)
    assert other.returncode == 1 and "in use by" in other.err
    capsule.run_container("w", "busybox:test", **as_container)
    said(capsule, "w", "container machine container .")
    assert not (capsule.root / "workloads/w/disk.img").exists()


def test_limits_are_those_of_a_cgroup_in_the_guest(capsule):
    capsule.run_vm("vm", "busybox:test", IDLE, resources={"pidsMax": 16, "cpus": 0.5})
    assert output(capsule, "vm", "--", "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/pids.max") == "50000 100000\n16\n"
    pid = capsule.status("vm")["pid"]
    capsule.run_vm("vm", "busybox:test", IDLE, resources={"pidsMax": 17})
    assert capsule.status("vm")["pid"] != pid
    assert output(capsule, "vm", "--", "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/pids.max") == "max 100000\n17\n"


# ---- violence ----

def test_what_is_killed_is_started_again_and_leaves_nothing(capsule):
    """The holder, the monitor, the payload; the daemon at the same time."""
    capsule.run_vm("vm", "busybox:test", "echo run >>/runs; sync; wc -l </runs", IDLE)
    said(capsule, "vm", "1\n")
    pid = capsule.status("vm")["pid"]
    os.kill(int(pid), signal.SIGKILL)
    wait_new_run(capsule, "vm", pid)
    said(capsule, "vm", "2\n")

    pid = capsule.status("vm")["pid"]
    capsule.kill()
    os.kill(capsule.shim("vm"), signal.SIGKILL)
    capsule.start()
    wait_new_run(capsule, "vm", pid)
    assert not alive(int(pid))
    said(capsule, "vm", "3\n")

    pid = capsule.status("vm")["pid"]
    assert run_in(capsule, "vm", "--", "kill", "-9", "1").returncode in (0, 1, 137)  # PID 1 of a namespace ignores it
    capsule.ctl("workload", "stop", "vm")
    assert capsule.status("vm")["exitCode"] == 137


def test_status_says_why_a_machine_ended(capsule):
    capsule.run_vm("vm", "busybox:test", "echo up", IDLE, restartPolicy="Never")
    os.kill(int(capsule.status("vm")["pid"]), signal.SIGKILL)
    capsule.wait_phase("vm", "failed", BOOT)
    assert capsule.status("vm")["message"].startswith("exited 255: QEMU was killed by signal 9")


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_that_comes_back_during_a_boot_waits_for_it_and_serves_meanwhile(capsule, sig):
    """The machine's boot is held up: its monitor is stopped for a while. The daemon that began it ends, and so does the one that
    waits for it."""
    capsule.run_vm("vm", "busybox:test", "echo up", IDLE, wait=False)
    files = {"shim.pid", "config.json", "hosts", "hostname", "resolv.conf"}  # before them it would be a start that is lost
    wait_for(lambda: files <= set(tidy.names_in(capsule.run_dir / "workloads/vm")), "the holder and its bundle", BOOT)
    monitor = wait_for(lambda: tidy.monitors(capsule), "the monitor", BOOT)[0]
    os.kill(monitor, signal.SIGSTOP)
    for _ in range(2):
        capsule.stop(sig)
        capsule.start()
        assert capsule.phase("vm") == "Pending" and capsule.status("vm")["message"] == "starting"
    os.kill(monitor, signal.SIGCONT)
    capsule.wait_phase("vm", "running", BOOT)
    assert int(capsule.status("vm")["pid"]) == monitor
    said(capsule, "vm", "up")
    capsule.run_container("client", "busybox:test", command=["ping", "-c", "1", "-W", "60", "vm"], restartPolicy="Never",
                          wait=False)
    said(capsule, "client", "1 packets received")


def test_a_start_that_was_cut_off_is_no_run(capsule):
    """Daemon and holder are killed during the boot, and once more when the payload runs."""
    capsule.run_vm("vm", "busybox:test", "echo up", IDLE, wait=False, restartPolicy="Never")
    pid_file = capsule.run_dir / "workloads/vm/shim.pid"

    def kill_both():
        capsule.stop(signal.SIGKILL)
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
        capsule.start()

    wait_for(pid_file.exists, "the holder", BOOT)
    monitor = wait_for(lambda: tidy.monitors(capsule), "the monitor", BOOT)[0]
    os.kill(monitor, signal.SIGSTOP)
    kill_both()
    capsule.wait_phase("vm", "running", BOOT)
    said(capsule, "vm", "up")
    kill_both()
    capsule.wait_phase("vm", "failed", BOOT)
    assert capsule.status("vm")["exitCode"] == 255


def test_down_keeps_that_a_machine_was_lost(capsule):
    """Its payload had run, so it is done."""
    capsule.run_vm("vm", "busybox:test", "echo up", IDLE, restartPolicy="Never")
    said(capsule, "vm", "up")
    holder = capsule.shim("vm")
    capsule.kill()
    os.kill(holder, signal.SIGKILL)
    run(*capsule.argv(), "--down")
    capsule.start()
    capsule.wait_phase("vm", "failed", BOOT)
    assert capsule.status("vm")["exitCode"] == 255


# ---- payloads ----

def test_the_machines_of_an_image_share_one_payload_that_goes_with_it(capsule):
    payloads = capsule.root / "payloads"
    for name in ("a", "b"):
        capsule.run_vm(name, "busybox:test", IDLE, wait=False)
    for name in ("a", "b"):
        capsule.wait_phase(name, "running", BOOT)
    made = list(payloads.iterdir())
    assert [p.name for p in made] == [capsule.status("a")["imageDigest"].removeprefix("sha256:") + ".erofs"]
    capsule.ctl("image", "prune")
    assert list(payloads.iterdir()) == made
    capsule.ctl("workload", "delete", "--all")
    capsule.ctl("image", "delete", "busybox:test")
    wait_for(lambda: not list(payloads.iterdir()), "the payload to go")


# ---- starts that fail ----

def test_failures_name_the_step(make_capsule, tmp_path):
    (tmp_path / "kernel").write_bytes(b"no kernel")
    capsule = make_capsule("--guest-kernel", tmp_path / "kernel")
    capsule.run_vm("vm", "busybox:test", IDLE, wait=False, restartPolicy="Never")
    capsule.wait_phase("vm", "failed", BOOT)
    message = capsule.status("vm")["message"]
    assert str(tmp_path / "kernel") in message
    info = capsule.ctl("capsule", "info").out
    assert str(tmp_path / "kernel") in info.split("MicroVMs:")[1].splitlines()[0]


# ---- a kernel and a root file system of the user's own ----

def test_an_own_kernel_with_its_own_root_file_system(capsule, own_rootfs, tmp_path):
    port = free_port()
    capsule.apply({"name": "data", "kind": "Volume", "size": "16MiB"})
    capsule.run_vm("own", "", kernelPath=str(GUEST_KERNEL), rootfsPath=str(own_rootfs), kernelCmdlineExtra="word",
                   ports=[{"containerPort": 80, "hostPort": port}], mounts=[{"volumeName": "data", "mountPath": "/vol"}])
    said(capsule, "own", "own root 1")
    said(capsule, "own", capsule.address("own"))
    said(capsule, "own", "volume written", "--serial")
    assert wait_for(lambda: http_get("127.0.0.1", port), "the page", BOOT) == "own page\n"
    for refused in (("workload", "exec", "own", "--", "true"), ("cp", "own:/marker", tmp_path / "x")):
        assert "in which Capsule has no process" in capsule.ctl(*refused, check=False).err
    # Its console need not be UTF-8; what is told of it is.
    said(capsule, "own", " \u00fc")
    os.kill(int(capsule.status("own")["pid"]), signal.SIGKILL)
    wait_for(lambda: "caf? \u00fc" in capsule.ctl("workload", "events").out, "why it ended", BOOT)
    assert "own" in capsule.names() and capsule.ctl("workload", "get", "own").out
    capsule.wait_phase("own", "running")
    paths = {"kernelPath": str(GUEST_KERNEL), "rootfsPath": str(own_rootfs)}
    capsule.run_vm("twin", "", wait=False, **paths)
    wait_for(lambda: f"{own_rootfs} is in use" in capsule.status("twin").get("message", ""), "the reason", BOOT)
    capsule.ctl("workload", "delete", "own")
    capsule.wait_phase("twin", "running")
    capsule.ctl("workload", "delete", "twin")
    device = run("losetup", "--find", "--show", own_rootfs).stdout.decode().strip()
    assert f"in use as {device}" in capsule.run_vm("own", "", check=False, **paths).err
    run("losetup", "--detach", device)
    paths["rootfsPath"] = str(capsule.root / "volumes/data.img")
    assert "data.img is a volume" in capsule.run_vm("own", "", check=False, **paths).err
    capsule.run_container("c", "busybox:test", command=["cat", "/data/f"], restartPolicy="Never", wait=False,
                          mounts=[{"volumeName": "data", "mountPath": "/data"}])
    said(capsule, "c", "from-own")
