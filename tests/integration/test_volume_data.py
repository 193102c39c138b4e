# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Volumes as they were and elsewhere: snapshots, restores, clones, exports and imports, while containers write to them."""
import json
import os
import signal
import subprocess

import pytest

from capsule import run, wait_for
from test_volumes import DATA, MIB, get, loops_of, mount, refused, run_with_volume, size_of, volume

# Numbers, each synced before the next: a consistent copy holds the first n of them, whatever n is.
COUNTER = ["sh", "-c", f"i=0; while :; do i=$((i+1)); echo $i >> {DATA}/numbers; sync {DATA}/numbers; done"]


def snapshots(capsule, *volume_name):
    return capsule.ctl("volume", "snapshot", "list", *volume_name, "-o", "name").out.split()


def content(capsule, name, file="file"):
    """What a file of the volume holds, seen by a workload that comes and goes."""
    run_with_volume(capsule, "reader", mounts=[mount(name)])
    try:
        return capsule.inside("reader", "cat", f"{DATA}/{file}")
    finally:
        capsule.ctl("workload", "delete", "reader")


def write(capsule, text, name="data"):
    run_with_volume(capsule, "writer", mounts=[mount(name)])
    capsule.inside("writer", "sh", "-c", f"echo {text} > {DATA}/file; sync")
    capsule.ctl("workload", "delete", "writer")


def storage(capsule):
    return sorted(os.listdir(capsule.root / "volumes"))


def fsck(path):
    """Nothing to repair, not even a journal to replay."""
    run("e2fsck", "-fn", path)
    return "needs_recovery" not in run("dumpe2fs", "-h", path).stdout.decode()


# ---- snapshots ----

def test_a_volume_becomes_what_it_was(capsule):
    capsule.apply(volume())
    write(capsule, "before")
    capsule.ctl("volume", "snapshot", "create", "data", "first")
    write(capsule, "after")
    capsule.ctl("volume", "snapshot", "create", "data", "second")
    assert snapshots(capsule) == snapshots(capsule, "data") == ["data/first", "data/second"]
    for name, text in (("first", "before\n"), ("second", "after\n"), ("first", "before\n")):
        capsule.ctl("volume", "snapshot", "restore", "data", name)
        assert content(capsule, "data") == text
    capsule.ctl("volume", "snapshot", "delete", "data", "first", "second")
    assert snapshots(capsule) == [] and storage(capsule) == ["data.img"]
    assert content(capsule, "data") == "before\n"


def test_a_restored_volume_keeps_its_size(capsule):
    capsule.apply(volume())
    write(capsule, "before")
    capsule.ctl("volume", "snapshot", "create", "data", "small")
    capsule.ctl("volume", "resize", "data", "128MiB")
    capsule.ctl("volume", "snapshot", "restore", "data", "small")
    assert size_of(capsule) == 128 * MIB == os.stat(capsule.root / "volumes/data.img").st_size
    assert content(capsule, "data") == "before\n"
    assert fsck(capsule.root / "volumes/data.img")


def test_snapshots_that_cannot_be(capsule):
    capsule.apply(volume())
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    refused(capsule.ctl("volume", "snapshot", "create", "data", "s", check=False), "data has a snapshot s already")
    refused(capsule.ctl("volume", "snapshot", "create", "none", "s", check=False), "there is no volume none")
    refused(capsule.ctl("volume", "snapshot", "restore", "data", "none", check=False), "volume data has no snapshot none")
    refused(capsule.ctl("volume", "snapshot", "delete", "data", "none", check=False), "volume data has no snapshot none")
    refused(capsule.ctl("volume", "snapshot", "create", "data", "no/path", check=False), "snapshot name")
    refused(capsule.ctl("volume", "create", "data", "--from-snapshot", "data/s", check=False), "a snapshot of itself")
    stranger = capsule.root / "volumes/data+mine.img"
    stranger.write_bytes(b"somebody's data")
    refused(capsule.ctl("volume", "snapshot", "create", "data", "mine", check=False), str(stranger), "belongs to no volume")
    assert stranger.read_bytes() == b"somebody's data" and snapshots(capsule) == ["data/s"]
    stranger.unlink()
    refused(capsule.ctl("volume", "delete", "data", check=False), "volume data has 1 snapshot", "by force")
    run_with_volume(capsule)
    refused(capsule.ctl("volume", "snapshot", "restore", "data", "s", check=False), "data is in use by w")
    capsule.ctl("workload", "delete", "w")
    capsule.ctl("volume", "delete", "--force", "data")
    assert storage(capsule) == []


# ---- while it is written to ----

def numbers(text):
    lines = text.split()
    assert lines == [str(i + 1) for i in range(len(lines))]
    return len(lines)


def test_a_snapshot_under_a_writer_is_clean_and_has_what_was_synced(capsule):
    capsule.apply(volume(size="128MiB"))
    run_with_volume(capsule, command=COUNTER)
    root = f"/proc/{capsule.status('w')['pid']}/root{DATA}/numbers"
    wait_for(lambda: os.path.exists(root) and os.path.getsize(root) > 100, "some numbers")
    for i in range(5):
        with open(root) as f:
            synced = f.read().rsplit("\n", 2)[0].split()  # without the last, which may not be synced yet
        capsule.ctl("volume", "snapshot", "create", "data", f"s{i}")
        assert fsck(capsule.root / f"volumes/data+s{i}.img")
        capsule.ctl("volume", "clone", "--snapshot", f"s{i}", "data", f"copy{i}")
        assert numbers(content(capsule, f"copy{i}", "numbers")) >= len(synced)
    before = os.path.getsize(root)
    wait_for(lambda: os.path.getsize(root) > before, "the writer to go on")
    assert len(loops_of(capsule)) == 1


def wait_until_copied_from(capsule):
    """Some of the snapshot is there: its volume is held still."""
    copy = capsule.root / "volumes/.tmp-data+s.img"
    wait_for(lambda: copy.exists() and copy.stat().st_blocks, "the copy to begin")


def test_a_daemon_that_is_killed_while_it_holds_a_volume_still(capsule):
    """Its helper thaws; the snapshot that was not finished is gone after the next start, and so is its file."""
    capsule.apply(volume(size="1GiB"))
    run_with_volume(capsule)
    capsule.inside("w", "sh", "-c", f"dd if=/dev/urandom of={DATA}/big bs=1M count=300 2>/dev/null; sync")
    root = f"/proc/{capsule.status('w')['pid']}/root{DATA}"
    create = subprocess.Popen(capsule.ctl_argv("volume", "snapshot", "create", "data", "s"), stderr=subprocess.DEVNULL)
    wait_until_copied_from(capsule)
    capsule.kill()
    create.wait(timeout=60)
    with open(f"{root}/file", "w") as f:
        f.write("written after the thaw\n")
        os.fsync(f.fileno())
    capsule.start()
    assert snapshots(capsule) == [] and storage(capsule) == ["data.img"]
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    assert snapshots(capsule) == ["data/s"]


def holder_of(device):
    """The pid of the process that holds the volume on the device still."""
    return int(run("pgrep", "-f", f"^[^ ]*capsule-volume hold {device} ").stdout)


def test_a_helper_that_is_killed_while_it_holds_a_volume_still(capsule):
    capsule.apply(volume(size="1GiB"))
    run_with_volume(capsule)
    capsule.inside("w", "sh", "-c", f"dd if=/dev/urandom of={DATA}/big bs=1M count=500 2>/dev/null; sync")
    device, = loops_of(capsule)
    create = subprocess.Popen(capsule.ctl_argv("volume", "snapshot", "create", "data", "s"), stderr=subprocess.PIPE)
    wait_until_copied_from(capsule)
    os.kill(holder_of(device), signal.SIGKILL)
    error = create.communicate(timeout=120)[1].decode()
    assert create.returncode == 1 and "its helper was killed" in error, error
    capsule.inside("w", "sh", "-c", f"echo on > {DATA}/file; sync {DATA}/file")
    assert snapshots(capsule) == [] and storage(capsule) == ["data.img"]


def test_what_is_attached_but_not_mounted_is_not_touched(capsule):
    """As a virtual machine has it: to mount it a second time would ruin it."""
    capsule.apply(volume())
    device = run("losetup", "--find", "--show", capsule.root / "volumes/data.img").stdout.decode().strip()
    try:
        refused(capsule.ctl("volume", "snapshot", "create", "data", "s", check=False), "volume data", "not mounted here")
    finally:
        run("losetup", "--detach", device)
    assert storage(capsule) == ["data.img"] and snapshots(capsule) == []


def test_a_volume_that_is_mounted_read_only(capsule):
    capsule.apply(volume())
    write(capsule, "kept")
    run_with_volume(capsule, mounts=[mount(readOnly=True)])
    capsule.ctl("volume", "clone", "data", "copy")
    assert content(capsule, "copy") == "kept\n"


# ---- clones ----

def test_a_clone_is_a_volume_of_its_own(capsule):
    capsule.apply(volume())
    write(capsule, "original")
    capsule.ctl("volume", "clone", "data", "copy")
    write(capsule, "changed", "copy")
    assert content(capsule, "data") == "original\n" and content(capsule, "copy") == "changed\n"
    refused(capsule.ctl("volume", "clone", "data", "copy", check=False), "volume copy exists already")
    refused(capsule.ctl("volume", "clone", "data", "data", check=False), "cannot be its own clone")
    capsule.ctl("volume", "delete", "data")
    assert content(capsule, "copy") == "changed\n"


def test_a_manifest_begins_with_a_snapshot(capsule):
    capsule.apply(volume())
    write(capsule, "kept")
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    new = {**volume("new", "128MiB"), "fromSnapshot": "data/s", "backend": "file"}
    assert "volume/new created" in capsule.apply(new).out
    assert "volume/new unchanged" in capsule.apply(new).out
    assert size_of(capsule, "new") == 128 * MIB and get(capsule, "new")["backend"] == "file"
    assert content(capsule, "new") == "kept\n"
    refused(capsule.apply({**volume("less", "32MiB"), "fromSnapshot": "data/s"}, check=False), "smaller", "64MiB")
    refused(capsule.apply({**volume("other"), "fromSnapshot": "data/none"}, check=False), "data has no snapshot none")
    refused(capsule.apply({**volume("there"), "backend": "lvm"}, check=False), "no volumes in LVM", "--volumes lvm:VG/POOL")
    assert storage(capsule) == ["data+s.img", "data.img", "new.img"]


# ---- export, import ----

def export(capsule, *arguments):
    """As a pipe sees it."""
    done = subprocess.run(capsule.ctl_argv("volume", "export", *arguments), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def send(capsule, name, stream):
    done = subprocess.run(capsule.ctl_argv("volume", "import", name, "-"), input=stream, capture_output=True, timeout=120)
    return done.returncode, done.stderr.decode()


def test_out_and_in_again_through_a_file_and_a_pipe(capsule, tmp_path):
    capsule.apply(volume(size="1GiB"))
    write(capsule, "kept")
    file = tmp_path / "data.capsvol"
    capsule.ctl("volume", "export", "data", str(file))
    assert os.listdir(tmp_path) == ["data.capsvol"]
    assert file.stat().st_size < MIB, "holes are left out"
    assert "volume/from-file imported (1GiB)" in capsule.ctl("volume", "import", "from-file", str(file)).out
    assert send(capsule, "from-pipe", export(capsule, "data")) == (0, "")
    for name in ("from-file", "from-pipe"):
        assert content(capsule, name) == "kept\n"
        assert os.stat(capsule.root / f"volumes/{name}.img").st_blocks * 512 < 64 * MIB
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    write(capsule, "changed")
    assert send(capsule, "from-snapshot", export(capsule, "--snapshot", "s", "data")) == (0, "")
    assert content(capsule, "from-snapshot") == "kept\n"
    assert not [f for f in storage(capsule) if f.startswith((".tmp", "data+.", "from-snapshot+"))]


def test_where_an_export_goes(capsule, tmp_path):
    """Through a link; into what is no file as it is; and nothing else is touched."""
    capsule.apply(volume())
    link, file, pipe, near = (tmp_path / name for name in ("link", "file", "pipe", "file.part"))
    file.touch()
    link.symlink_to(file)
    near.write_text("precious")
    refused(capsule.ctl("volume", "export", "none", str(file), check=False), "there is no volume none")
    capsule.ctl("volume", "export", "data", str(link))
    assert link.is_symlink() and near.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["file", "file.part", "link"]
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        capsule.ctl("volume", "export", "data", str(pipe))
        assert reader.stdout.read()[:4] == file.read_bytes()[:4]
    assert pipe.is_fifo()


def test_an_export_under_a_writer(capsule):
    capsule.apply(volume(size="128MiB"))
    run_with_volume(capsule, command=COUNTER)
    root = f"/proc/{capsule.status('w')['pid']}/root{DATA}/numbers"
    wait_for(lambda: os.path.exists(root) and os.path.getsize(root) > 100, "some numbers")
    stream = export(capsule, "data")
    assert send(capsule, "copy", stream) == (0, "")
    assert fsck(capsule.root / "volumes/copy.img")
    assert numbers(content(capsule, "copy", "numbers")) > 10
    assert "data+.img" not in storage(capsule)


@pytest.fixture
def stream(capsule):
    capsule.apply(volume(size="32MiB"))
    write(capsule, "kept")
    return export(capsule, "data")


def spoilt(stream, at):
    """Eight bytes, because a bit of a compressed stream may mean nothing."""
    return stream[:at] + bytes(b ^ 0x5a for b in stream[at:at + 8]) + stream[at + 8:]


@pytest.mark.parametrize("spoil, word", [
    (lambda s: s[:-1], "cut off"),
    (lambda s: s[:len(s) // 2], "cut off"),
    (lambda s: s[:16], "cut off"),
    (lambda s: s[:15], "without an exported volume"),
    (lambda s: b"", "without an exported volume"),
    (lambda s: s + b"x", "something follows"),
    (lambda s: spoilt(s, 0), "no exported volume"),
    (lambda s: s[:11] + b"\x01" + s[12:], "damaged"),
    (lambda s: spoilt(s, len(s) // 2), "damaged"),
    (lambda s: spoilt(s, len(s) - 9), "damaged"),
    (lambda s: s[:8] + b"\xff" * 8 + s[16:], "impossible size"),
], ids=["last-byte", "half", "header-only", "half-header", "nothing", "more", "magic", "size", "middle", "digest", "huge"])
def test_a_damaged_stream_leaves_nothing(capsule, stream, spoil, word):
    status, error = send(capsule, "copy", spoil(stream))
    assert status == 1 and word in error and len(error.splitlines()) == 1, error
    assert capsule.ctl("volume", "list", "-o", "name").out.split() == ["data"]
    assert storage(capsule) == ["data.img"]


def test_a_sound_stream_of_what_is_no_file_system(capsule):
    """The digest says that nothing was changed on the way, not that it is a volume."""
    capsule.apply(volume(size="32MiB"))
    with open(capsule.root / "volumes/data.img", "r+b") as f:
        f.write(b"\xaa" * (8 * MIB))
    stream = export(capsule, "data")
    status, error = send(capsule, "copy", stream)
    assert status == 1 and "volume copy" in error
    assert capsule.ctl("volume", "list", "-o", "name").out.split() == ["data"]


def test_names_that_are_taken(capsule, stream):
    assert "exists already" in send(capsule, "data", stream)[1]
    (capsule.root / "volumes/stranger.img").write_bytes(b"somebody's")
    assert "belongs to no volume" in send(capsule, "stranger", stream)[1]
    assert (capsule.root / "volumes/stranger.img").read_bytes() == b"somebody's"


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_that_ends_during_transfers(capsule, stream, sig):
    """Neither half an import nor the copy that an export read from outlives the next start."""
    half = subprocess.Popen(capsule.ctl_argv("volume", "import", "half", "-"), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    half.stdin.write(stream[:len(stream) // 2])
    half.stdin.flush()
    wait_for(lambda: "half.img" in storage(capsule), "the import to begin")
    capsule.stop(sig)
    half.stdin.close()
    half.wait(timeout=60)
    (capsule.root / "volumes/data+.img").write_bytes(b"what an export was cut off with")
    capsule.start()
    assert storage(capsule) == ["data.img"]
    assert capsule.ctl("volume", "list", "-o", "name").out.split() == ["data"]


def test_a_client_that_leaves(capsule, stream):
    capsule.ctl("volume", "create", "--size", "256MiB", "big")
    run_with_volume(capsule, mounts=[mount("big")])
    capsule.inside("w", "sh", "-c", f"dd if=/dev/urandom of={DATA}/big bs=1M count=100 2>/dev/null; sync")
    reader = subprocess.Popen(capsule.ctl_argv("volume", "export", "big"), stdout=subprocess.PIPE)
    assert len(reader.stdout.read(MIB)) == MIB
    refused(capsule.ctl("volume", "snapshot", "create", "big", "s", check=False), "volume big is being worked on")
    reader.kill()
    reader.wait()
    wait_for(lambda: "big+.img" not in storage(capsule), "the copy that was made for it to go")
    half = subprocess.Popen(capsule.ctl_argv("volume", "import", "half", "-"), stdin=subprocess.PIPE)
    half.stdin.write(stream[:len(stream) // 2])
    half.stdin.flush()
    wait_for(lambda: "half.img" in storage(capsule), "the import to begin")
    refused(capsule.apply(volume("half"), check=False), "volume half is being made or deleted")
    half.kill()
    half.wait()
    wait_for(lambda: "half.img" not in storage(capsule), "half an import to go")
    wait_for(lambda: capsule.ctl("volume", "create", "--size", "16MiB", "half", check=False).returncode == 0, "the name to be free")


# ---- room ----

def test_du(capsule):
    capsule.apply(volume())
    run_with_volume(capsule)
    capsule.inside("w", "sh", "-c", f"dd if=/dev/urandom of={DATA}/big bs=1M count=20 2>/dev/null; sync")
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    usage, = json.loads(capsule.ctl("volume", "du", "data", "-o", "json").out)["volumes"]
    assert int(usage["sizeBytes"]) == 64 * MIB
    assert 20 * MIB < int(usage["storedBytes"]) < 40 * MIB
    assert 20 * MIB < int(usage["snapshotsBytes"]) < 40 * MIB and usage["snapshots"] == 1
    assert "data" in capsule.ctl("volume", "du").out
    refused(capsule.ctl("volume", "du", "none", check=False), "there is no volume none")
    capsule.apply(volume("away"))
    (capsule.root / "volumes/away.img").unlink()
    assert "data" in capsule.ctl("volume", "du").out
    assert get(capsule, "away")["hasErrors"]
    refused(capsule.ctl("volume", "du", "away", check=False), "away.img")
    capsule.ctl("volume", "delete", "--force", "away")


def test_no_room_for_a_copy(small_disk, make_capsule):
    capsule = make_capsule(root=small_disk / "root")
    capsule.apply(volume(size="100MiB"))
    run_with_volume(capsule)
    capsule.inside("w", "sh", "-c", f"dd if=/dev/urandom of={DATA}/big bs=1M count=80 2>/dev/null; sync")
    refused(capsule.ctl("volume", "clone", "data", "copy", check=False), "not enough room", "volume copy")
    refused(capsule.ctl("volume", "snapshot", "create", "data", "s", check=False), "not enough room", "snapshot s of volume data")
    assert storage(capsule) == ["data.img"]


def test_a_restore_needs_room_for_what_it_copies_only(small_disk, make_capsule):
    """The volume's own promise is half of the disk."""
    capsule = make_capsule(root=small_disk / "root")
    capsule.apply(volume(size="100MiB"))
    write(capsule, "before")
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    capsule.ctl("volume", "resize", "data", "120MiB")
    write(capsule, "after")
    capsule.ctl("volume", "snapshot", "restore", "data", "s")
    assert size_of(capsule) == 120 * MIB == os.stat(capsule.root / "volumes/data.img").st_size
    assert content(capsule, "data") == "before\n"


# ---- where the disk shares blocks ----

@pytest.fixture
def sharing_disk(tmp_path):
    """XFS, which has reflinks."""
    disk, directory = tmp_path / "xfs.img", tmp_path / "xfs"
    with open(disk, "wb") as f:
        f.truncate(2 << 30)
    directory.mkdir()
    run("mkfs.xfs", "-q", disk)
    run("mount", "-o", "loop", disk, directory)
    yield directory
    run("umount", directory)


def test_copies_share_blocks_where_the_disk_can(sharing_disk, make_capsule):
    capsule = make_capsule(root=sharing_disk / "root")
    capsule.apply(volume(size="400MiB"))
    run_with_volume(capsule)
    capsule.inside("w", "sh", "-c", f"dd if=/dev/urandom of={DATA}/big bs=1M count=300 2>/dev/null; sync")
    vfs = os.statvfs(sharing_disk)
    capsule.ctl("volume", "snapshot", "create", "data", "s")
    after = os.statvfs(sharing_disk)
    assert (vfs.f_bfree - after.f_bfree) * vfs.f_bsize < 50 * MIB
    capsule.ctl("workload", "delete", "w")
    capsule.ctl("volume", "snapshot", "restore", "data", "s")
    assert fsck(capsule.root / "volumes/data.img")
