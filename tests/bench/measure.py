# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Times, medians and the lines of the report."""
import os
import statistics
import subprocess
import time

NULL = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def run(*argv, stdin=None, timeout=300, check=True):
    """Runs a program to its end and returns what it wrote to stdout."""
    done = subprocess.run([str(a) for a in argv], stdin=stdin or subprocess.DEVNULL, capture_output=True, timeout=timeout)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(str(a) for a in argv)} exited {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")


def timed(*argv):
    """Seconds from the start of a program to its exit, which must be a success."""
    argv = [str(a) for a in argv]
    words = os.memfd_create("stderr")
    redirect = [(os.POSIX_SPAWN_DUP2, NULL, 0), (os.POSIX_SPAWN_DUP2, NULL, 1), (os.POSIX_SPAWN_DUP2, words, 2)]
    begin = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=redirect)
    status = os.waitpid(pid, 0)[1]
    seconds = time.perf_counter() - begin
    said = os.pread(words, 4000, 0).decode(errors="replace")
    os.close(words)
    if status != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}: {said}")
    return seconds


class Series:
    """What was measured of one thing, in seconds."""

    def __init__(self, name, every=1):
        """every: it takes part in each round (1), in each second (2), ..."""
        self.name = name
        self.every = every
        self.seconds = []

    def add(self, seconds):
        self.seconds.append(seconds)

    @property
    def median(self):
        return statistics.median(self.seconds)

    @property
    def least(self):
        return min(self.seconds)

    def __str__(self):
        return f"{duration(self.median)} (least {duration(self.least)})"


class Rate(Series):
    """Seconds for one of what is counted, shown as how many there are in one second."""

    def __init__(self, name, unit):
        super().__init__(name)
        self.unit = unit

    def __str__(self):
        return f"{1 / self.median:.0f} {self.unit} (most {1 / self.least:.0f})"


def alternate(rounds, *contestants, warm_up=True, rest=0):
    """Each contestant, a (series, function returning seconds), in turn: load on the machine meets all of them alike. Before each
    the machine rests for so many seconds."""
    for _, once in contestants if warm_up else ():
        once()
    for n in range(rounds):
        for series, once in contestants:
            if n % series.every == 0:
                time.sleep(rest)
                series.add(once())


def duration(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


class Report:
    """Prints the lines and counts the aims."""

    def __init__(self):
        self.met = self.missed = self.skipped = 0

    def heading(self, text):
        print(f"\n{text}", flush=True)

    def figure(self, what, value):
        print(f"  {what:<58} {value}", flush=True)

    def verdict(self, what, value, aim, is_met):
        self.met += is_met
        self.missed += not is_met
        self.figure(what, f"{value}; aim {aim}: {'met' if is_met else 'NOT MET'}")

    def below(self, what, value, limit, unit):
        """value must stay below the limit."""
        self.verdict(what, f"{value:.1f} {unit}", f"< {limit} {unit}", value < limit)

    def ratio(self, ours, peer, at_most=None, faster=None):
        """One line for ours against a peer. at_most: the aim for ours/peer; faster: the aim for peer/ours."""
        of_medians, of_least = ours.median / peer.median, ours.least / peer.least
        what = f"{ours.name} : {peer.name}"
        if faster or isinstance(ours, Rate):
            value = f"{1 / of_medians:.2f} times as fast (least: {1 / of_least:.2f})"
            if faster:
                self.verdict(what, value, f">= {faster}", 1 / of_medians >= faster)
            else:
                self.figure(what, value)
        elif at_most:
            self.verdict(what, f"{of_medians:.2f} (least: {of_least:.2f})", f"<= {at_most}", of_medians <= at_most)
        else:
            self.figure(what, f"{of_medians:.2f} (least: {of_least:.2f})")

    def missing(self, what, why="not installed"):
        self.skipped += 1
        self.figure(what, f"skipped: {why}")

    def end(self):
        print(f"\n{self.met} aims met, {self.missed} not met, {self.skipped} peers missing")
