# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Health checks: what they find, what is shown of it, and what is done about it."""
import json

from capsule import PATIENCE, run as run_program, wait_for
from kinds import both_kinds, microvms_only

FOREVER = ["sleep", "100000"]
SERVER = ["sh", "-c", "mkdir -p /www; echo fine > /www/ok; exec httpd -f -p 80 -h /www"]
READY_FILE = {"exec": {"command": ["test", "-e", "/ready"]}, "interval": "1s", "retries": 1}


def health(capsule, name):
    return capsule.status(name).get("health", "").removeprefix("HEALTH_").lower()


def wait_healthy(capsule, name):
    assert capsule.ctl("workload", "wait", name, "--for", "healthy", "--timeout", f"{PATIENCE}s").out == f"workload/{name} healthy\n"


def events(capsule, name):
    lines = capsule.ctl("workload", "events", name, "-o", "json").out.splitlines()
    return [(e["type"].removeprefix("WORKLOAD_OCCURRENCE_TYPE_"), e.get("message", "")) for e in map(json.loads, lines)]


def run(capsule, check, name="w", command=FOREVER, **top):
    return capsule.run_workload(name, "busybox:test", command=command, stopGracePeriodSeconds=0, healthCheck=check, **top)


@both_kinds
def test_http(capsule):
    run(capsule, {"http": {"port": 80, "path": "/ok"}, "interval": "1s"}, command=SERVER)
    wait_healthy(capsule, "w")
    assert "Running (healthy)" in capsule.ctl("workload", "list").out
    assert "Running (healthy)" in capsule.ctl("workload", "get", "w").out
    assert ("HEALTHY", "") in events(capsule, "w")


def test_http_on_the_hosts_network_without_an_answer(capsule):
    """Nothing may listen on port 1 of the host."""
    run(capsule, {"http": {"port": 1}, "interval": "1s", "retries": 1}, networkMode="HOST", restartPolicy="Never")
    wait_for(lambda: health(capsule, "w") == "unhealthy", "it to be unhealthy")
    assert "refused" in capsule.status("w")["healthMessage"]


@both_kinds
def test_http_with_a_bad_status_is_only_shown_under_never(capsule):
    run(capsule, {"http": {"port": 80, "path": "/missing"}, "interval": "1s", "retries": 2}, command=SERVER,
        restartPolicy="Never")
    pid = capsule.status("w")["pid"]
    wait_for(lambda: health(capsule, "w") == "unhealthy", "it to be unhealthy")
    assert capsule.status("w")["healthMessage"] == "GET /missing was answered with status 404"
    assert "Running (unhealthy)" in capsule.ctl("workload", "list").out
    capsule.inside("w", "/bin/busybox", "touch", "/www/missing")
    wait_healthy(capsule, "w")
    assert capsule.status("w")["pid"] == pid
    assert [type for type, _ in events(capsule, "w") if "HEALTHY" in type] == ["UNHEALTHY", "HEALTHY"]


@both_kinds
def test_tcp(capsule):
    run(capsule, {"tcp": {"port": 80}, "interval": "1s"}, command=SERVER)
    wait_healthy(capsule, "w")


@both_kinds
def test_an_unhealthy_workload_is_restarted_as_after_a_failure(capsule):
    run(capsule, READY_FILE, command=["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"],
        restartPolicy="OnFailure")
    pid = capsule.status("w")["pid"]
    wait_for(lambda: capsule.status("w").get("pid", pid) not in (0, pid), "a new process")
    assert capsule.status("w")["restartCount"] >= 1
    told = events(capsule, "w")
    at = told.index(("UNHEALTHY", "test exited 1"))
    assert [type for type, _ in told[at:at + 5]] == ["UNHEALTHY", "STOPPING", "EXITED", "RESTARTING", "STARTED"]
    assert told[at + 2][1].startswith("unhealthy, exited ")


@both_kinds
def test_failures_in_the_start_period_do_not_count(capsule):
    run(capsule, {**READY_FILE, "startPeriod": "1h"}, command=["sh", "-c", "sleep 4; touch /ready; exec sleep 1000"])
    pid = capsule.status("w")["pid"]
    wait_for(lambda: capsule.status("w").get("healthMessage") == "test exited 1", "a failure")
    assert health(capsule, "w") == "starting"
    wait_healthy(capsule, "w")
    assert capsule.status("w")["pid"] == pid
    capsule.inside("w", "/bin/busybox", "rm", "/ready")
    wait_for(lambda: capsule.status("w").get("restartCount"), "a restart: its start is over once it was healthy")


@both_kinds
def test_a_probe_that_hangs_ends_at_its_timeout_and_delays_nobody(capsule):
    hanging = {"exec": {"command": ["sleep", "4321"]}, "interval": "1s", "timeout": "900ms", "retries": 1}
    run(capsule, hanging, name="hung", restartPolicy="Never")
    run(capsule, {"tcp": {"port": 80}, "interval": "1s"}, name="well", command=SERVER)
    wait_healthy(capsule, "well")
    wait_for(lambda: health(capsule, "hung") == "unhealthy", "it to be unhealthy")
    assert capsule.status("hung")["healthMessage"] == "no answer within 900ms"
    capsule.run_workload("hung", "busybox:test", command=FOREVER, restartPolicy="Never", stopGracePeriodSeconds=0)
    wait_for(lambda: "4321" not in capsule.inside("hung", "/bin/busybox", "ps"), "the probe's process to be gone")


@both_kinds
def test_a_changed_check_leaves_the_process_alone(capsule):
    run(capsule, {"exec": {"command": ["true"]}, "interval": "1s"})
    wait_healthy(capsule, "w")
    pid = capsule.status("w")["pid"]
    plan = run(capsule, {"tcp": {"port": 80}, "interval": "1s"}, restartPolicy="Never")
    assert "configured" in plan.out and capsule.status("w")["pid"] == pid
    wait_for(lambda: health(capsule, "w") == "unhealthy", "the new check to fail")
    run(capsule, None, restartPolicy="Never")
    assert health(capsule, "w") == "" and capsule.status("w")["pid"] == pid
    done = capsule.ctl("workload", "wait", "w", "--for", "healthy", check=False)
    assert done.returncode == 1 and "has no health check" in done.err


@microvms_only
def test_a_job_that_is_done_is_not_checked_while_its_guest_syncs(capsule, small_disk):
    """What it wrote waits for the disk longer than its check would bear."""
    volumes = capsule.root / "volumes"
    capsule.stop()
    run_program("mount", "--bind", small_disk, volumes)
    try:
        capsule.start()
        capsule.apply({"name": "data", "kind": "Volume", "size": "16MiB"})
        run(capsule, READY_FILE, command=["sh", "-c", "mkfifo /end; touch /ready; echo kept > /data/f; read x < /end"],
            mounts=[{"volumeName": "data", "mountPath": "/data"}], restartPolicy="OnFailure")
        wait_healthy(capsule, "w")
        run_program("fsfreeze", "--freeze", small_disk)
        capsule.inside("w", "/bin/busybox", "sh", "-c", "echo > /end", check=False)
        wait_for(lambda: health(capsule, "w") == "", "the end of the checks")
        assert capsule.phase("w") == "Running"
        run_program("fsfreeze", "--unfreeze", small_disk)
        capsule.wait_phase("w", "stopped")
        assert "UNHEALTHY" not in [type for type, _ in events(capsule, "w")] and not capsule.status("w").get("restartCount")
        capsule.ctl("workload", "delete", "w")
    finally:
        run_program("fsfreeze", "--unfreeze", small_disk, check=False)
        capsule.stop()
        run_program("umount", "--lazy", volumes)


@both_kinds
def test_checks_go_on_after_a_restart_of_the_daemon(capsule):
    run(capsule, {"exec": {"command": ["sleep", "1000"]}, "interval": "30s", "timeout": "30s"}, name="slow")
    run(capsule, READY_FILE | {"startPeriod": "1h"})
    wait_for(lambda: "sleep 1000" in capsule.inside("slow", "/bin/busybox", "ps"), "a probe to be under way")
    capsule.restart()
    assert health(capsule, "w") == "starting"
    capsule.inside("w", "/bin/busybox", "touch", "/ready")
    wait_healthy(capsule, "w")
