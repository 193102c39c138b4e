# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The contract that clients rely on, as the daemon itself describes it; what it serves and what it does not."""
import os
import socket
import time

import pytest
from google.protobuf import descriptor_pb2

import wire_contract
from grpc_client import TIMEOUT, Client, Code, fails

SERVED = ["capsule.v1.CapsuleService", "capsule.v1.ImageService", "capsule.v1.VolumeService", "capsule.v1.WorkloadService"]
UNSERVED = [("CapsuleService", m) for m in ("UpdateOS", "UpdateConfirm", "RebootNode")] + \
           [("IdentityService", m) for m in wire_contract.services()["IdentityService"]]


@pytest.fixture
def channel(shared_capsule):
    with shared_capsule.channel() as channel:
        yield channel


@pytest.fixture
def client(channel, stubs):
    return Client(channel, stubs)


@pytest.fixture
def served_files(channel, standard_stubs):
    """What reflection says of the four services: file name -> descriptor."""
    requests = [standard_stubs.reflection.ServerReflectionRequest(file_containing_symbol=name) for name in SERVED]
    answers = standard_stubs.ReflectionStub(channel).ServerReflectionInfo(iter(requests), timeout=TIMEOUT)
    files = [descriptor_pb2.FileDescriptorProto.FromString(text) for answer in answers
             for text in answer.file_descriptor_response.file_descriptor_proto]
    return {f.name: f for f in files}


@pytest.fixture
def served(served_files, stubs):
    """Messages, enums and services of the package by name. Those of identity are not served yet: as they are declared."""
    identity = descriptor_pb2.FileDescriptorProto()
    stubs.identity.DESCRIPTOR.CopyToProto(identity)
    found = {}
    for file in [*served_files.values(), identity]:
        assert file.package == "capsule.v1" and file.syntax == "proto3"
        for thing in [*file.message_type, *file.enum_type, *file.service]:
            found[thing.name] = thing
    return found


@pytest.mark.parametrize("name", wire_contract.services())
def test_contract_of_a_service(served, name):
    methods = {m.name: m for m in served[name].method}
    for method, expected in wire_contract.services()[name].items():
        m = methods[method]
        request, reply = m.input_type.split(".")[-1], m.output_type.split(".")[-1]
        assert (request, m.client_streaming, reply, m.server_streaming) == expected


@pytest.mark.parametrize("name", wire_contract.enums())
def test_contract_of_an_enum(served, name):
    values = {v.name: v.number for v in served[name].value if v.number < wire_contract.EXTENSIONS_FROM}
    assert values == wire_contract.enums()[name]


def field_as_in_contract(message, field):
    type = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if type in ("message", "enum"):
        type = field.type_name.split(".")[-1]
    maps = [nested.name for nested in message.nested_type if nested.options.map_entry]
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
    repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    return field.name, "map" if type in maps else type, repeated, oneof


@pytest.mark.parametrize("name", wire_contract.messages())
def test_contract_of_a_message(served, name):
    message = served[name]
    fields = {f.number: field_as_in_contract(message, f) for f in message.field}
    contract = wire_contract.messages()[name]
    assert {n: f for n, f in fields.items() if n < wire_contract.EXTENSIONS_FROM} == contract


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services(channel, standard_stubs, version):
    pb, stub = ((standard_stubs.reflection, standard_stubs.ReflectionStub) if version == "v1" else
                (standard_stubs.alpha, standard_stubs.AlphaStub))
    answer, = stub(channel).ServerReflectionInfo(iter([pb.ServerReflectionRequest(list_services="")]), timeout=TIMEOUT)
    names = [s.name for s in answer.list_services_response.service]
    assert [n for n in sorted(names) if n.startswith("capsule.")] == SERVED
    assert "grpc.health.v1.Health" in names


@pytest.mark.parametrize("service,method", UNSERVED)
def test_what_is_not_served_says_so(channel, service, method):
    call = channel.stream_stream(f"/capsule.v1.{service}/{method}")
    assert fails(lambda: list(call(iter([b""]), timeout=TIMEOUT)), Code.UNIMPLEMENTED)


def test_unknown_service_and_method(channel):
    for path in ("/capsule.v1.WorkloadService/Nope", "/capsule.v2.WorkloadService/List", "/nope"):
        assert path in fails(lambda: channel.unary_unary(path)(b"", timeout=TIMEOUT), Code.UNIMPLEMENTED)


def test_health(channel, standard_stubs):
    health, stub = standard_stubs.health, standard_stubs.HealthStub(channel)
    for service in ["", *SERVED]:
        reply = stub.Check(health.HealthCheckRequest(service=service), timeout=TIMEOUT)
        assert reply.status == health.HealthCheckResponse.SERVING
    unserved = health.HealthCheckRequest(service="capsule.v1.IdentityService")
    assert unserved.service in fails(lambda: stub.Check(unserved, timeout=TIMEOUT), Code.NOT_FOUND)


def test_deadlines_of_streams(client):
    began = time.monotonic()
    events = client.watch(timeout=0.5)
    fails(lambda: list(events), Code.DEADLINE_EXCEEDED)
    log = client.host.StreamLogs(client.pb.capsule.CapsuleLogsRequest(follow=True), timeout=0.5)
    fails(lambda: list(log), Code.DEADLINE_EXCEEDED)
    assert time.monotonic() - began >= 1
    assert client.names() == []


def test_what_is_not_grpc_gets_no_answer_and_does_no_harm(shared_capsule, client):
    for nonsense in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(4096),
                     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(TIMEOUT)
            s.connect(str(shared_capsule.socket))
            s.sendall(nonsense)
            try:
                while s.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert client.names() == []
