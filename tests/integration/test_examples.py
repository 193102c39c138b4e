# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The worked examples do what they show. Their images stand under their own names, made from this machine's files."""
import pathlib
import re

import pytest

import images
from capsule import BOOT, GUEST_KERNEL, TOP, http_get, wait_for

EXAMPLES = TOP / "examples"
needs_guest = pytest.mark.skipif(not GUEST_KERNEL.exists(), reason=f"there is no guest kernel {GUEST_KERNEL}: make guest-kernel")
FILES = ["nginx-host", "nginx-bridge", "alpine-shell", "nginx-with-volume", "alpine-vol-container", "nginx-vm",
         "alpine-vm-image", "alpine-vm-with-volume", "shared-volume", "shared-writer-container", "shared-reader-vm",
         "debug-shell", "alpine-vm"]


@pytest.fixture(scope="session")
def example_images(tmp_path_factory):
    directory = tmp_path_factory.mktemp("example-images")
    images.make_busybox_image(str(directory / "alpine.tar"), "docker.io/library/alpine:3.20")
    images.make_nginx_image(str(directory / "nginx.tar"), "docker.io/library/nginx:1.27-alpine")
    images.make_nginx_image(str(directory / "nginx-alpine.tar"), "docker.io/library/nginx:alpine")
    return [directory / "alpine.tar", directory / "nginx.tar", directory / "nginx-alpine.tar"]


@pytest.fixture
def host(lan, make_capsule, example_images):
    """A daemon on a host of its own, where the examples' ports are free."""
    capsule = make_capsule(netns=lan.host, push=())
    for archive in example_images:
        capsule.push(archive)
    return capsule


def test_the_set_is_complete():
    assert sorted(p.stem for p in EXAMPLES.glob("*.yaml")) == sorted(FILES)


@pytest.mark.parametrize("name", ["nginx-host", "nginx-bridge", "nginx-with-volume"])
def test_web_servers(host, lan, name):
    host.ctl("apply", "-f", EXAMPLES / f"{name}.yaml", "--wait")
    port = 80 if name == "nginx-host" else 8080
    if name == "nginx-with-volume":
        root = pathlib.Path(f"/proc/{host.status('nginx-data')['pid']}/root")
        (root / "usr/share/nginx/html/index.html").write_text("kept\n")
    page = wait_for(lambda: http_get(lan.HOST, port, netns=lan.remote), "the page")
    assert page
    if name == "nginx-with-volume":
        host.ctl("workload", "delete", "nginx-data")
        host.ctl("apply", "-f", EXAMPLES / f"{name}.yaml", "--wait")
        assert wait_for(lambda: http_get(lan.HOST, port, netns=lan.remote), "the page") == "kept\n"


@pytest.mark.parametrize("file,name,says", [("alpine-shell", "alpine-shell", "UTC"),
                                            ("alpine-vol-container", "alpine-vol-container", "container started")])
def test_shells(host, file, name, says):
    host.ctl("apply", "-f", EXAMPLES / f"{file}.yaml", "--wait")
    wait_for(lambda: says in host.logs(name), "its words")


@needs_guest
def test_a_shared_volume(host):
    host.ctl("apply", "-f", EXAMPLES / "shared-volume.yaml", "-f", EXAMPLES / "shared-writer-container.yaml", "--wait")
    wait_for(lambda: "written by a container" in host.logs("shared-writer"), "the writer")
    done = host.ctl("apply", "-f", EXAMPLES / "shared-reader-vm.yaml", check=False)
    assert done.returncode == 1 and "in use by" in done.err and "shared-writer" in done.err
    host.ctl("workload", "delete", "shared-writer")
    host.ctl("apply", "-f", EXAMPLES / "shared-reader-vm.yaml", "--wait")
    wait_for(lambda: "written by a VM" in host.logs("shared-reader"), "the reader's own lines", BOOT)
    assert host.logs("shared-reader").startswith("written by a container")
    host.ctl("workload", "delete", "shared-reader")
    host.ctl("apply", "-f", EXAMPLES / "shared-writer-container.yaml", "--wait")
    notes = wait_for(lambda: host.inside("shared-writer", "cat", "/shared/notes.txt"), "the notes")
    assert "written by a container" in notes and "written by a VM" in notes


@needs_guest
def test_micro_vms(host, lan, own_rootfs, tmp_path):
    host.ctl("apply", "-f", EXAMPLES / "nginx-vm.yaml", "--wait")
    assert wait_for(lambda: http_get(lan.HOST, 8080, netns=lan.remote), "the page", BOOT)
    host.ctl("apply", "-f", EXAMPLES / "alpine-vm-image.yaml", "--wait")
    wait_for(lambda: "UTC" in host.logs("alpine-vm-image"), "the date", BOOT)
    host.ctl("apply", "-f", EXAMPLES / "alpine-vm-with-volume.yaml", "--wait")
    wait_for(lambda: "hi" in host.logs("alpine-vol"), "what is on the volume", BOOT)
    own = (EXAMPLES / "alpine-vm.yaml").read_text().replace("/var/lib/capsule/vm/vmlinux", str(GUEST_KERNEL))
    (tmp_path / "own.yaml").write_text(own.replace("/var/lib/capsule/vm/alpine.ext4", str(own_rootfs)))
    host.ctl("apply", "-f", tmp_path / "own.yaml", "--wait")
    wait_for(lambda: "own root" in host.logs("alpine-vm"), "its init", BOOT)


def test_the_debug_shell_sees_the_host(host):
    host.ctl("apply", "-f", EXAMPLES / "debug-shell.yaml", "--wait")
    hosts_own = pathlib.Path("/etc/hostname").read_text()
    assert host.inside("debug-shell", "cat", "/host/etc/hostname") == hosts_own
    status = pathlib.Path(f"/proc/{host.status('debug-shell')['pid']}/status").read_text()
    ours = pathlib.Path("/proc/self/status").read_text()
    assert re.search("CapEff:.*", status).group() == re.search("CapEff:.*", ours).group()


@pytest.mark.parametrize("file", FILES)
def test_every_example_is_accepted(host, file):
    done = host.ctl("apply", "-f", EXAMPLES / f"{file}.yaml", "--dry-run", check=False)
    # Those that name a volume of another file, or files of the host, need those first; everything else is right as it stands.
    assert done.returncode == 0 or any(what in done.err for what in ("shared", "there is no volume", "/var/lib/capsule/vm/vmlinux"))
