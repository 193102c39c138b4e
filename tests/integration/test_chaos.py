# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The daemon, its shims and the payloads are killed at random moments, over and over.

A model holds for every workload, volume and image what has been acknowledged, and for a call that was cut off both outcomes. After
each kill what the daemon says must be one of them; now and then, and at the end, the host must come to look exactly like that.

CAPSULE_CHAOS_SEED repeats a run's choices (not its timing), CAPSULE_CHAOS_KILLS sets the number of kills of the daemon.
"""
import os
import pathlib
import random
import signal
import threading
import time

import grpc
import pytest

import images
import tidy
from capsule import free_port, http_get, run, wait_for
from grpc_client import Client
from registry_servers import Image, Registry

KILLS = int(os.environ.get("CAPSULE_CHAOS_KILLS", "100"))
SEED = int(os.environ.get("CAPSULE_CHAOS_SEED", random.SystemRandom().randrange(1 << 32)))
SETTLE_EVERY = 25
REFUSALS = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS)

JOURNAL = """n=$(tail -n 1 /data/journal 2>/dev/null || echo 0)
while :; do n=$((n + 1)); echo $n >> /data/journal; echo $n; sleep 0.2; done"""
PAGE = "mkdir -p /www; echo $MARK > /www/index.html; exec httpd -f -p 80 -h /www"
SLOW_TO_STOP = "trap 'sleep 0.3; exit 0' TERM; while :; do sleep 1000 & wait; done"


class Thing:
    """One workload, volume or image. states: what it may be, None for absent; one as soon as the daemon has been asked."""

    def __init__(self, name):
        self.name, self.states = name, {None}

    @property
    def state(self):
        assert len(self.states) == 1, (self.name, self.states)
        return next(iter(self.states))

    def __repr__(self):
        return f"{self.name}: {self.states}"


class Workload(Thing):
    """Its state is (mark, "RUNNING" or "STOPPED"); the mark is an environment variable of the process."""

    def __init__(self, name, image, script, grace=0, bridge=True, port=None, volume=None):
        super().__init__(name)
        self.image, self.script, self.grace, self.bridge, self.port, self.volume = image, script, grace, bridge, port, volume

    def spec(self, stubs, mark, desired):
        w = stubs.workload
        container = w.ContainerSpec(image=self.image, command=["sh", "-c", self.script], env={"MARK": mark},
                                    network_mode=w.NETWORK_MODE_BRIDGE if self.bridge else w.NETWORK_MODE_HOST)
        if self.port:
            container.ports.add(container_port=80, host_port=self.port, protocol="tcp")
        if self.volume:
            container.mounts.add(volume_name=self.volume, mount_path="/data")
        return w.Workload(name=self.name, kind=w.WORKLOAD_KIND_CONTAINER, container=container,
                          stop_grace_period_seconds=self.grace, desired_state=w.DesiredState.Value(f"DESIRED_STATE_{desired}"))

    def footprint(self):
        return {"bridge": self.bridge, "ports": [self.port] if self.port else [], "volumes": [self.volume] if self.volume else []}


class World:
    def __init__(self, capsule, stubs, registry, archives, rng):
        self.capsule, self.stubs, self.rng = capsule, stubs, rng
        self.archives = archives
        self.marks = 0
        self.journal_seen = 0
        self.slowest_start = 0
        pulled = f"{registry}/used"
        self.workloads = [
            Workload("page", "busybox:test", PAGE, port=free_port()),
            Workload("slow", "busybox:test", SLOW_TO_STOP, grace=2),
            Workload("host", "busybox:test", "exec sleep 1000", bridge=False),
            Workload("pulled-a", f"{pulled}:a", "exec sleep 1000"),
            Workload("pulled-b", f"{pulled}:b", "exec sleep 1000"),
            Workload("writer-a", "busybox:test", JOURNAL, volume="journal"),
            Workload("writer-b", "busybox:test", JOURNAL, volume="journal", bridge=False),
        ]
        self.volumes = [Thing(f"v{i}") for i in range(3)]
        self.pulls = [Thing(f"{registry}/pull:{tag}") for tag in "ab"]
        self.pushes = [Thing(f"docker.io/library/{name}") for name in archives]
        self.kinds = {
            "workload": (self.workloads, [self.apply, self.apply, self.stop, self.start, self.restart, self.delete]),
            "volume": (self.volumes, [self.volume_create, self.volume_create, self.volume_resize, self.volume_delete]),
            "pull": (self.pulls, [self.pull, self.pull, self.image_delete]),
            "push": (self.pushes, [self.push, self.push, self.image_delete]),
        }
        self.connect()

    def connect(self):
        self.api = Client(self.capsule.channel(), self.stubs)

    def disconnect(self):
        self.api.channel.close()

    # ---- operations: each returns the state that it leads to and the call that asks for it ----

    def apply(self, thing):
        self.marks += 1
        desired = self.rng.choice(["RUNNING", "RUNNING", "RUNNING", "STOPPED"])
        state = (f"mark-{self.marks}", desired)
        request = self.stubs.workload.WorkloadApplyRequest(workload=thing.spec(self.stubs, *state))
        return state, lambda: self.api.workload.Apply(request)

    def wish(self, thing, method, desired):
        request = getattr(self.stubs.workload, f"Workload{method}Request")(name=thing.name)
        state = thing.state and (thing.state[0], desired or thing.state[1])
        return state, lambda: getattr(self.api.workload, method)(request)

    def stop(self, thing):
        return self.wish(thing, "Stop", "STOPPED")

    def start(self, thing):
        return self.wish(thing, "Start", "RUNNING")

    def restart(self, thing):
        return self.wish(thing, "Restart", None)

    def delete(self, thing):
        return None, self.wish(thing, "Delete", None)[1]

    def volume_create(self, thing):
        size = self.rng.randrange(16, 33)
        request = self.stubs.volume.VolumeCreateRequest(name=thing.name, size_mib=size)
        return size, lambda: self.api.volume.Create(request)

    def volume_resize(self, thing):
        size = (thing.state or 16) + self.rng.randrange(1, 17)
        request = self.stubs.volume.VolumeResizeRequest(name=thing.name, new_size_mib=size)
        return size, lambda: self.api.volume.Resize(request)

    def volume_delete(self, thing):
        request = self.stubs.volume.VolumeDeleteRequest(name=thing.name, force=True)
        return None, lambda: self.api.volume.Delete(request)

    def pull(self, thing):
        request = self.stubs.image.ImagePullRequest(reference=thing.name)
        return True, lambda: list(self.api.image.Pull(request))

    def push(self, thing):
        archive = self.archives[thing.name.rsplit("/", 1)[-1]]
        message = self.stubs.image.ImagePushRequest

        def messages():
            yield message(metadata=self.stubs.image.ImagePushMetadata())
            for at in range(0, len(archive), 1 << 18):
                yield message(chunk=archive[at:at + (1 << 18)])
        return True, lambda: self.api.image.Push(messages())

    def image_delete(self, thing):
        request = self.stubs.image.ImageDeleteRequest(reference=thing.name)
        return None, lambda: self.api.image.Delete(request)

    def perform(self, thing, operation):
        state, call = operation(thing)
        before = thing.states
        thing.states = before | {state}  # until the answer is there
        try:
            call()
            thing.states = {state}
        except grpc.RpcError as e:
            if e.code() in REFUSALS:
                thing.states = before
            elif e.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                self.errors.append(f"{operation.__name__} {thing.name}: {e.code()}: {e.details()}")

    # ---- violence ----

    def kill_somebody(self):
        """A shim, or the first process of a payload."""
        victims = list(tidy.shims(self.capsule).values())
        for pid in list(victims):
            children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
            victims += [int(p) for p in children.read_text().split()] if children.exists() else []
        if victims:
            try:
                os.kill(self.rng.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                pass

    def round(self):
        """Some calls at once on different things, and the daemon dies in the middle."""
        self.errors = []
        threads = []
        for kind in self.rng.sample(list(self.kinds), self.rng.randrange(1, 4)):
            things, operations = self.kinds[kind]
            arguments = self.rng.choice(things), self.rng.choice(operations)
            threads.append(threading.Thread(target=self.perform, args=arguments))
        for thread in threads:
            thread.start()
        time.sleep(self.rng.uniform(0, self.rng.choice([0.03, 0.2, 0.8])))
        if self.rng.random() < 0.3:
            self.kill_somebody()
        self.capsule.kill()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a call did not end with its daemon"
        self.disconnect()
        assert not self.errors, self.errors

    def kill_while_starting(self):
        self.capsule.start(wait=False)
        time.sleep(self.rng.uniform(0, 0.4))
        self.capsule.kill()

    def start_daemon(self):
        began = time.monotonic()
        self.capsule.start()
        self.slowest_start = max(self.slowest_start, time.monotonic() - began)
        self.connect()

    # ---- what must hold ----

    def observe(self):
        """What the daemon says must be what was acknowledged, or one of the outcomes of what was cut off."""
        s = self.stubs
        found = {}
        for w in self.api.workload.List(s.workload.WorkloadListRequest()).workloads:
            desired = s.workload.DesiredState.Name(w.desired_state).removeprefix("DESIRED_STATE_")
            found[w.name] = None if desired == "DELETING" else (w.container.env["MARK"], desired)
        for v in self.api.volume.List(s.volume.VolumeListRequest()).volumes:
            found[v.name] = v.size_bytes >> 20
        for i in self.api.image.List(s.image.ImageListRequest()).images:
            found[i.name] = True
        for things, _ in self.kinds.values():
            for thing in things:
                state = found.get(thing.name)
                assert state in thing.states, f"{thing.name} is {state}, should be one of {thing.states}"
                thing.states = {state}

    def process_of(self, w):
        """The pid of the workload's process if it is the one that was asked for."""
        status = self.api.get(w.name).status
        if status.phase != self.stubs.workload.WORKLOAD_PHASE_RUNNING or not status.pid:
            return None
        try:
            environment = pathlib.Path(f"/proc/{status.pid}/environ").read_bytes().decode().split("\0")
        except OSError:
            return None
        return status.pid if f"MARK={w.state[0]}" in environment else None

    def settle(self):
        """The host comes to look like the model, exactly."""
        running = [w for w in self.workloads if w.state and w.state[1] == "RUNNING"]
        for w in running:
            wait_for(lambda: self.process_of(w), f"{w.name} to run as {w.state}")
            if w.port:
                wait_for(lambda: http_get("127.0.0.1", w.port) == w.state[0] + "\n", "the page of this mark")
        volumes = {v.name: v.state for v in self.volumes if v.state} | {"journal": 64}
        tidy.expect(self.capsule, {w.name: w.footprint() for w in running}, volumes)
        for name, size in volumes.items():
            assert (self.capsule.root / f"volumes/{name}.img").stat().st_size == size << 20, name
        tidy.check_image_store(self.capsule)
        for w in running:
            if w.volume:
                self.check_journal(self.process_of(w))

    def check_journal(self, pid):
        """Every number that was ever written is there, once, in order."""
        lines = pathlib.Path(f"/proc/{pid}/root/data/journal").read_text().splitlines()
        assert lines == [str(i + 1) for i in range(len(lines))]
        assert len(lines) >= self.journal_seen
        self.journal_seen = len(lines)

    def check_at_rest(self):
        """After a clean restart nothing half-made is left, and the file systems of the volumes are sound."""
        assert tidy.temporary_files(self.capsule) == []
        mounted = tidy.mounted_volumes(self.capsule)
        for name in ["journal"] + [v.name for v in self.volumes if v.state]:
            if name not in mounted:
                run("e2fsck", "-fn", self.capsule.root / f"volumes/{name}.img")


def unique_file(rng, mib):
    return images.File("/filler", rng.randbytes(mib << 20))


@pytest.fixture
def registry(tmp_path):
    """Debian's docker-registry with the images that are pulled: busybox and some weight that makes a pull last."""
    registry = Registry(tmp_path / "registry")
    rng = random.Random(1)
    for repository in ("used", "pull"):
        for tag in "ab":
            layers = [images.layer_tar(images.busybox_entries()), images.layer_tar([unique_file(rng, 6)])]
            registry.put(repository, tag, Image(layers, {"config": {"Env": ["PATH=/bin"]}}))
    yield registry
    registry.close()


def torment(world, kills):
    """Returns the number of kills, which is one more now and then."""
    done = 0
    while done < kills:
        world.round()
        done += 1
        if world.rng.random() < 0.15:
            world.kill_while_starting()
            done += 1
        world.start_daemon()
        world.observe()
        if done % SETTLE_EVERY < 2:
            world.settle()
    return done


def test_killed_at_random_moments(make_capsule, stubs, registry):
    print(f"CAPSULE_CHAOS_SEED={SEED}")
    rng = random.Random(SEED)
    capsule = make_capsule()
    archives = {name: images.make_busybox_image(None, name, extra=[unique_file(rng, 4)]) for name in ("push:a", "push:b")}
    capsule.ctl("volume", "create", "--size", "64MiB", "journal")
    world = World(capsule, stubs, registry.address, archives, rng)
    try:
        kills = torment(world, KILLS)
        world.settle()
        world.disconnect()
        capsule.restart()
        world.connect()
        world.observe()
        world.settle()
        world.check_at_rest()
        print(f"{kills} kills, slowest start of the daemon {world.slowest_start:.2f} s, {world.journal_seen} journal entries")
    finally:
        world.disconnect()
        print(capsule.stderr()[-4000:])
