# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The tools that users would run instead, each with a daemon, a data directory and a bridge of its own. All have the same
methods: start() and stop() for the daemon, load(archive) and forget(image), run(name), exec(name, command) in what runs, and
remove(name), which return seconds. PROGRAM names what must be installed."""
import contextlib
import glob
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from measure import run, timed

DEADLINE = 60


def answered(*argv):
    return subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def remove_cgroups(name):
    """What peers leave at the top of each hierarchy. Only what is empty: it may be another daemon's as well."""
    for top in glob.glob(f"/sys/fs/cgroup/*/{name}"):
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def end(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Daemon:
    """A peer with a daemon. REMOVES_MANY: one command takes several containers. The directory is on disk, like our state root; run_dir is on a tmpfs, like ours."""

    def __init__(self, directory, run_dir, image, command):
        self.dir = directory / self.NAME
        self.run_dir = run_dir / self.NAME
        self.image, self.command = image, command
        self.process = None

    def spawn(self, *argv):
        self.dir.mkdir(parents=True)
        self.run_dir.mkdir(parents=True)
        with open(self.dir / "log", "wb") as log:
            self.process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        deadline = time.monotonic() + DEADLINE
        while not answered(*self.probe):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.NAME} did not come up:\n{(self.dir / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self):
        if self.process:
            end(self.process)
        remove_cgroups(self.CGROUP)
        shutil.rmtree(self.dir, ignore_errors=True)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def pids(self):
        """The daemon and its helpers."""
        children = run("pgrep", "--parent", self.process.pid, check=False).split()
        return [self.process.pid, *(int(pid) for pid in children)]


class Docker(Daemon):
    NAME, PROGRAM, CGROUP = "docker", "/usr/sbin/dockerd", "docker"
    REMOVES_MANY = True

    def start(self):
        self.bridge = f"cb{os.getpid()}"
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "add", "172.28.254.1/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        socket = self.run_dir / "docker.sock"
        self.client = ["/usr/bin/docker", "-H", f"unix://{socket}"]
        self.probe = [*self.client, "info"]
        self.spawn(self.PROGRAM, "--data-root", self.dir / "data", "--exec-root", self.run_dir / "exec", "--pidfile",
                   self.run_dir / "pid", "-H", f"unix://{socket}", "--bridge", self.bridge, "--iptables=false",
                   "--ip-forward=false", "--ip-masq=false", "--storage-driver", "overlay2")
        return self

    def stop(self):
        super().stop()
        run("ip", "link", "del", self.bridge, check=False)

    def load(self, archive):
        return timed(*self.client, "load", "-q", "-i", archive)

    def forget(self, image):
        run(*self.client, "rmi", "-f", image)

    def run(self, name, *network):
        return timed(*self.client, "run", "-d", "--name", name, *(network or ["--network", "host"]), self.image, *self.command)

    def exec(self, name, *command):
        return timed(*self.client, "exec", name, *command)

    def copy(self, source, destination):
        return timed(*self.client, "cp", source, destination)

    def remove(self, *names):
        return timed(*self.client, "rm", "-f", *names)


class Containerd(Daemon):
    NAME, PROGRAM, CGROUP = "ctr", "/usr/bin/containerd", "default"
    REMOVES_MANY = False
    executions = 0  # each needs a name of its own

    def start(self):
        socket = self.run_dir / "containerd.sock"
        self.client = ["/usr/bin/ctr", "-a", socket]
        self.probe = [*self.client, "version"]
        self.spawn(self.PROGRAM, "--root", self.dir / "data", "--state", self.run_dir / "state", "--address", socket, "--config",
                   os.devnull)
        return self

    def load(self, archive):
        return timed(*self.client, "image", "import", archive)

    def forget(self, image):
        run(*self.client, "image", "rm", "--sync", *run(*self.client, "image", "ls", "-q").split())

    def run(self, name):
        return timed(*self.client, "run", "-d", "--net-host", f"docker.io/library/{self.image}", name, *self.command)

    def exec(self, name, *command):
        self.executions += 1
        return timed(*self.client, "task", "exec", "--exec-id", f"exec{self.executions}", name, *command)

    def remove(self, *names):
        begin = time.perf_counter()
        for name in names:
            run(*self.client, "task", "rm", "-f", name)
            run(*self.client, "container", "rm", name)
        return time.perf_counter() - begin


class Podman:
    """No daemon. crun, as we use it."""
    NAME, PROGRAM = "podman", "/usr/bin/podman"
    REMOVES_MANY = True
    LOCKS = pathlib.Path("/dev/shm/libpod_lock")  # shared by all podmans of the machine

    def __init__(self, directory, run_dir, image, command):
        self.dir, self.run_dir = directory / self.NAME, run_dir / self.NAME
        self.image, self.command = image, command

    def start(self):
        self.had_locks = self.LOCKS.exists()
        # Its defaults raise limits, which takes more than root may do everywhere.
        self.limits = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096"]
        self.client = [self.PROGRAM, "--root", self.dir / "data", "--runroot", self.run_dir, "--tmpdir", self.run_dir / "tmp",
                       "--cgroup-manager", "cgroupfs", "--runtime", "/usr/bin/crun", "--storage-driver", "overlay"]
        return self

    def stop(self):
        run(*self.client, "system", "reset", "-f", check=False)
        remove_cgroups("libpod_parent")
        if not self.had_locks:
            self.LOCKS.unlink(missing_ok=True)
        shutil.rmtree(self.dir, ignore_errors=True)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def load(self, archive):
        return timed(*self.client, "load", "-q", "-i", archive)

    def run(self, name):
        return timed(*self.client, "run", "-d", "--log-driver", "k8s-file", "--name", name, "--network", "host",
                     *self.limits, self.image, *self.command)

    def exec(self, name, *command):
        return timed(*self.client, "exec", name, *command)

    def remove(self, *names):
        return timed(*self.client, "rm", "-f", "-t", "0", *names)


class Crun:
    """The OCI runtime alone, on a bundle of ours: what no engine can be faster than. The overlay is mounted beforehand."""
    NAME, PROGRAM = "crun", "/usr/bin/crun"

    def __init__(self, run_dir, state_dir, cgroup):
        self.bundle, self.state, self.disk, self.cgroup = run_dir / "bare", run_dir / "bare-state", state_dir / "bare", cgroup
        self.client = [self.PROGRAM, "--root", self.state]

    def prepare(self, config, layers):
        """config: the parsed config.json of a running workload; layers: from the lowest up."""
        config["linux"]["cgroupsPath"] = f"{self.cgroup}/bare"
        for directory in (self.bundle / "rootfs", self.disk / "upper", self.disk / "work"):
            directory.mkdir(parents=True, exist_ok=True)
        (self.bundle / "config.json").write_text(json.dumps(config))
        if not os.path.ismount(self.bundle / "rootfs"):
            run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={':'.join(reversed(layers))},"
                f"upperdir={self.disk}/upper,workdir={self.disk}/work", self.bundle / "rootfs")

    def run(self):
        seconds = timed(*self.client, "run", "--detach", "--bundle", self.bundle, "bare")
        run(*self.client, "delete", "--force", "bare")
        return seconds


ALL = (Docker, Containerd, Podman)


def installed(peer):
    return os.access(peer.PROGRAM, os.X_OK)
