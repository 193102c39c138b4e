# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""capsulectl workload exec where the daemon, the workload or the kind of workload is the matter: each test has its own."""
import errno
import os
import re
import shutil
import signal

import pytest

import images
from capsule import PATIENCE, SHIM, alive, wait_for
from exec_tools import MIB, SLEEP, on_terminal, output, processes, run_in, started, through_cat, wait_ended, wait_process
from kinds import both_kinds


@pytest.fixture
def own(capsule):
    """A daemon with a workload w that runs, of the kind that the test is for."""
    capsule.run_workload("w", "busybox:test", command=SLEEP, stopGracePeriodSeconds=0)
    return capsule


def wait_ended_without_daemon(capsule, *argv):
    """Into a microVM nobody sees then: it is looked at when there is a daemon again."""
    if capsule.kind == "Container":
        wait_ended(capsule, *argv)


@both_kinds
def test_workloads_that_do_not_run(own):
    done = run_in(own, "nobody", "--", "true")
    assert done.returncode == 125 and "there is no workload nobody" in done.err
    own.ctl("workload", "stop", "w")
    done = run_in(own, "w", "--", "true")
    assert done.returncode == 125 and "workload w is not running" in done.err and done.err.count("\n") == 1


def test_privileged_and_host_namespaces(capsule):
    capsule.run_workload("big", "busybox:test", command=SLEEP, privileged=True, hostPid=True, networkMode="NETWORK_MODE_HOST",
                         stopGracePeriodSeconds=0)
    pid = capsule.status("big")["pid"]
    script = "cat /proc/self/status; readlink /proc/self/ns/pid; readlink /proc/self/ns/net; mount -t tmpfs x /tmp && echo mounted"
    out = output(capsule, "big", "--", "sh", "-c", script)
    with open(f"/proc/{pid}/status") as f:
        first = f.read()
    for field in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp"):
        assert re.search(rf"^{field}:.*$", first, re.M).group() in out
    assert os.readlink("/proc/self/ns/pid") in out and os.readlink("/proc/self/ns/net") in out and "mounted" in out
    with started(capsule, "big", "--", "sh", "-c", "sleep 4711 & exec sleep 4712") as ctl:
        pids = [wait_process(capsule, "sleep", n) for n in ("4711", "4712")]
        capsule.ctl("workload", "stop", "big")
        assert ctl.wait(PATIENCE) == 137
        assert not any(alive(p) for p in pids)


def test_runc(make_capsule):
    capsule = make_capsule("--oci-runtime", "runc")
    capsule.run_workload("w", "busybox:test", command=SLEEP, stopGracePeriodSeconds=0)
    status = output(capsule, "w", "--", "cat", "/proc/self/status")
    assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status
    assert output(capsule, "-t", "w", "--", "tty").startswith("/dev/pts/")


@both_kinds
def test_an_image_without_a_shell(capsule, tmp_path):
    archive = images.make_image(str(tmp_path / "scratch.tar"), "scratch:test", [images.Host("/bin/busybox", "/busybox")],
                                {"Entrypoint": ["/busybox", "sleep", "100000"]})
    capsule.push(archive)
    capsule.run_workload("bare", "scratch:test", stopGracePeriodSeconds=0)
    assert output(capsule, "bare", "/busybox", "echo", "hello") == "hello\n"
    assert run_in(capsule, "bare", "--", "sh").returncode == 127
    assert output(capsule, "--user", "5", "bare", "--", "/busybox", "id", "-u") == "5\n"


@pytest.mark.shipped
def test_a_gibibyte_passes_in_bounded_memory(own):
    peaks = through_cat(own, 1024)
    print(peaks)
    assert peaks["daemon"] < 40 * MIB and peaks["capsulectl"] < 24 * MIB and peaks["shim"] < 2 * MIB


def test_the_terminal_is_restored_when_the_daemon_dies(own):
    t = on_terminal(own, "-t", "w", "--", "sh", "-c", "echo ready''; exec sleep 4716")
    t.read_until("ready")
    wait_process(own, "sleep", "4716")
    own.kill()
    assert t.end() == 125
    assert len(re.findall("capsulectl: .+\r\n", t.text)) == 1 and "connection to the daemon broke" in t.text
    wait_ended(own, "sleep", "4716")


@both_kinds
def test_a_stop_of_the_workload_ends_its_processes(own):
    with started(own, "w", "--", "sh", "-c", "sleep 4720 & exec sleep 4721") as ctl:
        for n in ("4720", "4721"):
            wait_process(own, "sleep", n)
        own.ctl("workload", "stop", "w")
        assert ctl.wait(PATIENCE) == 137
        assert own.kind == "MicroVM" or not any(processes(own, "sleep", n) for n in ("4720", "4721"))


def test_the_end_of_the_first_process_ends_the_others(own):
    with started(own, "w", "--", "sleep", "4722") as ctl:
        pid = wait_process(own, "sleep", "4722")
        os.kill(own.status("w")["pid"], signal.SIGKILL)
        assert ctl.wait(PATIENCE) == 137
        assert not alive(pid)


@both_kinds
def test_a_daemon_that_is_killed_leaves_no_process(own):
    first = own.status("w")["pid"]
    with started(own, "w", "--", "sleep", "4723") as ctl:
        wait_process(own, "sleep", "4723")
        own.kill()
        assert ctl.wait(PATIENCE) == 125
        assert ctl.stderr.read().count(b"\n") == 1
        wait_ended_without_daemon(own, "sleep", "4723")
    own.start()
    wait_ended(own, "sleep", "4723")
    assert own.status("w")["pid"] == first
    assert output(own, "w", "--", "echo", "again") == "again\n"


@both_kinds
def test_a_daemon_that_is_stopped_ends_in_good_order(own):
    with started(own, "w", "--", "sleep", "4724") as ctl:
        wait_process(own, "sleep", "4724")
        own.stop()
        assert ctl.wait(PATIENCE) == 125
        wait_ended_without_daemon(own, "sleep", "4724")
    own.start()
    wait_ended(own, "sleep", "4724")
    assert output(own, "w", "--", "echo", "again") == "again\n"


@both_kinds
def test_a_shim_that_is_killed(own):
    with started(own, "w", "--", "sleep", "4725") as ctl:
        wait_process(own, "sleep", "4725")
        os.kill(own.shim("w"), signal.SIGKILL)
        assert ctl.wait(PATIENCE) == 125
        assert b"workload w" in ctl.stderr.read()
    wait_for(lambda: own.phase("w") == "Running", "w to run again")
    wait_ended(own, "sleep", "4725")


# ---- the shim's own safety ----

@pytest.mark.shipped  # the sanitized shim is not static: it does not run in a container
def test_the_shims_program_cannot_be_written_from_a_container(make_capsule, tmp_path):
    """A container can make the kernel run the program that its further processes were before, keep it open, and open that for
    writing when nobody runs it any more."""
    program = tmp_path / "capsule-shim"
    shutil.copy(SHIM, program)
    capsule = make_capsule("--shim", program)
    capsule.run_workload("w", "busybox:test", command=SLEEP, stopGracePeriodSeconds=0)
    output(capsule, "w", "--", "sh", "-c", "printf '#!/proc/self/exe\\n' > /tmp/again; chmod 755 /tmp/again")
    assert run_in(capsule, "w", "--", "/tmp/again").returncode == 2, "the shim refuses its command line"
    held = os.open(f"/proc/{capsule.shim('w')}/exe", os.O_RDONLY)
    capsule.ctl("workload", "stop", "w")
    wait_for(lambda: not capsule.shim("w"), "the shim to be gone")
    with pytest.raises(OSError) as e:
        os.open(f"/proc/self/fd/{held}", os.O_WRONLY)
    assert e.value.errno == errno.EROFS
    os.close(held)
    os.close(os.open(program, os.O_WRONLY))
