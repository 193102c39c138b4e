# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Logs as users see them: all that was written, in order, over rotations, restarts and ends; and less of it."""
import datetime
import os
import random
import re
import signal
import subprocess

import pytest

import images
from capsule import run, tcp_connect, wait_for
from kinds import both_kinds
from registry_servers import Image

FOREVER = "exec sleep 10000"
WAIT_FOR_GO = "while [ ! -e /tmp/go ]; do sleep 0.05; done"


def run_script(capsule, script, name="w", image="busybox:test", wait=True, **spec):
    return capsule.run_workload(name, image, wait=wait, command=["sh", "-c", script], **spec)


def let_go(capsule):
    capsule.inside("w", "touch", "/tmp/go")


def run_to_the_end(capsule, script, phase="stopped", **spec):
    run_script(capsule, script, wait=False, restartPolicy="Never", **spec)
    capsule.wait_phase("w", phase)


def numbered(first, last, pause=0):
    """A script that writes numbered lines; with a pause after each fifty, so that a reader can keep up."""
    step = f"[ $((i % 50)) = 0 ] && sleep {pause}; " if pause else ""
    return f"i={first}; while [ $i -le {last} ]; do echo line $i; {step}i=$((i+1)); done"


def lines(first, last):
    return "".join(f"line {i}\n" for i in range(first, last + 1))


class Follower:
    """capsulectl workload logs -f."""

    def __init__(self, capsule, name="w", *options):
        self.process = subprocess.Popen(capsule.ctl_argv("workload", "logs", "-f", name, *options),
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def read_until(self, last):
        """What comes up to a line that is `last`."""
        text = b""
        while line := self.process.stdout.readline():
            text += line
            if line == last.encode() + b"\n":
                return text.decode()
        raise AssertionError(f"the end came before {last!r}: {text.decode()!r} {self.process.stderr.read()}")

    def rest(self):
        """What comes until the end, and the exit status."""
        out, _ = self.process.communicate(timeout=60)
        return out.decode(), self.process.returncode

    def close(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def follow(closing):
    return lambda *args: closing(Follower(*args))


def log_files(capsule, name="w"):
    return {path.name: path.stat().st_size for path in (capsule.root / "workloads" / name).glob("payload.log*")}


# ---- what was written ----

@both_kinds
def test_both_streams_in_order(capsule):
    run_to_the_end(capsule, "for i in 1 2 3 4 5 6 7 8 9; do echo out $i; sleep 0.05; echo err $i >&2; sleep 0.05; done")
    assert capsule.logs("w") == "".join(f"out {i}\nerr {i}\n" for i in range(1, 10))


CONTENTS = {"all bytes": bytes(range(256)) * 300, "no newline": b"no newline at the end", "newlines": b"\n\n\n",
            "long lines": b"x" * 200_000 + b"\n" + b"y" * 70_000, "control": b"\r\n\0\x1b[31m\xff\n",
            "noise": random.Random(1).randbytes(300_000)}


@pytest.mark.parametrize("kind,content", [*(("container", c) for c in CONTENTS.values()), ("microvm", b"".join(CONTENTS.values()))],
                         ids=[*CONTENTS, "all of it, microvm"], indirect=["kind"], scope="module")
def test_bytes_are_kept_as_they_are(make_capsule, tmp_path, content):
    capsule = make_capsule(push=())
    images.make_busybox_image(str(tmp_path / "i.tar"), "blob:1", extra=[images.File("/blob", content)])
    capsule.push(tmp_path / "i.tar")
    run_to_the_end(capsule, "cat /blob", image="blob:1")
    assert capsule.ctl("workload", "logs", "w").stdout == content


def test_logs_of_every_state(capsule):
    run_to_the_end(capsule, "echo done")
    assert capsule.logs("w") == "done\n"
    run_to_the_end(capsule, "echo broken >&2; exit 3", phase="failed")
    assert capsule.logs("w").endswith("broken\n")
    run_script(capsule, f"echo running; {FOREVER}", restartPolicy="Always")
    wait_for(lambda: capsule.logs("w").endswith("running\n"), "the log of what runs")
    capsule.ctl("workload", "stop", "w")
    assert capsule.logs("w").endswith("running\n")
    capsule.run_workload("never", "localhost:1/no/such:image", wait=False)
    assert capsule.logs("never") == ""
    done = capsule.ctl("workload", "logs", "nobody", check=False)
    assert done.returncode == 1 and "there is no workload nobody" in done.err
    assert capsule.ctl("workload", "logs", "--serial", "w", check=False).returncode == 1


@both_kinds
def test_logs_outlive_daemon_and_machine(capsule):
    run_script(capsule, f"echo run; nc -l -p 7; echo meanwhile; {FOREVER}")
    wait_for(lambda: capsule.logs("w") == "run\n", "the log")
    address = capsule.address("w")
    capsule.stop(signal.SIGKILL)
    wait_for(lambda: tcp_connect(address, 7), "nc to listen")
    log = capsule.root / "workloads/w/payload.log"
    wait_for(lambda: b"meanwhile" in log.read_bytes(), "the next line")
    capsule.start()
    assert capsule.logs("w") == "run\nmeanwhile\n"
    capsule.power_cut()
    capsule.start()
    wait_for(lambda: capsule.logs("w") == "run\nmeanwhile\nrun\n", "the log of both runs")


# ---- rotation ----

@both_kinds
def test_files_are_limited_in_size_and_number(make_capsule):
    capsule = make_capsule("--log-max-size", "8KiB", "--log-max-files", "3")
    run_to_the_end(capsule, numbered(1, 3000))
    files = log_files(capsule)
    assert set(files) == {"payload.log", "payload.log.1", "payload.log.2"}
    assert max(files.values()) <= 8192 and sum(files.values()) > 8192
    # The oldest one may begin within a line, whose first part went with the file before it.
    kept = re.search(r"^line \d+\n.*", capsule.logs("w"), re.DOTALL | re.MULTILINE)[0]
    first = int(re.match(r"line (\d+)\n", kept)[1])
    assert kept == lines(first, 3000) and first > 2000
    capsule.ctl("workload", "delete", "w")
    assert log_files(capsule) == {}


def test_files_of_the_daemons_log_beyond_a_lowered_limit_go(make_capsule):
    capsule = make_capsule("--log-max-files", "5", push=())
    capsule.stop()
    log = capsule.root / "capsuled.log"
    for number in (1, 2, 4):
        log.with_suffix(f".log.{number}").write_text(f"{number}\n")
    capsule.start()
    capsule.stop()
    assert len(list(capsule.root.glob("capsuled.log*"))) == 4
    capsule.options = ["--log-max-files", "2"]
    capsule.start()
    assert sorted(path.name for path in capsule.root.glob("capsuled.log*")) == ["capsuled.log", "capsuled.log.1"]


def test_one_file_is_possible(make_capsule):
    capsule = make_capsule("--log-max-size", "4KiB", "--log-max-files", "1")
    run_to_the_end(capsule, numbered(1, 500))
    assert set(log_files(capsule)) == {"payload.log"}
    kept = capsule.logs("w")
    assert kept.startswith("line ") and lines(1, 500).endswith(kept)


@both_kinds
def test_a_follower_misses_no_line_at_rotations(make_capsule, follow):
    capsule = make_capsule("--log-max-size", "8KiB", "--log-max-files", "4")
    run_script(capsule, f"{WAIT_FOR_GO}; {numbered(1, 3000, 0.1)}; {FOREVER}")
    followers = [follow(capsule) for _ in range(3)]
    let_go(capsule)
    for follower in followers:
        assert follower.read_until("line 3000") == lines(1, 3000)
    assert len(log_files(capsule)) == 4, "there were rotations"


# ---- less of it ----

def test_tail_reaches_over_files(make_capsule):
    capsule = make_capsule("--log-max-size", "8KiB", "--log-max-files", "3")
    run_to_the_end(capsule, numbered(1, 1000))
    everything = capsule.logs("w")
    for n in (1, 7, 150, 300):
        assert capsule.logs("w", "-n", n) == lines(1001 - n, 1000)
    assert capsule.logs("w", "-n", 100_000) == everything
    assert capsule.ctl("workload", "logs", "-n", "-1", "w", check=False).returncode == 2


def test_tail_counts_lines_of_any_length(capsule):
    run_to_the_end(capsule, "for i in 1 2 3; do head -c 100000 /dev/zero | tr '\\0' $i; echo; done; printf unfinished")
    assert capsule.logs("w", "-n", 1) == "unfinished"
    assert capsule.logs("w", "-n", 2) == "3" * 100_000 + "\nunfinished"
    assert capsule.logs("w", "-n", 3) == "2" * 100_000 + "\n" + "3" * 100_000 + "\nunfinished"


def now():
    return datetime.datetime.now(datetime.timezone.utc)


@both_kinds
def test_timestamps_and_since(capsule):
    before = now()
    run_to_the_end(capsule, "echo first; sleep 0.3; echo second; sleep 0.3; echo third")
    stamped = [line.split(" ", 1) for line in capsule.logs("w", "--timestamps").splitlines()]
    assert [text for _, text in stamped] == ["first", "second", "third"]
    times = [stamp for stamp, _ in stamped]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", t) for t in times) and times == sorted(times)
    assert before < datetime.datetime.fromisoformat(times[0][:26] + "+00:00") < now()
    assert capsule.logs("w", "--since", times[1]) == "second\nthird\n"
    assert capsule.logs("w", "--since", times[2], "-t") == f"{times[2]} third\n"
    assert capsule.logs("w", "--since", times[0], "-n", "1") == "third\n"
    assert capsule.logs("w", "--since", "1h") == "first\nsecond\nthird\n"
    assert capsule.logs("w", "--since", "2100-01-01T00:00:00Z") == ""
    assert capsule.ctl("workload", "logs", "--since", "yesterday", "w", check=False).returncode == 2


# ---- following ----

@both_kinds
def test_follow_goes_on_over_restarts_and_ends_with_the_workload(capsule, follow):
    run_script(capsule, "trap 'echo bye; exit 0' TERM; echo run; while :; do sleep 1000 & wait; done",
               stopGracePeriodSeconds=10)
    follower = follow(capsule)
    assert follower.read_until("run") == "run\n"
    capsule.ctl("workload", "restart", "w")
    assert follower.read_until("run") == "bye\nrun\n"
    capsule.ctl("workload", "stop", "w")
    assert follower.read_until("bye") == "bye\n"
    capsule.ctl("workload", "start", "--wait", "w")
    assert follower.read_until("run") == "run\n"
    capsule.ctl("workload", "delete", "w")
    assert follower.rest() == ("bye\n", 0)


def test_follow_with_options(capsule, follow):
    run_script(capsule, f"echo a; echo b; {WAIT_FOR_GO}; echo new; {FOREVER}")
    wait_for(lambda: capsule.logs("w") == "a\nb\n", "the log")
    tail, nothing_old, since = (follow(capsule, "w", *o) for o in (("-n", "1"), ("-n", "0"), ("--since", "0s")))
    assert tail.read_until("b") == "b\n"
    wait_for(lambda: open_files(capsule).count("inotify") >= 3, "the followers to be served")
    let_go(capsule)
    for follower in (tail, nothing_old, since):
        assert follower.read_until("new") == "new\n"


def open_files(capsule):
    """What the daemon has open, as one text."""
    found = []
    for fd in os.listdir(f"/proc/{capsule.process.pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{capsule.process.pid}/fd/{fd}"))
        except OSError:
            pass
    return "\n".join(found)


def test_follow_from_before_the_first_run(make_capsule, fake, follow):
    capsule = make_capsule("--plain-http", fake.address)
    run_script(capsule, f"echo first; {FOREVER}", image=f"{fake.address}/later:1", wait=False)
    follower = follow(capsule)
    wait_for(lambda: "inotify" in open_files(capsule), "the follower to be served")
    capsule.wait_phase("w", "failed")
    fake.put("later", "1", Image([images.layer_tar(images.busybox_entries())]))
    capsule.ctl("workload", "start", "w")
    assert follower.read_until("first") == "first\n"


def test_a_follower_that_leaves_is_forgotten(capsule):
    run_script(capsule, f"while :; do echo line; sleep 0.01; done")
    wait_for(lambda: "line" in capsule.logs("w"), "the log")
    before = len(open_files(capsule).splitlines())
    followers = [Follower(capsule) for _ in range(10)]
    for follower in followers:
        follower.process.stdout.readline()
    assert len(open_files(capsule).splitlines()) > before + 10
    for follower in followers:
        follower.close()
    wait_for(lambda: len(open_files(capsule).splitlines()) <= before, "the daemon to close what they had")


def test_a_follower_that_does_not_read_holds_up_nobody_and_loses_nothing(capsule):
    run_script(capsule, f"{WAIT_FOR_GO}; {numbered(1, 40000)}; touch /tmp/done; {FOREVER}")
    pid, sluggish = capsule.status("w")["pid"], Follower(capsule)
    wait_for(lambda: "inotify" in open_files(capsule), "the follower to be served")
    let_go(capsule)
    wait_for(lambda: os.path.exists(f"/proc/{pid}/root/tmp/done"), "the writer, which nobody stops")
    run_script(capsule, FOREVER, name="other")
    assert capsule.logs("w", "-n", 1) == "line 40000\n"
    assert sluggish.read_until("line 40000") == lines(1, 40000)
    sluggish.close()


# ---- a full disk ----

def test_a_full_disk_does_not_stop_the_container(small_disk, make_capsule):
    capsule = make_capsule("--root", small_disk / "root")
    run_script(capsule, "while :; do echo line; echo x >> /dev/shm/count; sleep 0.01; done")
    count = f"/proc/{capsule.status('w')['pid']}/root/dev/shm/count"
    run("dd", "if=/dev/zero", f"of={small_disk}/filler", "bs=64k", check=False)
    run("dd", "if=/dev/zero", f"of={small_disk}/filler2", "bs=1k", check=False)
    size_when_full = wait_for(lambda: os.path.getsize(count), "its life")
    # Longer than what a block of the log file still takes.
    wait_for(lambda: os.path.getsize(count) > size_when_full + 400, "it to go on")
    assert capsule.phase("w") == "Running"
    for filler in ("filler", "filler2"):
        (small_disk / filler).unlink()
    wait_for(lambda: re.search(r"capsule: \d+ bytes of log lost\nline\n", capsule.logs("w")), "the log to tell of it")
