# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""src/rpc against an independent gRPC: grpcio's client talks to tests/echo/echo_server.c."""
import os
import pathlib
import signal
import socket
import subprocess
import threading
import types

import grpc
import pytest
from google.protobuf import descriptor_pb2

import protos
from grpc_client import fails

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CAPSULE_BUILD", TOP / "build"))
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def pb(tmp_path_factory, standard_stubs):
    """Stubs generated from the .proto files at test time."""
    protos.generate(tmp_path_factory.mktemp("echo-stubs"), [TOP / "tests/echo"], ["echo.proto"])
    import echo_pb2
    import echo_pb2_grpc
    return types.SimpleNamespace(**vars(standard_stubs), echo=echo_pb2, EchoStub=echo_pb2_grpc.EchoStub)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("rpc") / "echo.sock"
    process = subprocess.Popen([BUILD / "tests/echo/echo-server", f"unix:{path}", "127.0.0.1:0", "[::1]:0"],
                               stdout=subprocess.PIPE, text=True)
    addresses = [process.stdout.readline().strip() for _ in range(3)]
    assert all(addresses)
    yield addresses
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert not path.exists()


@pytest.fixture(scope="module", params=[0, 1], ids=["unix", "tcp"])
def channel(server, request):
    with grpc.insecure_channel(server[request.param], options=[("grpc.max_receive_message_length", 8 << 20)]) as c:
        yield c


@pytest.fixture
def echo(pb, channel):
    return pb.EchoStub(channel)


# --- the four kinds of call ---

def test_unary(pb, echo):
    r = echo.Unary(pb.echo.EchoMessage(text="hé", seq=7, blob=b"\0\1"), timeout=10)
    assert (r.text, r.seq, r.blob) == ("hé", 7, b"\0\1")


def test_unary_near_the_limit(pb, echo):
    blob = os.urandom(4 * 1024 * 1024 - 5)
    assert echo.Unary(pb.echo.EchoMessage(blob=blob), timeout=20).blob == blob


def test_server_stream(pb, echo):
    got = [m.seq for m in echo.ServerStream(pb.echo.EchoMessage(seq=20000, blob=b"z" * 100), timeout=60)]
    assert got == list(range(20000))


def test_client_stream(pb, echo):
    r = echo.ClientStream((pb.echo.EchoMessage(seq=i, blob=b"q" * 50) for i in range(20000)), timeout=60)
    assert r.text == "20000 messages, 1000000 bytes"


def test_bidi_in_lock_step(pb, echo):
    turn = threading.Semaphore(1)

    def requests():
        for i in range(500):
            turn.acquire()
            yield pb.echo.EchoMessage(seq=i, text=f"b{i}")
    got = []
    for m in echo.Bidi(requests(), timeout=60):
        got.append((m.seq, m.text))
        turn.release()
    assert got == [(i, f"b{i}") for i in range(500)]


def test_40_mb_both_ways(pb, echo):
    requests = (pb.echo.EchoMessage(blob=b"k" * 100000) for _ in range(400))
    assert sum(len(m.blob) for m in echo.Bidi(requests, timeout=60)) == 40_000_000


def test_a_thousand_at_once(pb, echo):
    futures = [echo.Unary.future(pb.echo.EchoMessage(seq=i), timeout=30) for i in range(1000)]
    assert [f.result().seq for f in futures] == list(range(1000))


# --- ends ---

@pytest.mark.parametrize("code", [c for c in Code if c is not Code.OK], ids=lambda c: c.name)
def test_status(pb, echo, code):
    message = "größer: 100 %\nund mehr"
    request = pb.echo.EchoMessage(text="fail", seq=code.value[0], blob=message.encode())
    assert fails(lambda: echo.Unary(request, timeout=10), code) == message


def test_foreign_bytes_in_a_reply(pb, echo):
    """They do not cost the message, which every client would refuse as a whole."""
    reply = echo.Unary(pb.echo.EchoMessage(text="foreign", blob=b"a\xffb\xc3"), timeout=10)
    assert (reply.text, reply.children[0].text, reply.blob) == ("a?b?", "a?b?", b"a\xffb\xc3")


def test_unknown_method(channel):
    assert "/echo.v1.Echo/Nope" in fails(lambda: channel.unary_unary("/echo.v1.Echo/Nope")(b"", timeout=10),
                                         Code.UNIMPLEMENTED)


@pytest.mark.parametrize("bad", [b"\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xc3\x28", b"\x0a\x01\x00", b"\x08",
                                 b"\x0b\x0c"], ids=["tag", "short", "utf8", "nul", "varint", "group"])
def test_malformed_request(channel, bad):
    fails(lambda: channel.unary_unary("/echo.v1.Echo/Unary")(bad, timeout=10), Code.INVALID_ARGUMENT)


def test_nesting_is_limited(pb, echo):
    m = pb.echo.EchoMessage()
    for _ in range(90):
        m = pb.echo.EchoMessage(children=[m])
    assert "nested" in fails(lambda: echo.Unary(m, timeout=10), Code.INVALID_ARGUMENT)


def test_memory_of_a_message_is_limited(channel):
    # Two bytes on the wire, a hundred and more in memory.
    assert "memory" in fails(lambda: channel.unary_unary("/echo.v1.Echo/Unary")(b"\x22\x00" * 2_000_000, timeout=20),
                             Code.RESOURCE_EXHAUSTED)


def test_too_large_request(pb, echo):
    fails(lambda: echo.Unary(pb.echo.EchoMessage(blob=b"x" * (5 << 20)), timeout=20), Code.RESOURCE_EXHAUSTED)


def test_too_large_reply(pb, echo):
    fails(lambda: echo.Unary(pb.echo.EchoMessage(text="large", seq=5 << 20), timeout=20), Code.RESOURCE_EXHAUSTED)


def test_compressed_request(pb, echo):
    request = pb.echo.EchoMessage(text="c" * 1000)
    fails(lambda: echo.Unary(request, timeout=10, compression=grpc.Compression.Gzip), Code.UNIMPLEMENTED)


@pytest.mark.parametrize("count", [0, 2])
def test_unary_method_wants_one_message(channel, count):
    call = channel.stream_unary("/echo.v1.Echo/Unary", request_serializer=lambda b: b)
    fails(lambda: call(iter([b""] * count), timeout=10), Code.INVALID_ARGUMENT)


def test_deadline(pb, echo):
    fails(lambda: echo.Unary(pb.echo.EchoMessage(text="hang"), timeout=0.2), Code.DEADLINE_EXCEEDED)


def test_cancel(echo):
    never = threading.Event()
    call = echo.Bidi(iter(lambda: never.wait(5), None), timeout=30)
    call.cancel()
    fails(lambda: next(call), Code.CANCELLED)
    never.set()


def test_peer_credentials(pb, server):
    for address, expected in ((server[0], "local"), (server[1], "remote"), (server[2], "remote")):
        with grpc.insecure_channel(address) as c:
            r = pb.EchoStub(c).Unary(pb.echo.EchoMessage(text="peer"), timeout=10)
            assert r.text == expected
            assert r.seq == (os.getuid() if expected == "local" else 0)


def test_another_protocol_is_shown_the_door(server):
    host, port = server[1].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
        try:
            while s.recv(4096):
                pass
        except ConnectionResetError:
            pass


# --- health ---

def test_health(pb, channel):
    stub = pb.HealthStub(channel)
    request = pb.health.HealthCheckRequest
    assert stub.Check(request(), timeout=10).status == pb.health.HealthCheckResponse.SERVING
    assert stub.Check(request(service="echo.v1.Echo"), timeout=10).status == pb.health.HealthCheckResponse.SERVING
    fails(lambda: stub.Check(request(service="nobody"), timeout=10), Code.NOT_FOUND)
    watch = stub.Watch(request(service="nobody"), timeout=10)
    assert next(watch).status == pb.health.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


# --- reflection ---

@pytest.fixture(params=["v1", "v1alpha"])
def ask(pb, channel, request):
    messages, stub = ((pb.reflection, pb.ReflectionStub) if request.param == "v1" else (pb.alpha, pb.AlphaStub))

    def one(**question):
        requests = [messages.ServerReflectionRequest(host="h", **question)]
        answers = list(stub(channel).ServerReflectionInfo(iter(requests), timeout=10))
        assert len(answers) == 1
        assert answers[0].valid_host == "h"
        assert answers[0].original_request == requests[0]
        return answers[0]
    one.messages = messages
    return one


def test_reflection_lists_services(ask):
    names = sorted(s.name for s in ask(list_services="").list_services_response.service)
    assert names == ["echo.v1.Echo", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                     "grpc.reflection.v1alpha.ServerReflection"]


@pytest.mark.parametrize("symbol,file", [
    ("echo.v1.Echo", "echo.proto"),
    ("echo.v1.Echo.Bidi", "echo.proto"),
    ("echo.v1.EchoMessage", "echo.proto"),
    ("echo.v1.EchoMessage.children", "echo.proto"),
    ("grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto"),
    ("grpc.health.v1.HealthCheckResponse.NOT_SERVING", "grpc/health/v1/health.proto"),
    ("grpc.reflection.v1alpha.ErrorResponse", "grpc/reflection/v1alpha/reflection.proto"),
])
def test_reflection_finds_symbols(ask, symbol, file):
    files = [descriptor_pb2.FileDescriptorProto.FromString(b) for b in
             ask(file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto]
    assert [f.name for f in files] == [file]
    by_name = ask(file_by_filename=file).file_descriptor_response.file_descriptor_proto
    assert descriptor_pb2.FileDescriptorProto.FromString(by_name[0]) == files[0]


def test_reflection_serves_the_truth(ask, pb):
    """What it says equals what protoc made of the same file."""
    served = descriptor_pb2.FileDescriptorProto.FromString(
        ask(file_by_filename="echo.proto").file_descriptor_response.file_descriptor_proto[0])
    own = descriptor_pb2.FileDescriptorProto()
    pb.echo.DESCRIPTOR.CopyToProto(own)
    for f in (served, own):
        for message in f.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert served == own


@pytest.mark.parametrize("question", [
    {"file_by_filename": "nope.proto"},
    {"file_containing_symbol": "echo.v1"},
    {"file_containing_symbol": "echo.v1.Echo.Nope"},
    {"file_containing_symbol": "echo.v1.EchoMessage.text.more"},
    {"file_containing_symbol": ""},
    {"all_extension_numbers_of_type": "echo.v1.Nope"},
], ids=str)
def test_reflection_does_not_find(ask, question):
    assert ask(**question).error_response.error_code == Code.NOT_FOUND.value[0]


def test_reflection_knows_no_extensions(ask):
    extension = ask.messages.ExtensionRequest(containing_type="echo.v1.EchoMessage", extension_number=1)
    assert ask(file_containing_extension=extension).error_response.error_code == Code.NOT_FOUND.value[0]
    answer = ask(all_extension_numbers_of_type="echo.v1.EchoMessage")
    assert answer.all_extension_numbers_response.base_type_name == "echo.v1.EchoMessage"
    assert not answer.all_extension_numbers_response.extension_number


def test_reflection_wants_a_question(ask):
    assert ask().error_response.error_code == Code.INVALID_ARGUMENT.value[0]
