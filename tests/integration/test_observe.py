# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What an operator looks with: wait, events, stats, diff."""
import json
import os
import re
import signal
import subprocess

import grpc
import pytest

from capsule import PARTS, PATIENCE, Failed, free_port, http_get, wait_for
from kinds import both_kinds
from terminal import Terminal

FOREVER = ["sleep", "100000"]
# Ends when somebody makes the file, as told.
ON_CALL = ["sh", "-c", "while ! test -e /end; do sleep 0.05; done; exit $(cat /end)"]


def job(capsule, name, script, **fields):
    return capsule.run_workload(name, "busybox:test", wait=False, command=["sh", "-c", script], restartPolicy="Never",
                                stopGracePeriodSeconds=0, **fields)


def end_with(capsule, name, code):
    capsule.inside(name, "/bin/busybox", "sh", "-c", f"echo {code} > /end.tmp; mv /end.tmp /end")


class Background:
    """capsulectl at work beside the test; its output lines as they come."""

    def __init__(self, capsule, *args):
        self.process = subprocess.Popen(capsule.ctl_argv(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)

    def line(self):
        return self.process.stdout.readline()

    def until(self, word):
        """The lines up to the first one that holds the word."""
        lines = []
        while True:
            line = self.line()
            if not line:
                raise Failed(f"no {word} in {lines}")
            lines.append(line)
            if word in line:
                return lines

    def finish(self):
        """What is left of its output, its errors, and the exit code."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return out, err, self.process.returncode

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        return self.finish()


def types(lines):
    return [line.split()[2] for line in lines]


def in_order(wanted, found):
    """Whether the wanted ones come in this order, with anything between them."""
    rest = iter(found)
    return all(word in rest for word in wanted)


# ---- wait ----


@both_kinds
def test_wait_for_running(capsule):
    waiting = Background(capsule, "workload", "wait", "later", "--timeout", "1m")
    out, err, code = waiting.finish()
    assert (out, code) == ("", 1) and "workload/later does not exist" in err
    capsule.run_workload("w", "busybox:test", command=FOREVER)
    assert capsule.ctl("workload", "wait", "w").out == "workload/w running\n"
    capsule.ctl("workload", "stop", "w")
    waiting = Background(capsule, "workload", "wait", "w")
    capsule.ctl("workload", "start", "w")
    out, err, code = waiting.finish()
    assert (out, code) == ("workload/w running\n", 0) and err in ("", "workload/w: emulated\n")


@both_kinds
def test_wait_for_the_end_of_a_job(capsule):
    job(capsule, "good", "while ! test -e /end; do sleep 0.05; done")
    waiting = Background(capsule, "workload", "wait", "good", "--for", "stopped")
    capsule.wait_phase("good", "running")
    capsule.inside("good", "/bin/busybox", "touch", "/end")
    assert waiting.finish() == ("workload/good stopped\n", "", 0)
    job(capsule, "bad", "exit 3")
    done = capsule.ctl("workload", "wait", "bad", "good", "--for=stopped", check=False)
    assert done.returncode == 1
    assert done.out == "workload/good stopped\n" and done.err == "capsulectl: workload/bad failed: exited 3\n"


WAITS = {"apply": ("apply", "-f", "late.json", "--wait"), "wait": ("workload", "wait", "late")}


@pytest.mark.parametrize("verb", WAITS)
def test_a_wait_goes_on_while_it_is_tried_again(capsule, tmp_path, verb):
    late = tmp_path / "late"
    manifest = {"name": "late", "kind": "Container", "container": {"image": "busybox:test", "command": FOREVER,
                                                                   "hostBindPaths": [f"{late}:/late"]}}
    (tmp_path / "late.json").write_text(json.dumps(manifest))
    if verb == "wait":
        capsule.apply(manifest)
    argv = [str(tmp_path / word) if word == "late.json" else word for word in WAITS[verb]]
    done = capsule.ctl(*argv, "--timeout", "4s", check=False)
    assert done.returncode == 1 and len(re.findall(f"workload/late failed: .*{late}.*; trying again in", done.err)) == 1
    assert "capsulectl: workload/late is still " in done.err and "not done within 4s" in done.err
    waiting = Background(capsule, *argv)
    late.mkdir()
    out, _, code = waiting.finish()
    assert (out.splitlines()[-1], code) == ("workload/late running", 0)


@both_kinds
def test_a_wait_ends_with_a_failure_that_is_the_last(capsule):
    capsule.run_workload("w", "busybox:test", wait=False, command=["/bin/nope"], restartPolicy="Never")
    done = capsule.ctl("workload", "wait", "w", check=False)
    assert done.returncode == 1 and done.err.startswith("capsulectl: workload/w failed: ") and "/bin/nope" in done.err


def test_wait_for_deletion_and_its_limit(capsule):
    capsule.run_workload("w", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    done = capsule.ctl("workload", "wait", "w", "--for", "deleted", "--timeout", "200ms", check=False)
    assert done.returncode == 1 and "workload/w is still running" in done.err and "--timeout" in done.err
    waiting = Background(capsule, "workload", "wait", "w", "--for", "deleted")
    capsule.ctl("workload", "delete", "w")
    assert waiting.finish() == ("workload/w deleted\n", "", 0)
    assert capsule.ctl("workload", "wait", "w", "--for", "deleted").out == "workload/w deleted\n"


def test_wait_takes_no_other_state(capsule):
    done = capsule.ctl("workload", "wait", "w", "--for", "stoped", check=False)
    assert done.returncode == 2 and '"stoped" is not one of running|healthy|stopped|deleted' in done.err


# ---- events ----


@both_kinds
def test_events_tell_a_life(capsule):
    capsule.run_workload("w", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    capsule.run_workload("w", "busybox:test", command=["sleep", "100001"], stopGracePeriodSeconds=0)
    capsule.ctl("workload", "stop", "w")
    capsule.ctl("workload", "start", "w", "--wait")
    capsule.ctl("workload", "delete", "w")
    lines = capsule.ctl("workload", "events").out.splitlines()
    assert types(lines) == [
        "Applied", "Started",
        "Applied", "Stopping", "Exited", "Started",
        "Applied", "Stopping", "Exited", "Stopped",
        "Applied", "Started",
        "Applied", "Stopping", "Exited", "Stopped", "Deleted"]
    assert [" ".join(line.split()[3:]) for line in lines if line.split()[2] == "Applied"] == [
        "created", "changed", "to be stopped", "to run", "to be deleted"]
    times = [line.split()[0] for line in lines]
    assert times == sorted(times)


@both_kinds
def test_events_of_ends_and_restarts(capsule):
    capsule.run_workload("w", "busybox:test", command=ON_CALL, restartPolicy="OnFailure")
    end_with(capsule, "w", 7)
    wait_for(lambda: capsule.status("w").get("restartCount"), "the first end")
    events = [json.loads(line) for line in capsule.ctl("workload", "events", "w", "-o", "json").out.splitlines()]
    ends = [(e["type"].removeprefix("WORKLOAD_OCCURRENCE_TYPE_"), e.get("message")) for e in events][2:4]
    assert ends == [("EXITED", "exited 7"), ("RESTARTING", "in 1 s")]


def test_events_of_a_failure(capsule):
    job(capsule, "w", "true", ports=[])
    capsule.run_workload("none", "127.0.0.1:1/no/such:image", wait=False, restartPolicy="Never")
    capsule.wait_phase("none", "failed")
    lines = capsule.ctl("workload", "events", "none").out.splitlines()
    assert types(lines)[:3] == ["Applied", "Pulling", "Failed"]
    assert all(line.split()[1] == "none" for line in lines)


def test_events_follow(capsule):
    following = Background(capsule, "workload", "events", "-f", "b")
    capsule.run_workload("a", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    capsule.run_workload("b", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    assert types(following.until("Started")) == ["Applied", "Started"]
    capsule.ctl("workload", "delete", "b")
    assert types(following.until("Deleted")) == ["Applied", "Stopping", "Exited", "Stopped", "Deleted"]
    out, err, code = following.interrupt()
    assert (out, err, code) == ("", "", 128 + signal.SIGINT)


def test_events_begin_with_the_daemon_and_at_a_time(capsule):
    capsule.run_workload("w", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    assert capsule.ctl("workload", "events", "--since", "1h").out
    assert capsule.ctl("workload", "events", "--since", "2099-01-01T00:00:00Z").out == ""
    pid = capsule.status("w")["pid"]
    capsule.stop()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not capsule.shim("w"), "the run to end")
    capsule.start()
    capsule.ctl("workload", "wait", "w")
    lines = capsule.ctl("workload", "events").out.splitlines()
    assert in_order(["Exited", "Restarting", "Started"], types(lines)), lines


def test_the_record_is_bounded(capsule, stubs):
    """Older events go; a reader sees it by the numbers."""
    capsule.run_workload("w", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    stub = stubs.workload_grpc.WorkloadServiceStub(capsule.channel())
    workload = stub.Get(stubs.workload.WorkloadGetRequest(name="w"))
    for i in range(1100):
        workload.stop_grace_period_seconds = i % 2
        stub.Apply(stubs.workload.WorkloadApplyRequest(workload=workload))
    events = list(stub.Events(stubs.workload.WorkloadEventsRequest()))
    assert len(events) == 1000
    numbers = [e.sequence for e in events]
    assert numbers == list(range(numbers[0], numbers[0] + 1000)) and numbers[0] > 100


def test_events_refuse_nonsense(capsule, stubs):
    stub = stubs.workload_grpc.WorkloadServiceStub(capsule.channel())
    for request in (stubs.workload.WorkloadEventsRequest(names=["No Name"]),
                    stubs.workload.WorkloadEventsRequest(since_unix_ns=-1)):
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.Events(request))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# ---- stats ----


def stats(capsule, *names):
    response = json.loads(capsule.ctl("workload", "stats", "--no-stream", "-o", "json", *names).out)
    return {s["name"]: s for s in response.get("stats", [])}


def test_stats_count_what_a_workload_does(capsule):
    port = free_port()
    script = ("dd if=/dev/zero of=/dev/null bs=1M count=200 2>/dev/null; mkdir /www; "
              "dd if=/dev/urandom of=/www/page bs=1k count=300 2>/dev/null; exec httpd -f -p 80 -h /www")
    capsule.run_workload("w", "busybox:test", command=["sh", "-c", script], resources={"memoryMib": 64, "pidsMax": 50},
                         ports=[{"containerPort": 80, "hostPort": port}], stopGracePeriodSeconds=0)
    capsule.run_workload("host", "busybox:test", command=FOREVER, networkMode="HOST", stopGracePeriodSeconds=0)
    wait_for(lambda: http_get("127.0.0.1", port, "/page"), "the page")
    seen = stats(capsule)
    assert sorted(seen) == ["host", "w"]
    w = seen["w"]
    assert int(w["memoryLimitBytes"]) == 64 << 20 and int(w["pidsLimit"]) == 50
    assert 0 < int(w["memoryBytes"]) <= 64 << 20 and int(w["pids"]) >= 1
    assert int(w["networkSentBytes"]) > 300_000 and int(w["networkReceivedBytes"]) > 0
    assert int(w["cpuTimeNs"]) > 1_000_000
    assert not {"memoryLimitBytes", "pidsLimit", "networkSentBytes"} & set(seen["host"])
    capsule.ctl("workload", "stop", "w")
    assert list(stats(capsule)) == ["host"] and stats(capsule, "w") == {}


@both_kinds
def test_stats_as_a_table(capsule):
    capsule.run_workload("busy", "busybox:test", command=["sh", "-c", "while :; do :; done"], stopGracePeriodSeconds=0,
                         resources={"memoryMib": 64})
    out = capsule.ctl("workload", "stats", "--no-stream", "--interval", "500ms").out.splitlines()
    assert out[0].split("  ")[0] == "NAME" and len(out) == 2
    name, cpu, memory, limit = out[1].split()[:4]
    assert name == "busy" and limit == ("64.0MiB" if capsule.kind == "Container" else "-") and memory.endswith("iB")
    assert float(cpu.rstrip("%")) > 1
    done = capsule.ctl("workload", "stats", "nobody", check=False)
    assert done.returncode == 1 and "there is no workload nobody" in done.err


def test_stats_go_on(capsule):
    capsule.run_workload("w", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    following = Background(capsule, "workload", "top", "-o", "json", "--interval", "50ms")
    looks = [json.loads(following.line()) for _ in range(4)]
    assert len({look["timeUnixNs"] for look in looks}) == 4
    assert following.interrupt()[1:] == ("", 128 + signal.SIGINT)


def test_stats_on_a_terminal_stay_in_place(capsule):
    """Each table takes the place of the one before; SIGINT ends it, also between two looks."""
    capsule.run_workload("w", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    terminal = Terminal(capsule.ctl_argv("workload", "stats", "--interval", "100ms"), dict(os.environ), columns=120)
    table = "\033[H\033[JNAME"
    while terminal.text.count(table) < 3:
        terminal.text += os.read(terminal.master, 65536).decode()
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 128 + signal.SIGINT


def test_stats_end_with_their_reader(capsule):
    capsule.run_workload("w", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    following = Background(capsule, "workload", "stats", "--interval", "1h")
    following.line()
    following.process.stdout.close()
    assert following.process.wait(timeout=PATIENCE) == 128 + signal.SIGPIPE


# ---- diff ----


@both_kinds
def test_diff_is_a_dry_run(capsule, tmp_path):
    manifest = capsule.manifest("w", "busybox:test", command=FOREVER)
    part = PARTS[capsule.kind]
    file = tmp_path / "w.yaml"
    file.write_text(json.dumps(manifest))
    assert capsule.ctl("diff", "-f", file).out == capsule.ctl("apply", "--dry-run", "-f", file).out
    assert capsule.names() == []
    capsule.ctl("apply", "-f", file, "--wait")
    assert capsule.ctl("diff", "-f", file).out == "workload/w unchanged\n"
    manifest[part]["command"] = ["sleep", "1"]
    file.write_text(json.dumps(manifest))
    assert capsule.ctl("diff", "-f", file).out == (
        f'workload/w would be configured\n  ~ {part}.command: ["sleep","100000"] -> ["sleep","1"]\n')
