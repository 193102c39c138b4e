# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""capsule-vm alone: the real QEMU, kernel and guest, and this test in the place of the daemon."""
import contextlib
import ctypes
import fcntl
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tarfile
import tempfile
import termios
import threading
import time

import pytest

import vm_holder
from capsule import CLOUD_KERNEL, PLACE
from guest_vm import INITRAMFS, KERNEL, config_json, make_ext4, make_payload
from vm_holder import Holder, wait_ended, wait_for

QEMU = shutil.which("qemu-system-x86_64") or "qemu-system-x86_64"
MIB = 1 << 20
SYS_pidfd_getfd = 438
STOP_MARGIN = 20  # seconds: STOP_MARGIN_MS in src/vm/holder.c
LIVE = ("/bin/sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 1; done")


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    path = tmp_path_factory.mktemp("payload") / "payload.erofs"
    make_payload(path)
    return path


@contextlib.contextmanager
def machine(payload, *options, command=LIVE, kernel=KERNEL, monitor=QEMU, volumes=(), grace=20000, **config):
    """A Holder that is not started. volumes: (name, "rw" or "ro", file)."""
    with tempfile.TemporaryDirectory(prefix="capsule-test-vm-", dir=PLACE) as directory:
        disk = pathlib.Path(directory, "disk.img")
        make_ext4(disk)
        disks = ["--disk", f"payload:ro:{payload}", "--disk", f"disk:rw:{disk}"]
        for number, (name, mode, path) in enumerate(volumes):
            disks += ["--disk", f"volume-{number}:{mode}:{path}", "--volume", f"{name}:{mode}"]
        holder = Holder(directory, "--monitor", "qemu", "--monitor-program", monitor, "--accel", "emulated", "--kernel", kernel,
                        "--initramfs", INITRAMFS, "--vcpus", "1", "--memory", "256", "--generation", "42", "--grace", grace,
                        *disks, *options)
        config = config_json(*command, volumes=[(name, f"/{name}", mode) for name, mode, _ in volumes], **config)
        for name, text in (("config.json", json.dumps(config)), ("hosts", "127.0.0.1 localhost\n"), ("hostname", "web\n"),
                           ("resolv.conf", "nameserver 10.0.2.3\n")):
            (holder.run / name).write_text(text)
        try:
            yield holder
        finally:
            holder.close()


def running(holder, up=False):
    """Starts it; the connection and the monitor's pid. LIVE is ready for a signal then."""
    connection = holder.start()
    generation, started, pid, _ = struct.unpack("=QqiI", connection.expect(vm_holder.HELLO))
    assert generation == 42 and abs(started / 1e9 - time.time()) < 60
    if up:
        wait_for(lambda: "up" in holder.log()["stdout"], "the payload's trap")
    return connection, pid


@pytest.fixture(scope="module")
def web(payload):
    """One machine for the tests that leave it as it was."""
    with machine(payload) as holder:
        holder.connection, holder.monitor = running(holder, up=True)
        yield holder
        holder.connection.stop(20000)
        holder.connection.expect_exit()
        wait_ended(holder.pid)


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


class Exec:
    """A further process, or a copy, over a connection of its own."""

    def __init__(self, holder, *command, terminal=None, copy=None, env=(), stdin=None):
        self.connection = holder.connect()
        self.connection.expect(vm_holder.HELLO)
        theirs, self.ends = [], []
        for out in (False, True, True):
            r, w = os.pipe2(os.O_CLOEXEC)
            theirs.append(w if out else r)
            self.ends.append(r if out else w)
        if copy:
            into, path = copy
            self.connection.send(vm_holder.COPY, struct.pack("=I", into) + path.encode() + b"\0", theirs)
        else:
            text = b"".join(field(2, c) for c in command) + b"".join(field(4, field(1, k) + field(2, v)) for k, v in env)
            spec = os.memfd_create("spec")
            os.write(spec, text + (b"\x18\x01" if terminal else b""))
            columns, rows = terminal or (0, 0)
            self.connection.send(vm_holder.EXEC, struct.pack("=IHH", bool(terminal), columns, rows), [spec, *theirs])
            os.close(spec)
        for fd in theirs:
            os.close(fd)
        self.out, self.err = io.BytesIO(), io.BytesIO()
        self.readers = []

    def started(self):
        return struct.unpack("=iI", self.connection.expect(vm_holder.EXEC_STARTED))[0]

    def write(self, data):
        while data:
            data = data[os.write(self.ends[0], data):]

    def end_input(self):
        if self.ends[0] >= 0:
            os.close(self.ends[0])
            self.ends[0] = -1

    def collect(self):
        for fd, to in zip(self.ends[1:], (self.out, self.err)):
            thread = threading.Thread(target=self.read, args=(fd, to), daemon=True)
            thread.start()
            self.readers.append(thread)

    @staticmethod
    def read(fd, to):
        while data := os.read(fd, 1 << 16):
            to.write(data)

    def finish(self):
        """Exit code, stdout, stderr."""
        if not self.readers:
            self.collect()
        self.started()
        code, _ = struct.unpack("=iI", self.connection.expect(vm_holder.EXEC_EXIT))
        for thread in self.readers:
            thread.join(vm_holder.PATIENCE)
            assert not thread.is_alive()
        self.close()
        return code, self.out.getvalue(), self.err.getvalue()

    def failed(self):
        body = self.connection.expect(vm_holder.EXEC_FAILED)
        self.close()
        return struct.unpack("=i", body[:4])[0], body[4:].decode()

    def close(self):
        self.connection.close()
        for fd in self.ends:
            if fd >= 0:
                os.close(fd)
        self.ends = [-1, -1, -1]


def killed(pid):
    """Whether a SIGKILL waits for it, or it is gone."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return "State:\tZ" in status or any(mask & 1 << (signal.SIGKILL - 1) for mask in pending)


def run(holder, *command, stdin=b"", **kwargs):
    e = Exec(holder, *command, **kwargs)
    e.collect()
    e.write(stdin)
    e.end_input()
    return e.finish()


# ---- the life of a machine ----

def test_runs_a_payload_and_tells_its_end(payload):
    with machine(payload, command=("/bin/sh", "-c", "echo out; echo err >&2; exit 5")) as holder:
        connection, monitor = running(holder)
        result = connection.expect_exit()
        assert (result["code"], result["oom"], result["stopped"], result["reason"]) == (5, False, False, "")
        assert result["generation"] == 42 and result["duration"] >= 0
        assert connection.receive() is None
        wait_ended(holder.pid)
        assert not pathlib.Path(f"/proc/{monitor}").exists()
        assert holder.log() == {"stdout": "out\n", "stderr": "err\n"}
        assert (holder.run / "exit").read_text().startswith("code 5\noom 0\nstopped 0\ngeneration 42\n")


def test_monitor_has_no_rights_and_sees_only_what_it_needs(web):
    status = pathlib.Path(f"/proc/{web.monitor}/status").read_text()
    for line in ("Uid:\t64123\t64123\t64123\t64123", "Gid:\t64123\t64123\t64123\t64123", "NoNewPrivs:\t1",
                 "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "Seccomp:\t2"):
        assert line in status
    for kind in ("mnt", "pid", "ipc", "uts", "net"):
        assert os.stat(f"/proc/{web.monitor}/ns/{kind}").st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino
    root = pathlib.Path(f"/proc/{web.monitor}/root")
    assert {p.name for p in root.iterdir()} <= {"dev", "etc", "initramfs", "kernel", "lib", "lib64", "usr"}
    assert {p.name for p in (root / "dev").iterdir()} == {"null"}
    assert {p.name for p in (root / "etc").iterdir()} == {"ld.so.cache"}
    mounts = pathlib.Path(f"/proc/{web.monitor}/mounts").read_text().splitlines()
    assert all("ro" in m.split()[3].split(",") for m in mounts if m.split()[1] != "/dev/null"), mounts
    assert web.monitor in vm_holder.cgroup_pids(web.cgroup)


def test_holder_has_few_rights(web):
    """What it may do with files is in the unit test `confine`."""
    status = pathlib.Path(f"/proc/{web.pid}/status").read_text()
    for line in ("CapPrm:\t0000000000000022", "CapEff:\t0000000000000022", "NoNewPrivs:\t1", "Seccomp:\t2"):  # KILL, DAC_OVERRIDE
        assert line in status
    # As a container with the host's processes in sight, whose root has these rights too.
    for what, expected in ((os.getpid(), 1), (web.pid, 1), ("self", 0)):
        done = subprocess.run(["setpriv", "--inh-caps=-all", "--bounding-set=-all,+kill,+dac_override,+chown,+fowner", "readlink",
                               f"/proc/{what}/root"], capture_output=True)
        assert done.returncode == expected, what


def test_console_is_logged(payload):
    with machine(payload, "--cmdline", "ignore_loglevel", command=("/bin/true",)) as holder:
        connection, _ = running(holder)
        assert connection.expect_exit()["code"] == 0
        console = holder.log("serial.log")["stdout"]
        assert "Linux version" in console and "virtio_blk" in console


def test_logs_are_rotated(payload):
    with machine(payload, "--log-max-bytes", "20000", "--log-max-files", "3", "--cmdline", "ignore_loglevel",
                 command=("/bin/sh", "-c", "seq 1 20000")) as holder:
        connection, _ = running(holder)
        assert connection.expect_exit()["code"] == 0
        wait_ended(holder.pid)
        for name in ("payload.log", "serial.log"):
            files = sorted(p.name for p in holder.state.iterdir() if p.name.startswith(name))
            assert files == [name, f"{name}.1", f"{name}.2"] if name == "payload.log" else files
            assert all((holder.state / f).stat().st_size <= 20000 for f in files)
        assert holder.log()["stdout"].endswith("\n19999\n20000\n")


def test_volumes(payload, tmp_path):
    make_ext4(tmp_path / "a")
    make_ext4(tmp_path / "b")
    command = ("/bin/sh", "-c", "echo kept > /a/file; cat /b/file; echo no > /b/file; grep -c ' /[ab] ' /proc/mounts")
    with machine(payload, volumes=[("a", "rw", tmp_path / "a"), ("b", "ro", tmp_path / "b")], command=command) as holder:
        connection, _ = running(holder)
        assert connection.expect_exit()["code"] == 0
        assert "2\n" in holder.log()["stdout"] and "Read-only" in holder.log()["stderr"]
    with machine(payload, volumes=[("b", "ro", tmp_path / "b"), ("a", "rw", tmp_path / "a")],
                 command=("/bin/cat", "/a/file")) as holder:
        connection, _ = running(holder)
        assert connection.expect_exit()["code"] == 0
        assert holder.log()["stdout"] == "kept\n"


def test_stop_sends_the_signal(payload):
    with machine(payload) as holder:
        connection, _ = running(holder, up=True)
        connection.stop(30000)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"]) == (7, True)
        assert holder.log()["stdout"] == "up\nbye\n"


def test_sigterm_stops(payload):
    with machine(payload) as holder:
        connection, _ = running(holder, up=True)
        os.kill(holder.pid, signal.SIGTERM)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"]) == (7, True)


def test_grace_ends_with_a_kill(payload):
    with machine(payload, command=("/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")) as holder:
        connection, _ = running(holder, up=True)
        connection.stop(600000)
        connection.stop(100)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"]) == (137, True)


def test_frozen_monitor_is_killed_at_the_end_of_a_stop(payload):
    with machine(payload) as holder:
        connection, monitor = running(holder)
        os.kill(monitor, signal.SIGSTOP)
        connection.stop(0)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"]) == (137, True)


FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


@contextlib.contextmanager
def frozen_disk(tmp_path):
    """A volume's file, and a function that has all that is written to it wait until the end of the block."""
    make_ext4(tmp_path / "host", size=256 * MIB)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop", tmp_path / "host", mounted], check=True)
    directory = os.open(mounted, os.O_RDONLY)
    frozen = False

    def freeze(request=FIFREEZE):
        nonlocal frozen
        fcntl.ioctl(directory, request, 0)
        frozen = request == FIFREEZE

    try:
        make_ext4(mounted / "volume")
        yield mounted / "volume", freeze
    finally:
        if frozen:
            freeze(FITHAW)
        os.close(directory)
        subprocess.run(["umount", "--lazy", mounted], check=True)


@pytest.mark.parametrize("command, code", [
    ("trap 'exit 7' TERM; echo kept > /v/file; echo up; while :; do sleep 1000 & wait; done", 7),
    # Killed, and ended only when its write is.
    ("trap '' TERM; echo up; read x < /sync; echo kept | dd of=/v/file conv=fsync", 137),
], ids=["unmount", "fsync"])
def test_guest_that_syncs_is_not_cut_off_by_the_grace(payload, tmp_path, command, code):
    with frozen_disk(tmp_path) as (volume, freeze), \
            machine(payload, volumes=[("v", "rw", volume)], command=("/bin/sh", "-c", f"mkfifo /sync; {command}")) as holder:
        connection, _ = running(holder, up=True)
        freeze()
        if code == 137:
            assert run(holder, "/bin/sh", "-c", "echo > /sync; while ! pidof dd; do sleep 0.1; done")[0] == 0
        connection.stop(1000)
        with pytest.raises(TimeoutError):
            connection.receive(timeout=1 + STOP_MARGIN + 3)
        freeze(FITHAW)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"], result["reason"]) == (code, True, "")
        wait_ended(holder.pid)
        assert subprocess.run(["debugfs", "-R", "cat /file", volume], capture_output=True, check=True).stdout == b"kept\n"


def takes_nothing(holder):
    e = Exec(holder, "/bin/true")
    answer = e.connection.receive()
    e.close()
    return answer.kind == vm_holder.EXEC_FAILED and "the payload does not run" in answer.text


def cut_stream(monitor):
    """Both ends of a guest's stream see its end."""
    arguments = pathlib.Path(f"/proc/{monitor}/cmdline").read_text()
    fd = int(re.search(r"socket,id=agent,fd=(\d+)", arguments)[1])
    pidfd = os.pidfd_open(monitor)
    with socket.socket(fileno=ctypes.CDLL(None).syscall(SYS_pidfd_getfd, pidfd, fd, 0)) as stream:
        stream.shutdown(socket.SHUT_RDWR)
    os.close(pidfd)


@pytest.mark.parametrize("limit, reason", [
    (600000, "the machine ended (exit code 0 of QEMU) before it told how its payload had ended"),
    (8000, "the guest did not unmount and sync within 8 s of its payload's end"),
], ids=["thawed", "stuck"])
def test_guest_that_loses_its_stream_while_it_syncs_has_its_time(payload, tmp_path, limit, reason):
    with frozen_disk(tmp_path) as (volume, freeze), \
            machine(payload, "--clean-up", str(limit), volumes=[("v", "rw", volume)],
                    command=("/bin/sh", "-c", "mkfifo /end; echo kept > /v/file; echo up; read x < /end; exit 7")) as holder:
        connection, monitor = running(holder, up=True)
        freeze()
        assert run(holder, "/bin/sh", "-c", "echo > /end")[0] in (0, 137)
        wait_for(lambda: takes_nothing(holder), "the end of the payload")
        cut_stream(monitor)
        with pytest.raises(TimeoutError):
            connection.receive(timeout=4)
        connection.stop(0)
        if limit == 8000:
            wait_for(lambda: killed(monitor), "the kill")
        freeze(FITHAW)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"]) == (137, True)
        assert result["reason"].startswith(reason)
        if limit != 8000:
            assert subprocess.run(["debugfs", "-R", "cat /file", volume], capture_output=True, check=True).stdout == b"kept\n"


@pytest.mark.parametrize("stuck", [False, True])
def test_guest_that_loses_its_stream_ends_its_machine(payload, tmp_path, stuck):
    """The payload is killed, and what it wrote is synced. Who asks for a stop then makes it no longer."""
    write = "echo kept > /v/file; echo up; exec sleep 1000"
    with frozen_disk(tmp_path) as (volume, freeze), \
            machine(payload, volumes=[("v", "rw", volume)], command=("/bin/sh", "-c", write)) as holder:
        connection, monitor = running(holder, up=True)
        freeze()
        cut_stream(monitor)
        with pytest.raises(TimeoutError):
            connection.receive(timeout=4)
        if stuck:
            connection.stop(600000)
            wait_for(lambda: killed(monitor), "the kill", timeout=STOP_MARGIN + 10)
        freeze(FITHAW)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"]) == (137 if stuck else 255, stuck)
        assert result["reason"].startswith("lost the connection to the guest" if stuck else
                                           "the machine ended (exit code 0 of QEMU) before its payload did")
        if not stuck:
            assert subprocess.run(["debugfs", "-R", "cat /file", volume], capture_output=True, check=True).stdout == b"kept\n"


def test_guest_that_never_ends_its_clean_up_is_killed(payload, tmp_path):
    with frozen_disk(tmp_path) as (volume, freeze), \
            machine(payload, "--clean-up", "1000", volumes=[("v", "rw", volume)],
                    command=("/bin/sh", "-c", "echo lost > /v/file; echo up; exec sleep 1000")) as holder:
        connection, monitor = running(holder, up=True)
        freeze()
        connection.stop(0)
        # It has been sent the signal then, and dies of it once its write may go on.
        wait_for(lambda: killed(monitor), "the kill")
        freeze(FITHAW)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"]) == (137, True)
        assert result["reason"].startswith("the guest did not unmount and sync within 1 s of its payload's end")


@contextlib.contextmanager
def cleaning_up(payload, tmp_path, *options, grace=1000):
    """A machine that cannot go on as long as its volume's writes wait, what lets them, its connection and its monitor."""
    with frozen_disk(tmp_path) as (volume, freeze), \
            machine(payload, *options, volumes=[("v", "rw", volume)],
                    command=("/bin/sh", "-c", "echo lost > /v/file; echo up; exec sleep 1000")) as holder:
        connection, monitor = running(holder, up=True)
        freeze()
        connection.stop(grace)
        wait_for(lambda: takes_nothing(holder), "the end of the payload")
        yield freeze, connection, monitor


def test_guest_that_cleans_up_and_does_nothing_is_killed(payload, tmp_path):
    with cleaning_up(payload, tmp_path) as (freeze, connection, monitor):
        os.kill(monitor, signal.SIGSTOP)
        freeze(FITHAW)
        result = connection.expect_exit(timeout=STOP_MARGIN + 20)
        assert (result["code"], result["stopped"]) == (137, True)
        assert result["reason"].startswith("the guest did not end after its payload, nor use its disks for 20 s")


def test_stop_without_grace_shortens_the_clean_up(payload, tmp_path):
    with cleaning_up(payload, tmp_path) as (freeze, connection, monitor):
        connection.stop(0)
        with pytest.raises(TimeoutError):
            connection.receive(timeout=1)
        assert connection.told_ending
        wait_for(lambda: killed(monitor), "the kill", timeout=STOP_MARGIN + 20)
        freeze(FITHAW)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"]) == (137, True)
        assert result["reason"].startswith("the guest did not unmount and sync within 20 s of its payload's end")


def test_killed_monitor(payload):
    with machine(payload) as holder:
        connection, monitor = running(holder)
        os.kill(monitor, signal.SIGKILL)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"]) == (255, False)
        assert result["reason"].startswith("QEMU was killed by signal 9")
        wait_ended(holder.pid)
        assert "reason QEMU was killed by signal 9" in (holder.run / "exit").read_text()


def test_killed_holder_leaves_nothing(payload):
    with machine(payload) as holder:
        _, monitor = running(holder)
        os.kill(holder.pid, signal.SIGKILL)
        wait_ended(monitor)
        wait_for(lambda: not vm_holder.cgroup_pids(holder.cgroup), "the cgroup to be empty")


def test_all_connections_hear(payload):
    with machine(payload) as holder:
        first = holder.start(begin=False)
        second = holder.connect()
        first.send(vm_holder.START)
        first.expect(vm_holder.HELLO)
        second.expect(vm_holder.HELLO)
        third = holder.connect()
        third.expect(vm_holder.HELLO)
        first.close()
        wait_for(lambda: "up" in holder.log()["stdout"], "the payload's trap")
        third.stop(20000)
        assert second.expect_exit()["stopped"] and third.expect_exit()["stopped"]


def test_unknown_messages_are_answered(web):
    connection = web.connect()
    connection.expect(vm_holder.HELLO)
    connection.send(999, b"x")
    assert struct.unpack("=I", connection.expect(vm_holder.UNSUPPORTED))[0] == 999
    connection.close()


# ---- what does not start ----

def failure(holder):
    return holder.start().expect(vm_holder.FAILED).decode()


def test_payload_that_cannot_run(payload):
    with machine(payload, command=("/no/such/program",)) as holder:
        text = failure(holder)
        assert "/no/such/program" in text, text
        wait_ended(holder.pid)
        assert not (holder.run / "exit").exists()


def test_missing_kernel(payload):
    with machine(payload, kernel="/no/such/kernel") as holder:
        assert failure(holder) == "cannot open the kernel /no/such/kernel: No such file or directory"


def test_missing_monitor(payload):
    with machine(payload, monitor="/no/such/qemu") as holder:
        assert failure(holder) == "cannot start QEMU: cannot use /no/such/qemu: No such file or directory"


def test_kernel_that_is_none(payload, tmp_path):
    (tmp_path / "kernel").write_bytes(b"x" * 65536)
    with machine(payload, kernel=tmp_path / "kernel") as holder:
        text = failure(holder)
        assert "before the guest answered" in text and "its console ends with: " in text, text


def test_kernel_that_panics(payload):
    with machine(payload, "--cmdline", "rdinit=/nothing") as holder:
        text = failure(holder)
        assert "before the guest answered; its console ends with: " in text and "Kernel panic - not syncing" in text, text
        assert "Kernel panic" in holder.log("serial.log")["stdout"]


def test_missing_disk(payload):
    with machine("/no/such/payload") as holder:
        assert failure(holder) == "cannot open the disk /no/such/payload: No such file or directory"


def test_daemon_that_ends_during_the_start(payload):
    with machine(payload) as holder:
        holder.start(begin=False).close()
        wait_ended(holder.pid)
        assert not vm_holder.cgroup_pids(holder.cgroup)


def test_second_boot_after_a_monitor_that_ended(payload):
    with machine(payload) as holder:
        connection = holder.start()
        first = vm_holder.first_pid(holder.cgroup)
        assert not (holder.run / "begun").exists()
        os.kill(first, signal.SIGKILL)
        _, _, pid, _ = struct.unpack("=QqiI", connection.expect(vm_holder.HELLO))
        assert pid != first and (holder.run / "begun").exists()
        wait_for(lambda: "up" in holder.log()["stdout"], "the payload's trap")
        connection.stop(20000)
        assert connection.expect_exit()["code"] == 7


def test_no_third_boot(payload):
    with machine(payload) as holder:
        connection = holder.start()
        first = vm_holder.first_pid(holder.cgroup)
        os.kill(first, signal.SIGKILL)
        os.kill(vm_holder.first_pid(holder.cgroup, after=first), signal.SIGKILL)
        assert connection.expect(vm_holder.FAILED).decode().startswith("QEMU was killed by signal 9 before the guest answered")


def test_bad_options(tmp_path):
    with contextlib.ExitStack() as stack:
        for options in (["--monitor", "none"], ["--vcpus", "x"], ["--disk", "payload:rx:/x"], ["--frobnicate"], []):
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            holder = Holder(directory, *options)
            connection = holder.start(begin=False)
            assert holder.status == 2
            assert connection.expect(vm_holder.FAILED).startswith(b"capsule-vm: ")


def test_second_boot_after_silence(payload):
    with machine(payload) as holder:
        connection = holder.start()
        first = vm_holder.first_pid(holder.cgroup)
        os.kill(first, signal.SIGSTOP)
        _, _, pid, _ = struct.unpack("=QqiI", connection.expect(vm_holder.HELLO))
        assert pid != first and not pathlib.Path(f"/proc/{first}").exists()
        said = (holder.state / "serial.log").read_text(errors="replace")
        assert "Run /init as init process" in said, "what failed once tells of its boot as it comes"


# ---- guests that are not ours ----

def make_initramfs(path, *script, files=()):
    """One whose first process is this shell script. files: are in its root."""
    with tempfile.TemporaryDirectory() as tree:
        top = pathlib.Path(tree)
        for name in ("bin", "dev", "proc"):
            (top / name).mkdir()
        shutil.copy("/bin/busybox", top / "bin")
        for file in files:
            shutil.copy(file, top)
        os.mknod(top / "dev/console", 0o600 | stat.S_IFCHR, os.makedev(5, 1))
        (top / "init").write_text("\n".join(["#!/bin/busybox sh", "export PATH=/bin", "/bin/busybox --install /bin",
                                             "mount -t devtmpfs dev /dev", *script]) + "\n")
        (top / "init").chmod(0o755)
        names = "\n".join(str(p.relative_to(top)) for p in sorted(top.rglob("*")))
        with open(path, "wb") as f:
            subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=tree, input=names.encode(), stdout=f, check=True)


@pytest.mark.parametrize("script, text", [
    (r"printf 'caf\351 \303\274\n' > /dev/console; yes garbage > $(ls /dev/vport*); sleep 1000",
     "the guest's answer was not understood: lost the connection to the guest.*; its console ends with: .*caf\\? \u00fc$"),
    # What looks like the beginning of HTTP/2 and goes on with one frame of 16 MB.
    (r"(printf '\0\0\0\4\0\0\0\0\0\377\377\377\0\0\0\0\0\1'; cat /dev/zero) > $(ls /dev/vport*); sleep 1000", "was not understood"),
    ("exec sleep 0", "before the guest answered; its console ends with: "),
], ids=["garbage", "huge", "none"])
def test_hostile_guest_does_not_start(payload, tmp_path, script, text):
    make_initramfs(tmp_path / "initramfs", script)
    with machine(payload, "--initramfs", tmp_path / "initramfs") as holder:
        reason = failure(holder)
        assert re.search(text, reason), reason
        wait_ended(holder.pid)
        assert not vm_holder.cgroup_pids(holder.cgroup)


def test_endless_console(payload, tmp_path):
    make_initramfs(tmp_path / "initramfs", "yes console")
    with machine(payload, "--initramfs", tmp_path / "initramfs", "--log-max-bytes", "50000", "--log-max-files", "2") as holder:
        connection = holder.start()
        wait_for((holder.state / "serial.log.1").exists, "a second file")
        connection.stop(0)
        assert connection.expect(vm_holder.FAILED) == b"the workload was stopped during its start"
        wait_ended(holder.pid)
        assert sum(p.stat().st_size for p in holder.state.iterdir()) <= 100000


@contextlib.contextmanager
def own_system(directory, *script, options=()):
    """A machine whose root file system has only busybox and this script as init."""
    tree = directory / "tree"
    for name in ("bin", "dev", "proc", "sbin"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin")
    (tree / "sbin/init").write_text("\n".join(["#!/bin/busybox sh", *script]) + "\n")
    (tree / "sbin/init").chmod(0o755)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, directory / "rootfs", "16M"], check=True)
    holder = Holder(directory, "--monitor", "qemu", "--monitor-program", QEMU, "--accel", "emulated", "--kernel", KERNEL,
                    "--vcpus", "2", "--memory", "128", "--no-agent", "--disk", f"rootfs:rw:{directory}/rootfs", "--generation", "42", *options)
    try:
        yield holder
    finally:
        holder.close()


def test_own_system_ends_by_itself(tmp_path):
    with own_system(tmp_path, "echo I am $$; /bin/busybox reboot -f") as holder:
        connection, _ = running(holder)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"], result["reason"]) == (0, False, "")
        assert "I am 1\n" in holder.log("serial.log")["stdout"]


def test_own_system_that_panics(tmp_path):
    with own_system(tmp_path, "exit 3") as holder:
        connection, _ = running(holder)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"]) == (255, False)
        assert "Kernel panic" in result["reason"]


def test_own_system_is_stopped_and_takes_no_processes(tmp_path):
    with own_system(tmp_path, "echo up; exec /bin/busybox sleep 1000") as holder:
        connection, _ = running(holder)
        wait_for(lambda: "up\n" in holder.log("serial.log")["stdout"], "its init")
        assert "no agent" in Exec(holder, "/bin/true").failed()[1]
        connection.stop(500)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"], result["reason"]) == (137, True, "")


ACPI_SIGNATURE = b"RSD PTR "


@pytest.mark.parametrize("content, cmdline, acpi", [
    (b"\x7fELF" + bytes(1000), "quiet", False),
    (b"\x7fELF" + ACPI_SIGNATURE, "quiet xacpi=off acpi=offx", True),
    (b"\x7fELF" + bytes((64 << 10) - 7) + ACPI_SIGNATURE + bytes(1000), "quiet", True),  # across what is read at once
    (b"\x7fELF" + bytes(1000) + ACPI_SIGNATURE, "quiet acpi=off", False),
    (bytes(1000), "quiet", True),
], ids=["none", "acpi", "far", "off", "bzImage"])
def test_own_kernel_with_acpi_gets_it(tmp_path, content, cmdline, acpi):
    """The monitor is a program that prints its arguments."""
    (tmp_path / "kernel").write_bytes(content)
    program = tmp_path / "qemu"
    subprocess.run(["gcc", "-static", "-x", "c", "-o", program, "-"], check=True,
                   input=b"#include <stdio.h>\nint main(int n, char **args) { while (*++args) puts(*args); }")
    options = ["--monitor-program", program, "--kernel", tmp_path / "kernel", "--cmdline", cmdline]
    with own_system(tmp_path, options=options) as holder:
        failure(holder)
        said = holder.log("serial.log")["stdout"]
        assert f"\nmicrovm,acpi={'on' if acpi else 'off'}," in said
        assert (" reboot=t acpi=off root=" in said) == (not acpi), said


def vmlinux_of(bzimage):
    """The ELF file in it, which is compressed with LZ4 (Linux: Documentation/x86/boot.rst)."""
    image = bzimage.read_bytes()
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (image[0x1f1] + 1) * 512 + offset
    data, at, out = image[start:start + length], 4, b""
    assert data[:4] == b"\x02\x21\x4c\x18"
    piece = ctypes.create_string_buffer(8 * MIB)
    while at + 8 <= len(data):  # the last word is the size of the whole
        size = int.from_bytes(data[at:at + 4], "little")
        n = ctypes.CDLL("liblz4.so.1").LZ4_decompress_safe(data[at + 4:at + 4 + size], piece, size, len(piece))
        assert n > 0
        out += piece.raw[:n]
        at += 4 + size
    return out


def test_own_system_hears_the_power_button(tmp_path):
    """An ELF kernel with ACPI, which finds its disk once. Debian's; what it has as modules comes in an initramfs."""
    if not CLOUD_KERNEL.exists():
        pytest.skip(f"{CLOUD_KERNEL} is missing: tests/check kernel")
    [bzimage] = CLOUD_KERNEL.glob("boot/vmlinuz-*")
    modules = ("virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "evdev", "button")
    (tmp_path / "vmlinux").write_bytes(vmlinux_of(bzimage))
    make_initramfs(tmp_path / "initramfs", f"for m in {' '.join(modules)}; do insmod /$m.ko; done",
                   "mkdir /sys; mount -t sysfs sys /sys", "exec 3< /dev/input/event0", "echo up: $(cd /sys/block; echo vd*)",
                   "head -c 24 <&3 > /dev/null; reboot -f",
                   files=[next(CLOUD_KERNEL.rglob(f"{m}.ko")) for m in modules])
    options = ["--kernel", tmp_path / "vmlinux", "--initramfs", tmp_path / "initramfs", "--memory", "512"]
    with own_system(tmp_path, options=options) as holder:
        connection, _ = running(holder)
        wait_for(lambda: "up: vda\n" in holder.log("serial.log")["stdout"], "its init")
        connection.stop(60000)
        result = connection.expect_exit()
        assert (result["code"], result["stopped"], result["reason"]) == (0, True, "")


def test_firecracker_needs_kvm(payload):
    with machine(payload, "--monitor", "firecracker") as holder:
        assert failure(holder) == "Firecracker needs KVM, which does not work on this host"


# ---- Firecracker's jailer: that it does its part is shown where KVM works (test_microvm_kvm.py) ----

@pytest.fixture(scope="module")
def jailer(tmp_path_factory):
    program = tmp_path_factory.mktemp("jailer") / "jailer"
    source = pathlib.Path(__file__).with_name("jailer_double.c")
    subprocess.run(["gcc", "-O1", "-static", "-o", program, source], check=True)
    program.chmod(0o755)
    return program


def jailed(payload, jailer):
    return machine(payload, "--monitor", "firecracker", "--accel", "kvm", "--jailer", jailer, monitor="/bin/busybox")


def jailer_of(holder):
    """The pids of the first process in the jailer's pid namespace and of the jailer, and what that said."""
    first, process = wait_for(lambda: len(pids := vm_holder.cgroup_pids(holder.cgroup)) == 2 and sorted(pids), "the jailer")
    wait_for(lambda: "end\n" in holder.log("serial.log")["stdout"], "its words")
    return first, process, holder.log("serial.log")["stdout"].splitlines()


def test_jailer_has_what_it_needs_and_no_more(payload, jailer):
    with jailed(payload, jailer) as holder:
        holder.start()
        first, process, said = jailer_of(holder)
        assert said[0] == "descriptor 3: Bad file descriptor"
        assert said[1].startswith("argv: /jailer --exec-file /firecracker --chroot-base-dir /jail --uid 64123 --gid 64123 --id web "
                                  "--resource-limit no-file=") and said[1].endswith(" -- --api-sock /scratch/api --level Error")
        assert set(said[2].split()[2:]) <= {"jail", "jailer", "firecracker", "lib", "lib64", "usr", "etc"}
        assert said[3] == "write to its root: Read-only file system"
        assert set(said[4].split()[2:]) <= {"disks", "kernel", "initramfs", "scratch", "lib", "lib64", "usr", "etc"}
        assert sorted(said[5].split()[2:]) == ["0", "1"]
        assert said[6:] == ["device: done", "open it: done", "copy: done", "own: done", "mount: done", "end"]
        status = pathlib.Path(f"/proc/{process}/status").read_text()
        # chown, dac_override, setgid, setuid, sys_admin, mknod
        assert all(f"{caps}:\t00000000082000c3\n" in status for caps in ("CapPrm", "CapEff", "CapBnd"))
        assert "NoNewPrivs:\t1\n" in status and "Groups:\t \n" in status and "NSpid:\t%d\t2\n" % process in status

        assert os.readlink(f"/proc/{first}/ns/pid") == os.readlink(f"/proc/{process}/ns/pid") != os.readlink("/proc/self/ns/pid")
        assert os.listdir(f"/proc/{first}/fd") == []
        assert pathlib.Path(f"/proc/{first}/cmdline").read_bytes().rstrip(b"\0") == b"capsule-vm-init"
        status = pathlib.Path(f"/proc/{first}/status").read_text()
        assert "Uid:\t64123\t64123\t64123\t64123\n" in status and "NSpid:\t%d\t1\n" % first in status
        assert all(f"{caps}:\t0000000000000000\n" in status for caps in ("CapInh", "CapPrm", "CapEff", "CapAmb"))


@pytest.mark.parametrize("victim", ["holder", "first", "jailer"])
def test_nothing_is_left_of_a_jail(payload, jailer, victim):
    with jailed(payload, jailer) as holder:
        connection = holder.start()
        first, process, _ = jailer_of(holder)
        os.kill({"holder": holder.pid, "first": first, "jailer": process}[victim], signal.SIGKILL)
        wait_ended(first)
        wait_ended(process)
        if victim != "holder":  # it starts another one
            first, process, _ = jailer_of(holder)
            connection.stop(1000)
            assert connection.expect(vm_holder.FAILED).endswith(b"the workload was stopped during its start")
            wait_ended(first)
            wait_ended(process)
        wait_for(lambda: not vm_holder.cgroup_pids(holder.cgroup), "the cgroup to be empty")


def test_jailer_that_fails(payload):
    with jailed(payload, "/bin/busybox") as holder:
        assert failure(holder) == ("Firecracker ended with exit code 127 before the guest answered; its console ends with: "
                                   "jailer: applet not found")
    with jailed(payload, "/nowhere") as holder:
        assert failure(holder) == "cannot start Firecracker: cannot use /nowhere: No such file or directory"


# ---- further processes ----

def test_exec(web):
    assert run(web, "/bin/sh", "-c", "echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")
    assert run(web, "/bin/cat", stdin=b"through\n") == (0, b"through\n", b"")
    assert run(web, "/bin/sh", "-c", "echo $A", env=[("A", "b c")]) == (0, b"b c\n", b"")


def test_exec_that_is_not_found(web):
    code, text = Exec(web, "/no/such/command").failed()
    assert code == 127 and "/no/such/command" in text


def test_exec_with_a_terminal(web):
    e = Exec(web, "/bin/sh", "-c", "stty size; read x; stty size; read x; tty", terminal=(80, 24))
    e.started()
    seen = b""

    def until(text):
        nonlocal seen
        while text not in seen:
            chunk = os.read(e.ends[1], 4096)
            assert chunk, seen
            seen += chunk

    until(b"24 80\r\n")
    e.connection.send(vm_holder.EXEC_RESIZE, struct.pack("=HH", 100, 30))
    e.write(b"\n")
    until(b"30 100\r\n")
    e.write(b"\n")
    until(b"/dev/pts/")
    code, _ = struct.unpack("=iI", e.connection.expect(vm_holder.EXEC_EXIT))
    assert code == 0
    e.close()


def test_fifty_at_once(web):
    processes = [Exec(web, "/bin/sh", "-c", f"read x; echo {n} $x; exit {n}") for n in range(50)]
    for e in processes:
        e.collect()
    for e in reversed(processes):
        e.write(b"go\n")
    for n, e in enumerate(processes):
        assert e.finish() == (n, f"{n} go\n".encode(), b"")


def test_one_that_is_blocked_blocks_no_other(web):
    blocked = Exec(web, "/bin/sh", "-c", "head -c 33554432 /dev/zero")
    blocked.started()
    unread = Exec(web, "/bin/sleep", "1000")
    unread.started()
    fcntl.fcntl(unread.ends[0], fcntl.F_SETFL, os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(unread.ends[0], b"x" * 65536)
    memory = int(pathlib.Path(f"/proc/{web.pid}/statm").read_text().split()[1]) * 4096
    assert memory < 64 * MIB
    assert run(web, "/bin/echo", "free") == (0, b"free\n", b"")
    unread.close()
    blocked.collect()
    code, _ = struct.unpack("=iI", blocked.connection.expect(vm_holder.EXEC_EXIT))
    for thread in blocked.readers:
        thread.join()
    assert code == 0 and blocked.out.getbuffer().nbytes == 33554432
    blocked.close()


def test_hundred_megabytes_each_way(web):
    data = os.urandom(MIB) * 100
    e = Exec(web, "/bin/cat")
    e.collect()
    e.write(data)
    e.end_input()
    code, out, err = e.finish()
    assert (code, err) == (0, b"") and hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


def test_process_ends_with_its_connection(web):
    e = Exec(web, "/bin/sleep", "4711")
    e.started()
    assert b"sleep 4711" in run(web, "/bin/ps")[1]
    e.close()
    wait_for(lambda: b"sleep 4711" not in run(web, "/bin/ps")[1], "the end of the process")


def test_exec_ends_with_the_machine(payload):
    with machine(payload) as holder:
        connection, monitor = running(holder)
        e = Exec(holder, "/bin/sleep", "1000")
        e.started()
        os.kill(monitor, signal.SIGKILL)
        assert struct.unpack("=iI", e.connection.expect(vm_holder.EXEC_EXIT))[0] == 137
        connection.expect_exit()
        e.close()


def test_exec_that_ended_before_its_machine_has_its_exit_code(payload):
    """Though nobody reads what it has written, which is more than a pipe holds."""
    with machine(payload) as holder:
        connection, monitor = running(holder)
        e = Exec(holder, "/bin/sh", "-c", "head -c 100000 /dev/zero; exit 3")
        e.started()
        other = Exec(holder, "/bin/sh", "-c", "while pidof head; do sleep 0.1; done; exec sleep 1000")
        other.started()
        wait_for(lambda: b"head" not in run(holder, "/bin/ps")[1], "the end of the process")
        os.kill(monitor, signal.SIGKILL)
        assert struct.unpack("=iI", e.connection.expect(vm_holder.EXEC_EXIT))[0] == 3
        assert struct.unpack("=iI", other.connection.expect(vm_holder.EXEC_EXIT))[0] == 137
        connection.expect_exit()
        e.close()
        other.close()


def archive(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_copy(web):
    content = os.urandom(3 * MIB)
    assert run(web, copy=(True, "/tmp/"), stdin=archive(blob=content))[0] == 0
    assert run(web, "/bin/sha256sum", "/tmp/blob")[1].split()[0].decode() == hashlib.sha256(content).hexdigest()
    code, out, _ = run(web, copy=(False, "/tmp/blob"))
    assert code == 0
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert tar.extractfile("blob").read() == content


def test_copy_that_fails(web):
    code, _, err = run(web, copy=(False, "/no/such/file"))
    assert code == 1 and err.startswith(b"NOT_FOUND ") and b"/no/such/file" in err


def test_request_without_descriptors_is_refused(web):
    connection = web.connect()
    connection.expect(vm_holder.HELLO)
    connection.send(vm_holder.EXEC, struct.pack("=IHH", 0, 0, 0))
    assert b"without its descriptors" in connection.expect(vm_holder.EXEC_FAILED)
    connection.close()
