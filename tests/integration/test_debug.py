# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""capsulectl capsule debug: a shell on the host, and nothing left of it."""
import os
import signal
import subprocess
import threading
import time

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


def started(capsule):
    """capsulectl capsule debug with a command that runs for ever, and the name of its container."""
    before = set(capsule.names())
    process = subprocess.Popen(capsule.ctl_argv(*DEBUG, "--", "sh", "-c", "echo up; exec sleep 100000"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout.readline() == b"up\n"
    name, = set(capsule.names()) - before
    return process, name


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def test_removed_when_its_client_is_killed(capsule):
    held, its_name = started(capsule)
    time.sleep(6)
    killed, name = started(capsule)
    kill(killed)
    wait_for(lambda: name not in capsule.names(), "its container to be removed")
    assert capsule.names() == [its_name] and held.poll() is None, "one that has been used for longer stays"
    kill(held)
    wait_for(lambda: capsule.names() == [], "the other one to be removed")


def test_removed_when_client_and_daemon_are_killed(capsule):
    process, name = started(capsule)
    capsule.kill()
    kill(process)
    capsule.start()
    assert capsule.names() == [name]
    wait_for(lambda: capsule.names() == [], "it to be removed")


def test_removed_when_its_client_is_killed_during_the_pull(capsule, fake):
    """The registry answers with a long silence first; the pull ends in a failure that nobody waits for."""
    asked, answer = threading.Event(), threading.Event()

    def silence(handler):
        asked.set()
        answer.wait(PATIENCE)
        return handler.answer(404, b"nothing")
    fake.rules["/v2/some/manifests/1"] = silence
    process = subprocess.Popen(capsule.ctl_argv("capsule", "debug", "-i", f"{fake.address}/some:1"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert asked.wait(PATIENCE)
    kill(process)
    time.sleep(11)
    assert len(capsule.names()) == 1, "it is on its way"
    answer.set()
    wait_for(lambda: capsule.names() == [], "it to be removed")


def test_applied_from_a_manifest_it_stays(capsule):
    process, name = started(capsule)
    manifest = capsule.ctl("workload", "get", name, "-o", "manifest").out
    assert "ephemeral" not in manifest
    pid = capsule.status(name)["pid"]
    capsule.apply(manifest)
    kill(process)
    time.sleep(12)
    assert capsule.status(name)["pid"] == pid


def test_an_image_that_is_not_there(capsule):
    done = capsule.ctl("capsule", "debug", "-i", "127.0.0.1:1/none:1", "--", "true", check=False)
    assert done.returncode == 125 and "failed" in done.err
    wait_for(lambda: capsule.names() == [], "it to be removed")
