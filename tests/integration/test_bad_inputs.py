# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Bad inputs of every kind, to the whole product from outside: each has its one clear error, and nothing has changed."""
import hashlib
import os
import re

import grpc
import pytest
from google.protobuf import json_format

from bad_inputs import CASES, PORT
from grpc_client import TIMEOUT, Client

# What differs from run to run or between machines, but for the digests that a case chose itself.
VARYING = [(r"\d+ MiB are free", "N MiB are free"), (r"sha256:(?!1{64}|0{64})[0-9a-f]{64}", "DIGEST"),
           (r"\b[0-9a-f]{64}/layer\.tar", "ID/layer.tar")]
# Written by every call, whatever it does.
ALWAYS_CHANGING = ("capsuled.log", "stderr.log", "state.db", "state.db-wal", "state.db-shm")


class World:
    """The daemon of the table with what it holds, and the ways to send it something bad."""

    def __init__(self, capsule, client, directory):
        self.capsule, self.client, self.directory = capsule, client, directory
        client.create_volume("data", 32)
        client.create_volume("spare", 16)
        running, stopped = client.spec("running", "sleep", "1000"), client.spec("stopped", desired="STOPPED")
        running.container.mounts.add(volume_name="data", mount_path="/data")
        stopped.container.ports.add(container_port=80, host_port=PORT)
        vm = client.pb.workload
        client.apply(running)
        client.apply(stopped)
        client.apply(vm.Workload(name="vm", kind=vm.WORKLOAD_KIND_MICRO_VM, micro_vm=vm.MicroVMSpec(image="busybox:test"),
                                 desired_state=vm.DESIRED_STATE_STOPPED))
        client.wait_phase("running", "RUNNING")
        client.wait_phase("stopped", "STOPPED")
        client.wait_phase("vm", "STOPPED")

    def state(self):
        return {"workloads": self.client.workload.List(self.client.pb.workload.WorkloadListRequest(), timeout=TIMEOUT),
                "volumes": self.client.volumes(), "images": self.client.images(), "files": self.files()}

    def files(self):
        """Every file in and around the roots, with what it holds if it is small, else with its size and time."""
        found = {}
        for directory, below, names in os.walk(self.capsule.dir):
            # A transfer that was cut off leaves its stage, which is swept: see test_nothing_half_done_stays.
            below[:] = [b for b in below if not b.startswith(".tmp-")]
            found[directory] = None
            for path in (os.path.join(directory, n) for n in names if n not in ALWAYS_CHANGING):
                found[path] = fingerprint(path)
        return found

    def send(self, case):
        """The outcome and the text, without what differs from run to run."""
        outcome, text = getattr(self, "send_" + case.kind)(case)
        for pattern, name in VARYING:
            text = re.sub(pattern, name, text)
        return outcome, text.replace(str(self.capsule.root), "ROOT").replace(f"{self.directory}/", "").strip()

    def send_manifest(self, case):
        path = self.directory / "bad.yaml"
        path.write_bytes(case.input if isinstance(case.input, bytes) else case.input.encode())
        done = self.capsule.ctl("apply", "-f", path, check=False)
        return done.returncode, done.err

    def send_command(self, case):
        done = self.capsule.ctl(*case.subject.split(" "), input=case.input, check=False)
        return done.returncode, done.err

    def send_request(self, case):
        service, method = case.subject.split("/")
        messages = case.input if isinstance(case.input, list) else [case.input]
        serialized = [m if isinstance(m, bytes) else self.message(service, method, m).SerializeToString() for m in messages]
        return self.call(f"/capsule.v1.{service}/{method}", iter(serialized))

    def send_archive(self, case):
        data = case.input if isinstance(case.input, bytes) else case.input()
        requests = (r.SerializeToString() for r in self.client.push_requests(data, chunk=100_000))
        return self.call("/capsule.v1.ImageService/Push", requests)

    def message(self, service, method, fields):
        module = getattr(self.client.pb, service.removesuffix("Service").lower())
        request = module.DESCRIPTOR.services_by_name[service].methods_by_name[method].input_type.name
        return json_format.ParseDict(fields, getattr(module, request)())

    def call(self, path, serialized):
        """Any call: on the wire a unary one is a stream of one message."""
        try:
            list(self.client.channel.stream_stream(path)(serialized, timeout=TIMEOUT))
        except grpc.RpcError as e:
            return e.code().name, e.details()
        return "OK", ""


def fingerprint(path):
    st = os.lstat(path)
    if not os.path.isfile(path) or os.path.islink(path):
        return st.st_mode
    if st.st_size > 1 << 20:
        return st.st_size, st.st_mtime_ns
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


@pytest.fixture(scope="module")
def world(shared_capsule, stubs, tmp_path_factory):
    with shared_capsule.channel() as channel:
        yield World(shared_capsule, Client(channel, stubs), tmp_path_factory.mktemp("bad"))


def test_the_table_is_large_and_says_nothing_twice():
    assert len(CASES) >= 80
    assert len({(c.kind, c.subject, str(c.input)) for c in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.kind}-{c.subject or c.input}"[:60])
def test_bad_input(world, case):
    before = world.state()
    outcome, text = world.send(case)
    assert (outcome, text) == (case.outcome, case.text)
    assert text.replace("\n", "").isprintable()
    assert world.state() == before


def test_nothing_half_done_stays(world):
    """After all of the above: the next one to use the image store sweeps what cancelled pushes left."""
    assert list(world.client.image.Prune(world.client.pb.image.ImagePruneRequest(), timeout=TIMEOUT).removed) == []
    left = [os.path.join(d, n) for d, below, names in os.walk(world.capsule.root) for n in below + names if n.startswith(".tmp-")]
    assert left == []
