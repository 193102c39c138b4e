# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The daemon goes and comes: workloads do not notice, what happened meanwhile is acted on, what belongs to nobody goes."""
import os
import pathlib
import signal
import socket
import subprocess

import pytest

from capsule import CAPSULECTL, CAPSULED, MARK, PATIENCE, SHIM, alive, free_port, host_state, http_get, run, wait_for

HTTPD = ["sh", "-c", "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -v -p 80 -h /www"]


def web(capsule, **spec):
    port = free_port()
    capsule.run_container("web", "busybox:test", command=HTTPD, ports=[{"containerPort": 80, "hostPort": port}], **spec)
    wait_for(lambda: http_get("127.0.0.1", port) == "hello\n", "the page")
    return port


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_workloads_outlive_the_daemon(capsule, sig):
    port = web(capsule)
    before = capsule.status("web")
    capsule.stop(sig)
    assert http_get("127.0.0.1", port) == "hello\n"
    capsule.start()
    assert capsule.status("web") == before
    assert http_get("127.0.0.1", port) == "hello\n"
    wait_for(lambda: capsule.logs("web").count("GET") or capsule.logs("web").count("response:200") >= 3, "the log")


def test_an_exit_while_the_daemon_is_away_is_acted_on(capsule):
    capsule.run_container("always", "busybox:test", command=["sleep", "1000"])
    capsule.run_container("never", "busybox:test", restartPolicy="Never", command=["sleep", "1000"])
    pids = {name: capsule.status(name)["pid"] for name in ("always", "never")}
    capsule.kill()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    capsule.start()
    capsule.wait_phase("never", "failed")
    assert capsule.status("never")["exitCode"] == 137
    capsule.wait_phase("always", "running")
    assert capsule.status("always")["pid"] != pids["always"]


def test_after_a_reboot_what_should_run_runs(capsule):
    port = web(capsule)
    capsule.run_container("stopped", "busybox:test", command=["sleep", "1000"], stopGracePeriodSeconds=0)
    capsule.ctl("workload", "stop", "stopped")
    address = capsule.address("web")
    capsule.power_cut()
    capsule.start()
    capsule.wait_phase("web", "running")
    assert capsule.address("web") == address
    wait_for(lambda: http_get("127.0.0.1", port) == "hello\n", "the page")
    assert capsule.phase("stopped") == "Stopped"


def test_a_killed_shim_is_a_lost_run(capsule):
    capsule.run_container("w", "busybox:test", command=["sleep", "1000"])
    pid = capsule.status("w")["pid"]
    os.kill(capsule.shim("w"), signal.SIGKILL)
    wait_for(lambda: capsule.status("w").get("pid", pid) not in (pid, 0), "a new process")
    wait_for(lambda: not alive(pid), "the old process to be gone")
    assert capsule.status("w")["restartCount"] == 1


def test_a_killed_shim_while_the_daemon_is_away(capsule):
    capsule.run_container("w", "busybox:test", command=["sleep", "1000"])
    pid = capsule.status("w")["pid"]
    shim = capsule.shim("w")
    capsule.kill()
    os.kill(shim, signal.SIGKILL)
    capsule.start()
    capsule.wait_phase("w", "running")
    assert capsule.status("w")["pid"] != pid
    assert not alive(pid)


def test_a_job_whose_shim_was_killed_while_the_daemon_was_away_is_not_run_again(capsule):
    capsule.run_container("job", "busybox:test", restartPolicy="Never", command=["sh", "-c", "echo run; exec sleep 1000"])
    shim = capsule.shim("job")
    capsule.kill()
    os.kill(shim, signal.SIGKILL)
    for _ in range(2):
        capsule.start()
        capsule.wait_phase("job", "failed")
        assert capsule.status("job")["exitCode"] == 255
        assert capsule.logs("job") == "run\n"
        capsule.stop()


def test_a_delete_that_was_cut_off_is_finished(capsule):
    capsule.run_container("w", "busybox:test", stopGracePeriodSeconds=30,
                          command=["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000 & wait; done"])
    wait_for(lambda: "up" in capsule.logs("w"), "the trap")
    capsule.ctl("workload", "delete", "--no-wait", "w")
    capsule.kill()
    os.kill(capsule.shim("w"), signal.SIGKILL)
    capsule.start()
    wait_for(lambda: capsule.names() == [], "the delete to be finished")


def test_what_belongs_to_nobody_is_removed(capsule):
    capsule.run_container("w", "busybox:test", command=["sleep", "1000"])
    capsule.stop()
    for directory in (capsule.root / "workloads/ghost/upper", capsule.run_dir / "workloads/ghost/rootfs"):
        directory.mkdir(parents=True)
    (capsule.root / "volumes/.tmp-1-2").write_text("half")
    (capsule.root / "workloads/w/.tmp-1-2").write_text("half")
    (capsule.root / "images/blobs/sha256/.tmp-9-9").write_text("half")
    capsule.start()
    for path in ("root/workloads/ghost", "run/workloads/ghost", "root/volumes/.tmp-1-2", "root/workloads/w/.tmp-1-2"):
        assert not (capsule.dir / path).exists(), path
    assert capsule.phase("w") == "Running"


def test_down_ends_everything_but_what_is_declared(capsule):
    stubborn = ["sh", "-c", "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 1000 & wait; done"]
    port = web(capsule)
    capsule.run_container("polite", "busybox:test", command=stubborn)
    wait_for(lambda: "up" in capsule.logs("polite"), "the trap")
    refused = subprocess.run([str(a) for a in capsule.argv()] + ["--down"], capture_output=True, timeout=PATIENCE)
    assert refused.returncode == 1 and b"another capsuled" in refused.stderr
    assert capsule.phase("polite") == "Running"
    capsule.stop()
    run(*capsule.argv(), "--volumes", "lvm:gone/pool", "--down")  # which keeps nothing up
    left = {kind: names for kind, names in host_state().items() if names}
    assert left == {}
    assert http_get("127.0.0.1", port) is None
    run(*capsule.argv(), "--down")
    capsule.start()
    wait_for(lambda: http_get("127.0.0.1", port) == "hello\n", "the page")
    capsule.wait_phase("polite", "running")
    assert "asked" in capsule.logs("polite")


def test_down_leaves_a_cgroup_parent_that_was_there_before(capsule):
    capsule.stop()
    run(*capsule.argv(), "--down")
    top = pathlib.Path("/sys/fs/cgroup")
    tops = [top] if (top / "cgroup.procs").exists() else [d for d in top.iterdir() if (d / "cgroup.procs").exists()]
    parents = {d.resolve() / capsule.table for d in tops}
    for parent in parents:
        parent.mkdir()
    try:
        capsule.start()
        capsule.run_container("w", "busybox:test", command=["sleep", "100000"], stopGracePeriodSeconds=0)
        capsule.stop()
        run(*capsule.argv(), "--down")
        assert all(parent.exists() for parent in parents)
        assert not any(d.is_dir() for parent in parents for d in parent.iterdir()), "but what was in them is gone"
    finally:
        for parent in parents:
            parent.rmdir()


def test_down_keeps_how_runs_ended_by_themselves(capsule):
    """While no daemon looked. What the restart policy does not start again does not run after the next start either."""
    command = ["sh", "-c", "trap 'exit 0' INT; echo run; while :; do sleep 1000 & wait; done"]
    policies = {"never": "Never", "done": "OnFailure", "failed": "OnFailure", "always": "Always", "asked": "Never", "lost": "Never"}
    for name, policy in policies.items():
        capsule.run_container(name, "busybox:test", command=command, restartPolicy=policy, stopGracePeriodSeconds=0)
        wait_for(lambda: "run" in capsule.logs(name), "the trap")
    pids = {name: capsule.status(name)["pid"] for name in policies}
    shims = {name: capsule.shim(name) for name in policies}
    capsule.kill()
    for name, sig in {"never": signal.SIGKILL, "done": signal.SIGINT, "failed": signal.SIGKILL, "always": signal.SIGINT}.items():
        os.kill(pids[name], sig)
        wait_for(lambda: not alive(shims[name]), "the shim to be gone")
    os.kill(shims["lost"], signal.SIGKILL)
    run(*capsule.argv(), "--down")
    for _ in range(2):
        capsule.start()
        capsule.wait_phase("never", "failed")
        capsule.wait_phase("lost", "failed")
        capsule.wait_phase("done", "stopped")
        for name in ("failed", "always", "asked"):
            wait_for(lambda: capsule.logs(name) == "run\nrun\n", f"another run of {name}")
        assert [capsule.status(name).get("exitCode", 0) for name in ("never", "done", "lost")] == [137, 0, 255]
        assert [capsule.logs(name) for name in ("never", "done", "lost")] == ["run\n"] * 3
        capsule.stop()


def test_down_waits_for_a_shim_that_waits_for_its_turn(capsule):
    """Its payload gets its grace on a busy host, too."""
    capsule.run_container("polite", "busybox:test",
                          command=["sh", "-c", "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 1000 & wait; done"])
    wait_for(lambda: "up" in capsule.logs("polite"), "the trap")
    capsule.stop()
    shim = capsule.shim("polite")
    os.kill(shim, signal.SIGSTOP)
    down = subprocess.Popen([str(a) for a in capsule.argv()] + ["--down"])
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            down.wait(3)
    finally:
        os.kill(shim, signal.SIGCONT)
    assert down.wait(PATIENCE) == 0
    capsule.start()
    wait_for(lambda: capsule.logs("polite").count("up") == 2, "the next run")
    assert "asked" in capsule.logs("polite")


def test_one_that_ends_during_a_pull(capsule):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        capsule.apply(capsule.manifest("w", f"127.0.0.1:{silent.getsockname()[1]}/app:1"))
        wait_for(lambda: "pulling" in capsule.status("w").get("message", ""), "the pull")
        capsule.stop()
    capsule.start()
    capsule.ctl("workload", "delete", "w")


def test_a_second_daemon_on_the_same_root_is_refused(capsule):
    done = subprocess.run([str(a) for a in capsule.argv()], capture_output=True, timeout=30)
    assert done.returncode == 1
    assert b"another capsuled, pid" in done.stderr and str(capsule.root).encode() in done.stderr
    assert capsule.names() == []


def test_a_second_daemon_with_a_name_of_the_first_is_refused(capsule, tmp_path):
    """It would take the first one's workloads for what is left of its own, kill them, and take away the bridge."""
    port = web(capsule)
    before = capsule.status("web")
    own = {"--root": tmp_path / "root", "--run": tmp_path / "run", "--bridge": f"{capsule.bridge}b",
           "--table": f"{capsule.table}b", "--cgroup-parent": f"/{capsule.table}b"}
    for option, value, shown in [("--root", capsule.root, capsule.root), ("--run", capsule.run_dir, capsule.run_dir),
                                 ("--bridge", capsule.bridge, capsule.bridge), ("--table", capsule.table, capsule.table),
                                 ("--cgroup-parent", f"/{capsule.table}", f"/{capsule.table}"),
                                 ("--cgroup-parent", f"//{capsule.table}/./x/../", f"/{capsule.table}"),
                                 ("--cgroup-parent", f"/{capsule.table}/web", f"/{capsule.table}")]:
        argv = [a for pair in {**own, option: value}.items() for a in pair]
        for down in ([], ["--down"]):
            done = run(*capsule.argv(), *argv, *down, check=False)
            message = done.stderr.decode()
            assert done.returncode == 1 and len(message.splitlines()) == 1, message
            assert f"another capsuled, pid {capsule.process.pid}, uses {option} {shown}; stop it" in message
            assert all(name in message for name in (*own, "--subnet"))
    assert capsule.status("web") == before
    assert http_get("127.0.0.1", port) == "hello\n"
    capsule.kill()
    capsule.start()  # what was the first one's is free at once
    assert capsule.status("web") == before


def test_daemons_side_by_side(lan, make_capsule):
    """In another network namespace bridge and table may have the same names. Cgroup parents may lie below one cgroup, which then
    is nobody's parent."""
    first = make_capsule()
    first.run_container("w", "busybox:test", command=["sleep", "1000"])
    before = first.status("w")
    second = make_capsule("--bridge", first.bridge, "--table", first.table, netns=lan.host)
    second.run_container("w", "busybox:test", command=["sleep", "1000"])
    assert first.status("w") == before
    make_capsule("--cgroup-parent", f"/{MARK}common/a", push=())
    third = make_capsule("--cgroup-parent", f"/{MARK}common/b", push=())
    third.stop()
    refused = run(*third.argv(), "--cgroup-parent", f"/{MARK}common", check=False)
    assert refused.returncode == 1 and f"uses --cgroup-parent /{MARK}common/...; stop it".encode() in refused.stderr


def test_listen_addresses(make_capsule, tmp_path):
    port = free_port()
    capsule = make_capsule("--listen", f"127.0.0.1:{port}", "--listen", f"unix:{tmp_path}/other.sock", "--listen",
                           "unix:{run}/capsule.sock")
    for target in (f"127.0.0.1:{port}", f"localhost:{port}", f"unix:{tmp_path}/other.sock"):
        assert run(CAPSULECTL, "--capsule", target, "workload", "list", "-o", "name").stdout == b""
    assert capsule.ctl("workload", "list", env={"CAPSULE_HOST": "nowhere:1"}).returncode == 0


@pytest.mark.parametrize("options,message", [
    (["--listen", "0.0.0.0:50000"], "loopback"),
    (["--listen", "192.0.2.1:50000"], "loopback"),
    (["--listen", "nonsense"], "--listen"),
    (["--subnet", "172.20.254.1"], "--subnet"),
    (["--subnet", "fe80::1/64"], "--subnet"),
    (["--log-level", "loud"], "loud"),
    (["--log-max-files", "0"], "1 to 1000"),
    (["--stop-grace", "soon"], "soon"),
    (["--root", "relative"], "absolute"),
    (["--no-such-option"], "--no-such-option"),
    (["--config", "/nonexistent.yaml"], "/nonexistent.yaml"),
    (["--registry-mirror", "docker.io"], "HOST=URL"),
    (["stray"], "stray"),
    (["--shim", "/nonexistent"], "/nonexistent"),
])
def test_wrong_options_are_refused(tmp_path, options, message):
    done = subprocess.run([str(CAPSULED), "--config", "/dev/null", "--root", str(tmp_path / "root"), "--run",
                           str(tmp_path / "run"), "--bridge", f"ctbad{os.getpid() % 10**7}", "--table", f"{MARK}bad",
                           "--cgroup-parent", f"/{MARK}bad", "--shim", str(SHIM),
                           *options],
                          capture_output=True, timeout=30)
    assert done.returncode in (1, 2)
    assert message in done.stderr.decode()
    assert len([l for l in done.stderr.decode().splitlines() if "rror" in l or "capsuled:" in l]) == 1


def test_the_configuration_file(make_capsule, tmp_path):
    config = tmp_path / "capsuled.yaml"
    config.write_text("stop-grace: 1s\nlog-level: debug\nregistry-mirror: [\"docker.io=http://127.0.0.1:1\"]\n")
    capsule = make_capsule("--config", config)
    assert "127.0.0.1:1" in (capsule.run_dir / "registries.json").read_text()
    bad = tmp_path / "bad.yaml"
    bad.write_text("stop-grace: 1s\nloglevel: debug\n")
    done = subprocess.run([str(CAPSULED), "--config", str(bad)], capture_output=True)
    assert done.returncode == 2 and b"bad.yaml:2" in done.stderr


def test_the_daemons_own_log(capsule):
    assert "ready" in capsule.ctl("capsule", "logs").out
    assert len(capsule.ctl("capsule", "logs", "-n", "1").out.splitlines()) == 1


def test_info(capsule):
    out = capsule.ctl("capsule", "info").out
    assert os.uname().release in out and os.uname().nodename in out


def test_readiness_is_announced(capsule, tmp_path):
    capsule.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        capsule.env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        capsule.start()
        assert manager.recv(4096) == b"READY=1"
        capsule.stop()
        assert manager.recv(4096) == b"STOPPING=1"
