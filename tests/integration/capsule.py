# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""A capsuled of its own for each test: own roots, bridge, subnet, table and cgroup, driven from outside.

Everything a daemon may leave on the host is compared before and after (see `host_state`), so every test is a leak test too.
"""
import contextlib
import fnmatch
import glob
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CAPSULE_BUILD", TOP / "build")).resolve()
CAPSULED = BUILD / "src/capsuled/capsuled"
CAPSULECTL = BUILD / "src/capsulectl/capsulectl"
# The same of the build as it ships, where there is one beside a sanitized build: that one takes ten times as long to start.
QUICK_CAPSULECTL = pathlib.Path(os.environ.get("CAPSULE_PLAIN_BUILD", BUILD)) / "src/capsulectl/capsulectl"
# What only tells. A test that waits for something asks the same again and again.
QUESTIONS = {("workload", "get"), ("workload", "list"), ("workload", "logs")}
SHIM = BUILD / "src/shim/capsule-shim"
IMAGE_WORKER = BUILD / "src/imager/capsule-image"
COPY_WORKER = BUILD / "src/copier/capsule-copy"
VOLUME_WORKER = BUILD / "src/volumer/capsule-volume"
VM_HOLDER = BUILD / "src/vm/capsule-vm"
GUEST_DIR = BUILD / "src/guest"
# The kernel of microVMs: that of `make guest-kernel`, built once for all builds, or another one.
GUEST_KERNEL = pathlib.Path(os.environ.get("CAPSULE_GUEST_KERNEL", TOP / "build/guest/vmlinux"))
# Debian's, unpacked as the part `kernel` of tests/check does it.
CLOUD_KERNEL = TOP / "build/guest/cloud"
# What capsulectl needs to find the program of this build.
CTL_ENV = {"CAPSULE_COPY": str(COPY_WORKER)}
# A sanitized build is several times slower, an emulated machine more; a deadline is there to fail, not to measure.
PATIENCE = int(os.environ.get("CAPSULE_PATIENCE", "60"))
BOOT = 3 * PATIENCE  # of an emulated machine that shares its host with others
# Where daemons have their roots: everybody may pass through it.
PLACE = os.environ.get("CAPSULE_PLACE", "/var/tmp")
# What a manifest has in the part of its kind, and outside of it.
PARTS = {"Container": "container", "MicroVM": "microVm"}
TOP_FIELDS = ("restartPolicy", "stopGracePeriodSeconds", "desiredState", "resources", "healthCheck")


class Failed(AssertionError):
    pass


def wait_for(condition, what, timeout=PATIENCE):
    """Waits until condition() is true. For what has no event that a test could wait for. The longer it takes the less often it
    asks, as most conditions start a program."""
    began = time.monotonic()
    while True:
        result = condition()
        if result:
            return result
        waited = time.monotonic() - began
        if waited > timeout:
            raise Failed(f"timed out waiting for {what}")
        time.sleep(min(max(0.02, waited / 10), 0.3))


def run(*argv, check=True, timeout=PATIENCE, **kwargs):
    done = subprocess.run([str(a) for a in argv], capture_output=True, timeout=timeout, **kwargs)
    if check and done.returncode != 0:
        raise Failed(f"{argv} exited {done.returncode}: {done.stdout.decode(errors='replace')}"
                     f"{done.stderr.decode(errors='replace')}")
    return done


# In the name of everything that a daemon of this test process owns: several test runs live side by side on a host.
MARK = f"capsule-test-{os.getpid()}-"


def in_netns(netns):
    """What stands before a command to run it in a network namespace (None: this one). Not `ip netns exec`, which also hides
    the cgroups behind a new /sys."""
    return ["nsenter", f"--net=/run/netns/{netns}"] if netns else []


def find_cgroups(pattern):
    """The cgroups whose names match, wherever they are. Those without others in them, as their number of links tells, are not
    read: that would take longer than all else that is done to see that a test has left nothing."""
    found, wanted, waiting = [], re.compile(fnmatch.translate(pattern)), ["/sys/fs/cgroup"]
    while waiting:
        directory = waiting.pop()
        with contextlib.suppress(OSError):  # what goes meanwhile
            if os.stat(directory).st_nlink == 2:
                continue
            inside = [entry for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
            waiting += [entry.path for entry in inside]
            found += [entry.path for entry in inside if wanted.match(entry.name)]
    return found


def host_state(netns=None):
    """What the daemons of this test process have on this host now, by kind. At rest: nothing."""
    links = json.loads(run(*in_netns(netns), "ip", "-j", "link").stdout or "[]")
    with open("/proc/self/mountinfo") as f:
        mounts = [line.split()[4] for line in f if MARK in line]
    processes = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as f:
                argv = f.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if MARK in argv:
            processes.append(argv.strip())
    return {
        "links": [link["ifname"] for link in links if MARK in link.get("ifalias", "")],
        "tables": [t for t in run(*in_netns(netns), "nft", "list", "tables", check=False).stdout.decode().split("\n") if MARK in t],
        "mounts": mounts,
        "loops": [l for l in run("losetup", "-n", "-O", "NAME,BACK-FILE", check=False).stdout.decode().split("\n") if MARK in l],
        "cgroups": find_cgroups(f"{MARK}*"),
        "processes": processes,
    }


def alive(pid):
    """Whether the process exists and is more than a zombie that its parent has yet to notice."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Capsule:
    """One daemon with everything that belongs to it."""

    serial = 0
    place = PLACE
    kind = "Container"  # what run_workload() runs

    def __init__(self, *options, netns=None, root=None, env=None):
        """netns: the daemon's host is this network namespace. root: its state root, where that must lie elsewhere.
        env: its environment, where that is not this one."""
        Capsule.serial += 1
        n = Capsule.serial
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=MARK, dir=self.place))
        self.dir.chmod(0o755)  # dnsmasq gives up root and must find its files
        self.root = root or self.dir / "root"
        self.run_dir = self.dir / "run"
        self.socket = self.run_dir / "capsule.sock"
        self.bridge = f"ct{os.getpid() % 10000}-{n}"
        self.net = f"10.{100 + os.getpid() % 100}.{n % 250}"
        self.table = f"{MARK}{n}"
        self.netns = netns
        self.options = [str(o).replace("{run}", str(self.run_dir)) for o in options]
        self.env = dict(env or os.environ)
        self.process = None
        self.used = set()  # of capsulectl: verbs and questions, each with its test
        self.log = self.dir / "stderr.log"

    # ---- the daemon ----

    def argv(self):
        return [*in_netns(self.netns), str(CAPSULED), "--root", self.root, "--run", self.run_dir, "--bridge", self.bridge,
                "--subnet", f"{self.net}.1/24", "--table", self.table, "--cgroup-parent", f"/{self.table}",
                "--shim", SHIM, "--image-worker", IMAGE_WORKER, "--copy-worker", COPY_WORKER,
                "--volume-worker", VOLUME_WORKER,
                "--vm-holder", VM_HOLDER,
                *([] if "--guest-dir" in self.options else ["--guest-dir", GUEST_DIR, "--guest-kernel", GUEST_KERNEL]),
                "--config", "/dev/null", "--stop-grace", "1s", *self.options]

    def start(self, wait=True):
        assert self.process is None
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(a) for a in self.argv()], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, start_new_session=True, env=self.env)
        if wait:
            wait_for(self.is_ready, "the daemon to be ready")
        return self

    def is_ready(self):
        if self.process.poll() is not None:
            raise Failed(f"capsuled exited {self.process.returncode}:\n{self.stderr()[-4000:]}")
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(str(self.socket))
                # A child of a former daemon, between fork and exec, may still hold that one's socket.
                pid, _, _ = struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                return pid == self.process.pid
            except OSError:
                return False

    def stop(self, sig=signal.SIGTERM):
        if self.process is None:
            return 0
        self.process.send_signal(sig)
        code = self.process.wait(timeout=PATIENCE)
        self.process = None
        if sig == signal.SIGTERM and code != 0:
            raise Failed(f"capsuled exited {code} on SIGTERM:\n{self.stderr()[-4000:]}")
        return code

    def kill(self):
        return self.stop(signal.SIGKILL)

    def restart(self):
        self.stop()
        return self.start()

    def stderr(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # ---- the command line ----

    def ctl_argv(self, *args, program=CAPSULECTL):
        return [str(program), "--capsule", f"unix:{self.socket}", *[str(a) for a in args]]

    def ctl(self, *args, check=True, input=None, timeout=BOOT, env=None, quick=False):
        """quick: this prepares a test or clears up after it. Such a command, and a question that a test has asked before, is given
        to the client as it ships. What a test does, and each question once, is done by the one under test."""
        if isinstance(input, str):
            input = input.encode()
        again = args[:2] in QUESTIONS and self.seen("question", *args)
        program = QUICK_CAPSULECTL if quick or again else CAPSULECTL
        done = subprocess.run(self.ctl_argv(*args, program=program), input=input, capture_output=True, timeout=timeout,
                              env={**os.environ, **CTL_ENV, **self.ctl_sanitizer_env(args), **(env or {})},
                              stdin=None if input is not None else subprocess.DEVNULL)
        done.out = done.stdout.decode(errors="replace")
        # What the leak sanitizer says of a thread that ends while it looks is no message of ours, and no leak.
        done.err = re.sub(r"==\d+==Unable to get registers from thread \d+\.\n", "", done.stderr.decode(errors="replace"))
        if check and done.returncode != 0:
            raise Failed(f"{args} exited {done.returncode}: {done.out}{done.err}\n--- daemon ---\n{self.stderr()[-3000:]}")
        return done

    def ctl_sanitizer_env(self, args):
        """Leaks are looked for when a test first uses a verb: that takes as long as the command, and tests ask again and again."""
        return {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"} if self.seen("verb", *args[:2]) else {}

    def seen(self, *args):
        """Whether this test has come by before."""
        use = (os.environ.get("PYTEST_CURRENT_TEST"), *map(str, args))
        seen = use in self.used
        self.used.add(use)
        return seen

    def apply(self, manifest, *args, check=True, timeout=BOOT):
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        return self.ctl("apply", "-f", "-", *args, input=text, check=check, timeout=timeout)

    def manifest(self, name, image, kind=None, **fields):
        """A workload of this kind, with fields of its kind's part and of the top level. None: the kind that this daemon's tests
        are for."""
        kind = kind or self.kind
        top = {field: fields.pop(field) for field in TOP_FIELDS if field in fields}
        return {"name": name, "kind": kind, **top, PARTS[kind]: {"image": image, **fields}}

    def run_workload(self, name, image, wait=True, check=True, **fields):
        return self.apply(self.manifest(name, image, **fields), *(["--wait"] if wait else []), check=check)

    def run_container(self, name, image, **fields):
        return self.run_workload(name, image, kind="Container", **fields)

    def run_vm(self, name, image, *script, **fields):
        """A microVM that runs a shell script."""
        command = {"command": ["/bin/sh", "-c"], "args": ["\n".join(script)]} if script else {}
        return self.run_workload(name, image, kind="MicroVM", **command, **fields)

    def get(self, name):
        return json.loads(self.ctl("workload", "get", name, "-o", "json").out)

    def status(self, name):
        return self.get(name).get("status", {})

    def phase(self, name):
        return self.status(name).get("phase", "").removeprefix("WORKLOAD_PHASE_").capitalize()

    def wait_phase(self, name, phase, timeout=BOOT):
        def there():
            done = self.ctl("workload", "get", name, "-o", "json", check=False)
            if done.returncode != 0:
                return phase is None
            status = json.loads(done.out).get("status", {})
            return status.get("phase") == f"WORKLOAD_PHASE_{str(phase).upper()}"
        return wait_for(there, f"{name} to be {phase}", timeout)

    def address(self, name):
        return self.status(name)["address"]

    def logs(self, name, *args):
        return self.ctl("workload", "logs", name, *args).out

    def names(self):
        return self.ctl("workload", "list", "-o", "name").out.split()

    def inside(self, name, *argv, check=True, input=None, timeout=PATIENCE):
        """Runs a command in a running workload, as root: its output. In a container with all that root may, from outside."""
        if self.get(name)["kind"] == "WORKLOAD_KIND_MICRO_VM":
            return self.ctl("workload", "exec", name, "--", *argv, check=check, input=input, timeout=timeout).out
        done = run("nsenter", "--target", self.status(name)["pid"], "--mount", "--uts", "--ipc", "--net", "--pid", *argv,
                   check=check, input=input, timeout=timeout)
        return done.stdout.decode(errors="replace")

    def wait_listening(self, name, port):
        """Waits until something in the workload listens on the TCP port: running says only that its process was started."""
        wait_for(lambda: tcp_connect(self.address(name), port, self.netns), f"{name} to listen on {port}", BOOT)

    def push(self, archive, quick=False):
        return self.ctl("image", "push", archive, quick=quick)

    # ---- gRPC, independent of our own client ----

    def channel(self):
        import grpc
        return grpc.insecure_channel(f"unix:{self.socket}")

    # ---- the end ----

    def close(self):
        """Deletes everything through the API, stops the daemon, removes the directory."""
        try:
            if self.process is None or self.process.poll() is not None:
                self.process = None
                self.start()
            if self.ctl("workload", "list", "-o", "name", quick=True).out:
                self.ctl("workload", "delete", "--all", timeout=180, quick=True)
            self.stop()
        finally:
            self.destroy()

    def destroy(self):
        """The machine loses power: everything of this daemon is killed, whatever state it is in."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        for _ in range(3):
            pids = self.pids()
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not pids:
                break
            time.sleep(0.05)
        self.remove_network()
        for cgroup in sorted((path for top in find_cgroups(self.table) for path in (top, *glob.glob(f"{top}/*/"))), reverse=True):
            try:
                os.rmdir(cgroup)
            except OSError:
                pass
        shutil.rmtree(self.dir, ignore_errors=True)

    def remove_network(self):
        run(*in_netns(self.netns), "nft", "delete", "table", "ip", self.table, check=False)
        run(*in_netns(self.netns), "ip", "link", "del", self.bridge, check=False)

    def pids(self):
        """Every process of this daemon: those that name its directory, and those in its cgroups."""
        found = set()
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path, "rb") as f:
                    if self.dir.name.encode() in f.read():
                        found.add(int(path.split("/")[2]))
            except OSError:
                pass
        for path in (path for top in find_cgroups(self.table) for path in glob.glob(f"{top}/**/cgroup.procs", recursive=True)):
            try:
                with open(path) as f:
                    found.update(int(line) for line in f)
            except OSError:
                pass
        found.discard(os.getpid())
        return found

    def shim(self, name):
        """The pid of the workload's shim, or of what holds its microVM, or None."""
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    argv = f.read().split(b"\0")[:-1]
            except OSError:
                continue
            if argv and argv[0].endswith((b"/capsule-shim", b"/capsule-vm")) and argv[-1] == name.encode():
                return pid
        return None

    def power_cut(self):
        """As a reboot looks to the next daemon: nothing runs, the run root is empty, the state root is as it was."""
        self.process.kill()
        self.process.wait()
        self.process = None
        def gone():
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            return not self.pids()
        wait_for(gone, "everything to be dead")
        self.remove_network()
        shutil.rmtree(self.run_dir, ignore_errors=True)


def free_port():
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def tcp_connect(host, port, netns=None):
    """One connection, closed at once; whether there was one. netns: from inside this namespace."""
    argv = [*in_netns(netns), "timeout", "1", "bash", "-c", f": </dev/tcp/{host}/{port}"]
    return subprocess.run(argv, stderr=subprocess.DEVNULL).returncode == 0


def http_get(host, port, path="/", timeout=5, netns=None):
    """One GET; the body, or None where nobody answers. netns: from inside this namespace."""
    argv = [*in_netns(netns), "curl", "-sS", "--max-time", str(timeout), f"http://{host}:{port}{path}"]
    done = subprocess.run(argv, capture_output=True)
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


class Lan:
    """A host of its own for a daemon and another host beside it: two network namespaces, joined by a veth pair. Nothing that
    is done to the firewall of one of them reaches this machine.

    The remote host also has an address in another network, to which the host has a route. It knows no way to the bridge."""

    HOST, REMOTE, REMOTE_ROUTED = "192.0.2.1", "192.0.2.2", "198.51.100.7"

    serial = 0

    def __init__(self):
        Lan.serial += 1
        self.host, self.remote = (f"ct-{os.getpid()}-{Lan.serial}-{side}" for side in ("host", "remote"))
        for netns in (self.host, self.remote):
            run("ip", "netns", "add", netns)
            run("ip", "-n", netns, "link", "set", "lo", "up")
        run("ip", "-n", self.host, "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", self.remote)
        for netns, address in ((self.host, self.HOST), (self.remote, self.REMOTE)):
            run("ip", "-n", netns, "address", "add", f"{address}/24", "dev", "lan0")
            run("ip", "-n", netns, "link", "set", "lan0", "up")
        run("ip", "-n", self.remote, "address", "add", f"{self.REMOTE_ROUTED}/32", "dev", "lo")
        run("ip", "-n", self.host, "route", "add", self.REMOTE_ROUTED, "via", self.REMOTE)

    def close(self):
        for netns in (self.host, self.remote):
            run("ip", "netns", "del", netns)
