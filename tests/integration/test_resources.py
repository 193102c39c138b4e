# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Limits of a workload, seen in its cgroup and felt by what runs in it."""
import json
import pathlib

import pytest

from capsule import wait_for
from kinds import both_kinds

FOREVER = ["sleep", "100000"]


def cgroup_path(capsule, name, *candidates):
    """The first of these files (v1's name, v2's name) that a workload's cgroup has."""
    for candidate in candidates:
        controller, _, file = candidate.partition("/")
        for place in (f"{controller}/{capsule.table}/{name}/{file}", f"{capsule.table}/{name}/{file}"):
            path = pathlib.Path("/sys/fs/cgroup") / place
            if path.exists():
                return path
    raise AssertionError(f"{name} has none of {candidates}")


def cgroup_file(capsule, name, *candidates):
    return cgroup_path(capsule, name, *candidates).read_text().strip()


def test_the_cgroup_holds_the_limits(capsule):
    capsule.run_container("w", "busybox:test", command=FOREVER, resources={"cpus": 1.5, "memoryMib": 64, "pidsMax": 100})
    assert cgroup_file(capsule, "w", "memory/memory.limit_in_bytes", "memory/memory.max") == str(64 << 20)
    assert cgroup_file(capsule, "w", "pids/pids.max") == "100"
    quota = cgroup_file(capsule, "w", "cpu/cpu.cfs_quota_us", "cpu/cpu.max").split()[0]
    assert quota == "150000"
    assert cgroup_file(capsule, "w", "memory/memory.memsw.limit_in_bytes", "memory/memory.swap.max") in (str(64 << 20), "0")


def test_without_limits_there_are_none(capsule):
    capsule.run_container("w", "busybox:test", command=FOREVER)
    assert cgroup_file(capsule, "w", "pids/pids.max") == "max"
    assert cgroup_file(capsule, "w", "cpu/cpu.cfs_quota_us", "cpu/cpu.max").split()[0] in ("-1", "max")
    assert "resources" not in capsule.get("w")


@both_kinds
def test_shown_as_they_were_written(capsule):
    capsule.run_workload("w", "busybox:test", command=FOREVER, resources={"cpus": "250m", "memoryMib": 64})
    assert capsule.get("w")["resources"] == {"cpus": 0.25, "memoryMib": 64}
    manifest = capsule.ctl("workload", "get", "w", "-o", "manifest").out
    assert "resources:\n  cpus: 0.25\n  memoryMib: 64\n" in manifest
    assert capsule.apply(manifest).out == "workload/w unchanged\n"


def memory_limit(capsule, name="w"):
    return cgroup_file(capsule, name, "memory/memory.limit_in_bytes", "memory/memory.max")


def limited(capsule, **resources):
    """Gives w other limits and nothing else: what apply says."""
    return capsule.apply({"name": "w", "kind": "Container", "container": {"image": "busybox:test", "command": FOREVER},
                          **({"resources": resources} if resources else {})}).out


def test_changed_limits_reach_the_running_process(capsule):
    capsule.run_container("w", "busybox:test", command=FOREVER, resources={"memoryMib": 64, "cpus": 1})
    before = capsule.status("w")
    manifest = {"name": "w", "kind": "Container", "container": {"image": "busybox:test", "command": FOREVER},
                "resources": {"memoryMib": 96, "pidsMax": 7}}
    plan = capsule.apply(manifest, "--dry-run").out
    assert plan == ("workload/w would be configured\n"
                    "  - resources.cpus: 1\n"
                    "  ~ resources.memoryMib: 64 -> 96\n"
                    "  + resources.pidsMax: 7\n")
    for resources, memory, pids, quota in (({"memoryMib": 96, "pidsMax": 7}, 96 << 20, "7", ("-1", "max")),
                                           ({"memoryMib": 32, "cpus": 0.5}, 32 << 20, "max", ("50000",)),
                                           ({"memoryMib": 128, "cpus": 2}, 128 << 20, "max", ("200000",))):
        assert limited(capsule, **resources) == "workload/w configured\n"
        wait_for(lambda: memory_limit(capsule) == str(memory), "the limit on memory")
        wait_for(lambda: cgroup_file(capsule, "w", "pids/pids.max") == pids, "the limit on processes")
        assert cgroup_file(capsule, "w", "cpu/cpu.cfs_quota_us", "cpu/cpu.max").split()[0] in quota
        assert cgroup_file(capsule, "w", "memory/memory.memsw.limit_in_bytes", "memory/memory.swap.max") in (str(memory), "0")
    limited(capsule)
    wait_for(lambda: memory_limit(capsule) not in (str(128 << 20),), "no limit")
    assert memory_limit(capsule) == "max" or int(memory_limit(capsule)) > 1 << 60
    assert {k: capsule.status("w")[k] for k in ("pid", "startedAtUnixMs")} == {k: before[k] for k in ("pid", "startedAtUnixMs")}


def test_a_changed_limit_is_kept_for_the_next_run(capsule):
    capsule.run_container("w", "busybox:test", command=FOREVER, resources={"memoryMib": 64})
    limited(capsule, memoryMib=80)
    capsule.ctl("workload", "restart", "w")
    capsule.wait_phase("w", "running")
    assert memory_limit(capsule) == str(80 << 20)
    bundle = json.loads((capsule.run_dir / "workloads/w/config.json").read_text())
    assert bundle["linux"]["resources"]["memory"]["limit"] == 80 << 20


def test_a_daemon_that_comes_back_sees_to_the_limits(capsule):
    """As if it had been killed after it wrote the wish down, before the kernel was told."""
    capsule.run_container("w", "busybox:test", command=FOREVER, resources={"pidsMax": 50})
    pid = capsule.status("w")["pid"]
    capsule.kill()
    path = cgroup_path(capsule, "w", "pids/pids.max")
    path.write_text("51")
    capsule.start()
    wait_for(lambda: path.read_text() == "50\n", "the limit to be what was applied")
    assert capsule.status("w")["pid"] == pid


def test_less_memory_than_is_in_use(capsule):
    """The kernel refuses (v1): said in the status, until a limit comes that it takes; or it kills (v2)."""
    # What holds it is the first process: the kernel may kill no other.
    hold = ["sh", "-c", "mkfifo /tmp/f; (head -c 60000000 /dev/zero; sleep 100000) >/tmp/f & exec tail -n 1 /tmp/f"]
    spec = {"name": "w", "kind": "Container", "restartPolicy": "Never", "container": {"image": "busybox:test", "command": hold}}
    capsule.apply({**spec, "resources": {"memoryMib": 256}}, "--wait")
    usage = cgroup_path(capsule, "w", "memory/memory.usage_in_bytes", "memory/memory.current")
    wait_for(lambda: int(usage.read_text()) > 55 << 20, "it to use memory")
    capsule.apply({**spec, "resources": {"memoryMib": 16}})
    refused = "it uses more memory than the new limit of 16 MiB; restart it"
    killed = "killed: out of memory"
    wait_for(lambda: capsule.status("w").get("message") in (refused, killed), "a word about it")
    if usage.name == "memory.usage_in_bytes":
        assert capsule.status("w")["message"] == refused
        assert capsule.phase("w") == "Running" and memory_limit(capsule) == str(256 << 20)
        capsule.apply({**spec, "resources": {"memoryMib": 200}})
        wait_for(lambda: memory_limit(capsule) == str(200 << 20), "the limit on memory")
        wait_for(lambda: "message" not in capsule.status("w"), "the message to go")
    else:
        assert capsule.status("w")["message"] == killed


@pytest.mark.parametrize("kind,runtime", [("container", "crun"), ("container", "runc"), ("microvm", "crun")],
                         indirect=["kind"], scope="module")
def test_more_memory_than_allowed(make_capsule, runtime):
    capsule = make_capsule("--oci-runtime", runtime)
    capsule.run_workload("hog", "busybox:test", command=["sh", "-c", "echo begins; exec tail -n 1 /dev/zero"], wait=False,
                         restartPolicy="Never", resources={"memoryMib": 32})
    capsule.wait_phase("hog", "failed")
    status = capsule.status("hog")
    assert status["message"] == "killed: out of memory" and status["exitCode"] == 137
    assert capsule.logs("hog") == "begins\n"


@both_kinds
def test_more_processes_than_allowed(capsule):
    script = "i=0; while [ $i -lt 30 ]; do sleep 1000 & i=$((i+1)); done; echo unlimited; wait"
    capsule.run_workload("forks", "busybox:test", command=["sh", "-c", script], wait=False, restartPolicy="Never",
                         stopGracePeriodSeconds=0, resources={"pidsMax": 10})
    wait_for(lambda: "can't fork" in capsule.logs("forks"), "a fork to fail")
    assert "unlimited" not in capsule.logs("forks")


def test_a_share_of_a_processor(capsule):
    """The kernel says how often it held the workload back."""
    capsule.run_container("busy", "busybox:test", command=["sh", "-c", "while :; do :; done"], stopGracePeriodSeconds=0,
                          resources={"cpus": 0.1})

    def throttled():
        lines = cgroup_file(capsule, "busy", "cpu/cpu.stat").splitlines()
        return int(dict(line.split() for line in lines)["nr_throttled"]) > 3
    wait_for(throttled, "the kernel to hold it back")


def test_the_daemon_checks_too(capsule, stubs):
    """What capsulectl would never send."""
    import grpc
    stub = stubs.workload_grpc.WorkloadServiceStub(capsule.channel())
    workload = stubs.workload.Workload(name="w", kind=1, container=stubs.workload.ContainerSpec(image="busybox:test"))
    for cpus in (-1, 0.001, float("nan"), float("inf")):
        workload.resources.cpus = cpus
        with pytest.raises(grpc.RpcError) as refused:
            stub.Apply(stubs.workload.WorkloadApplyRequest(workload=workload))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "resources.cpus: must be 0.01 to 1024" in refused.value.details()
    assert json.loads(capsule.ctl("workload", "list", "-o", "json").out) == {"workloads": []}
