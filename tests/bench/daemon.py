# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The daemon that is measured: that of the integration tests, with its run root on a tmpfs as /run is."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import capsule
from measure import run, timed

TMPFS = pathlib.Path("/dev/shm")
# Ends at once when asked to, as a service should. The shell waits in a way that a signal interrupts.
COMMAND = ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
HOST = {"networkMode": "NETWORK_MODE_HOST"}
# The same, and a word for the log.
TALKATIVE = ["/bin/sh", "-c", f"echo up; {COMMAND[-1]}"]
VM_MEMORY_MIB = 256
DEADLINE = 600


def on_bridge(host_port=None):
    ports = {"ports": [{"containerPort": 80, "hostPort": host_port}]} if host_port else {}
    return {"networkMode": "NETWORK_MODE_BRIDGE", **ports}


class Daemon(capsule.Capsule):
    NAME = "capsule"
    # Not /var/tmp: where much was deleted of late (by tests), ext4 takes a millisecond to find a free inode.
    place = "/var/lib"

    def __init__(self, *options, place=None):
        self.place = place or self.place
        super().__init__(*options)
        self.run_dir = TMPFS / self.dir.name
        self.socket = self.run_dir / "capsule.sock"
        self.client = [str(capsule.CAPSULECTL), "--capsule", f"unix:{self.socket}"]
        self.applied = 0

    def destroy(self):
        super().destroy()
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def manifest(self, name, image, network):
        return {"name": name, "kind": "Container", "container": {"image": image, "command": COMMAND, **network}}

    def machine(self, name, image):
        return {"name": name, "kind": "MicroVM",
                "microVm": {"image": image, "command": TALKATIVE, "memoryMib": VM_MEMORY_MIB}}

    def write(self, manifests):
        """A file with these manifests: JSON is YAML."""
        path = self.dir / "manifests.yaml"
        path.write_text("\n---\n".join(json.dumps(m) for m in manifests))
        return path

    def apply(self, manifests):
        """Seconds from the start of capsulectl to its word that all are running."""
        return timed(*self.client, "apply", "--wait", "-f", self.write(manifests))

    def apply_until(self, manifests, condition):
        """Seconds from the start of capsulectl to what the manifests bring about, looked for every millisecond."""
        argv = [*self.client, "apply", "-f", self.write(manifests)]
        begin = time.perf_counter()
        with subprocess.Popen([str(a) for a in argv], stdout=subprocess.DEVNULL) as client:
            while not condition():
                if time.perf_counter() - begin > DEADLINE:
                    raise RuntimeError(f"{manifests[-1]['name']}: too late: {self.status(manifests[-1]['name'])}")
                time.sleep(0.001)
            seconds = time.perf_counter() - begin
        if client.returncode != 0:
            raise RuntimeError(f"apply exited {client.returncode}")
        return seconds

    def talk(self, manifests):
        """Seconds from the start of capsulectl to the first byte in the log of each of these."""
        logs = [self.root / "workloads" / m["name"] / "payload.log" for m in manifests]
        return self.apply_until(manifests, lambda: all(log.exists() and log.stat().st_size for log in logs))

    def delete(self, *names):
        return timed(*self.client, "workload", "delete", *names)

    def once(self, image, network):
        """Seconds from apply to running; the workload is deleted afterwards."""
        self.applied += 1
        name = f"once-{self.applied}"
        seconds = self.apply([self.manifest(name, image, network)])
        self.delete(name)
        return seconds

    def exec(self, name, *command):
        return timed(*self.client, "workload", "exec", name, "--", *command)

    def copy(self, source, destination):
        return timed(*self.client, "cp", source, destination)

    def push(self, archive):
        return timed(*self.client, "image", "push", archive)

    def forget(self, image):
        run(*self.client, "image", "delete", image)
        run(*self.client, "image", "prune")
        capsule.wait_for(lambda: not self.payloads(), "the payloads of images to go")

    def payloads(self):
        """The disks that microVMs boot from."""
        return list(self.root.glob("payloads/*"))

    def machines_are_emulated(self, report):
        """Whether microVMs are; the report says it, and by what."""
        info = json.loads(run(*self.client, "capsule", "info", "-o", "json"))
        emulated = info.get("vmEmulated", False)
        report.figure("microVMs are run by", f"{info['vmMonitor']}, {'emulated' if emulated else 'KVM'}")
        return emulated

    def bundle(self, name):
        """The parsed config.json of a running workload, and its image's layers from the lowest up."""
        config = json.loads((self.run_dir / "workloads" / name / "config.json").read_text())
        argv = pathlib.Path(f"/proc/{self.shim(name)}/cmdline").read_text().split("\0")
        return config, [value for option, value in zip(argv, argv[1:]) if option == "--layer"]

    def holder(self, name):
        """The process that holds a running microVM."""
        return int((self.run_dir / "workloads" / name / "shim.pid").read_text().split()[0])

    def synced_write(self):
        """Seconds for what no durable apply can avoid on this disk: one page appended and synced."""
        with open(self.dir / "synced", "ab") as f:
            f.write(b"\0" * 4096)
            f.flush()
            begin = time.perf_counter()
            os.fdatasync(f.fileno())
            return time.perf_counter() - begin


def memory(pid, *fields):
    """The sum of these fields of the process, in KiB."""
    total = 0
    with open(f"/proc/{pid}/smaps_rollup") as f:
        for line in f:
            words = line.split()
            if words[0].rstrip(":") in fields:
                total += int(words[1])
    return total


def mapped(pid, permissions, size=None):
    """The PSS of the process's mappings with these permissions (and this size in bytes), in KiB."""
    total, wanted = 0, False
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            if header := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line):
                begin, end = (int(header[n], 16) for n in (1, 2))
                wanted = header[3] == permissions and size in (None, end - begin)
            elif wanted and line.startswith("Pss:"):
                total += int(line.split()[1])
    return total
