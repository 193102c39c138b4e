# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Limits of a workload, seen in its cgroup and felt by what runs in it."""
import json
import pathlib

import pytest

from capsule import wait_for

FOREVER = ["sleep", "100000"]


def cgroup_file(capsule, name, *candidates):
    """The content of the first of these files (v1's name, v2's name) of a workload's cgroup."""
    for candidate in candidates:
        controller, _, file = candidate.partition("/")
        for place in (f"{controller}/{capsule.table}/{name}/{file}", f"{capsule.table}/{name}/{file}"):
            path = pathlib.Path("/sys/fs/cgroup") / place
            if path.exists():
                return path.read_text().strip()
    raise AssertionError(f"{name} has none of {candidates}")


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


def test_shown_as_they_were_written(capsule):
    capsule.run_container("w", "busybox:test", command=FOREVER, resources={"cpus": "250m", "memoryMib": 64})
    assert capsule.get("w")["resources"] == {"cpus": 0.25, "memoryMib": 64}
    manifest = capsule.ctl("workload", "get", "w", "-o", "manifest").out
    assert "resources:\n  cpus: 0.25\n  memoryMib: 64\n" in manifest
    assert capsule.apply(manifest).out == "workload/w unchanged\n"


def test_a_changed_limit_recreates(capsule):
    capsule.run_container("w", "busybox:test", command=FOREVER, resources={"memoryMib": 64})
    pid = capsule.status("w")["pid"]
    manifest = {"name": "w", "kind": "Container", "container": {"image": "busybox:test", "command": FOREVER},
                "resources": {"memoryMib": 96, "pidsMax": 7}}
    plan = capsule.apply(manifest, "--dry-run").out
    assert plan == ("workload/w would be configured\n"
                    "  ~ resources.memoryMib: 64 -> 96\n"
                    "  + resources.pidsMax: 7\n")
    capsule.apply(manifest, "--wait")
    assert capsule.status("w")["pid"] != pid
    assert cgroup_file(capsule, "w", "memory/memory.limit_in_bytes", "memory/memory.max") == str(96 << 20)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_more_memory_than_allowed(make_capsule, runtime):
    capsule = make_capsule("--oci-runtime", runtime)
    capsule.run_container("hog", "busybox:test", command=["sh", "-c", "echo begins; exec tail -n 1 /dev/zero"], wait=False,
                          restartPolicy="Never", resources={"memoryMib": 32})
    capsule.wait_phase("hog", "failed")
    status = capsule.status("hog")
    assert status["message"] == "killed: out of memory" and status["exitCode"] == 137
    assert capsule.logs("hog") == "begins\n"


def test_more_processes_than_allowed(capsule):
    script = "i=0; while [ $i -lt 30 ]; do sleep 1000 & i=$((i+1)); done; echo unlimited; wait"
    capsule.run_container("forks", "busybox:test", command=["sh", "-c", script], wait=False, restartPolicy="Never",
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
