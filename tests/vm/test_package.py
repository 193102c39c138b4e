# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The package on a Debian host with systemd. One story in the order of the file, for a machine that is thrown away; the tests
marked `second_boot` go on where the power was cut. Run by tests/vm/check."""
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import images  # noqa: E402
from capsule import BUILD, PATIENCE, TOP, alive, http_get, run, wait_for  # noqa: E402

PORT = 8000
VM, VM_PORT = "nginx-vm", 8080  # of the example
VM_PAGE = "from a microVM\n"
BOOT = 2 * PATIENCE  # a guest of a guest
PAGE = "kept in a volume\n"
MANIFEST = f"""\
name: pages
kind: Volume
size: 16MiB
---
name: web
kind: Container
container:
  image: busybox:test
  command: ["sh", "-c", "[ -f /pages/index.html ] || echo kept in a volume >/pages/index.html; exec httpd -f -p 80 -h /pages"]
  ports:
    - containerPort: 80
      hostPort: {PORT}
  mounts:
    - volumeName: pages
      mountPath: /pages
"""


def systemctl(*args, check=True):
    return run("systemctl", *args, check=check).stdout.decode().strip()


def ctl(*args, **kwargs):
    return run("capsulectl", *args, **kwargs).stdout.decode()


def status(name):
    return json.loads(ctl("workload", "get", name, "-o", "json"))["status"]


def statuses():
    return [status(name) for name in ("web", VM)]


def page():
    return http_get("127.0.0.1", PORT)


def page_of_vm():
    return http_get("127.0.0.1", VM_PORT)


def expect_pages():
    assert page() == PAGE and page_of_vm() == VM_PAGE


def wait_pages():
    wait_for(lambda: page() == PAGE, "the page", 2 * PATIENCE)
    wait_for(lambda: page_of_vm() == VM_PAGE, "the microVM's page", BOOT)
    assert "message" not in status(VM), "it is not emulated"


def package(*options):
    return run("dpkg", *options, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def processes(name):
    return subprocess.run(["pidof", name], capture_output=True, text=True).stdout.split()


def expect_down():
    for program in ("capsuled", "capsule-shim", "dnsmasq", "capsule-vm", "qemu-system-x86_64"):
        assert not processes(program), program
    assert page() is None and page_of_vm() is None
    assert run("ip", "link", "show", "br0", check=False).returncode != 0
    assert b"capsule" not in run("nft", "list", "tables").stdout
    assert list(pathlib.Path("/sys/fs/cgroup/capsule").glob("*/")) == []


def test_the_machine_is_an_ordinary_one():
    assert pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists()
    assert pathlib.Path("/proc/1/comm").read_text() == "systemd\n"


def test_install_starts_a_service_that_is_ready():
    package("--install", next(BUILD.glob("capsule_*.deb")))
    assert systemctl("is-active", "capsuled") == "active"
    assert systemctl("is-enabled", "capsuled") == "enabled"
    # Type=notify: active means that it serves. The socket belongs to the group that the package made.
    assert ctl("workload", "list", "-o", "name") == ""
    socket = pathlib.Path("/run/capsule/capsule.sock")
    assert (socket.group(), socket.stat().st_mode & 0o777) == ("capsule", 0o660)


def test_a_web_server_with_a_volume(tmp_path):
    archive = tmp_path / "busybox.tar"
    images.make_busybox_image(str(archive), "busybox:test")
    ctl("image", "push", archive)
    assert "workload/web running" in ctl("apply", "-f", "-", "--wait", input=MANIFEST.encode())
    wait_for(lambda: page() == PAGE, "the page")
    assert "message" not in status("web"), "names resolve, and nothing is in the way"


def test_a_microvm_of_the_examples_runs_on_kvm(tmp_path):
    assert ["MicroVMs:", "qemu,", "KVM"] in [line.split() for line in ctl("capsule", "info").splitlines()]
    archive = tmp_path / "nginx.tar"
    images.make_nginx_image(str(archive), "docker.io/library/nginx:alpine", page=VM_PAGE.encode())
    ctl("image", "push", archive)
    assert f"workload/{VM} running" in ctl("apply", "-f", TOP / f"examples/{VM}.yaml", "--wait", timeout=BOOT)
    wait_pages()
    # The kernel and the initramfs are the package's.
    argv = run("ps", "-o", "args=", "-C", "capsule-vm").stdout.decode().split()
    for option, file in (("--kernel", "vmlinux"), ("--initramfs", "initramfs.cpio")):
        path = argv[argv.index(option) + 1]
        assert path == f"/usr/libexec/capsule/guest/{file}"
        run("dpkg", "--search", path)
    ctl("workload", "exec", VM, "--", "/usr/sbin/nginx", "-v", timeout=BOOT)


def test_controllers_reach_the_workload():
    cgroup = pathlib.Path("/sys/fs/cgroup/capsule/web")
    assert {"cpu", "memory", "pids"} <= set((cgroup / "cgroup.controllers").read_text().split())
    assert str(status("web")["pid"]) in (cgroup / "cgroup.procs").read_text().split()


@pytest.mark.parametrize("action", ["restart", "kill", "stop"])
def test_workloads_outlive_the_service(action):
    before = statuses()
    old = systemctl("show", "-P", "MainPID", "capsuled")
    if action == "kill":
        os.kill(int(old), signal.SIGKILL)
    else:
        systemctl(action, "capsuled")
    if action == "stop":
        assert systemctl("is-active", "capsuled", check=False) == "inactive"
        assert all(alive(workload["pid"]) for workload in before)
        expect_pages()
        systemctl("start", "capsuled")
    wait_for(lambda: systemctl("is-active", "capsuled", check=False) == "active"
             and systemctl("show", "-P", "MainPID", "capsuled") != old, "another daemon")
    assert statuses() == before
    expect_pages()


def test_reloading_systemd_takes_no_controllers_away():
    systemctl("daemon-reload")
    test_controllers_reach_the_workload()


def test_an_upgrade_leaves_workloads_alone():
    before = statuses()
    old = systemctl("show", "-P", "MainPID", "capsuled")
    package("--install", next(BUILD.glob("capsule_*.deb")))
    assert systemctl("is-active", "capsuled") == "active"
    assert systemctl("show", "-P", "MainPID", "capsuled") != old
    assert statuses() == before
    expect_pages()


@pytest.mark.second_boot
def test_after_a_power_cut_everything_is_back():
    assert systemctl("is-active", "capsuled") == "active"
    wait_pages()
    assert [workload["phase"] for workload in statuses()] == 2 * ["WORKLOAD_PHASE_RUNNING"]


@pytest.mark.second_boot
def test_removal_ends_everything_and_an_install_brings_it_back():
    package("--remove", "capsule")
    expect_down()
    package("--install", next(BUILD.glob("capsule_*.deb")))
    wait_pages()


@pytest.mark.second_boot
def test_purge_leaves_nothing():
    package("--purge", "capsule")
    expect_down()
    state = pathlib.Path("/var/lib/capsule")
    assert not state.exists() or not list(state.iterdir())
    assert not pathlib.Path("/run/capsule").exists()
    assert not pathlib.Path("/etc/capsule").exists()
    assert run("losetup", "--list", "--noheadings").stdout == b""
