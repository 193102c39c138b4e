# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""capsulectl against a gRPC server in Python that keeps everything in memory (cli_server.py).

What is tested is the client alone: its command line, its output in every form, its messages and exit codes, and how it
behaves on terminals, broken pipes, full disks and signals.
"""
import fcntl
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import time

import pytest
import yaml

from terminal import Terminal

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CAPSULE_BUILD", TOP / "build")).resolve()
CAPSULECTL = str(BUILD / "src/capsulectl/capsulectl")
SERVER = pathlib.Path(__file__).with_name("cli_server.py")
PATIENCE = 30

WEB = """name: web
kind: Container
container:
  image: {image}
  ports:
    - containerPort: 80
      hostPort: {port}
"""
DATA = "name: data\nkind: Volume\nsize: {size}\n"


class Client:
    """Runs capsulectl against the server."""

    def __init__(self, directory):
        self.dir = directory
        self.socket = directory / "capsule.sock"
        self.env = {k: v for k, v in os.environ.items() if k not in ("CAPSULE_HOST", "NO_COLOR")}
        self.env["CAPSULE_HOST"] = f"unix:{self.socket}"
        self.port = 0

    def __call__(self, *args, code=0, stdin=None, env=None, **kwargs):
        done = subprocess.run([CAPSULECTL, *map(str, args)], input=stdin if stdin is not None else "", text=True,
                              capture_output=True, timeout=PATIENCE, env=env or self.env, cwd=self.dir, **kwargs)
        assert done.returncode == code, f"{args} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def out(self, *args, **kwargs):
        done = self(*args, **kwargs)
        assert done.stderr == ""
        return done.stdout

    def fails(self, *args, code=1, **kwargs):
        return self(*args, code=code, **kwargs).stderr

    def json(self, *args):
        return json.loads(self.out(*args, "-o", "json"))

    def write(self, name, text):
        path = self.dir / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def apply_web(self, image="nginx", port=8080, name="web", wait=True):
        text = WEB.format(image=image, port=port).replace("name: web", f"name: {name}")
        return self("apply", "-f", "-", *(["--wait"] if wait else []), stdin=text)

    def record(self):
        return self.out("capsule", "logs").splitlines()

    def wait_for_record(self, line):
        deadline = time.monotonic() + PATIENCE
        while line not in self.record():
            assert time.monotonic() < deadline, f"the server never saw: {line}"


@pytest.fixture(scope="module")
def server_stubs(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli-stubs")
    proto = TOP / "proto/capsule/v1"
    subprocess.run(["/usr/bin/protoc", f"--proto_path={proto}", f"--python_out={out}", f"--grpc_out={out}",
                    "--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin",
                    *(str(proto / f"{n}.proto") for n in ("workload", "volume", "image", "capsule"))], check=True)
    return out


@pytest.fixture
def ctl(server_stubs, tmp_path):
    client = Client(tmp_path)
    server = subprocess.Popen(["/usr/bin/python3", str(SERVER), str(server_stubs), str(client.socket)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        word, port = server.stdout.readline().split()
        assert word == "ready"
        client.port = int(port)
        yield client
    finally:
        server.stdin.close()
        server.wait(timeout=PATIENCE)
        server.stdout.close()


# ---- apply ----


def test_apply_results(ctl):
    web = ctl.write("web.yaml", WEB.format(image="nginx", port=8080))
    data = ctl.write("data.yaml", DATA.format(size="1GiB"))
    assert ctl.out("apply", "-f", web, "-f", data) == "volume/data created\nworkload/web created\n"
    assert ctl.out("apply", "-f", web, "-f", data) == "volume/data unchanged\nworkload/web unchanged\n"
    ctl.write("web.yaml", WEB.format(image="nginx", port=8081))
    ctl.write("data.yaml", DATA.format(size="2GiB"))
    assert ctl.out("apply", "-f", web, "-f", data) == "volume/data grown\nworkload/web configured\n"
    ctl.write("data.yaml", DATA.format(size="1GiB"))
    assert ctl.out("apply", "-f", data) == \
        "volume/data unchanged (it has 2GiB, more than the 1GiB asked for; volumes only grow)\n"


def test_apply_order_is_kept_but_volumes_come_first(ctl):
    documents = [WEB.format(image="nginx", port=8000 + i).replace("name: web", f"name: {name}")
                 for i, name in enumerate(("zeta", "alpha"))]
    documents.insert(1, DATA.format(size="64M"))
    assert ctl.out("apply", "-f", "-", stdin="---\n".join(documents)) == \
        "volume/data created\nworkload/zeta created\nworkload/alpha created\n"
    assert ctl.record() == ["created data", "applied zeta", "applied alpha"]


def test_apply_directory(ctl):
    for name, port in (("b.yaml", 1), ("a.yml", 2), ("c.json", 3)):
        text = WEB.format(image="nginx", port=8000 + port).replace("name: web", f"name: {name[0]}")
        ctl.write(f"d/{name}", json.dumps(yaml.safe_load(text)) if name.endswith("json") else text)
    ctl.write("d/notes.txt", "not a manifest")
    ctl.write("d/.hidden.yaml", "not: [a manifest")
    assert ctl.out("apply", "-f", "d") == "workload/a created\nworkload/b created\nworkload/c created\n"
    (ctl.dir / "empty").mkdir()
    assert "there is no .yaml, .yml or .json file in directory empty" in ctl.fails("apply", "-f", "empty")


def test_every_mistake_is_shown_and_nothing_is_sent(ctl):
    good = ctl.write("good.yaml", WEB.format(image="nginx", port=8080))
    bad = ctl.write("bad.yaml", "name: Web\nkind: Container\ncontainer:\n  imag: nginx\n")
    err = ctl.fails("apply", "-f", good, "-f", bad, "-f", "-", stdin="name: x\nkind: Volume\nsize: much\n")
    lines = err.splitlines()
    assert any(re.match(rf"{re.escape(str(bad))}:1:\d+: name: ", line) for line in lines), err
    assert any(re.match(rf"{re.escape(str(bad))}:4:\d+: container\.imag: ", line) for line in lines), err
    assert any(re.match(r"<stdin>:3:\d+: size: ", line) for line in lines), err
    assert re.fullmatch(r"capsulectl: \d+ mistakes in 2 files; nothing was applied", lines[-1])
    assert ctl.record() == []
    assert ctl.json("workload", "list") == {"workloads": []}


def test_files_that_cannot_be_read(ctl):
    good = ctl.write("good.yaml", WEB.format(image="nginx", port=8080))
    err = ctl.fails("apply", "-f", "missing.yaml", "-f", good)
    assert "missing.yaml" in err and "No such file" in err
    assert err.endswith("capsulectl: nothing was applied\n")
    assert ctl.record() == []


def test_dry_run_changes_nothing(ctl):
    text = WEB.format(image="nginx", port=8080)
    out = ctl.out("apply", "--dry-run", "-f", "-", stdin=text + "---\n" + DATA.format(size="1GiB"))
    assert out.startswith("volume/data would be created\n  + size: 1GiB\nworkload/web would be created\n")
    assert '  + container.image: "nginx"\n' in out
    assert ctl.record() == []
    ctl("apply", "-f", "-", stdin=text + "---\n" + DATA.format(size="1GiB"))
    changed = yaml.safe_load(text)
    changed["container"]["ports"][0]["hostPort"] = 9090
    changed["container"]["args"] = ["-v"]
    out = ctl.out("apply", "--dry-run", "-f", "-", stdin=json.dumps(changed))
    assert out == ("workload/web would be configured\n"
                   '  + container.args[0]: "-v"\n'
                   "  ~ container.ports[0].hostPort: 8080 -> 9090\n")
    changed["container"].pop("ports")
    changed["container"].pop("args")
    out = ctl.out("apply", "--dry-run", "-f", "-", stdin=json.dumps(changed))
    assert "  - container.ports[0].hostPort: 8080\n" in out
    assert ctl.out("apply", "--dry-run", "-f", "-", stdin=text) == "workload/web unchanged\n"
    assert ctl.out("apply", "--dry-run", "-f", "-", stdin=DATA.format(size="2GiB")) == \
        "volume/data would be grown\n  ~ size: 1GiB -> 2GiB\n"
    assert ctl.record() == ["created data", "applied web"]


def test_dry_run_of_a_workload_whose_volume_is_yet_to_be_created(ctl):
    mounts = "  mounts:\n    - volumeName: data\n      mountPath: /data\n"
    text = WEB.format(image="nginx", port=8080) + mounts + "---\n" + DATA.format(size="1GiB")
    out = ctl.out("apply", "--dry-run", "-f", "-", stdin=text)
    assert out.startswith("volume/data would be created\n  + size: 1GiB\nworkload/web would be created\n")
    assert "container.mounts" in out
    ctl.apply_web(wait=False)
    out = ctl.out("apply", "--dry-run", "-f", "-", stdin=text)
    assert "workload/web would be configured\n" in out and "container.image" not in out
    assert ctl.out("apply", "--dry-run", "-f", "-", stdin=DATA.format(size="1GiB") + "backend: lvm\nfromSnapshot: other/s\n") == \
        "volume/data would be created\n  + size: 1GiB\n  + backend: lvm\n  + fromSnapshot: other/s\n"
    # A volume that nobody declares is missing all the same.
    err = ctl.fails("apply", "--dry-run", "-f", "-", stdin=WEB.format(image="nginx", port=8080) + mounts)
    assert err == 'capsulectl: workload/web: volume "data" does not exist\n'
    assert ctl.record() == ["applied web"]


def test_one_that_is_refused_does_not_keep_the_others(ctl):
    documents = [WEB.format(image="nginx", port=8000).replace("name: web", f"name: {n}") for n in ("refused", "web")]
    done = ctl("apply", "-f", "-", stdin="---\n".join(documents), code=1)
    assert done.stdout == "workload/web created\n"
    assert done.stderr == "capsulectl: workload/refused: host port 80/tcp is held by workload/other\n"
    done = ctl("--verbose", "apply", "-f", "-", stdin=documents[0], code=1)
    assert done.stderr == "capsulectl: workload/refused: host port 80/tcp is held by workload/other (FAILED_PRECONDITION)\n"


def test_wait(ctl):
    assert ctl.apply_web().stdout == "workload/web created\nworkload/web running\n"
    text = "---\n".join(WEB.format(image=image, port=port).replace("name: web", f"name: {name}")
                        for name, image, port in (("good", "nginx", 1), ("bad", "fail", 2), ("job", "once", 3)))
    done = ctl("apply", "--wait", "-f", "-", stdin=text, code=1)
    assert sorted(done.stdout.splitlines()) == sorted([
        "workload/good created", "workload/bad created", "workload/job created", "workload/good running",
        "workload/job completed"])
    assert done.stderr == "capsulectl: workload/bad failed: exited 1\n"


def test_wait_has_a_limit(ctl):
    began = time.monotonic()
    done = ctl("apply", "--wait", "--timeout", "300ms", "-f", "-", stdin=WEB.format(image="slow", port=80), code=1)
    assert time.monotonic() - began < 5
    assert done.stdout == "workload/web created\n"
    assert "capsulectl: workload/web is still pending: pulling slow: 43 %\n" in done.stderr
    assert "--timeout" in done.stderr


def test_apply_usage(ctl):
    assert "missing -f FILE\nsee capsulectl apply --help\n" in ctl.fails("apply", code=2)
    assert "once only" in ctl.fails("apply", "-f", "-", "-f", "-", code=2)
    assert "one argument too many" in ctl.fails("apply", "web.yaml", code=2)
    assert "--wait" in ctl.fails("apply", "-f", "-", "--wait", "--dry-run", code=2)


# ---- workload ----


def test_workload_list(ctl):
    assert ctl.out("workload", "list").split() == [
        "NAME", "KIND", "IMAGE", "PORTS", "DESIRED", "PHASE", "RESTARTS", "AGE", "MESSAGE"]
    ctl.apply_web()
    rows = ctl.out("workload", "list").splitlines()
    assert len(rows) == 2
    assert re.fullmatch(r"web +Container +nginx +8080:80/tcp +Running +Running +0 +3h +-", rows[1]), rows[1]
    assert rows[0].index("PHASE") == rows[1].rindex("Running")
    assert ctl.out("w", "ls") == ctl.out("workload", "list")


def test_forms_of_a_list(ctl):
    for name, port in (("a", 1), ("b", 2)):
        ctl.apply_web(name=name, port=port)
    listed = ctl.json("workload", "list")
    assert [w["name"] for w in listed["workloads"]] == ["a", "b"]
    assert listed["workloads"][0]["kind"] == "WORKLOAD_KIND_CONTAINER"
    assert listed["workloads"][0]["status"]["phase"] == "WORKLOAD_PHASE_RUNNING"
    assert isinstance(listed["workloads"][0]["createdAtUnix"], str)
    assert yaml.safe_load(ctl.out("workload", "list", "-o", "yaml"))["workloads"][1]["name"] == "b"
    assert ctl.out("workload", "list", "-o", "name") == "a\nb\n"
    manifests = list(yaml.safe_load_all(ctl.out("workload", "list", "-o", "manifest")))
    assert [m["name"] for m in manifests] == ["a", "b"]
    assert ctl.out("-o", "name", "workload", "list") == "a\nb\n"


def test_empty_lists_are_lists(ctl):
    for noun, key in (("workload", "workloads"), ("volume", "volumes"), ("image", "images")):
        assert ctl.json(noun, "list") == {key: []}
        assert yaml.safe_load(ctl.out(noun, "list", "-o", "yaml")) == {key: []}
        assert ctl.out(noun, "list", "-o", "name") == ""


def test_workload_get(ctl):
    ctl.apply_web()
    text = ctl.out("workload", "get", "web")
    for pattern in (r"Name: +web", r"Kind: +Container", r"Image: +nginx", r"Ports: +8080:80/tcp", r"Phase: +Running",
                    r"Desired: +Running", r"Spec:", r"  name: web", r"Created: +20.*ago\)"):
        assert re.search(f"^{pattern}$", text, re.M), (pattern, text)
    assert ctl.json("workload", "get", "web")["container"]["ports"] == [
        {"containerPort": 80, "hostPort": 8080, "protocol": "tcp"}]
    assert yaml.safe_load(ctl.out("workload", "get", "web", "-o", "yaml"))["status"]["phase"] == "WORKLOAD_PHASE_RUNNING"
    assert ctl.out("workload", "get", "-o", "name", "web") == "web\n"
    # The manifest form can be applied again, and changes nothing.
    manifest = ctl.out("workload", "get", "web", "-o", "manifest")
    assert ctl.out("apply", "-f", "-", stdin=manifest) == "workload/web unchanged\n"
    assert ctl.fails("workload", "get", "nope") == 'capsulectl: workload "nope" does not exist\n'


def test_logs(ctl):
    ctl.apply_web()
    everything = "".join(f"line {i}\n" for i in range(1, 6))
    assert ctl.out("workload", "logs", "web") == everything
    assert ctl.out("workload", "logs", "web", "-n", "2") == "line 4\nline 5\n"
    assert ctl.out("workload", "logs", "-n2", "web") == "line 4\nline 5\n"
    assert ctl.out("workload", "logs", "-n", "0", "web") == ""
    assert ctl.out("workload", "logs", "--since", "15m", "web") == "line 4\nline 5\n"
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 25 * 60))
    assert ctl.out("workload", "logs", "web", "--since", moment) == "line 3\nline 4\nline 5\n"
    assert re.fullmatch(r"20\d\d-\S+Z line 5\n", ctl.out("workload", "logs", "--timestamps", "-n1", "web"))
    assert "has no serial console" in ctl.fails("workload", "logs", "--serial", "web")
    vm = "name: vm\nkind: MicroVM\nmicroVm:\n  image: alpine\n"
    ctl("apply", "-f", "-", stdin=vm)
    assert ctl.out("workload", "logs", "--serial", "vm") == "kernel booted\n"


def test_follow_ends_with_an_interrupt(ctl):
    ctl.apply_web()
    p = subprocess.Popen([CAPSULECTL, "workload", "logs", "-f", "web"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         env=ctl.env, text=True)
    for i in range(1, 6):
        assert p.stdout.readline() == f"line {i}\n"
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=PATIENCE)
    assert (p.returncode, out, err) == (130, "", "")
    ctl.wait_for_record("left the logs of web")


def test_terminate(ctl):
    ctl.apply_web()
    p = subprocess.Popen([CAPSULECTL, "workload", "logs", "-f", "web"], stdout=subprocess.PIPE, env=ctl.env, text=True)
    p.stdout.readline()
    p.terminate()
    p.communicate(timeout=PATIENCE)
    assert p.returncode == 143
    ctl.wait_for_record("left the logs of web")


def test_stop_start_restart_delete(ctl):
    ctl.apply_web()
    assert ctl.out("workload", "stop", "web") == "workload/web stopped\n"
    web = ctl.json("workload", "get", "web")
    assert (web["desiredState"], web["status"]["phase"]) == ("DESIRED_STATE_STOPPED", "WORKLOAD_PHASE_STOPPED")
    assert ctl.out("workload", "start", "web") == "workload/web started\n"
    assert ctl.out("workload", "start", "--wait", "web") == "workload/web running\n"
    assert ctl.out("workload", "restart", "web") == "workload/web restarted\n"
    assert ctl.json("workload", "get", "web")["status"]["restartCount"] == 1
    assert ctl.out("workload", "delete", "web") == "workload/web deleted\n"
    assert ctl.json("workload", "list") == {"workloads": []}
    ctl.wait_for_record("left the watch")


def test_several_names_and_all(ctl):
    for i, name in enumerate(("a", "b", "c")):
        ctl.apply_web(name=name, port=8000 + i)
    done = ctl("workload", "stop", "a", "nope", "b", "a", code=1)
    assert done.stderr == 'capsulectl: workload "nope" does not exist\n'
    assert sorted(done.stdout.splitlines()) == ["workload/a stopped", "workload/b stopped"]
    assert sorted(ctl.out("workload", "delete", "--all").splitlines()) == [f"workload/{n} deleted" for n in "abc"]
    assert ctl.out("workload", "delete", "--all") == ""
    assert "not both" in ctl.fails("workload", "delete", "--all", "a", code=2)
    assert "missing NAME (or --all)" in ctl.fails("workload", "delete", code=2)


def test_no_wait(ctl):
    ctl.apply_web(name="stuck")
    assert ctl.out("workload", "stop", "--no-wait", "stuck") == "workload/stuck stopping\n"
    assert ctl.out("workload", "delete", "stuck", "--no-wait") == "workload/stuck deleting\n"
    err = ctl.fails("workload", "delete", "stuck", "--timeout", "200ms")
    assert "workload/stuck is still running" in err


# ---- volume ----


def test_volumes(ctl):
    assert ctl.out("volume", "create", "--size", "1.5GiB", "data") == "volume/data created (1.5GiB)\n"
    assert ctl.out("volume", "create", "plain") == "volume/plain created (1GiB)\n"
    assert ctl.fails("volume", "create", "data") == 'capsulectl: volume "data" exists already\n'
    assert ctl.out("volume", "resize", "data", "2G") == "volume/data has 2GiB now\n"
    assert "can only grow" in ctl.fails("volume", "resize", "data", "1G")
    assert ctl.out("volume", "create", "used", "-s", "64M") == "volume/used created (64MiB)\n"
    rows = [re.split(r"  +", row) for row in ctl.out("volume", "list").splitlines()]
    assert rows == [["NAME", "SIZE", "MOUNTED BY", "STATUS", "AGE"], ["data", "2GiB", "-", "ok", "3h"],
                    ["plain", "1GiB", "-", "ok", "3h"], ["used", "64MiB", "web", "ok", "3h"]]
    assert [v["sizeBytes"] for v in ctl.json("volume", "list")["volumes"]] == ["2147483648", "1073741824", "67108864"]
    assert ctl.out("volume", "list", "-o", "name") == "data\nplain\nused\n"
    assert re.search(r"^Path: +/somewhere/data.img$", ctl.out("volume", "get", "data"), re.M)
    assert ctl.json("volume", "get", "used")["mountedBy"] == ["web"]
    assert yaml.safe_load(ctl.out("v", "get", "data", "-o", "yaml"))["name"] == "data"
    assert ctl.out("volume", "get", "data", "-o", "name") == "data\n"
    assert "in use by workload/web" in ctl.fails("volume", "delete", "used")
    assert ctl.out("volume", "delete", "--force", "used", "plain") == "volume/used deleted\nvolume/plain deleted\n"
    assert "--size" in ctl.fails("volume", "create", "x", "--size", "many", code=2)
    assert "more than 0" in ctl.fails("volume", "create", "x", "--size", "0", code=2)
    assert "missing NAME SIZE" in ctl.fails("volume", "resize", "data", code=2)
    ctl.fails("volume", "resize", "data", "big", code=2)


# ---- image ----


def test_push_a_file_and_a_pipe(ctl):
    archive = ctl.dir / "image.tar"
    archive.write_bytes(os.urandom(1 << 20) * 9 + b"end")
    first = ctl.out("image", "push", archive)
    assert re.fullmatch(r"image/docker.io/library/[0-9a-f]{16}:latest pushed\n", first)
    with subprocess.Popen(["cat", str(archive)], stdout=subprocess.PIPE) as cat:
        done = subprocess.run([CAPSULECTL, "image", "push", "-"], stdin=cat.stdout, capture_output=True, text=True,
                              env=ctl.env, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, first, "")
    with open(archive, "rb") as f:
        done = subprocess.run([CAPSULECTL, "image", "push", "-"], stdin=f, capture_output=True, text=True, env=ctl.env,
                              timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, first, "")
    size = archive.stat().st_size
    assert ctl.record() == [f"push of {size} bytes, announced {size}", f"push of {size} bytes, announced 0",
                            f"push of {size} bytes, announced {size}"]
    assert ctl.out("image", "push", "/dev/null").startswith("image/")


def test_push_ends_with_the_server_s_error_while_the_pipe_is_open(ctl):
    p = subprocess.Popen([CAPSULECTL, "image", "push", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=ctl.env)
    p.stdin.write(b"BAD")
    p.stdin.flush()
    p.wait(timeout=PATIENCE)  # and the pipe is still open
    assert p.returncode == 1
    assert p.stderr.read() == b"capsulectl: this is not an image archive\n"
    p.stdin.close()
    p.stdout.close()
    p.stderr.close()


def test_push_what_cannot_be_read(ctl):
    assert "missing.tar: No such file" in ctl.fails("image", "push", "missing.tar")
    assert "is a directory" in ctl.fails("image", "push", ".")
    t = Terminal([CAPSULECTL, "image", "push", "-"], ctl.env)
    assert t.end() == 2
    assert "standard input is a terminal" in t.text


def test_push_leaves_standard_input_as_it_was(ctl):
    r, w = os.pipe()
    os.write(w, b"archive")
    os.close(w)
    subprocess.run([CAPSULECTL, "image", "push", "-"], stdin=r, capture_output=True, env=ctl.env, check=True, timeout=PATIENCE)
    assert not fcntl.fcntl(r, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(r)


def test_pull_list_delete_prune(ctl):
    done = ctl("image", "pull", "nginx:1")
    assert re.fullmatch(r"image/docker.io/library/nginx:1 pulled \(sha256:[0-9a-f]{64}\)\n", done.stdout)
    assert done.stderr == ""  # no progress where no terminal is
    assert "has no such image" in ctl.fails("image", "pull", "missing")
    rows = [re.split(r"  +", row) for row in ctl.out("image", "list").splitlines()]
    assert rows[0] == ["NAME", "DIGEST", "SIZE", "AGE"]
    assert rows[1][0] == "docker.io/library/nginx:1" and re.fullmatch(r"sha256:[0-9a-f]{64}", rows[1][1])
    assert rows[1][2:] == ["100MiB", "2h"]
    assert ctl.json("image", "list")["images"][0]["sizeBytes"] == str(100 << 20)
    assert ctl.out("i", "list", "-o", "name") == "docker.io/library/nginx:1\n"
    assert "is not here" in ctl.fails("image", "delete", "other")
    assert ctl.out("image", "delete", "docker.io/library/nginx:1") == "image/docker.io/library/nginx:1 deleted\n"
    ctl("image", "pull", "redis")
    assert ctl.out("image", "prune") == "image/docker.io/library/redis deleted\n100MiB freed\n"


# ---- the daemon ----


def test_info_and_version(ctl):
    text = ctl.out("info")
    assert text == ctl.out("capsule", "info")
    for line in ("Hostname: +testhost", "Capsule: +9.9.9", r"CPU: +2 x Test CPU", r"Memory: +2.00GiB of 8.00GiB used",
                 r"State: +25.0GiB of 100GiB used", "Up for: +2h", "Local time: +2023-11-14T22:13:20Z"):
        assert re.search(f"^{line}$", text, re.M), (line, text)
    assert "slot" not in text
    assert ctl.json("info")["memoryTotalBytes"] == str(8 << 30)
    assert yaml.safe_load(ctl.out("capsule", "info", "-o", "yaml"))["hostname"] == "testhost"
    client = ctl.out("version", "--client").split()[1]
    assert ctl.json("version") == {"client": client, "server": "9.9.9"}
    assert yaml.safe_load(ctl.out("version", "-o", "yaml")) == {"client": client, "server": "9.9.9"}
    assert ctl.out("version").split() == ["Client:", client, "Server:", "9.9.9"]
    assert ctl.out("--version") == f"capsulectl {client}\n"


def test_daemon_logs(ctl):
    for i in range(3):
        ctl.out("volume", "create", f"v{i}")
    assert ctl.out("capsule", "logs", "-n", "1") == "created v2\n"
    assert ctl.record() == ["created v0", "created v1", "created v2"]


# ---- where the daemon is ----


def test_targets(ctl):
    env = dict(ctl.env)
    del env["CAPSULE_HOST"]
    assert ctl.out("--capsule", f"127.0.0.1:{ctl.port}", "info", env=env) == ctl.out("info")
    assert ctl.out("info", f"--capsule=localhost:{ctl.port}", env=env) == ctl.out("info")
    # The option goes before the environment.
    assert ctl.out("info", "--capsule", f"unix:{ctl.socket}", env={**env, "CAPSULE_HOST": "unix:/nonexistent"}) == ctl.out("info")
    assert ctl.fails("info", "--capsule", "nonsense", code=2).startswith("capsulectl: --capsule: ")
    assert ctl.fails("info", env={**env, "CAPSULE_HOST": "nonsense"}, code=2).startswith("capsulectl: CAPSULE_HOST: ")


def test_no_daemon(tmp_path):
    ctl = Client(tmp_path)
    missing = ctl.fails("workload", "list")
    assert missing == (f"capsulectl: the daemon is not running: {ctl.socket} does not exist; start it with "
                       '"systemctl start capsuled" or name another with --capsule\n')
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(ctl.socket))  # and nobody listens
    assert "nobody listens on" in ctl.fails("workload", "list")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        assert f"nothing listens on 127.0.0.1:{port}" in ctl.fails("workload", "list", "--capsule", f"127.0.0.1:{port}")
    done = ctl("version", code=1)
    assert done.stdout.startswith("Client:") and "not running" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_no_permission(ctl):
    os.chmod(ctl.socket, 0o600)
    for parent in ctl.socket.parents:
        if not os.stat(parent).st_mode & 0o001:
            os.chmod(parent, os.stat(parent).st_mode | 0o001)
    err = ctl.fails("workload", "list", user=65534, group=65534, extra_groups=[])
    assert err == (f'capsulectl: you may not use {ctl.socket}; become root, or join the group "capsule" (usermod -aG '
                   "capsule USER) and log in again\n")


def test_a_daemon_that_hangs(tmp_path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "capsule.sock"))
        s.listen()
        began = time.monotonic()
        err = Client(tmp_path).fails("workload", "list", "--timeout", "200ms")
        assert time.monotonic() - began < 5
        assert "--timeout" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the client a resolver of its own")
def test_a_name_server_that_hangs(tmp_path):
    (tmp_path / "resolv.conf").write_text("nameserver 127.99.0.53\noptions timeout:25 attempts:1\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.99.0.53", 53))
        argv = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"', "sh",
                str(tmp_path / "resolv.conf"), CAPSULECTL, "--capsule", "host.example.org:50000", "info"]
        began = time.monotonic()
        done = subprocess.run([*argv, "--timeout", "300ms"], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 1 and "--timeout" in done.stderr
        assert s.recv(512)  # it was asked
        while select.select([s], [], [], 0)[0]:
            s.recv(512)
        p = subprocess.Popen(argv)
        s.recv(512)
        p.send_signal(signal.SIGINT)
        assert p.wait(timeout=PATIENCE) == 130
        assert time.monotonic() - began < 10


def test_a_daemon_that_hangs_up(tmp_path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "capsule.sock"))
        s.listen()
        p = subprocess.Popen([CAPSULECTL, "workload", "list"], env=Client(tmp_path).env, stderr=subprocess.PIPE, text=True)
        connection, _ = s.accept()
        connection.recv(1)
        connection.close()
        _, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 1
    assert "the connection to the daemon broke" in err and err.count("\n") == 1


# ---- help and usage ----


def commands():
    """Every command, as the help of its parent names it."""
    found, todo = [], [()]
    while todo:
        words = todo.pop()
        text = subprocess.run([CAPSULECTL, *words, "--help"], capture_output=True, text=True, check=True).stdout
        found.append(words)
        section = re.search(r"^Commands:\n((?:  .*\n)+)", text, re.M)
        if section:
            todo += [(*words, line.split()[0]) for line in section.group(1).splitlines()]
    return found


def test_help_of_everything():
    ctl = Client(pathlib.Path("/"))
    everything = commands()
    for words in ((), ("workload", "logs"), ("image", "push"), ("capsule", "info"), ("apply",), ("version",)):
        assert words in everything
    for words in everything:
        text = ctl.out(*words, "--help")
        assert text.startswith(" ".join(("Usage: capsulectl", *words)))
        assert text == ctl.out("help", *words) == ctl.out(*words, "-h")
    assert "no command \"nope\"" in ctl.fails("help", "nope", code=2)


@pytest.mark.parametrize("words, message", [
    (["wrkload"], 'unknown command "wrkload"; did you mean "workload"?\nsee capsulectl --help\n'),
    (["workload", "lsit"], '"lsit" is not a verb of workload; did you mean "list"?\nsee capsulectl workload --help\n'),
    (["workload", "logs"], "missing NAME\nsee capsulectl workload logs --help\n"),
    (["workload", "logs", "w", "--folow"],
     "unknown option --folow; did you mean --follow?\nsee capsulectl workload logs --help\n"),
    (["workload", "list", "-o", "xml"],
     '-o: "xml" is not one of table|json|yaml|name|manifest\nsee capsulectl workload list --help\n'),
])
def test_wrong_usage(words, message):
    assert Client(pathlib.Path("/")).fails(*words, code=2) == "capsulectl: " + message


def test_nothing_asked():
    done = Client(pathlib.Path("/"))("workload", code=2)
    assert done.stdout == "" and done.stderr.startswith("Usage: capsulectl workload COMMAND")


# ---- terminals, pipes, disks ----


def test_colour_on_a_terminal_only(ctl):
    ctl.apply_web()
    assert "\x1b" not in ctl.out("workload", "list")
    t = Terminal([CAPSULECTL, "workload", "list"], ctl.env)
    assert t.end() == 0 and "\x1b[32mRunning\x1b[0m" in t.text
    t = Terminal([CAPSULECTL, "workload", "list"], {**ctl.env, "NO_COLOR": "1"})
    assert t.end() == 0 and "\x1b" not in t.text


def test_narrow_terminal(ctl):
    ctl.apply_web(image="slow", wait=False)
    full = ctl.out("workload", "list")
    assert full.splitlines()[1].endswith("pulling slow: 43 %")
    t = Terminal([CAPSULECTL, "workload", "list"], {**ctl.env, "NO_COLOR": "1"}, columns=80)
    assert t.end() == 0
    assert all(len(line) <= 80 for line in t.text.splitlines()) and "…" in t.text


def test_text_from_the_daemon_cannot_drive_the_terminal(ctl):
    ctl.apply_web(image="rude")
    for args in (("list",), ("get", "web")):
        assert "?[2Jcleared your screen" in ctl.out("workload", *args)


def test_progress_on_a_terminal(ctl):
    t = Terminal([CAPSULECTL, "image", "pull", "slowly"], ctl.env)
    assert t.end() == 0
    assert re.search(r"\[#+\.+\] 25.0MiB of 100MiB  \S+/s  layer 1 of 1", t.text), t.text
    assert t.text.endswith("\r\x1b[Kimage/docker.io/library/slowly pulled (sha256:" + t.text[-67:])


def test_interrupt_on_a_terminal(ctl):
    t = Terminal([CAPSULECTL, "apply", "--wait", "-f", str(ctl.write("w.yaml", WEB.format(image="slow", port=1)))], ctl.env)
    t.read_until("pulling slow: 43 %")
    t.type("\x03")
    assert t.end() == 130
    assert t.text.endswith("\r\x1b[K"), "the progress line was left on the screen"
    ctl.wait_for_record("left the watch")


def test_reader_that_leaves(ctl):
    ctl.apply_web()
    for args in (("workload", "list"), ("workload", "logs", "web"), ("--help",)):
        r, w = os.pipe()
        os.close(r)
        done = subprocess.run([CAPSULECTL, *args], stdout=w, stderr=subprocess.PIPE, env=ctl.env, timeout=PATIENCE)
        os.close(w)
        assert (done.returncode, done.stderr) == (141, b""), args


def test_reader_that_leaves_a_silent_stream(ctl):
    ctl.apply_web()
    p = subprocess.Popen([CAPSULECTL, "workload", "logs", "-f", "web"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         env=ctl.env, text=True)
    for i in range(1, 6):
        assert p.stdout.readline() == f"line {i}\n"
    p.stdout.close()  # nothing more will be written, so no write can fail
    assert p.wait(timeout=PATIENCE) == 141
    assert p.stderr.read() == ""
    p.stderr.close()
    ctl.wait_for_record("left the logs of web")


def test_process_substitution(ctl):
    manifest = ctl.write("web.yaml", WEB.format(image="nginx", port=8080))
    done = subprocess.run(["bash", "-c", f"{CAPSULECTL} apply -f <(cat {manifest})"], env=ctl.env, capture_output=True,
                          text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("workload/web created\n", "")


def test_errors_from_the_daemon_cannot_drive_the_terminal(ctl):
    assert ctl.fails("image", "delete", "x\x1b[2Jy") == "capsulectl: image x?[2Jy is not here\n"


def test_full_disk(ctl):
    ctl.apply_web()
    for args in (("workload", "list"), ("workload", "list", "-o", "json"), ("workload", "logs", "web"), ("--help",),
                 ("__help-all",), ("version",)):
        with open("/dev/full", "w") as full:
            done = subprocess.run([CAPSULECTL, *args], stdout=full, stderr=subprocess.PIPE, env=ctl.env, text=True,
                                  timeout=PATIENCE)
        assert done.returncode == 1, args
        assert done.stderr == "capsulectl: cannot write the output: No space left on device\n"


def test_closed_standard_output(ctl):
    done = subprocess.run(["/bin/sh", "-c", f"{CAPSULECTL} info >&-"], stderr=subprocess.PIPE, env=ctl.env, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 1 and "cannot write the output: Bad file descriptor" in done.stderr


# ---- completion ----


def candidates(ctl, *words):
    return [line.split("\t")[0] for line in ctl.out("__complete", "--", *words).splitlines()]


def test_completion(ctl):
    for i, name in enumerate(("alpha", "beta")):
        ctl.apply_web(name=name, port=8000 + i)
    ctl("volume", "create", "data")
    ctl("image", "pull", "nginx:1")
    assert candidates(ctl, "w") == ["workload"]
    assert "apply" in candidates(ctl, "") and "__complete" not in candidates(ctl, "")
    assert candidates(ctl, "workload", "sto") == ["stop"]
    assert candidates(ctl, "workload", "logs", "") == ["alpha", "beta"]
    assert candidates(ctl, "workload", "logs", "-n", "5", "al") == ["alpha"]
    assert candidates(ctl, "workload", "logs", "alpha", "") == []
    assert candidates(ctl, "workload", "stop", "alpha", "") == ["beta"]
    assert candidates(ctl, "workload", "logs", "--fo") == ["--follow"]
    assert candidates(ctl, "workload", "list", "-o", "") == ["table", "json", "yaml", "name", "manifest"]
    assert candidates(ctl, "workload", "list", "--output=y") == ["--output=yaml"]
    assert candidates(ctl, "volume", "resize", "") == ["data"]
    assert candidates(ctl, "volume", "resize", "data", "") == []
    assert candidates(ctl, "image", "delete", "docker.io/library/n") == ["docker.io/library/nginx:1"]
    assert candidates(ctl, "apply", "-f", "") == [":files"]
    assert candidates(ctl, "image", "push", "") == [":files"]
    assert candidates(ctl, "help", "volume", "re") == ["resize"]
    assert candidates(ctl, "--capsule", "unix:/nonexistent", "workload", "get", "") == []


def test_completion_does_not_wait_for_a_hung_daemon(tmp_path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "capsule.sock"))
        s.listen()
        began = time.monotonic()
        assert Client(tmp_path).out("__complete", "--", "workload", "get", "") == ""
        assert time.monotonic() - began < 3


def test_bash_completion(ctl):
    ctl.apply_web(name="alpha")
    ctl("image", "pull", "nginx:1")
    script = ctl.write("complete.bash", ctl.out("completion", "bash"))

    def complete(line):
        code = (f"source {script}; COMP_LINE=$1; COMP_POINT=${{#1}}; compopt() {{ echo files; }}; _capsulectl; "
                'printf "%s\\n" "${COMPREPLY[@]}"')
        env = {**ctl.env, "PATH": f"{pathlib.Path(CAPSULECTL).parent}:{ctl.env['PATH']}"}
        return subprocess.run(["bash", "-c", code, "bash", line], capture_output=True, text=True, env=env, check=True,
                              timeout=PATIENCE).stdout.split()

    assert complete("capsulectl workload lo") == ["logs"]
    assert complete("capsulectl workload logs ") == ["alpha"]
    assert complete("capsulectl image delete docker.io/library/nginx:") == ["1"]
    assert complete("capsulectl apply -f ") == ["files"]


def completed(ctl, shell, code, *arguments):
    """What the shell's own code printed, with our script loaded."""
    script = ctl.write(f"script.{shell}", ctl.out("completion", shell))
    env = {**ctl.env, "PATH": f"{pathlib.Path(CAPSULECTL).parent}:{ctl.env['PATH']}", "HOME": str(ctl.dir)}
    done = subprocess.run([shell, *(["-f"] if shell == "zsh" else ["-N"]), "-c", code.format(script=script), *arguments],
                          capture_output=True, text=True, env=env, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish_completion(ctl):
    ctl.apply_web(name="alpha")

    def complete(line):
        return [c.split("\t")[0] for c in completed(ctl, "fish", "source {script}; complete -C '" + line + "'")]

    assert complete("capsulectl workload lo") == ["logs"]
    assert complete("capsulectl workload logs ") == ["alpha"]
    assert complete("capsulectl workload logs --foll") == ["--follow"]
    assert "script.fish" in complete(f"capsulectl apply -f {ctl.dir}/scr")[0]


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_zsh_completion(ctl):
    ctl.apply_web(name="alpha")
    ctl("image", "pull", "nginx:1")

    def complete(*words):
        # What the completion system would do with our answer is its business; here it is shown.
        return completed(ctl, "zsh", "compdef() {{ }}; _files() {{ print files }}; _describe() {{ print -rl ${{(P)4}} }}; "
                         "source {script}; words=(\"$@\"); CURRENT=$#; _capsulectl; true", "zsh", "capsulectl", *words)

    assert complete("workload", "lo") == ["logs:print what a workload wrote to its standard output and error"]
    assert complete("workload", "logs", "") == ["alpha:Running"]
    assert complete("image", "delete", "docker.io") == ["docker.io/library/nginx\\:1:"]
    assert complete("apply", "-f", "") == ["files"]
    assert complete("workload", "get", "nope") == []


def test_unknown_shell():
    assert "bash, zsh and fish" in Client(pathlib.Path("/")).fails("completion", "csh", code=2)
