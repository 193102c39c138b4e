# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
import contextlib
import pathlib
import subprocess
import sys
import types

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import capsule as capsule_module  # noqa: E402
import grpc_client  # noqa: E402
import images  # noqa: E402
import kinds  # noqa: E402
import protos  # noqa: E402
from registry_servers import FakeRegistry, Registry  # noqa: E402


class Archives:
    """Images as `docker save` archives, made from this machine's files when they are first asked for: name -> path."""

    MAKERS = {"busybox:test": images.make_busybox_image, "nginx:test": images.make_nginx_image,
              "udp-echo:test": images.make_udp_image}

    def __init__(self, directory):
        self.directory = directory

    def __getitem__(self, name):
        path = self.directory / f"{name.split(':')[0]}.tar"
        if not path.exists():
            self.MAKERS[name](str(path), name)
        return path


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    return Archives(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def kind(request):
    """The kind of workload that a test is for (kinds.py)."""
    param = getattr(request, "param", "container")
    if param == "microvm" and not capsule_module.GUEST_KERNEL.exists():
        pytest.skip(f"there is no guest kernel {capsule_module.GUEST_KERNEL}: make guest-kernel")
    return kinds.IDS[param]


@contextlib.contextmanager
def capsules(archives, kind):
    """A function that starts a daemon with the given options; all are closed, and leaks are looked for, at the end."""
    started = []

    def make(*options, push=("busybox:test",), **where):
        c = capsule_module.Capsule(*options, **where)
        c.kind = kind
        started.append(c)
        c.start()
        for name in push:
            c.push(archives[name], quick=True)
        return c

    yield make
    errors = []
    for c in started:
        try:
            c.close()
        except Exception as e:  # the rest must be closed too
            errors.append(e)
    if errors:
        raise errors[0]
    for netns in {c.netns for c in started} or {None}:
        expect_clean_host(netns)


def expect_clean_host(netns):
    # Namespaces and links go asynchronously in the kernel.
    try:
        capsule_module.wait_for(lambda: not any(capsule_module.host_state(netns).values()), "the host to be clean", timeout=20)
    except capsule_module.Failed:
        raise capsule_module.Failed(f"something was left behind: {capsule_module.host_state(netns)}") from None


@pytest.fixture
def lan():
    """Two hosts joined by a wire, for a daemon (netns=lan.host) and for whom it serves (lan.remote)."""
    wire = capsule_module.Lan()
    yield wire
    wire.close()


@pytest.fixture
def make_capsule(archives, kind):
    with capsules(archives, kind) as make:
        yield make


@pytest.fixture
def capsule(make_capsule):
    return make_capsule()


@pytest.fixture(scope="module")
def shared_capsule(archives, kind):
    """One daemon for all tests of a module: for those that leave it as they found it."""
    with capsules(archives, kind) as make:
        yield make()


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """Python stubs generated from our .proto files: an independent client. A namespace with the modules."""
    out = tmp_path_factory.mktemp("stubs")
    proto = capsule_module.TOP / "proto/capsule/v1"
    protos.generate(out, [proto], proto.glob("*.proto"))

    class Stubs:
        pass
    for name in ("workload", "volume", "image", "capsule", "identity"):
        setattr(Stubs, name, __import__(f"{name}_pb2"))
        setattr(Stubs, name + "_grpc", __import__(f"{name}_pb2_grpc"))
    return Stubs


@pytest.fixture
def client(capsule, stubs):
    """A daemon and an independent client of its API."""
    with capsule.channel() as channel:
        yield grpc_client.Client(channel, stubs)


@pytest.fixture(scope="session")
def standard_stubs(tmp_path_factory):
    """The same for health and reflection. The modules import each other as grpc.health...; grpcio's own package gets that
    folder as well."""
    import grpc
    out = tmp_path_factory.mktemp("standard-stubs")
    protos.generate(out, [capsule_module.TOP / "proto"], [
        "grpc/health/v1/health.proto", "grpc/reflection/v1/reflection.proto", "grpc/reflection/v1alpha/reflection.proto"])
    grpc.__path__.append(str(out / "grpc"))
    from grpc.health.v1 import health_pb2, health_pb2_grpc
    from grpc.reflection.v1 import reflection_pb2, reflection_pb2_grpc
    from grpc.reflection.v1alpha import reflection_pb2 as alpha_pb2
    from grpc.reflection.v1alpha import reflection_pb2_grpc as alpha_pb2_grpc
    return types.SimpleNamespace(
        health=health_pb2, HealthStub=health_pb2_grpc.HealthStub,
        reflection=reflection_pb2, ReflectionStub=reflection_pb2_grpc.ServerReflectionStub,
        alpha=alpha_pb2, AlphaStub=alpha_pb2_grpc.ServerReflectionStub)


@pytest.fixture
def closing():
    """Takes what is to be closed at the end, last first."""
    kept = []

    def keep(thing):
        kept.append(thing)
        return thing
    yield keep
    for thing in reversed(kept):
        thing.close()


@pytest.fixture
def registry(tmp_path, closing):
    return closing(Registry(tmp_path / "registry"))


@pytest.fixture
def fake(closing):
    return closing(FakeRegistry())


@pytest.fixture
def small_disk(tmp_path):
    """An ext4 of 192 MiB, for a state root."""
    disk, directory = tmp_path / "disk.img", tmp_path / "disk"
    with open(disk, "wb") as f:
        f.truncate(192 << 20)
    directory.mkdir()
    capsule_module.run("mkfs.ext4", "-q", "-m", "0", disk)
    capsule_module.run("mount", "-o", "loop", disk, directory)
    yield directory
    capsule_module.run("umount", directory)


@pytest.fixture
def own_rootfs(tmp_path):
    """An ext4 with busybox whose init says what it finds and serves a page."""
    tree = tmp_path / "tree"
    tree.mkdir()
    init = ("#!/bin/sh\nmount -t proc proc /proc; mount -t devtmpfs dev /dev; mount -t sysfs sysfs /sys\n"
            "echo own $(cat /marker) $(grep -c word /proc/cmdline); ip -4 addr show eth0\n"
            "mkdir -p /vol; mount /dev/vdb /vol && echo from-own >/vol/f && umount /vol && echo volume written\n"
            "httpd -p 80 -h /www; printf 'caf\\351 \\303\\274\\n'; while :; do sleep 1; done\n")
    entries = [*images.busybox_entries(), *images.BUSYBOX_ETC, images.File("/sbin/init", init.encode(), mode=0o755),
               images.File("/sbin/reset", b"#!/bin/sh\nexec reboot -f\n", mode=0o755),
               images.File("/marker", b"root"), images.File("/www/index.html", b"own page\n"),
               *(images.Dir(d) for d in ("/proc", "/sys", "/dev"))]
    subprocess.run(["tar", "-x", "-C", tree], input=images.layer_tar(entries), check=True)
    rootfs = tmp_path / "rootfs.img"
    with open(rootfs, "wb") as f:
        f.truncate(32 << 20)
    capsule_module.run("mkfs.ext4", "-q", "-d", tree, rootfs)
    return rootfs
