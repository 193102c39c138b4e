# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The life of a workload: apply, change, stop, start, restart, end, delete."""
import glob
import json
import pathlib
import time

import pytest

from capsule import BOOT, wait_for
from kinds import both_kinds, said, wait_new_run

FOREVER = ["sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait; done"]


@both_kinds
def test_apply_creates_and_an_equal_spec_leaves_it_alone(capsule):
    assert "workload/w created" in capsule.run_workload("w", "busybox:test", command=FOREVER).out
    first = capsule.status("w")
    assert first["phase"] == "WORKLOAD_PHASE_RUNNING"
    assert "workload/w unchanged" in capsule.run_workload("w", "busybox:test", command=FOREVER).out
    assert capsule.status("w") == first


@both_kinds
def test_a_changed_spec_recreates(capsule):
    capsule.run_workload("w", "busybox:test", command=["sh", "-c", "touch /mark; env; ls /mark; exec sleep 1000"],
                         env=[{"name": "COLOUR", "value": "red"}])
    first = capsule.status("w")
    out = capsule.run_workload("w", "busybox:test", command=["sh", "-c", "ls /mark; env; exec sleep 1000"],
                               env=[{"name": "COLOUR", "value": "blue"}]).out
    assert "workload/w configured" in out
    second = capsule.status("w")
    assert second["pid"] != first["pid"] and second["address"] == first["address"]
    said(capsule, "w", "COLOUR=blue")
    assert "/mark: No such file" in capsule.logs("w"), "a new spec has a fresh writable layer"


@both_kinds
def test_policy_and_grace_change_without_a_new_process(capsule):
    capsule.run_workload("w", "busybox:test", command=FOREVER)
    pid = capsule.status("w")["pid"]
    out = capsule.run_workload("w", "busybox:test", command=FOREVER, restartPolicy="Never", stopGracePeriodSeconds=3).out
    assert "configured" in out
    assert capsule.status("w")["pid"] == pid


@both_kinds
def test_stop_start_restart(capsule):
    capsule.run_workload("w", "busybox:test", command=["sh", "-c", "echo run >> /runs; cat /runs; exec sleep 1000"],
                         stopGracePeriodSeconds=0)
    said(capsule, "w", "run\n")
    capsule.ctl("workload", "stop", "w")
    assert capsule.phase("w") == "Stopped"
    assert capsule.get("w")["desiredState"] == "DESIRED_STATE_STOPPED"
    done = capsule.ctl("workload", "restart", "w", check=False)
    assert done.returncode == 1 and "stopped" in done.err
    capsule.ctl("workload", "start", "w")
    said(capsule, "w", "run\n" * (1 + 2))
    pid = capsule.status("w")["pid"]
    assert capsule.ctl("workload", "restart", "--wait", "w").out == "workload/w running\n"
    assert capsule.status("w")["pid"] != pid
    wait_for(lambda: capsule.logs("w") == "run\n" * (1 + 2 + 3), "the writable layer to be kept over restarts")
    assert capsule.status("w").get("restartCount", 0) == 0


@both_kinds
def test_apply_keeps_a_stopped_workload_stopped(capsule):
    capsule.run_workload("w", "busybox:test", command=FOREVER)
    capsule.ctl("workload", "stop", "w")
    capsule.run_workload("w", "busybox:test", wait=False, command=FOREVER, env={"A": "1"})
    assert capsule.get("w")["desiredState"] == "DESIRED_STATE_STOPPED"
    assert capsule.phase("w") == "Stopped"


@both_kinds
def test_stop_sends_the_images_signal_then_kills_after_the_grace(capsule):
    stubborn = ["sh", "-c", "trap 'echo got TERM' TERM; echo up; while :; do sleep 1000 & wait; done"]
    capsule.run_workload("w", "busybox:test", command=stubborn, stopGracePeriodSeconds=1)
    said(capsule, "w", "up\n")
    began = time.monotonic()
    capsule.ctl("workload", "stop", "w")
    took = time.monotonic() - began
    assert took >= 1
    assert "got TERM" in capsule.logs("w")
    assert capsule.status("w")["exitCode"] == 137


def test_everything_in_a_container_ends(capsule):
    capsule.run_workload("w", "busybox:test", stopGracePeriodSeconds=0,
                         command=["sh", "-c", "setsid sleep 54321 & setsid nohup sleep 54322 & exec sleep 54323"])
    capsule.ctl("workload", "stop", "w")
    assert not [p for p in capsule.pids() if "5432" in open(f"/proc/{p}/cmdline").read()]


@both_kinds
@pytest.mark.parametrize("policy,code,restarts", [("Always", 0, True), ("Always", 3, True), ("OnFailure", 0, False),
                                                  ("OnFailure", 3, True), ("Never", 0, False), ("Never", 3, False)])
def test_restart_policy(capsule, policy, code, restarts):
    capsule.run_workload("w", "busybox:test", wait=False, restartPolicy=policy, command=["sh", "-c", f"echo run; exit {code}"])
    if restarts:
        wait_for(lambda: capsule.status("w").get("restartCount", 0) >= 1, "a restart")
        message = wait_for(lambda: capsule.status("w").get("message"), "a message")
        assert f"exited {code}" in message or message == "starting"
        wait_for(lambda: capsule.logs("w").count("run") >= 2, "the second run")
    else:
        capsule.wait_phase("w", "stopped" if code == 0 else "failed")
        assert capsule.status("w").get("exitCode", 0) == code
        assert capsule.status("w")["message"] == f"exited {code}"
        assert capsule.logs("w") == "run\n"


def test_a_kill_for_want_of_memory_is_told(capsule):
    capsule.run_workload("w", "busybox:test", restartPolicy="Never",
                         command=["sh", "-c", "until [ -e /go ]; do sleep 0.1; done; exec tail /dev/zero"])
    v1, v2 = (glob.glob(f"/sys/fs/cgroup{hierarchy}/{capsule.table}/w/{limit}")
              for hierarchy, limit in (("/memory", "memory.limit_in_bytes"), ("", "memory.max")))
    pathlib.Path(*v1 or v2).write_text(str(16 << 20))
    capsule.inside("w", "touch", "/go")
    capsule.wait_phase("w", "failed")
    assert capsule.status("w")["message"] == "killed: out of memory"
    assert capsule.status("w")["exitCode"] == 137


@both_kinds
def test_a_finished_job_is_not_run_again_but_can_be_started(capsule):
    capsule.run_workload("job", "busybox:test", wait=False, restartPolicy="Never", command=["echo", "done"])
    capsule.wait_phase("job", "stopped")
    capsule.restart()
    assert capsule.phase("job") == "Stopped"
    assert capsule.logs("job") == "done\n"
    capsule.ctl("workload", "start", "job")
    wait_for(lambda: capsule.logs("job") == "done\ndone\n", "the second run")
    capsule.wait_phase("job", "stopped")


@both_kinds
def test_status_tells_when_the_next_attempt_is(capsule):
    capsule.run_workload("w", "busybox:test", wait=False, command=["sh", "-c", "exit 7"])
    message = wait_for(lambda: "restarting in" in (m := capsule.status("w").get("message", "")) and m, "the message")
    assert message.startswith("exited 7, restarting in ")


@both_kinds
def test_a_configuration_larger_than_a_pipe(capsule):
    env = [{"name": f"VALUE_{n}", "value": "x" * 1000} for n in range(300)]
    capsule.run_workload("w", "busybox:test", command=["sh", "-c", "env | grep -c ^VALUE_; exec sleep 1000"], env=env)
    said(capsule, "w", "300\n")


@both_kinds
def test_a_command_that_is_not_there(capsule):
    done = capsule.run_workload("w", "busybox:test", check=False, command=["/bin/nope"], restartPolicy="Never")
    assert done.returncode == 1
    assert "/bin/nope" in done.err
    assert capsule.phase("w") == "Failed"


@both_kinds
def test_an_image_that_is_not_there(capsule):
    capsule.run_workload("w", "localhost:1/nothing:here", wait=False)
    status = wait_for(lambda: (s := capsule.status("w")).get("phase") == "WORKLOAD_PHASE_FAILED" and s, "the attempt to fail")
    assert "localhost:1" in status["message"] and "trying again in" in status["message"]
    assert 0 < int(status["nextAttemptUnixMs"]) - time.time() * 1000 <= 30000


@both_kinds
def test_a_push_wakes_who_waits_for_the_image(make_capsule, archives):
    capsule = make_capsule("--registry-mirror", "docker.io=http://127.0.0.1:1", push=())
    capsule.run_workload("w", "busybox:test", wait=False, command=FOREVER)
    wait_for(lambda: capsule.status("w")["message"].startswith("pulling"), "the attempt to pull")
    capsule.push(archives["busybox:test"])
    capsule.wait_phase("w", "running", timeout=10 if capsule.kind == "Container" else BOOT)


@both_kinds
def test_delete(capsule):
    capsule.run_workload("w", "busybox:test", command=FOREVER)
    capsule.ctl("workload", "delete", "w")
    done = capsule.ctl("workload", "get", "w", check=False)
    assert done.returncode == 1 and "there is no workload w" in done.err
    assert not (capsule.root / "workloads/w").exists()
    assert not (capsule.run_dir / "workloads/w").exists()
    done = capsule.ctl("workload", "delete", "w", check=False)
    assert done.returncode == 1 and "there is no workload w" in done.err


@both_kinds
def test_dry_run_changes_nothing(capsule):
    capsule.run_workload("w", "busybox:test", command=FOREVER)
    before = capsule.get("w")
    out = capsule.apply(capsule.manifest("w", "busybox:test", command=FOREVER, env={"A": "1"}), "--dry-run").out
    assert "env" in out
    assert capsule.get("w") == before
    out = capsule.apply(capsule.manifest("other", "busybox:test"), "--dry-run").out
    assert "other" in out
    assert capsule.names() == ["workload/w"] or capsule.names() == ["w"]


def test_thirty_at_once(capsule):
    documents = [json.dumps(capsule.manifest(f"w{i}", "busybox:test", stopGracePeriodSeconds=0,
                                             command=["sh", "-c", f"echo I am {i}; exec sleep 1000"])) for i in range(30)]
    capsule.apply("\n---\n".join(documents), "--wait", timeout=180)
    table = capsule.ctl("workload", "list").out
    assert table.count("Running  Running") == 30
    addresses = {capsule.address(f"w{i}") for i in range(30)}
    assert len(addresses) == 30
    for i in range(30):
        wait_for(lambda: f"I am {i}\n" in capsule.logs(f"w{i}"), "its log")


@both_kinds
def test_a_hung_stop_delays_nobody(capsule):
    capsule.run_workload("stubborn", "busybox:test", stopGracePeriodSeconds=20,
                         command=["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000 & wait; done"])
    said(capsule, "stubborn", "up\n")
    capsule.ctl("workload", "stop", "--no-wait", "stubborn")
    began = time.monotonic()
    capsule.run_workload("other", "busybox:test", command=FOREVER)
    capsule.ctl("workload", "delete", "other")
    assert time.monotonic() - began < 20
    assert capsule.status("stubborn")["message"] == "stopping"


@both_kinds
def test_a_shorter_grace_counts_for_a_stop_under_way(capsule):
    stubborn = {"command": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000 & wait; done"]}
    capsule.run_workload("w", "busybox:test", stopGracePeriodSeconds=300, **stubborn)
    said(capsule, "w", "up\n")
    capsule.ctl("workload", "stop", "--no-wait", "w")
    assert capsule.status("w")["message"] == "stopping"
    capsule.run_workload("w", "busybox:test", wait=False, stopGracePeriodSeconds=0, **stubborn)
    capsule.wait_phase("w", "stopped")
