# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Images end to end: archives as other tools make them, pulls by apply, what is in use, what a config asks for."""
import json
import os
import pty
import re
import subprocess
import threading

import pytest

import images
from capsule import IMAGE_WORKER, run, wait_for
from registry_servers import Image, Registry, credentials, skopeo_fill

SLEEP = ["sleep", "10000"]
MARKED = [images.File("/mark", b"here\n")]


def run_once(capsule, name, image, wait_for_phase="stopped", **spec):
    """Runs a job to its end: what it wrote."""
    capsule.run_container(name, image, wait=False, restartPolicy="Never", networkMode="NETWORK_MODE_HOST", **spec)
    capsule.wait_phase(name, wait_for_phase)
    return capsule.logs(name)


def run_service(capsule, name, image, command=SLEEP, **spec):
    return capsule.run_container(name, image, command=command, networkMode="NETWORK_MODE_HOST", **spec)


def list_images(capsule):
    found = json.loads(capsule.ctl("image", "list", "-o", "json").out)
    return {image["name"]: image for image in found.get("images", [])}


def layers_on_disk(capsule):
    return set(os.listdir(capsule.root / "layers"))


def busybox(path, ref, **kwargs):
    images.make_busybox_image(str(path), ref, extra=MARKED, **kwargs)
    return path


# ---- archives ----

@pytest.mark.parametrize("fmt,compression,outer", [
    ("docker-old", "", ""), ("docker-old", "", "gzip"), ("docker", "", ""), ("docker", "", "gzip"), ("docker", "", "zstd"),
    ("docker-new", "", ""), ("docker-new", "gzip", ""), ("oci", "", ""), ("oci", "gzip", "zstd"), ("oci", "zstd", "gzip")])
def test_archives_of_every_form_run(make_capsule, tmp_path, fmt, compression, outer):
    capsule = make_capsule(push=())
    archive = busybox(tmp_path / "image.tar", "tools:1", fmt=fmt, compression=compression, outer=outer)
    assert "docker.io/library/tools:1" in capsule.push(archive).out
    assert run_once(capsule, "w", "tools:1", command=["cat", "/mark"]) == "here\n"
    listed = list_images(capsule)["docker.io/library/tools:1"]
    assert int(listed["sizeBytes"]) > 1_000_000 and listed["createdUnix"] == str(images.MTIME)


def test_archives_by_way_of_standard_input(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    archive = busybox(tmp_path / "image.tar", "tools:1")
    packed = run("zstd", "-q", "-c", archive).stdout
    assert "docker.io/library/tools:1" in capsule.ctl("image", "push", "-", input=packed).out
    assert run_once(capsule, "w", "tools:1", command=["cat", "/mark"]) == "here\n"


def skopeo_copy(source, target):
    run("skopeo", "copy", "-q", source, target)


def test_what_skopeo_writes(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    archive = busybox(tmp_path / "image.tar", "tools:1")
    docker, oci, layout = tmp_path / "docker.tar", tmp_path / "oci.tar", tmp_path / "layout"
    skopeo_copy(f"docker-archive:{archive}", f"docker-archive:{docker}:docker.io/library/by-docker:1")
    skopeo_copy(f"docker-archive:{archive}", f"oci-archive:{oci}:by-oci:1")
    skopeo_copy(f"docker-archive:{archive}", f"oci:{layout}:by-layout:1")
    run("tar", "-C", layout, "-cf", tmp_path / "layout.tar", ".")
    for name, file in (("by-docker:1", docker), ("by-oci:1", oci), ("by-layout:1", tmp_path / "layout.tar")):
        assert name in capsule.push(file).out
        assert run_once(capsule, name.split(":")[0], name, command=["cat", "/mark"]) == "here\n"
    assert len(layers_on_disk(capsule)) == 3, "the same three layers, whatever they came in"


def test_what_umoci_writes(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    archive, layout, bundle = busybox(tmp_path / "image.tar", "tools:1"), tmp_path / "layout", tmp_path / "bundle"
    skopeo_copy(f"docker-archive:{archive}", f"oci:{layout}:base")
    run("umoci", "unpack", "--image", f"{layout}:base", bundle)
    (bundle / "rootfs/mark").unlink()
    (bundle / "rootfs/added").write_text("by umoci\n")
    run("umoci", "repack", "--image", f"{layout}:by-umoci", bundle)
    run("umoci", "config", "--image", f"{layout}:by-umoci", "--config.cmd", "cat", "--config.cmd", "/added",
        "--config.cmd", "/mark")
    run("umoci", "rm", "--image", f"{layout}:base")
    run("tar", "-C", layout, "-cf", tmp_path / "layout.tar", ".")
    assert "by-umoci" in capsule.push(tmp_path / "layout.tar").out
    output = run_once(capsule, "w", "by-umoci", wait_for_phase="failed")
    assert "by umoci\n" in output and "can't open '/mark'" in output


def test_an_archive_of_several_images(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    base = images.layer_tar(images.busybox_entries())
    marks = {name: images.layer_tar([images.File("/mark", name.encode())]) for name in ("one", "two", "three")}
    for fmt in images.FORMATS:
        archive = tmp_path / f"{fmt}.tar"
        images.make_images(str(archive), [(f"{fmt}-{name}:1", [base, mark], {"Cmd": ["cat", "/mark"]})
                                          for name, mark in marks.items()], fmt=fmt)
        out = capsule.push(archive).out
        for name in marks:
            assert f"{fmt}-{name}:1" in out
            assert run_once(capsule, f"{fmt}-{name}", f"{fmt}-{name}:1") == name
    assert len(layers_on_disk(capsule)) == 5, "the base, three marks, and nothing as old Docker has it"


def test_a_layer_that_comes_twice(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    base, first, second = (images.layer_tar(entries) for entries in (
        images.busybox_entries(), [images.File("/mark", b"first"), images.File("/kept", b"kept")],
        [images.File("/mark", b"second"), images.File("/.wh.kept")]))
    images.make_images(str(tmp_path / "image.tar"), [("twice:1", [base, first, second, first], {})])
    capsule.push(tmp_path / "image.tar")
    assert run_once(capsule, "w", "twice:1", command=["cat", "/mark", "/kept"]) == "firstkept"


# ---- pulls ----

def test_apply_pulls_from_a_registry(make_capsule, registry, tmp_path):
    capsule = make_capsule("--plain-http", registry.address, push=())
    skopeo_fill(busybox(tmp_path / "image.tar", "x:1", fmt="oci"), registry, "team/tools:1")
    reference = f"{registry.address}/team/tools:1"
    run_service(capsule, "w", reference, command=["sh", "-c", "cat /mark; exec sleep 10000"])
    wait_for(lambda: capsule.logs("w") == "here\n", "the log")
    assert reference in list_images(capsule)
    assert capsule.status("w")["imageDigest"] == list_images(capsule)[reference]["digest"]
    registry.close()
    run_service(capsule, "again", reference)
    assert capsule.phase("again") == "Running", "what is here is not asked for"


def test_apply_pulls_with_credentials_and_says_when_they_are_needed(make_capsule, closing, tmp_path):
    registry = closing(Registry(tmp_path / "registry", users={"ann": "s3cret:x"}))
    skopeo_fill(busybox(tmp_path / "image.tar", "x:1", fmt="oci"), registry, "tools:1", "--dest-creds", "ann:s3cret:x")
    reference, file = f"{registry.address}/tools:1", tmp_path / "config.json"
    capsule = make_capsule("--plain-http", registry.address, "--credentials", file, push=())
    for content, complaint in ((None, "it needs credentials"), ("wrong", "refuses the credentials")):
        if content:
            credentials(file, registry.address, "ann", content)
        done = run_service(capsule, "w", reference, check=False, restartPolicy="Never")
        assert done.returncode == 1 and complaint in done.err and registry.address in done.err
        assert "wrong" not in done.err
        capsule.ctl("workload", "delete", "w")
    credentials(file, registry.address, "ann", "s3cret:x")
    run_service(capsule, "w", reference)
    assert capsule.phase("w") == "Running"


def test_a_pull_that_failed_is_tried_again_until_the_image_is_there(make_capsule, registry, tmp_path):
    capsule = make_capsule("--plain-http", registry.address, push=())
    reference = f"{registry.address}/tools:1"
    run_service(capsule, "w", reference, wait=False)
    capsule.wait_phase("w", "failed")
    message = capsule.status("w")["message"]
    assert registry.address in message and "no such image" in message
    skopeo_fill(busybox(tmp_path / "image.tar", "x:1", fmt="oci"), registry, "tools:1")
    capsule.wait_phase("w", "running")


class HeldBlob:
    """A rule for FakeRegistry: half of a blob, and the rest only when `go_on` is set."""

    def __init__(self, blob):
        self.blob, self.go_on = blob, threading.Event()

    def __call__(self, handler):
        half = len(self.blob) // 2
        handler.answer(200, self.blob[:half], length=len(self.blob))
        handler.wfile.flush()
        self.go_on.wait(60)
        handler.wfile.write(self.blob[half:])
        return True


@pytest.fixture
def slow_image(fake):
    """An image whose one large layer comes only half until it is let go: (reference, HeldBlob)."""
    entries = images.busybox_entries() + [images.File("/big", os.urandom(8 << 20))]
    image = Image([images.layer_tar(entries)], config={"config": {"Cmd": SLEEP}})
    fake.put("slow", "1", image)
    held = HeldBlob(image.blobs[image.layers[0]])
    fake.rules[f"/v2/slow/blobs/{image.layers[0]}"] = held
    yield f"{fake.address}/slow:1", held
    held.go_on.set()


def test_progress_of_a_pull_is_seen_while_it_lasts(make_capsule, fake, slow_image):
    reference, held = slow_image
    capsule = make_capsule("--plain-http", fake.address, push=())
    master, slave = pty.openpty()
    manifest = {"name": "w", "kind": "Container", "container": {"image": reference, "networkMode": "HOST"}}
    client = subprocess.Popen(capsule.ctl_argv("apply", "-f", "-", "--wait"), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    client.stdin.write(json.dumps(manifest).encode())
    client.stdin.close()
    wait_for(capsule.names, "the workload")
    progress = rf"pulling {reference}: (\S+) of (\S+)"
    seen = wait_for(lambda: re.search(progress, capsule.status("w").get("message", "")), "progress")
    assert seen[1] != seen[2]
    assert capsule.phase("w") == "Pending"
    held.go_on.set()
    assert client.wait(60) == 0 and b"workload/w running" in client.stdout.read()
    client.stdout.close()
    shown = read_all(master)
    assert f"pulling {reference}" in shown and " of " in shown
    assert capsule.phase("w") == "Running" and "message" not in capsule.status("w")


def read_all(terminal):
    """What was written to a terminal that nobody has open any more."""
    text = b""
    try:
        while chunk := os.read(terminal, 65536):
            text += chunk
    except OSError:
        pass
    os.close(terminal)
    return text.decode(errors="replace")


@pytest.mark.parametrize("verb", ["delete", "stop"])
def test_a_pull_ends_when_nobody_wants_the_image_any_more(make_capsule, fake, slow_image, verb):
    reference, held = slow_image
    capsule = make_capsule("--plain-http", fake.address, push=())
    capsule.run_container("w", reference, wait=False)
    wait_for(lambda: "pulling" in capsule.status("w").get("message", ""), "the pull")
    worker = wait_for(lambda: image_workers(capsule), "the worker")
    capsule.ctl("workload", verb, "w")
    wait_for(lambda: not image_workers(capsule), f"the end of process {worker}")
    assert list_images(capsule) == {}
    capsule.ctl("image", "prune")
    assert layers_on_disk(capsule) == set()


def image_workers(capsule):
    return [pid for pid in capsule.pids() if program(pid) == IMAGE_WORKER.name]


def program(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return None


def test_two_workloads_share_one_pull(make_capsule, fake, slow_image):
    reference, held = slow_image
    capsule = make_capsule("--plain-http", fake.address, push=())
    for name in ("one", "two"):
        capsule.run_container(name, reference, wait=False)
        wait_for(lambda: " of " in capsule.status(name).get("message", ""), "progress")
    assert len(image_workers(capsule)) == 1
    held.go_on.set()
    for name in ("one", "two"):
        capsule.wait_phase(name, "running")
    assert fake.count("/manifests/") == 1


# ---- in use, removed, replaced ----

def test_an_image_in_use_is_not_deleted_and_its_user_named(capsule):
    run_service(capsule, "user", "busybox:test")
    done = capsule.ctl("image", "delete", "busybox:test", check=False)
    assert done.returncode == 1 and "busybox:test is in use by workload user" in done.err
    capsule.ctl("workload", "stop", "user")
    done = capsule.ctl("image", "delete", "busybox:test", check=False)
    assert done.returncode == 1, "a stopped workload needs it, too"
    capsule.ctl("workload", "delete", "user")
    capsule.ctl("image", "delete", "busybox:test")
    assert list_images(capsule) == {} and layers_on_disk(capsule) == set()
    assert "no image" in capsule.ctl("image", "delete", "busybox:test", check=False).err


def test_prune_keeps_what_is_in_use(make_capsule, tmp_path):
    capsule = make_capsule()
    capsule.push(busybox(tmp_path / "other.tar", "other:1"))
    run_service(capsule, "user", "busybox:test")
    assert len(layers_on_disk(capsule)) == 3
    out = capsule.ctl("image", "prune").out
    assert "other:1" in out and "busybox:test" not in out
    assert set(list_images(capsule)) == {"docker.io/library/busybox:test"}
    assert len(layers_on_disk(capsule)) == 2
    assert "BusyBox" in capsule.inside("user", "busybox")


def test_a_tag_that_moves_leaves_the_running_container_alone(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    for number in (1, 2):
        images.make_busybox_image(str(tmp_path / f"{number}.tar"), "app:latest",
                                  extra=[images.File("/version", f"{number}\n".encode())])
    capsule.push(tmp_path / "1.tar")
    run_service(capsule, "w", "app", command=["sh", "-c", "cat /version; exec sleep 10000"])
    before = capsule.status("w")
    old_layers = layers_on_disk(capsule)
    capsule.push(tmp_path / "2.tar")
    capsule.ctl("image", "prune")
    assert old_layers < layers_on_disk(capsule), "what runs is not collected"
    assert capsule.status("w") == before and capsule.inside("w", "cat", "/version") == "1\n"
    capsule.restart()
    capsule.ctl("image", "prune")
    assert capsule.inside("w", "cat", "/version") == "1\n", "not after a restart of the daemon either"
    capsule.ctl("workload", "restart", "w")
    wait_for(lambda: capsule.logs("w") == "1\n2\n", "the new version")
    capsule.ctl("image", "prune")
    assert len(layers_on_disk(capsule)) == 3 and capsule.status("w")["imageDigest"] != before["imageDigest"]


# ---- the config ----

def configured(capsule, tmp_path, config, extra=()):
    """Pushes a busybox with this config as "app"."""
    images.make_busybox_image(str(tmp_path / "app.tar"), "app:latest", config=config, extra=extra)
    capsule.push(tmp_path / "app.tar")


def test_command_and_args_replace_entrypoint_and_cmd(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    configured(capsule, tmp_path, {"Entrypoint": ["echo", "entrypoint"], "Cmd": ["cmd"]})
    for name, spec, output in (("neither", {}, "entrypoint cmd"), ("args", {"args": ["a", "b c"]}, "entrypoint a b c"),
                               ("command", {"command": ["echo", "x"]}, "x"),
                               ("both", {"command": ["echo", "x"], "args": ["y"]}, "x y")):
        assert run_once(capsule, name, "app", **spec) == output + "\n"


def test_env_of_image_and_manifest(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    of_the_image = ["PATH=/usr/bin:/bin", "TASTE=sweet=sour", "EMPTY="]
    configured(capsule, tmp_path, {"Cmd": ["env"], "Env": [*of_the_image, "COLOUR=red"]})
    found = run_once(capsule, "w", "app", env={"COLOUR": "blue", "NEW": "a b"}).splitlines()
    assert {*of_the_image, "COLOUR=blue", "NEW=a b", "HOSTNAME=w", "HOME=/root"} <= set(found)


@pytest.mark.parametrize("user,uid,gid,groups", [
    ("web", 1000, 1000, {1000, 50}), ("web:staff", 1000, 50, {50}), ("1000", 1000, 1000, {1000, 50}),
    ("4321:1234", 4321, 1234, {1234}), ("daemon:1234", 1, 1234, {1234}), ("", 0, 0, {0})])
def test_user(make_capsule, tmp_path, user, uid, gid, groups):
    capsule = make_capsule(push=())
    configured(capsule, tmp_path, {"User": user, "Cmd": ["sh", "-c", "id -u; id -g; id -G"]})
    found = [[int(word) for word in line.split()] for line in run_once(capsule, "w", "app").splitlines()]
    assert found[:2] == [[uid], [gid]] and set(found[2]) == groups


def test_a_user_that_the_image_does_not_know(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    configured(capsule, tmp_path, {"User": "nobodyknows", "Cmd": ["id"]})
    done = capsule.run_container("w", "app", check=False, restartPolicy="Never")
    assert done.returncode == 1 and "nobodyknows" in done.err


def test_working_directory(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    configured(capsule, tmp_path, {"WorkingDir": "/var/www", "Cmd": ["pwd"]})
    assert run_once(capsule, "there", "app") == "/var/www\n"
    configured(capsule, tmp_path, {"WorkingDir": "/not/there", "Cmd": ["pwd"]})
    assert run_once(capsule, "made", "app") == "/not/there\n"


def test_stop_signal(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    script = "trap 'echo usr1; exit 0' USR1; trap 'echo term' TERM; echo up; while :; do sleep 1000 & wait; done"
    configured(capsule, tmp_path, {"StopSignal": "SIGUSR1", "Cmd": ["sh", "-c", script]})
    capsule.run_container("w", "app", stopGracePeriodSeconds=30)
    wait_for(lambda: capsule.logs("w") == "up\n", "the traps")
    capsule.ctl("workload", "stop", "w")
    assert capsule.logs("w") == "up\nusr1\n" and capsule.status("w").get("exitCode", 0) == 0


def test_an_image_without_a_program(make_capsule, tmp_path):
    capsule = make_capsule(push=())
    images.make_image(str(tmp_path / "empty.tar"), "empty:1", MARKED, {})
    capsule.push(tmp_path / "empty.tar")
    done = capsule.run_container("w", "empty:1", check=False, restartPolicy="Never")
    assert done.returncode == 1 and "names no program" in done.err and "container.command" in done.err
