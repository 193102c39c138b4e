# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""capsulectl capsule debug: a shell on the host, and nothing left of it."""
import os
import signal
import subprocess

from capsule import PATIENCE, wait_for
from terminal import Terminal

DEBUG = ("capsule", "debug", "-i", "busybox:test")


def test_a_command_on_the_host(capsule):
    script = "cat /host/etc/os-release; ls /proc/%d/exe; ls /sys/class/net" % capsule.process.pid
    done = capsule.ctl(*DEBUG, "--", "sh", "-c", script)
    with open("/etc/os-release") as f:
        assert done.out.startswith(f.read())
    assert f"/proc/{capsule.process.pid}/exe" in done.out, "the host's processes"
    assert capsule.names() == [] and done.err == ""


def test_its_exit_code_and_input(capsule):
    done = capsule.ctl(*DEBUG, "--", "sh", "-c", "cat; exit 7", input="through\n", check=False)
    assert (done.returncode, done.out) == (7, "through\n")
    assert capsule.names() == []


def test_a_shell_on_a_terminal(capsule):
    terminal = Terminal(capsule.ctl_argv(*DEBUG), {**os.environ, "TERM": "vt220"})
    terminal.type("echo $((40 + 2)) is the answer; exit 3\n")
    terminal.read_until("42 is the answer")
    assert terminal.end() == 3
    assert capsule.names() == []


def test_kept_if_asked(capsule):
    done = capsule.ctl(*DEBUG, "--keep", "--", "true")
    name, = capsule.names()
    assert done.err == f"workload/{name} is kept\n" and name.startswith("debug-")
    assert capsule.ctl("workload", "exec", name, "--", "echo", "there").out == "there\n"


def test_removed_when_interrupted(capsule):
    for signo in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process = subprocess.Popen(capsule.ctl_argv(*DEBUG, "--", "sh", "-c", "echo up; exec sleep 100000"),
                                   stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signo)
        assert process.wait(timeout=PATIENCE) == 128 + signo
        process.stdout.close()
        assert capsule.names() == []


def test_an_image_that_is_not_there(capsule):
    done = capsule.ctl("capsule", "debug", "-i", "127.0.0.1:1/none:1", "--", "true", check=False)
    assert done.returncode == 125 and "failed" in done.err
    wait_for(lambda: capsule.names() == [], "it to be removed")
