# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The daemon, the holders of microVMs, their monitors and their payloads are killed at random moments, also of a boot.

CAPSULE_CHAOS_SEED repeats a run's choices (not its timing), CAPSULE_CHAOS_VM_KILLS sets the number of kills.
"""
import os
import random
import signal
import time

import tidy
from capsule import BOOT, free_port, http_get, run, wait_for
from exec_tools import run_in
from kinds import microvms_only

KILLS = int(os.environ.get("CAPSULE_CHAOS_VM_KILLS", "16"))
SEED = int(os.environ.get("CAPSULE_CHAOS_SEED", random.SystemRandom().randrange(1 << 32)))
SETTLE_EVERY = 4

# Both keep the number of what does the work: a process that can be killed from inside, which the first one cannot.
JOURNAL = """n=$(tail -n 1 /data/journal 2>/dev/null || echo 0)
while :; do n=$((n + 1)); echo $n >> /data/journal; sync; echo $n; sleep 0.2; done"""
PAGE = "mkdir -p /www; echo page >/www/index.html; exec httpd -f -p 80 -h /www"


def at_work(script):
    return ["sh", "-c", f"({script}) & echo $! >/work.pid; wait $!"]


class World:
    def __init__(self, capsule, rng):
        self.capsule, self.rng, self.port = capsule, rng, free_port()
        self.violence = {"daemon": self.kill_daemon, "holder": self.kill_holder, "monitor": self.kill_monitor,
                         "payload": self.kill_payload}
        capsule.ctl("volume", "create", "--size", "32MiB", "journal")
        capsule.run_workload("writer", "busybox:test", wait=False, command=at_work(JOURNAL), stopGracePeriodSeconds=0,
                             mounts=[{"volumeName": "journal", "mountPath": "/data"}])
        capsule.run_workload("page", "busybox:test", wait=False, command=at_work(PAGE), stopGracePeriodSeconds=0,
                             ports=[{"containerPort": 80, "hostPort": self.port}])
        self.footprints = {"writer": {"bridge": True, "ports": [], "volumes": ["journal"], "machine": True},
                           "page": {"bridge": True, "ports": [self.port], "volumes": [], "machine": True}}

    # ---- violence ----

    def kill(self, pid):
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def kill_daemon(self, name):
        self.capsule.kill()
        self.pause()
        self.capsule.start()

    def kill_holder(self, name):
        self.kill(self.capsule.shim(name))

    def kill_monitor(self, name):
        monitors = tidy.monitors(self.capsule)
        self.kill(self.rng.choice(monitors) if monitors else None)

    def kill_payload(self, name):
        run_in(self.capsule, name, "--", "sh", "-c", "kill -9 $(cat /work.pid)")

    def pause(self):
        """A moment of any length: in a boot, at work."""
        time.sleep(self.rng.uniform(0, self.rng.choice([0.1, 1, 4])))

    def torment(self, victim):
        self.pause()
        self.violence[victim](self.rng.choice(sorted(self.footprints)))

    # ---- what must hold ----

    def settle(self):
        """All of it runs again, the host looks like that and nothing more, and what was synced is there."""
        for name in self.footprints:
            self.capsule.ctl("workload", "start", name)  # the wait before the next attempt is over
            self.capsule.wait_phase(name, "running", 2 * BOOT)
        wait_for(lambda: http_get("127.0.0.1", self.port) == "page\n", "the page", BOOT)
        tidy.expect(self.capsule, self.footprints, ["journal"])
        acknowledged = [int(line) for line in self.capsule.logs("writer").splitlines() if line.isdigit()]
        journal = wait_for(lambda: run_in(self.capsule, "writer", "--", "cat", "/data/journal").out, "the journal", BOOT)
        lines = journal.splitlines()
        assert lines == [str(i + 1) for i in range(len(lines))]
        assert len(lines) >= max(acknowledged, default=0)
        return len(lines)


@microvms_only
def test_machines_killed_at_random_moments(capsule):
    print(f"CAPSULE_CHAOS_SEED={SEED}")
    rng = random.Random(SEED)
    world = World(capsule, rng)
    try:
        world.settle()
        victims = [victim for victim in world.violence for _ in range(-(-KILLS // len(world.violence)))][:KILLS]
        rng.shuffle(victims)
        for done, victim in enumerate(victims, 1):
            world.torment(victim)
            if done % SETTLE_EVERY == 0:
                world.settle()
        entries = world.settle()
        capsule.restart()
        assert world.settle() >= entries
        assert tidy.temporary_files(capsule) == []
        capsule.ctl("workload", "delete", "--all")
        tidy.expect(capsule, {}, ["journal"])
        run("e2fsck", "-fn", capsule.root / "volumes/journal.img")
        print(f"{KILLS} kills, {entries} journal entries")
    finally:
        print(capsule.stderr()[-4000:])
