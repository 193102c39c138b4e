# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Starts the real capsule-vm and speaks the shim's protocol to it (src/shim/protocol.h), as the daemon does."""
import array
import contextlib
import os
import pathlib
import select
import socket
import struct
import subprocess
import time

BUILD = pathlib.Path(os.environ.get("CAPSULE_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build"))
PROGRAM = BUILD / "src/vm/capsule-vm"
PATIENCE = float(os.environ.get("CAPSULE_PATIENCE", 90))

HELLO, FAILED, EXIT, STOP, UNSUPPORTED, START, ENDING = range(1, 8)
EXEC, EXEC_STARTED, EXEC_FAILED, EXEC_EXIT, EXEC_RESIZE, COPY = range(16, 22)
HOLD, HELD, LET_GO, HOLD_ENDED = range(48, 52)
HEADER = struct.Struct("=HHI")
RESULT = struct.Struct("=QqqiBBxx1024s")


class Message:
    def __init__(self, kind, body):
        self.kind, self.body = kind, body

    def __repr__(self):
        return f"Message({self.kind}, {self.body!r})"

    @property
    def text(self):
        return self.body.decode(errors="replace")


class Connection:
    def __init__(self, sock):
        self.sock = sock
        self.told_ending = False

    def send(self, kind, body=b"", fds=()):
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([HEADER.pack(1, kind, len(body)) + body], control)

    def receive(self, timeout=PATIENCE):
        """The next message but ENDING, which is noted; None at the end."""
        self.sock.settimeout(timeout)
        while True:
            packet = self.sock.recv(1 << 16)
            if not packet:
                return None
            _, kind, length = HEADER.unpack(packet[:HEADER.size])
            assert length == len(packet) - HEADER.size
            if kind != ENDING:
                return Message(kind, packet[HEADER.size:])
            self.told_ending = True

    def expect(self, kind, timeout=PATIENCE):
        message = self.receive(timeout)
        assert message and message.kind == kind, f"expected {kind}, got {message}"
        return message.body

    def stop(self, grace_ms, sig=0):
        self.send(STOP, struct.pack("=qiI", grace_ms, sig, 0))

    def expect_exit(self, timeout=PATIENCE):
        """The result as a dictionary."""
        generation, started, finished, code, oom, stopped, reason = RESULT.unpack(self.expect(EXIT, timeout))
        return {"generation": generation, "code": code, "oom": bool(oom), "stopped": bool(stopped),
                "reason": reason.rstrip(b"\0").decode(), "duration": (finished - started) / 1e9}

    def close(self):
        self.sock.close()


def connect(path):
    """To the holder that listens there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(PATIENCE)
    sock.connect(str(path))
    return Connection(sock)


class Holder:
    """One capsule-vm. `options` are those beside the ones that each needs."""

    def __init__(self, directory, *options, name="web", cgroup=None, pass_fds=()):
        self.directory = pathlib.Path(directory)
        self.run, self.state = self.directory / "run", self.directory / "state"
        self.run.mkdir(exist_ok=True)
        self.state.mkdir(exist_ok=True)
        self.cgroup = cgroup or f"/capsule-test-vm-{os.getpid()}-{id(self):x}"
        self.name = name
        self.options = [str(o) for o in options]

    def start(self, begin=True):
        """Returns the first connection."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = self.run / "shim.sock"
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(64)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first, second = os.dup(theirs.fileno()), os.dup(listener.fileno())

        def place():
            high = [os.dup(first), os.dup(second)]
            high = [os.dup2(fd, 100 + i, inheritable=True) for i, fd in enumerate(high)]
            os.dup2(high[0], 3, inheritable=True)
            os.dup2(high[1], 4, inheritable=True)

        argv = [str(PROGRAM), "--run", self.run, "--state", self.state, "--cgroup", self.cgroup, "--uid", "64123",
                *self.options, self.name]
        try:
            done = subprocess.run([str(a) for a in argv], preexec_fn=place, close_fds=False, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, timeout=PATIENCE)
        finally:
            for fd in (first, second):
                os.close(fd)
            listener.close()
            theirs.close()
        self.status = done.returncode
        connection = Connection(ours)
        if begin:
            # One that has failed already listens no more; what it said can be read.
            with contextlib.suppress(BrokenPipeError):
                connection.send(START)
        return connection

    def connect(self):
        return connect(self.run / "shim.sock")

    @property
    def pid(self):
        wait_for((self.run / "shim.pid").exists, "the pid file")
        return int((self.run / "shim.pid").read_text().split()[0])

    def log(self, name="payload.log"):
        """The records' text, by stream."""
        text = {"stdout": "", "stderr": ""}
        for number in range(9, -1, -1):
            path = self.state / (f"{name}.{number}" if number else name)
            if not path.exists():
                continue
            for line in path.read_text(errors="replace").splitlines():
                _, stream, whole, *rest = line.split(" ", 3)
                text[stream] += (rest[0] if rest else "") + ("\n" if whole == "F" else "")
        return text

    def close(self):
        """Ends what is left, and removes the cgroup."""
        with contextlib.suppress(OSError, ValueError, AssertionError):
            os.kill(self.pid, 9)
        remove_cgroup(self.cgroup)


def cgroup_directories(path):
    root = pathlib.Path("/sys/fs/cgroup")
    tops = [root] if (root / "cgroup.procs").exists() else [d for d in root.iterdir() if d.is_dir() and not d.is_symlink()]
    return [d for d in (top / path.lstrip("/") for top in tops) if d.exists()]


def cgroup_pids(path):
    return {int(p) for d in cgroup_directories(path) for p in (d / "cgroup.procs").read_text().split()}


def remove_cgroup(path):
    wait_for(lambda: not cgroup_pids(path), "the cgroup to be empty")
    for directory in cgroup_directories(path):
        directory.rmdir()


def first_pid(cgroup, after=None):
    """Of the monitor, as soon as its program was executed and it is another one than `after`."""
    return wait_for(lambda: next((p for p in cgroup_pids(cgroup) - {after} if runs_monitor(p)), None), "a monitor")


def runs_monitor(pid):
    try:
        return "qemu" in os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return False


def wait_for(condition, what, timeout=PATIENCE):
    end = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < end, f"no sign of {what}"
        time.sleep(0.02)
    return result


def wait_ended(pid, timeout=PATIENCE):
    """Waits for the end of a process that is no child of ours."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], timeout)[0], f"process {pid} does not end"
    finally:
        os.close(fd)
