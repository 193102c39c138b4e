# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The package on a Debian host with systemd, a firewall that drops by default and a volume group. One story in the order of the
file, for a machine that is thrown away; the tests marked `second_boot` go on after a reboot. Run by tests/check."""
import json
import os
import pathlib
import signal
import subprocess

import pytest

from capsule import BUILD, TOP, alive, http_get, run, wait_for
from host import BOOT, Firewall, Remote, ctl, install, main_pid, package, processes, status, systemctl

ARCHIVE = "/run/results/busybox.tar"  # of the image busybox:test
POOL, DISK = "vg/pool", "/dev/disk/by-id/virtio-disk0"
PORT, VM_PORT, HOST_PORT = 8000, 8001, 8002
NAMES = ("web", "web-vm")
PAGE = "kept in a volume\n"
WEB = """\
name: pages{name}
kind: Volume
size: 16MiB
---
name: web{name}
kind: {kind}
stopGracePeriodSeconds: 60  # the machine is slow
{part}:
  image: busybox:test
  command: ["sh", "-c"]
  args:
    - |
      [ -f /pages/index.html ] || echo kept in a volume >/pages/index.html
      httpd -p 80 -h /pages
      trap 'sleep 1; echo ended in order >/pages/end; exit' TERM
      sleep 1000000 & wait
  ports:
    - containerPort: 80
      hostPort: {port}
  mounts:
    - volumeName: pages{name}
      mountPath: /pages
"""
ON_THE_HOST = f"""\
name: on-the-host
kind: Container
stopGracePeriodSeconds: 1  # it takes no notice of signals
container:
  image: busybox:test
  networkMode: HOST
  command: ["httpd", "-f", "-p", "{HOST_PORT}", "-h", "/etc"]
"""
FILE_VOLUME = """\
name: in-a-file
kind: Volume
size: 16MiB
backend: file
"""


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    remote = Remote(tmp_path_factory.mktemp("remote"))
    yield remote
    remote.close()


def apply(manifest, *options):
    return ctl("apply", "-f", "-", *options, input=manifest.encode())


def statuses():
    return [status(name) for name in NAMES]


def pages(path="/"):
    return [http_get("127.0.0.1", port, path) for port in (PORT, VM_PORT)]


def wait_pages():
    wait_for(lambda: pages() == [PAGE, PAGE], "both pages", BOOT)
    assert "message" not in status("web-vm"), "it is not emulated"


def volumes():
    rows = json.loads(ctl("volume", "list", "-o", "json"))["volumes"]
    return {row["name"]: (row["backend"], row["hostPath"]) for row in rows}


def expect_down():
    for program in ("capsuled", "capsule-shim", "dnsmasq", "capsule-vm", "qemu-system-x86_64"):
        assert not processes(program), program
    assert pages() == [None, None]
    assert run("ip", "link", "show", "br0", check=False).returncode != 0
    assert b"capsule" not in run("nft", "list", "tables").stdout
    assert list(pathlib.Path("/sys/fs/cgroup/capsule").glob("*/")) == []


# ---- the machine as it is found ----

def test_the_machine_is_an_ordinary_one():
    assert pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists()
    assert pathlib.Path("/proc/1/comm").read_text() == "systemd\n"
    for device in ("kvm", "vhost-vsock", "mapper/control"):
        assert pathlib.Path("/dev", device).exists(), device
    Firewall()
    for command in (("pvcreate", DISK), ("vgcreate", "vg", DISK),
                    ("lvcreate", "--type", "thin-pool", "--size", "512m", "--name", "pool", "vg")):
        run(*command)


def test_the_demo():
    """From the build, with its microVM on KVM."""
    done = run(TOP / "tests/demo/demo", BUILD, timeout=2 * BOOT)
    assert b"with KVM" in done.stdout and b"One list has both" in done.stdout, done.stdout.decode()


# ---- the package and its service ----

def test_install_starts_a_service_that_is_ready():
    install()
    assert systemctl("is-active", "capsuled") == "active"
    assert systemctl("is-enabled", "capsuled") == "enabled"
    # Type=notify: active means that it serves. The socket belongs to the group that the package made.
    assert ctl("workload", "list", "-o", "name") == ""
    socket = pathlib.Path("/run/capsule/capsule.sock")
    assert (socket.group(), socket.stat().st_mode & 0o777) == ("capsule", 0o660)


def test_volumes_go_to_the_pool_of_the_configuration():
    with open("/etc/capsule/capsuled.yaml", "a") as f:
        f.write(f"volumes: lvm:{POOL}\n")
    systemctl("restart", "capsuled")
    assert int(json.loads(ctl("info", "-o", "json"))["thinpoolTotalBytes"]) == 512 << 20


def test_a_web_server_behind_a_firewall_that_drops(remote):
    """What stands in the way is said, with the commands that help; they help."""
    ctl("image", "push", ARCHIVE)
    assert "workload/web running" in apply(WEB.format(name="", kind="Container", part="container", port=PORT), "--wait")
    wait_for(lambda: http_get("127.0.0.1", PORT) == PAGE, "the page")
    assert http_get(remote.HOST, PORT, netns=remote.NAME) is None
    message = status("web")["message"]
    assert "inet filter forward" in message and "inet filter input" in message
    assert len(Firewall.do_as_told(message)) == 3
    assert http_get(remote.HOST, PORT, netns=remote.NAME) == PAGE, "the published port"
    assert ctl("workload", "exec", "web", "--", "wget", "-qO-", f"http://{remote.ADDRESS}/") == remote.PAGE, "masqueraded"
    assert ctl("workload", "exec", "web", "--", "wget", "-qO-", "http://web/") == PAGE, "by name"


def test_what_is_on_the_network_of_the_host_is_under_its_firewall(remote):
    apply(ON_THE_HOST, "--wait")
    wait_for(lambda: http_get("127.0.0.1", HOST_PORT, "/group"), "the host's own call")
    assert http_get(remote.HOST, HOST_PORT, "/group", netns=remote.NAME) is None
    run("nft", "insert", "rule", "inet", "filter", "input", "tcp", "dport", HOST_PORT, "accept")
    assert http_get(remote.HOST, HOST_PORT, "/group", netns=remote.NAME)
    ctl("workload", "delete", "on-the-host")


def test_a_microvm_runs_on_kvm_and_reaches_all_that_a_container_reaches(remote):
    assert ["MicroVMs:", "qemu,", "KVM"] in [line.split() for line in ctl("capsule", "info").splitlines()]
    assert "workload/web-vm running" in apply(WEB.format(name="-vm", kind="MicroVM", part="microVm", port=VM_PORT), "--wait")
    wait_pages()
    assert http_get(remote.HOST, VM_PORT, netns=remote.NAME) == PAGE
    for url, page in ((f"http://{remote.ADDRESS}/", remote.PAGE), ("http://web/", PAGE)):
        assert ctl("workload", "exec", "web-vm", "--", "wget", "-qO-", url) == page
    # The kernel and the initramfs are the package's.
    argv = run("ps", "-o", "args=", "-C", "capsule-vm").stdout.decode().split()
    files = package("--listfiles", "capsule").stdout.decode().split()
    for option, file in (("--kernel", "vmlinux"), ("--initramfs", "initramfs.cpio")):
        path = argv[argv.index(option) + 1]
        assert path == f"/usr/libexec/capsule/guest/{file}" and path in files


def test_volumes_are_thin_and_made_by_udev():
    apply(FILE_VOLUME)
    assert volumes() == {"pages": ("lvm", "/dev/vg/vol-pages"), "pages-vm": ("lvm", "/dev/vg/vol-pages-vm"),
                         "in-a-file": ("file", "/var/lib/capsule/volumes/in-a-file.img")}
    links = run("udevadm", "info", "--query=symlink", "/dev/vg/vol-pages").stdout.decode().split()
    assert "vg/vol-pages" in links


def test_controllers_reach_the_workload():
    cgroup = pathlib.Path("/sys/fs/cgroup/capsule/web")
    assert {"cpu", "memory", "pids"} <= set((cgroup / "cgroup.controllers").read_text().split())
    assert str(status("web")["pid"]) in (cgroup / "cgroup.procs").read_text().split()


@pytest.mark.parametrize("action", ["restart", "kill", "stop"])
def test_workloads_outlive_the_service(action):
    before = statuses()
    old = main_pid()
    if action == "kill":
        os.kill(int(old), signal.SIGKILL)
    else:
        systemctl(action, "capsuled")
    if action == "stop":
        assert systemctl("is-active", "capsuled", check=False) == "inactive"
        assert all(alive(workload["pid"]) for workload in before)
        assert pages() == [PAGE, PAGE]
        systemctl("start", "capsuled")
    wait_for(lambda: systemctl("is-active", "capsuled", check=False) == "active" and main_pid() != old, "another daemon")
    assert statuses() == before
    assert pages() == [PAGE, PAGE]


def test_reloading_systemd_takes_no_controllers_away():
    systemctl("daemon-reload")
    test_controllers_reach_the_workload()


def test_an_upgrade_leaves_workloads_alone():
    before = statuses()
    old = main_pid()
    install()
    assert systemctl("is-active", "capsuled") == "active"
    assert main_pid() != old
    assert statuses() == before
    assert pages() == [PAGE, PAGE]


# ---- after a reboot ----

@pytest.mark.second_boot
def test_after_a_reboot_everything_is_back(remote):
    assert systemctl("is-active", "capsuled") == "active"
    wait_pages()
    assert pages("/end") == 2 * ["ended in order\n"], "each had its grace"
    assert [workload["phase"] for workload in statuses()] == 2 * ["WORKLOAD_PHASE_RUNNING"]
    assert "message" not in status("web"), "the rules of the user's own file are enough"
    assert http_get(remote.HOST, PORT, netns=remote.NAME) == PAGE
    assert volumes()["pages"] == ("lvm", "/dev/vg/vol-pages")


@pytest.mark.second_boot
def test_removal_ends_everything_and_an_install_brings_it_back():
    package("--remove", "capsule")
    expect_down()
    install()
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
    assert run("lvs", "--noheadings", "-o", "lv_name", "vg").stdout.split() == [b"pool"]
