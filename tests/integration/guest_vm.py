# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""A microVM with capsule-guest in it, booted by QEMU directly, and grpcio, an independent client, as its holder.

The kernel is that of `make guest-kernel`, or the one that CAPSULE_GUEST_KERNEL names (capsule.py).
"""
import base64
import json
import os
import pathlib
import queue
import struct
import subprocess
import sys
import tempfile
import threading
import time

import grpc

from capsule import BUILD, GUEST_KERNEL, MARK, PATIENCE, PLACE, TOP, Failed, wait_for
from images import BUSYBOX_ETC, busybox_entries, layer_tar

sys.path.insert(0, str(TOP / "tests/vm"))

from tsc import tsc_khz  # noqa: E402

INITRAMFS = BUILD / "src/guest/initramfs.cpio"
KERNEL = GUEST_KERNEL
# As capsule-vm boots it in emulation (src/vm/monitor.c).
CMDLINE = (f"console=ttyS0 panic=-1 reboot=t tsc_early_khz={tsc_khz()} tsc=reliable no_timer_check lapic_timer_khz=1000000 "
           "noreplace-smp")
TIMEOUT = 3 * PATIENCE  # of a call that waits for something in an emulated machine
CGROUP = "/capsule/payload"
MIB = 1 << 20


def make_payload(path, extra=()):
    """A read-only EROFS file with busybox and extra entries, as the daemon makes it of an image."""
    with tempfile.TemporaryDirectory() as tree:
        layer = layer_tar([*busybox_entries(), *BUSYBOX_ETC, *extra])
        subprocess.run(["tar", "-x", "-C", tree], input=layer, check=True)
        subprocess.run(["mkfs.erofs", "--quiet", str(path), tree], check=True)


def make_ext4(path, size=64 * MIB):
    with open(path, "wb") as f:
        f.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", str(path)], check=True)


CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
                "CAP_NET_BIND_SERVICE"]


def mount(destination, type, *options, source=None):
    return {"destination": destination, "type": type, "source": source or type, "options": list(options)}


def refuse(call):
    """A system call filter, as crun takes it ready-made: this call fails with EPERM."""
    load, equal, end = 0x20, 0x15, 0x06
    program = [(load, 0, 0, 0), (equal, 0, 1, call), (end, 0, 0, 0x00050001), (end, 0, 0, 0x7fff0000)]
    return base64.b64encode(b"".join(struct.pack("HBBI", *instruction) for instruction in program)).decode()


NAMESPACES = ("mount", "uts", "pid", "ipc", "cgroup")


def config_json(*command, volumes=(), memory=None, user=(0, 0), env=(), refused_call=None, namespaces=NAMESPACES):
    """An OCI configuration such as the daemon writes, for this command. volumes: (name, path, "rw" or "ro")."""
    mounts = [mount("/proc", "proc"), mount("/dev", "tmpfs", "nosuid", "mode=755"),
              mount("/dev/pts", "devpts", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
              mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"), mount("/sys/fs/cgroup", "cgroup", "ro")]
    for name in ("hosts", "resolv.conf"):
        mounts.append(mount(f"/etc/{name}", "bind", "rbind", "rw", source=f"/run/capsule/bundle/{name}"))
    for name, path, mode in volumes:
        mounts.append(mount(path, "bind", "rbind", mode, source=f"/run/capsule/volumes/{name}"))
    filtered = {} if refused_call is None else {"run.oci.seccomp_bpf_data": refuse(refused_call)}
    return {
        "ociVersion": "1.0.2", "root": {"path": "rootfs"}, "hostname": "payload",
        "process": {
            "terminal": False, "user": {"uid": user[0], "gid": user[1]}, "args": list(command), "cwd": "/",
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", *env],
            "noNewPrivileges": True,
            "capabilities": {k: CAPABILITIES for k in ("bounding", "effective", "permitted")}},
        "mounts": mounts, "annotations": filtered,
        "linux": {
            "cgroupsPath": CGROUP, "namespaces": [{"type": t} for t in namespaces],
            "resources": {"memory": {"limit": memory, "swap": memory}} if memory else {}}}


class Stream:
    """A call with a stream each way (Exec, Copy): messages go out as they are sent."""

    def __init__(self, method, *messages):
        self.outgoing = queue.SimpleQueue()
        for m in messages:
            self.send(m)
        self.call = method(iter(self.outgoing.get, None), timeout=TIMEOUT)

    def send(self, message):
        self.outgoing.put(message)

    def half_close(self):
        self.outgoing.put(None)

    def result(self):
        """All of it to the end."""
        return Result(self.call)


class Result:
    """What a stream of ExecEvent has told, once it has ended."""

    def __init__(self, events):
        self.out, self.err, self.exit_code, self.failed, self.pid = b"", b"", None, None, None
        for event in events:
            self.take(event)

    def take(self, event):
        kind = event.WhichOneof("event")
        if kind == "stdout":
            self.out += event.stdout
        elif kind == "stderr":
            self.err += event.stderr
        elif kind == "exit":
            self.exit_code = event.exit.exit_code
        elif kind == "failed":
            self.failed = event.failed
        elif kind == "started":
            self.pid = event.started.pid


class Run:
    """The call that runs the payload: its events, read by a thread as they come, or by nobody."""

    def __init__(self, vm, request, reads=True):
        self.call = vm.stub.Run(request, timeout=None)
        self.out, self.err, self.started, self.exited, self.error = b"", b"", None, None, None
        self.ending, self.order = None, []
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.read, daemon=True)
        if reads:
            self.thread.start()

    def read(self):
        try:
            for event in self.call:
                with self.changed:
                    self.take(event)
                    self.changed.notify_all()
        except grpc.RpcError as e:
            self.error = e
        with self.changed:
            self.changed.notify_all()

    def take(self, event):
        kind = event.WhichOneof("event")
        self.order.append(kind)
        if kind == "stdout":
            self.out += event.stdout
        elif kind == "stderr":
            self.err += event.stderr
        else:
            setattr(self, kind, getattr(event, kind))

    def wait(self, condition, what):
        with self.changed:
            if not self.changed.wait_for(lambda: condition(self) or not self.thread.is_alive(), TIMEOUT):
                raise Failed(f"timed out waiting for {what}")
            if not condition(self):
                raise Failed(f"waiting for {what}: the payload has ended: "
                             f"{self.error} {self.exited} {self.out} {self.err}")

    def wait_started(self):
        self.wait(lambda r: r.started, "the payload to run")
        return self

    def wait_output(self, text):
        self.wait(lambda r: text in r.out, f"the payload to print {text}")
        return self

    def end(self):
        self.thread.join(TIMEOUT)
        if self.thread.is_alive():
            raise Failed("timed out waiting for the payload's end")
        return self


class GuestVM:
    def __init__(self, pb, pb_grpc, payload, volumes=(), cmdline="", memory=256, disk=None):
        """volumes: (name, path of an ext4 file, read only for the monitor)."""
        self.pb, self.pb_grpc = pb, pb_grpc
        self.scratch = tempfile.TemporaryDirectory(prefix=MARK, dir=PLACE)
        self.dir = pathlib.Path(self.scratch.name)
        self.disk = disk or self.dir / "disk.img"
        if not disk:
            make_ext4(self.disk)
        self.volumes = volumes
        self.socket, self.console = self.dir / "agent.sock", self.dir / "console"
        disks = [("payload", payload, True), ("disk", self.disk, False)]
        disks += [(f"volume-{i}", path, read_only) for i, (_, path, read_only) in enumerate(volumes)]
        self.process = subprocess.Popen(self.argv(disks, cmdline, memory), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        wait_for(self.socket.exists, "the monitor to listen")
        self.channel, self.stub = None, None

    def argv(self, disks, cmdline, memory):
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "microvm,acpi=off,rtc=on",
                "-m", str(memory),
                "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-kernel", str(KERNEL), "-initrd", str(INITRAMFS), "-append", f"{CMDLINE} {cmdline}",
                "-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console",
                "-device", "virtio-serial-device", "-chardev", f"socket,path={self.socket},server=on,wait=off,id=agent",
                "-device", "virtserialport,chardev=agent,name=capsule.agent", "-netdev", "user,id=net,restrict=on",
                "-device", "virtio-net-device,netdev=net"]
        for i, (serial, path, read_only) in enumerate(disks):
            access = "on" if read_only else "off"
            argv += ["-drive", f"if=none,id=disk{i},file={path},format=raw,file.locking=off,readonly={access}",
                     "-device", f"virtio-blk-device,drive=disk{i},serial={serial}"]
        return argv

    def connect(self):
        """The guest says the first word when it is up. That may take longer than gRPC waits by itself."""
        self.channel = grpc.insecure_channel(f"unix:{self.socket}", options=[
            ("grpc.min_reconnect_backoff_ms", TIMEOUT * 1000), ("grpc.max_receive_message_length", 8 * MIB)])
        self.stub = self.pb_grpc.GuestServiceStub(self.channel)
        return self

    def hello(self, **fields):
        fields = {"protocol": 1, "host_version": "test", "realtime_ns": time.time_ns(), "entropy": os.urandom(64),
                  **fields}
        return self.stub.Hello(self.pb.HelloRequest(**fields), timeout=TIMEOUT, wait_for_ready=True)

    def run(self, *command, link=None, hello=True, reads=True, **config):
        if self.stub is None:
            self.connect()
        if hello:
            self.hello()
        disk = lambda serial: self.pb.Disk(serial=serial)  # noqa: E731
        mounts = {name: mode for name, _, mode in config.get("volumes", ())}
        files = {"config.json": json.dumps(config_json(*command, **config)).encode(),
                 "hosts": b"127.0.0.1 localhost\n", "hostname": b"payload\n", "resolv.conf": b"nameserver 10.0.2.3\n"}
        request = self.pb.RunRequest(
            name="payload", payload=disk("payload"), disk=disk("disk"), link=link,
            volumes=[self.pb.Volume(name=name, disk=disk(f"volume-{i}"), read_only=mounts.get(name) == "ro")
                     for i, (name, _, _) in enumerate(self.volumes)],
            files=[self.pb.File(name=name, content=content) for name, content in files.items()])
        self.payload_run = Run(self, request, reads)  # a call that nobody holds would be cancelled
        return self.payload_run

    def start_exec(self, *command, **fields):
        start = self.pb.ExecStart(command=command, **fields)
        return Stream(self.stub.Exec, self.pb.ExecRequest(start=start))

    def exec(self, *command, stdin=b"", **fields):
        stream = self.start_exec(*command, **fields)
        if stdin:
            stream.send(self.pb.ExecRequest(stdin=stdin))
        stream.half_close()
        return stream.result()

    def hold(self, volume, seconds=60):
        """Has it held still: the call, which half_close() or cancel() lets go."""
        stream = Stream(self.stub.Hold, self.pb.HoldRequest(volume=volume, seconds=seconds))
        next(stream.call)
        return stream

    def stop(self, signal=15, grace_ms=10000):
        self.stub.Stop(self.pb.StopRequest(signal=signal, grace_ms=grace_ms), timeout=TIMEOUT)

    def wait_off(self):
        """The guest powers off by itself."""
        try:
            assert self.process.wait(timeout=TIMEOUT) == 0
        except subprocess.TimeoutExpired:
            raise Failed(f"the guest did not power off:\n{self.console_text()[-4000:]}")

    def console_text(self):
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def close(self):
        if self.channel:
            self.channel.close()
        self.process.kill()
        self.process.wait()
        self.scratch.cleanup()
