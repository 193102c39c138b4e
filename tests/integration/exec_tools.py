# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""capsulectl workload exec for tests."""
import contextlib
import hashlib
import os
import queue
import re
import subprocess
import threading

from capsule import CAPSULECTL, PATIENCE, wait_for
from terminal import Terminal

SLEEP = ["sh", "-c", "echo up; exec sleep 100000"]
MIB = 1 << 20


def run_in(capsule, *args, **options):
    return capsule.ctl("workload", "exec", *args, check=False, **options)


def output(capsule, *args, **options):
    done = run_in(capsule, *args, **options)
    assert (done.returncode, done.err) == (0, ""), done
    return done.out


def argv_of(capsule, *args):
    return [str(CAPSULECTL), "--capsule", f"unix:{capsule.socket}", "workload", "exec", *args]


@contextlib.contextmanager
def started(capsule, *args, **options):
    """capsulectl workload exec as a process; killed at the end if it still runs."""
    process = subprocess.Popen(argv_of(capsule, *args), **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE,
                                                           "stderr": subprocess.PIPE, **options})
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def processes(capsule, *argv, name="w"):
    """The processes that have this command line: those of the daemon's containers by their pids on the host, those of a microVM
    by the pids that they have in there."""
    if capsule.kind == "MicroVM":
        lines = [line.split(None, 1) for line in output(capsule, name, "--", "ps", "-o", "pid,args").splitlines()]
        return [int(pid) for pid, args in lines[1:] if args.rstrip() == " ".join(argv)]
    found = []
    for pid in capsule.pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if f.read().split(b"\0")[:-1] == [a.encode() for a in argv]:
                    found.append(pid)
        except OSError:
            pass
    return found


def wait_process(capsule, *argv):
    return wait_for(lambda: processes(capsule, *argv), f"{argv} to run")[0]


def wait_ended(capsule, *argv):
    wait_for(lambda: not processes(capsule, *argv), f"{argv} to end")


def feed(stream, block, blocks):
    """Writes in a thread of its own; the digest of what was written is in the queue at its end."""
    result = queue.Queue()

    def work():
        digest = hashlib.sha256()
        for i in range(blocks):
            data = i.to_bytes(8, "big") + block[8:]
            digest.update(data)
            stream.write(data)
        stream.close()
        result.put(digest.hexdigest())
    threading.Thread(target=work, daemon=True).start()
    return result


def through_cat(capsule, mebibytes):
    """Sends so much through cat in the workload. Returns the most memory that each program on its way has had when nearly all
    of it had passed."""
    digest, length, peaks = hashlib.sha256(), 0, {}
    with started(capsule, "w", "--", "cat") as ctl:
        sent = feed(ctl.stdin, os.urandom(MIB), mebibytes)
        while data := ctl.stdout.read1(MIB):
            digest.update(data)
            length += len(data)
            if not peaks and length > mebibytes * MIB * 9 // 10:
                peaks = {name: peak_memory(pid) for name, pid in (("capsulectl", ctl.pid), ("daemon", capsule.process.pid),
                                                                   ("shim", capsule.shim("w")))}
        assert ctl.wait(PATIENCE) == 0
    assert length == mebibytes * MIB and digest.hexdigest() == sent.get(timeout=PATIENCE)
    return peaks


def peak_memory(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmHWM:\s+(\d+) kB", f.read()).group(1)) << 10


def on_terminal(capsule, *args, columns=80):
    return Terminal(argv_of(capsule, *args), {**os.environ, "TERM": "vt220"}, columns=columns)
