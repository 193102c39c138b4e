# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import capsule as capsule_module  # noqa: E402
import images  # noqa: E402


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """Images made once from this machine's files, as `docker save` archives: name -> path."""
    directory = tmp_path_factory.mktemp("images")
    made = {"busybox:test": directory / "busybox.tar", "nginx:test": directory / "nginx.tar"}
    images.make_busybox_image(str(made["busybox:test"]), "busybox:test")
    images.make_nginx_image(str(made["nginx:test"]), "nginx:test")
    return made


@pytest.fixture
def make_capsule(archives):
    """A function that starts a daemon with the given options; all are closed, and leaks are looked for, at the end."""
    started = []

    def make(*options, push=("busybox:test",), netns=None):
        c = capsule_module.Capsule(*options, netns=netns)
        started.append(c)
        c.start()
        for name in push:
            c.push(archives[name])
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
def capsule(make_capsule):
    return make_capsule()


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """Python stubs generated from our .proto files: an independent client. A namespace with the modules."""
    out = tmp_path_factory.mktemp("stubs")
    proto = capsule_module.TOP / "proto/capsule/v1"
    subprocess.run(["protoc", f"--proto_path={proto}", f"--python_out={out}", f"--grpc_out={out}",
                    "--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin", *map(str, proto.glob("*.proto"))], check=True)
    sys.path.insert(0, str(out))

    class Stubs:
        pass
    for name in ("workload", "volume", "image", "capsule", "identity"):
        setattr(Stubs, name, __import__(f"{name}_pb2"))
        setattr(Stubs, name + "_grpc", __import__(f"{name}_pb2_grpc"))
    return Stubs
