# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""capsule-guest in an emulated machine, spoken to by an independent client: what a microVM's holder may rely on."""
import hashlib
import io
import os
import socket
import tarfile
import time

import grpc
import pytest

import protos
from capsule import TOP, wait_for
from grpc_client import Code, fails
from guest_vm import MIB, TIMEOUT, GuestVM, make_ext4, make_payload, Stream
from images import File

FOREVER = ("sh", "-c", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 1000 & wait; done")
EXECS_MAX = 256  # GUEST_EXECS_MAX in src/guest/guest.h
MKDIR = 83  # its number on x86-64
DEAF = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done")


@pytest.fixture(scope="module")
def pb(tmp_path_factory):
    protos.generate(tmp_path_factory.mktemp("guest-stubs"), [TOP / "proto/capsule/guest"], ["guest.proto"])
    import guest_pb2
    import guest_pb2_grpc
    return guest_pb2, guest_pb2_grpc


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    path = tmp_path_factory.mktemp("payload") / "payload.erofs"
    make_payload(path, [File("/bin/plain", b"no program\n", mode=0o644)])
    return path


@pytest.fixture
def boot(pb, payload):
    """Boots a machine; its console is shown when the test fails, and it is gone after it."""
    machines = []

    def start(**options):
        machines.append(GuestVM(*pb, payload, **options))
        return machines[-1]

    yield start
    for vm in machines:
        print(vm.console_text()[-4000:])
        vm.close()


@pytest.fixture(scope="module")
def running(pb, payload, tmp_path_factory):
    """A machine whose payload goes on and on, for the tests that leave it as it is. It has a volume and a network."""
    volume = tmp_path_factory.mktemp("volume") / "volume.img"
    make_ext4(volume)
    vm = GuestVM(*pb, payload, volumes=[("data", volume, False)])
    vm.payload_run = vm.run(*FOREVER, link=pb[0].Link(address="10.0.2.15", prefix=24, gateway="10.0.2.2"),
                            volumes=[("data", "/data", "rw")], env=["FROM_CONFIG=yes"]).wait_output(b"ready")
    yield vm
    print(vm.console_text()[-4000:])
    vm.close()


def text(result):
    assert result.exit_code == 0, (result.exit_code, result.failed, result.err)
    return result.out.decode()


# ---- hello ----

def test_hello_comes_first_and_once(boot):
    vm = boot().connect()
    fails(lambda: vm.hello(protocol=0), Code.INVALID_ARGUMENT)
    fails(lambda: vm.stub.Stop(vm.pb.StopRequest(), timeout=TIMEOUT), Code.FAILED_PRECONDITION)
    fails(lambda: list(vm.stub.Run(vm.pb.RunRequest(), timeout=TIMEOUT)), Code.FAILED_PRECONDITION)
    fails(lambda: list(vm.stub.Exec(iter([vm.pb.ExecRequest()]), timeout=TIMEOUT)), Code.FAILED_PRECONDITION)
    # A newer host gets what both speak.
    reply = vm.hello(protocol=99)
    assert reply.protocol == 1 and reply.guest_version and reply.kernel_release
    fails(vm.hello, Code.FAILED_PRECONDITION)
    fails(lambda: vm.stub.Stop(vm.pb.StopRequest(), timeout=TIMEOUT), Code.FAILED_PRECONDITION)


def test_what_a_newer_host_knows_besides_does_no_harm(boot, pb):
    """A method that the guest has not is UNIMPLEMENTED, a field that it does not know is passed over."""
    vm = boot().connect()
    vm.hello()
    unknown_field = pb[0].StatsRequest.FromString(b"\xfa\x01\x03new")
    assert vm.stub.Stats(unknown_field, timeout=TIMEOUT).memory_total_bytes > 100 * MIB
    newer = vm.channel.unary_unary("/capsule.guest.v1.GuestService/Newer", bytes, bytes)
    fails(lambda: newer(b"", timeout=TIMEOUT), Code.UNIMPLEMENTED)


def test_clock_is_the_hosts(running):
    assert abs(int(text(running.exec("date", "+%s"))) - time.time()) < 30


# ---- run ----

def test_output_and_exit_code(boot):
    vm = boot()
    run = vm.run("sh", "-c", "echo out; echo err >&2; exit 7").end()
    assert (run.out, run.err, run.error) == (b"out\n", b"err\n", None)
    assert run.started.pid > 1
    assert (run.exited.exit_code, run.exited.oom_killed, run.exited.stopped) == (7, False, False)
    vm.wait_off()


def test_all_output_arrives_before_the_exit(boot):
    """More than pipes and windows hold, to a reader that is late."""
    run = boot().run("sh", "-c", "head -c 6000000 /dev/zero | tr '\\0' x; echo end >&2").end()
    assert (len(run.out), set(run.out), run.err, run.exited.exit_code) == (6000000, set(b"x"), b"end\n", 0)


def test_orphans_are_reaped_and_end_with_the_payload(boot):
    vm = boot()
    run = vm.run("sh", "-c", "(sleep 1000 &); (true &); echo ready; sleep 1").wait_output(b"ready")
    assert run.end().exited.exit_code == 0
    vm.wait_off()


@pytest.mark.parametrize("command, why", [
    (["/no/such/program"], "no such file"),
    (["/bin/plain"], "permission denied"),
])
def test_a_command_that_cannot_be_executed(boot, command, why):
    vm = boot()
    run = vm.run(*command).end()
    assert run.error.code() == Code.FAILED_PRECONDITION and why in run.error.details().lower(), run.error.details()
    assert not run.started
    vm.wait_off()


def test_each_failed_step_has_its_name(boot, pb):
    vm = boot().connect()
    vm.hello()
    config = pb[0].File(name="config.json", content=b'{"linux": {"cgroupsPath": "/capsule/x"}}')
    request = pb[0].RunRequest(name="x", payload=pb[0].Disk(serial="absent", device="/dev/vdq"), files=[config])
    details = fails(lambda: list(vm.stub.Run(request, timeout=TIMEOUT)), Code.FAILED_PRECONDITION)
    assert details == "the guest cannot make the root file system: " \
                      'the disk of the image (serial "absent", /dev/vdq) is not there'
    vm.wait_off()


def test_a_run_without_a_config_is_refused(boot, pb):
    vm = boot().connect()
    vm.hello()
    fails(lambda: list(vm.stub.Run(pb[0].RunRequest(name="x"), timeout=TIMEOUT)), Code.INVALID_ARGUMENT)
    assert vm.stub.Stats(pb[0].StatsRequest(), timeout=TIMEOUT).pids == 0


# ---- the end ----

def test_stop_with_grace(boot):
    vm = boot()
    run = vm.run(*FOREVER).wait_output(b"ready")
    vm.stop()
    run.end()
    assert run.out == b"ready\nbye\n"
    assert (run.exited.exit_code, run.exited.stopped) == (3, True)
    assert [kind for kind in run.order if kind != "stdout"] == ["started", "ending", "exited"]
    vm.wait_off()


@pytest.mark.parametrize("grace_ms", [0, 300])
def test_stop_kills_after_the_grace(boot, grace_ms):
    vm = boot()
    run = vm.run(*DEAF).wait_output(b"ready")
    vm.stop(grace_ms=grace_ms)
    run.end()
    assert (run.exited.exit_code, run.exited.stopped, run.exited.oom_killed) == (137, True, False)
    assert run.order[-2:] == ["ending", "exited"] and run.order.count("ending") == 1
    vm.wait_off()


@pytest.mark.parametrize("limit", [32 * MIB, None], ids=["of its own", "the machine's"])
def test_out_of_memory(boot, limit):
    vm = boot(memory=160)
    run = vm.run("sh", "-c", "echo 1000 > /proc/self/oom_score_adj; exec tail /dev/zero", memory=limit).end()
    assert (run.exited.exit_code, run.exited.oom_killed) == (137, True), run.error
    vm.wait_off()


def test_a_run_that_is_cancelled_ends_the_machine(boot):
    vm = boot()
    run = vm.run(*DEAF).wait_output(b"ready")
    run.call.cancel()
    vm.wait_off()


def test_a_host_that_is_gone_ends_the_machine(boot):
    vm = boot()
    vm.run(*DEAF).wait_output(b"ready")
    vm.channel.close()
    vm.wait_off()
    assert "unmounting" in vm.console_text()


def test_a_host_that_reads_nothing_and_goes_ends_the_machine(boot):
    """The guest waits only for it to take what the payload has printed last."""
    vm = boot()
    vm.run("yes", reads=False)

    def time_used():
        return vm.exec("cut", "-d", " ", "-f", "14-15", "/proc/1/stat").out

    def stands():
        before = time_used()
        time.sleep(3)
        return before and before == time_used()

    wait_for(stands, "the payload to have filled what there is on its way")
    vm.stop(grace_ms=0)
    wait_for(lambda: "unmounting" in vm.console_text(), "the end of the payload")
    time.sleep(2)  # all is unmounted then, most likely
    vm.channel.close()
    vm.wait_off()


def test_garbage_on_the_stream_ends_the_machine(boot):
    vm = boot()
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(vm.socket))
        # The guest's first word: it is up.
        assert s.recv(1)
        s.sendall(os.urandom(100000))
        vm.wait_off()


# ---- disks ----

def test_what_was_written_is_there_in_the_next_machine(boot, tmp_path):
    disk, volume = tmp_path / "disk.img", tmp_path / "volume.img"
    make_ext4(disk)
    make_ext4(volume)
    vm = boot(disk=disk, volumes=[("data", volume, False)])
    write = "echo one > /kept; echo two > /data/kept; rm /bin/plain"
    run = vm.run("sh", "-c", write, volumes=[("data", "/data", "rw")]).end()
    assert run.exited.exit_code == 0, run.err
    vm.wait_off()
    vm = boot(disk=disk, volumes=[("data", volume, False)])
    run = vm.run("sh", "-c", "cat /kept /data/kept; ls /bin/plain", volumes=[("data", "/data", "rw")]).end()
    assert run.out == b"one\ntwo\n" and b"No such file" in run.err


@pytest.mark.parametrize("device", [True, False], ids=["as a device too", "in the guest alone"])
def test_a_read_only_volume(boot, tmp_path, device):
    volume = tmp_path / "volume.img"
    make_ext4(volume)
    before = hashlib.sha256(volume.read_bytes()).digest()
    vm = boot(volumes=[("data", volume, device)])
    run = vm.run("sh", "-c", "ls /data; echo x > /data/x", volumes=[("data", "/data", "ro")]).end()
    assert run.out == b"lost+found\n" and b"Read-only file system" in run.err
    vm.wait_off()
    assert hashlib.sha256(volume.read_bytes()).digest() == before


# ---- exec ----

def test_exec_streams_and_exit_codes(running):
    result = running.exec("sh", "-c", "cat; echo err >&2; exit 5", stdin=b"in\n")
    assert (result.out, result.err, result.exit_code, result.failed) == (b"in\n", b"err\n", 5, None)
    assert result.pid > 0
    assert running.exec("sh", "-c", "kill -9 $$").exit_code == 137


def test_exec_of_what_is_not_there(running):
    missing, plain = running.exec("nothing-of-this-name").failed, running.exec("/bin/plain").failed
    assert (missing.exit_code, missing.message) == (127, "nothing-of-this-name: not found in the workload")
    assert plain.exit_code == 126 and "permission denied" in plain.message
    nobody = running.exec("true", user="nobody-of-this-name").failed
    assert nobody.exit_code == 0 and "nobody-of-this-name" in nobody.message


def test_exec_environment_user_and_directory(running):
    result = running.exec("sh", "-c", "echo $FROM_CONFIG $NEW; pwd", env={"NEW": "x y"}, workdir="/var")
    assert text(result) == "yes x y\n/var\n"
    assert text(running.exec("sh", "-c", "id; echo $HOME", user="web")) == \
        "uid=1000(web) gid=1000(web) groups=50(staff),1000(web)\n/var/www\n"


def test_exec_is_in_the_payloads_namespaces(running):
    assert text(running.exec("readlink", "/proc/1/ns/pid")) == text(running.exec("readlink", "/proc/self/ns/pid"))
    assert text(running.exec("cat", "/proc/1/comm")) == "sh\n"
    assert text(running.exec("hostname")) == "payload\n"
    assert text(running.exec("cat", "/proc/self/cgroup")) == "0::/\n"


def test_exec_has_the_limits_of_a_container(running):
    assert text(running.exec("sh", "-c", "ulimit -n; ulimit -Hn")) == "1048576\n1048576\n"


def test_exec_may_do_what_the_payload_may(boot):
    rights = "grep -E '^(Cap(Bnd|Prm|Eff|Amb)|NoNewPrivs|Seccomp):' /proc/self/status; mkdir /tmp/$$ 2>&1"
    vm = boot()
    run = vm.run("sh", "-c", f"{rights}; echo end; sleep 1000", refused_call=MKDIR).wait_output(b"end\n")
    payload = run.out.decode().removesuffix("end\n")
    result = vm.exec("sh", "-c", rights)
    assert "NoNewPrivs:\t1" in payload and "Seccomp:\t2" in payload and "Operation not permitted" in payload
    assert [line for line in result.out.decode().splitlines() if "mkdir" not in line] == \
        [line for line in payload.splitlines() if "mkdir" not in line]
    assert b"Operation not permitted" in result.out


def test_exec_bulk_both_ways(running):
    data = os.urandom(3 * MIB)
    stream = running.start_exec("cat")
    for i in range(0, len(data), 100000):
        stream.send(running.pb.ExecRequest(stdin=data[i:i + 100000]))
    stream.half_close()
    assert stream.result().out == data


def test_exec_with_a_terminal(running, pb):
    script = "tty; stty size; trap 'stty size; exit 4' WINCH; echo go; read x; read x"
    stream = running.start_exec("sh", "-c", script, terminal=True, size=pb[0].Size(columns=100, rows=30))
    seen = b""
    for event in stream.call:
        assert event.WhichOneof("event") != "stderr"
        seen += event.stdout
        if b"go" in seen:
            break
    assert b"/dev/pts/" in seen and b"30 100" in seen
    stream.send(pb[0].ExecRequest(resize=pb[0].Size(columns=132, rows=43)))
    stream.send(pb[0].ExecRequest(stdin=b"\n"))
    result = stream.result()
    assert (result.exit_code, b"43 132" in result.out) == (4, True)


def test_half_close_ends_the_input_of_a_terminal(running):
    assert text(running.exec("cat", terminal=True, stdin=b"line\n")) == "line\r\nline\r\n"


def left_behind(vm, mark):
    return text(vm.exec("sh", "-c", f"grep -l {mark} /proc/[0-9]*/environ 2>/dev/null | grep -v /proc/$$/ || true"))


@pytest.mark.parametrize("terminal", [False, True])
def test_a_cancelled_exec_is_killed_with_its_session(running, terminal):
    script = "sleep 1001 & echo ready; sleep 1002"
    stream = running.start_exec("sh", "-c", script, terminal=terminal, env={"MARK": "cancelled"})
    for event in stream.call:
        if b"ready" in event.stdout:
            break
    assert left_behind(running, "MARK=cancelled")
    stream.call.cancel()
    wait_for(lambda: not left_behind(running, "MARK=cancelled"), "the session to be gone")


def test_a_blocked_reader_holds_up_nobody_else(running):
    stream = running.start_exec("sh", "-c", "yes | head -c 8000000")
    # Nobody reads it; it fills what there is on its way and stands.
    assert text(running.exec("echo", "others go on")) == "others go on\n"
    copies = [running.start_exec("sh", "-c", f"echo {i}") for i in range(8)]
    for i, copy in enumerate(copies):
        copy.half_close()
        assert text(copy.result()) == f"{i}\n"
    stream.half_close()
    assert len(stream.result().out) == 8000000


def test_a_call_without_a_start_is_refused(running, pb):
    for method, message in ((running.stub.Exec, pb[0].ExecRequest), (running.stub.Copy, pb[0].CopyRequest)):
        fails(lambda: list(method(iter([message(stdin=b"x")]), timeout=TIMEOUT)), Code.INVALID_ARGUMENT)  # noqa: B023
        fails(lambda: list(method(iter([]), timeout=TIMEOUT)), Code.INVALID_ARGUMENT)  # noqa: B023
    assert not running.exec().exit_code and "no command" in running.exec().failed.message


def test_the_number_of_processes_has_a_limit(running):
    streams = []
    for _ in range(EXECS_MAX):
        streams.append(running.start_exec("cat"))
        assert next(iter(streams[-1].call)).WhichOneof("event") == "started", len(streams)
    refused = running.exec("true").failed
    assert refused.exit_code == 0 and f"{EXECS_MAX} processes" in refused.message
    for stream in streams:
        stream.half_close()
        assert stream.result().exit_code == 0
    assert text(running.exec("echo", "again")) == "again\n"


# ---- copy ----

def tar_of(name, content, mode=0o640):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.uid, entry.gid = len(content), mode, 1000, 50
        tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def copy(vm, path, data=None):
    into = {"in": data is not None}
    stream = Stream(vm.stub.Copy, vm.pb.CopyRequest(start=vm.pb.CopyStart(path=path, **into)))
    for i in range(0, len(data or b""), 100000):
        stream.send(vm.pb.CopyRequest(stdin=data[i:i + 100000]))
    stream.half_close()
    return stream.result()


@pytest.mark.parametrize("directory", ["/tmp", "/data"])
def test_copy_in_and_out(running, directory):
    content = os.urandom(2 * MIB)
    assert copy(running, directory, tar_of("file", content)).exit_code == 0
    assert text(running.exec("stat", "-c", "%a %u %g %s", f"{directory}/file")) == f"640 1000 50 {2 * MIB}\n"
    result = copy(running, f"{directory}/file")
    assert result.exit_code == 0
    with tarfile.open(fileobj=io.BytesIO(result.out)) as tar:
        assert tar.extractfile("file").read() == content


def test_a_copy_that_fails_says_why(running):
    result = copy(running, "/no/such/file")
    assert (result.exit_code, result.err.startswith(b"NOT_FOUND ")) == (1, True), result.err


def test_a_copy_under_way_does_not_hold_up_the_end(boot):
    vm = boot()
    run = vm.run(*FOREVER).wait_output(b"ready")
    stream = Stream(vm.stub.Copy, vm.pb.CopyRequest(start=vm.pb.CopyStart(path="/tmp", **{"in": True})))
    assert next(iter(stream.call)).WhichOneof("event") == "started"
    exec_stream = vm.start_exec("sleep", "1000")
    assert next(iter(exec_stream.call)).WhichOneof("event") == "started"
    vm.stop()
    assert run.end().exited.exit_code == 3
    vm.wait_off()
    assert "cannot unmount" not in vm.console_text()


# ---- volumes that are held still ----

WRITE = ("sh", "-c", "echo written > /data/file; sync /data/file; echo done")


def expect_held(vm):
    """A writer waits: the call that it is. It ends when the volume goes on."""
    writer = vm.start_exec(*WRITE)
    start = vm.pb.ExecRequest(start=vm.pb.ExecStart(command=["sh", "-c", "echo x > /data/other"]))
    fails(lambda: list(vm.stub.Exec(iter([start]), timeout=3)), Code.DEADLINE_EXCEEDED)
    return writer


def expect_thawed(writer):
    writer.half_close()
    assert text(writer.result()) == "done\n"


def test_a_volume_is_held_until_it_is_let_go(running):
    hold = running.hold("data")
    writer = expect_held(running)
    hold.half_close()
    assert list(hold.call) == [] and hold.call.code() == grpc.StatusCode.OK
    expect_thawed(writer)


def test_a_hold_ends_with_its_call(running):
    hold = running.hold("data")
    writer = expect_held(running)
    hold.call.cancel()
    expect_thawed(writer)


def test_a_hold_has_a_limit(running):
    hold = running.hold("data", seconds=4)
    writer = expect_held(running)
    fails(lambda: next(hold.call), Code.DEADLINE_EXCEEDED)
    expect_thawed(writer)


def test_what_cannot_be_held(running):
    fails(lambda: running.hold("none"), Code.NOT_FOUND)
    for volume, seconds in (("", 1), ("../disk", 1), ("data", 0), ("data", 100000)):
        fails(lambda: running.hold(volume, seconds), Code.INVALID_ARGUMENT)
    first = running.hold("data")
    assert "held still already" in fails(lambda: running.hold("data"), Code.UNAVAILABLE)
    first.call.cancel()


def test_what_is_held_goes_on_when_its_holder_is_killed(boot, tmp_path):
    """By a payload that sees all processes of the machine. The holder is the one that a lack of memory spares."""
    volume = tmp_path / "volume.img"
    make_ext4(volume)
    vm = boot(volumes=[("data", volume, False)])
    vm.run(*FOREVER, volumes=[("data", "/data", "rw")], namespaces=("mount", "uts", "ipc", "cgroup")).wait_output(b"ready")
    hold = vm.hold("data")
    writer = expect_held(vm)
    vm.exec("sh", "-c", "for p in /proc/[0-9]*; do [ $(cat $p/oom_score_adj) = -1000 ] && kill -9 ${p#/proc/}; done")
    fails(lambda: next(hold.call), Code.ABORTED)
    expect_thawed(writer)


def test_a_held_volume_does_not_hold_up_the_end(boot, tmp_path):
    volume = tmp_path / "volume.img"
    make_ext4(volume)
    vm = boot(volumes=[("data", volume, False)])
    run = vm.run(*FOREVER, volumes=[("data", "/data", "rw")]).wait_output(b"ready")
    hold = vm.hold("data")
    expect_held(vm)
    vm.stop(grace_ms=1000)
    assert run.end().exited.stopped
    vm.wait_off()
    assert hold.call.code() == grpc.StatusCode.OK


# ---- figures and network ----

def test_stats(running, pb):
    before = running.stub.Stats(pb[0].StatsRequest(), timeout=TIMEOUT)
    text(running.exec("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"))
    after = running.stub.Stats(pb[0].StatsRequest(), timeout=TIMEOUT)
    assert 0 < after.memory_used_bytes < after.memory_total_bytes < 256 * MIB
    assert after.cpu_usec > before.cpu_usec > 0
    assert after.pids >= 2


def test_network(running):
    assert "10.0.2.15/24" in text(running.exec("ip", "address", "show", "eth0"))
    assert text(running.exec("ip", "route")).startswith("default via 10.0.2.2 dev eth0")
    assert "127.0.0.1/8" in text(running.exec("ip", "address", "show", "lo"))
    assert text(running.exec("cat", "/etc/resolv.conf")) == "nameserver 10.0.2.3\n"
