# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The errors that users of capsulectl meet, verb by verb: what docs/cli.md shows after the help of each.

A command line is shown as it would be typed at the daemon of this host. Before it stand what changes its circumstances:
environment variables, "no daemon" and so on. Nothing of it changes the daemon, so the order does not matter.
"""
import collections
import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess

from capsule import CAPSULECTL, CTL_ENV, PATIENCE

SOCKET = "/run/capsule/capsule.sock"
# Stands for a registry of the walk's own, which holds nothing.
REGISTRY = "registry.example.com"

# What the daemon holds: volumes pages (mounted by web) and spare; workloads web, which runs, db, which is stopped and
# publishes port 5432, and broken, whose image does not exist.
WORLD = """\
name: pages
kind: Volume
size: 32MiB
---
name: spare
kind: Volume
size: 32MiB
---
name: web
kind: Container
container:
  image: busybox:test
  command: [sleep, "100000"]
  mounts:
    - volumeName: pages
      mountPath: /pages
---
name: db
kind: Container
desiredState: Stopped
container:
  image: busybox:test
  ports:
    - containerPort: 5432
      hostPort: 5432
---
name: broken
kind: Container
restartPolicy: Never
container:
  image: registry.example.com/no:1
"""

FILES = {
    "typo.yaml": "name: Web\nkind: Container\ncontainer:\n  imag: nginx\n",
    "api.yaml": "name: api\nkind: Container\ncontainer:\n  image: busybox:test\n  ports:\n"
                "    - containerPort: 80\n      hostPort: 5432\n",
    "copy.yaml": "name: copy\nkind: Container\ncontainer:\n  image: busybox:test\n  mounts:\n"
                 "    - volumeName: pages\n      mountPath: /pages\n",
    "lost.yaml": "name: lost\nkind: Container\ncontainer:\n  image: busybox:test\n  mounts:\n"
                 "    - volumeName: no-such\n      mountPath: /data\n",
    "broken.yaml": "name: broken\nkind: Container\nrestartPolicy: Never\ncontainer:\n  image: registry.example.com/no:1\n",
    "notes.txt": "not an archive\n",
}

Screen = collections.namedtuple("Screen", "line circumstance")


def of(verb, *lines):
    return verb, [line if isinstance(line, Screen) else Screen(line, None) for line in lines]


NO_DAEMON = "where no daemon runs"
SILENT_DAEMON = "where the daemon answers nothing"
NO_PERMISSION = "as a user outside the group capsule"

ERRORS = dict([
    of("capsulectl",
       "capsulectl aply -f typo.yaml",
       "capsulectl --colour workload list",
       "capsulectl --capsule 127.0.0.1:1 info",
       Screen("capsulectl info", NO_DAEMON),
       Screen("capsulectl workload list", NO_PERMISSION),
       Screen("capsulectl --timeout 1s workload list", SILENT_DAEMON),
       "capsulectl --verbose workload get no-such"),
    of("capsulectl apply",
       "capsulectl apply",
       "capsulectl apply web.yaml",
       "capsulectl apply -f no-such.yaml",
       "capsulectl apply -f typo.yaml",
       "capsulectl apply -f api.yaml",
       "capsulectl apply -f copy.yaml",
       "capsulectl apply -f lost.yaml",
       "capsulectl apply -f broken.yaml --wait"),
    of("capsulectl diff",
       "capsulectl diff",
       "capsulectl diff -f typo.yaml"),
    of("capsulectl workload",
       "capsulectl workload lst"),
    of("capsulectl workload list",
       "capsulectl workload list web",
       "capsulectl workload list -o xml"),
    of("capsulectl workload get",
       "capsulectl workload get",
       "capsulectl workload get web db",
       "capsulectl workload get no-such"),
    of("capsulectl workload logs",
       "capsulectl workload logs",
       "capsulectl workload logs --tail many web",
       "capsulectl workload logs --since yesterday web",
       "capsulectl workload logs no-such",
       "capsulectl workload logs --serial web"),
    of("capsulectl workload exec",
       "capsulectl workload exec web",
       "capsulectl workload exec --env =1 web -- true",
       "capsulectl workload exec no-such -- true",
       "capsulectl workload exec db -- true",
       "capsulectl workload exec web -- no-such",
       "capsulectl workload exec web -- /etc/passwd",
       "capsulectl workload exec --user no-such web -- true",
       "capsulectl workload exec --workdir /no-such web -- true"),
    of("capsulectl workload restart",
       "capsulectl workload restart",
       "capsulectl workload restart --all web",
       "capsulectl workload restart no-such",
       "capsulectl workload restart db"),
    of("capsulectl workload stop",
       "capsulectl workload stop",
       "capsulectl workload stop no-such"),
    of("capsulectl workload start",
       "capsulectl workload start",
       "capsulectl workload start no-such"),
    of("capsulectl workload delete",
       "capsulectl workload delete",
       "capsulectl workload delete no-such"),
    of("capsulectl workload wait",
       "capsulectl workload wait",
       "capsulectl workload wait web --for ready",
       "capsulectl workload wait no-such",
       "capsulectl workload wait broken",
       "capsulectl workload wait web --for healthy",
       "capsulectl workload wait web --for stopped --timeout 1s"),
    of("capsulectl workload events",
       "capsulectl workload events --since yesterday"),
    of("capsulectl workload stats",
       "capsulectl workload stats --interval often",
       "capsulectl workload stats --no-stream no-such"),
    of("capsulectl cp",
       "capsulectl cp web:/etc/passwd",
       "capsulectl cp notes.txt typo.yaml",
       "capsulectl cp web:/etc/passwd db:/tmp",
       "capsulectl cp no-such.txt web:/tmp",
       "capsulectl cp notes.txt no-such:/tmp",
       "capsulectl cp web:/no-such .",
       "capsulectl cp notes.txt web:/etc/passwd/",
       "capsulectl cp db:/etc/passwd ."),
    of("capsulectl volume",
       "capsulectl volume grow pages"),
    of("capsulectl volume create",
       "capsulectl volume create",
       "capsulectl volume create --size 10GX data",
       "capsulectl volume create Data",
       "capsulectl volume create pages"),
    of("capsulectl volume list",
       "capsulectl volume list pages"),
    of("capsulectl volume get",
       "capsulectl volume get",
       "capsulectl volume get no-such"),
    of("capsulectl volume resize",
       "capsulectl volume resize spare",
       "capsulectl volume resize no-such 64MiB",
       "capsulectl volume resize pages 64MiB",
       "capsulectl volume resize spare 16MiB"),
    of("capsulectl volume delete",
       "capsulectl volume delete",
       "capsulectl volume delete no-such",
       "capsulectl volume delete pages"),
    of("capsulectl volume du",
       "capsulectl volume du no-such"),
    of("capsulectl volume snapshot",
       "capsulectl volume snapshot make pages"),
    of("capsulectl volume snapshot create",
       "capsulectl volume snapshot create pages",
       "capsulectl volume snapshot create no-such before",
       "capsulectl volume snapshot create pages Before"),
    of("capsulectl volume snapshot list",
       "capsulectl volume snapshot list no-such"),
    of("capsulectl volume snapshot delete",
       "capsulectl volume snapshot delete pages before"),
    of("capsulectl volume snapshot restore",
       "capsulectl volume snapshot restore pages before"),
    of("capsulectl volume clone",
       "capsulectl volume clone pages",
       "capsulectl volume clone pages spare"),
    of("capsulectl volume export",
       "capsulectl volume export no-such data.capsvol"),
    of("capsulectl volume import",
       "capsulectl volume import data no-such.capsvol"),
    of("capsulectl image",
       "capsulectl image remove busybox:test"),
    of("capsulectl image push",
       "capsulectl image push",
       "capsulectl image push no-such.tar",
       "capsulectl image push notes.txt"),
    of("capsulectl image pull",
       "capsulectl image pull",
       "capsulectl image pull UPPER",
       "capsulectl image pull registry.example.com/no:1",
       "capsulectl image pull 127.0.0.1:1/no:1"),
    of("capsulectl image list",
       "capsulectl image list busybox"),
    of("capsulectl image delete",
       "capsulectl image delete",
       "capsulectl image delete no-such",
       "capsulectl image delete busybox:test"),
    of("capsulectl image prune",
       "capsulectl image prune --all"),
    of("capsulectl capsule",
       "capsulectl capsule reboot"),
    of("capsulectl capsule info",
       "capsulectl capsule info host"),
    of("capsulectl capsule logs",
       "capsulectl capsule logs --tail -1"),
    of("capsulectl capsule debug",
       "capsulectl capsule debug -i registry.example.com/no:1",
       "capsulectl capsule debug -i busybox:test -- no-such"),
    of("capsulectl info",
       "capsulectl info -o name"),
    of("capsulectl version",
       Screen("capsulectl version", NO_DAEMON)),
    of("capsulectl completion",
       "capsulectl completion",
       "capsulectl completion tcsh"),
    of("capsulectl help",
       "capsulectl help workload grow"),
])


class Walk:
    """Runs the command lines against a daemon of its own, which is made to hold what they are about."""

    def __init__(self, capsule, registry):
        self.capsule, self.registry = capsule, registry
        self.directory = capsule.dir / "walk"
        self.directory.mkdir()
        for name, text in FILES.items():
            (self.directory / name).write_text(self.reach_registry(text))
        self.program = shutil.copy(CAPSULECTL, capsule.dir)  # to where every user can reach it
        capsule.apply(self.reach_registry(WORLD))
        capsule.wait_phase("web", "running")
        capsule.wait_phase("broken", "failed")

    def screens(self):
        """For every verb: its command lines, what they print and how they exit, as text."""
        return {verb: "\n".join(self.screen(screen) for screen in screens) for verb, screens in ERRORS.items()}

    def screen(self, screen):
        words = shlex.split(self.reach_registry(screen.line))
        other_user = {"user": 65534, "group": 65534, "extra_groups": []} if screen.circumstance == NO_PERMISSION else {}
        with self.daemon(screen.circumstance) as address:
            done = subprocess.run([self.program, *words[1:]], cwd=self.directory, capture_output=True, text=True, timeout=PATIENCE,
                                  stdin=subprocess.DEVNULL, **other_user,
                                  env={**os.environ, **CTL_ENV, "CAPSULE_HOST": address})
        where = f"  # {screen.circumstance}" if screen.circumstance else ""
        return f"$ {screen.line}{where}\n{self.tidy(done.stdout + done.stderr)}[exit {done.returncode}]\n"

    def reach_registry(self, text):
        return text.replace(REGISTRY, self.registry.address)

    @contextlib.contextmanager
    def daemon(self, circumstance):
        """The address to give to capsulectl."""
        if circumstance == NO_DAEMON:
            yield f"unix:{self.directory}/no.sock"
        elif circumstance == SILENT_DAEMON:
            with socket.socket(socket.AF_UNIX) as silent:
                silent.bind(str(self.directory / "silent.sock"))
                silent.listen()
                yield f"unix:{self.directory}/silent.sock"
        else:
            yield f"unix:{self.capsule.socket}"

    def tidy(self, text):
        """What is printed, with the places of a daemon that is installed."""
        for here, installed in ((self.directory / "no.sock", SOCKET), (self.directory / "silent.sock", SOCKET),
                                (self.capsule.socket, SOCKET), (self.capsule.root, "/var/lib/capsule"),
                                (self.registry.address, REGISTRY)):
            text = text.replace(str(here), installed)
        text = re.sub(r"after \d+ ms", "after 0 ms", text)
        text = re.sub(r"debug-[0-9a-f]{8}", "debug-01234567", text)
        # What the leak sanitizer says of a thread that ends while it looks.
        return re.sub(r"==\d+==Unable to get registers from thread \d+\.\n", "", text)
