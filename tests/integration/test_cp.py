# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""capsulectl cp: which path means what, what a copy keeps, and what it cannot be led to."""
import hashlib
import io
import itertools
import os
import pathlib
import socket
import stat
import subprocess
import tarfile

import pytest

import images
import trees
from capsule import COPY_WORKER, run
from kinds import IDS, both_kinds, containers_only
from trees import DIR, LINK

SLEEP = ["/busybox", "sleep", "100000"]
# What files are copied from and to. Those of a microVM that does not run cannot be.
PLACES = [("container", "up"), ("container", "down"), ("microvm", "up")]
every_place = pytest.mark.parametrize("kind,name", PLACES, indirect=["kind"], scope="module")


@pytest.fixture(scope="module")
def host(shared_capsule, tmp_path_factory):
    """A daemon with two workloads: `up` runs from an image that holds one program, no shell, no tar; `down`, from busybox,
    is stopped, and is there where the kind allows copies of it. Both have the volume of their name on /data."""
    archive = tmp_path_factory.mktemp("scratch") / "scratch.tar"
    images.make_image(str(archive), "scratch:test", [images.Host("/bin/busybox", "/busybox")])
    shared_capsule.push(archive)
    workloads = {"up": ("scratch:test", SLEEP), "down": ("busybox:test", ["sleep", "100000"])}
    for kind, name in PLACES:
        if IDS[kind] == shared_capsule.kind:
            image, command = workloads[name]
            shared_capsule.ctl("volume", "create", "--size", "256MiB", name)
            shared_capsule.run_workload(name, image, command=command, stopGracePeriodSeconds=0,
                                        mounts=[{"volumeName": name, "mountPath": "/data"}])
    if "down" in shared_capsule.names():
        shared_capsule.ctl("workload", "stop", "down")
    return shared_capsule


serial = itertools.count()


class Here:
    """A directory of this machine as one end of a copy."""

    def __init__(self, directory):
        self.base = pathlib.Path(directory) / f"here{next(serial)}"
        self.base.mkdir()

    def path(self, path):
        return f"{self.base}/{path}"

    def write(self, tree):
        trees.write(self.base, tree)

    def read(self):
        return trees.read(self.base)


class There:
    """A directory of a workload. That of a running container is made and looked at from outside, without a copy."""

    def __init__(self, host, name, below=""):
        self.host, self.name = host, name
        self.seen = host.kind == "Container" and name != "down"
        self.base = f"{below}/there{next(serial)}"

    def path(self, path):
        return f"{self.name}:{self.base}/{path}"

    def root(self, path=""):
        """A place in a running container, seen from outside."""
        return pathlib.Path(f"/proc/{self.host.status(self.name)['pid']}/root{self.base}/{path}")

    def write(self, tree):
        if self.seen:
            self.root().mkdir(parents=True)
            trees.write(self.root(), tree)
        else:
            self.host.ctl("cp", "-", self.path(""), input=trees.to_tar({".": DIR, **tree}))

    def read(self):
        if self.seen:
            return trees.read(self.root())
        return trees.from_tar(self.host.ctl("cp", f"{self.name}:{self.base}", "-").stdout, os.path.basename(self.base))


# ---- the rules, as docs/copy.md has them ----

SOURCE = {"file": b"new", "dir/a": b"A", "dir/sub/b": b"B", "to-dir": LINK + "dir", "to-file": LINK + "file"}
BEFORE = {"old": b"old", "there/kept": b"kept", "there/file-is-dir/x": b"x"}
NOT_A_DIRECTORY = "not a directory"

RULES = [
    # SRC, DST, what is new or other than before; or what the error says
    ("file", "there", {"there/file": b"new"}),
    ("file", "there/", {"there/file": b"new"}),
    ("file", "there/.", {"there/file": b"new"}),
    ("file", "new", {"new": b"new"}),
    ("file", "new/", {"new/file": b"new"}),
    ("file", "p/q/new", {"p/q/new": b"new"}),
    ("file", "p/q/", {"p/q/file": b"new"}),
    ("file", "old", {"old": b"new"}),
    ("file", "old/", NOT_A_DIRECTORY),
    ("file", "old/new", NOT_A_DIRECTORY),
    ("file/", "new", NOT_A_DIRECTORY),
    ("missing", "new", "there is no "),
    ("dir", "there", {"there/dir/a": b"A", "there/dir/sub/b": b"B"}),
    ("dir/", "there", {"there/dir/a": b"A", "there/dir/sub/b": b"B"}),
    ("dir", "new", {"new/a": b"A", "new/sub/b": b"B"}),
    ("dir", "p/q/new", {"p/q/new/a": b"A", "p/q/new/sub/b": b"B"}),
    ("dir", "new/", {"new/dir/a": b"A", "new/dir/sub/b": b"B"}),
    ("dir", "old", NOT_A_DIRECTORY),
    ("dir/.", "there", {"there/a": b"A", "there/sub/b": b"B"}),
    ("dir/.", "new", {"new/a": b"A", "new/sub/b": b"B"}),
    ("dir/.", "new/", {"new/a": b"A", "new/sub/b": b"B"}),
    ("dir/.", "old", NOT_A_DIRECTORY),
    ("dir/sub/..", "there", {"there/a": b"A", "there/sub/b": b"B"}),
    ("file/.", "new", NOT_A_DIRECTORY),
    ("to-dir", "new", {"new": LINK + "dir"}),
    ("to-file", "there", {"there/to-file": LINK + "file"}),
    ("to-dir/", "there", {"there/to-dir/a": b"A", "there/to-dir/sub/b": b"B"}),
    ("to-dir/.", "there", {"there/a": b"A", "there/sub/b": b"B"}),
]


# A container that does not run and a microVM are reached in other ways, from where all is the same: some rules will do.
RULES_OF = {("container", "up"): RULES, ("container", "down"): RULES[::6], ("microvm", "up"): RULES[::5]}
CASES = [(*place, way, *rule) for place, rules in RULES_OF.items() for way in ("to", "from") for rule in rules]


@pytest.mark.parametrize("kind,name,way,source,destination,expected", CASES, indirect=["kind"], scope="module",
                         ids=["-".join(case[:5]) for case in CASES])
def test_rule(host, tmp_path, name, way, source, destination, expected):
    ends = Here(tmp_path), There(host, name)
    sender, receiver = ends if way == "to" else reversed(ends)
    sender.write(SOURCE)
    receiver.write(BEFORE)
    done = host.ctl("cp", sender.path(source), receiver.path(destination), check=isinstance(expected, dict))
    if isinstance(expected, str):
        assert done.returncode == 1 and expected in done.err.lower() and done.err.count("\n") == 1
        expected = {}
    assert receiver.read() == {**BEFORE, **expected}
    assert done.out == ""


@every_place
def test_kinds_do_not_replace_each_other(host, tmp_path, name):
    here, there = Here(tmp_path), There(host, name)
    here.write({"kept/x": b"x", "file-is-dir": b"file"})
    there.write(BEFORE)
    done = host.ctl("cp", here.path("kept"), there.path("there"), check=False)
    assert done.returncode == 1 and "what is there already is not a directory" in done.err
    done = host.ctl("cp", here.path("file-is-dir"), there.path("there"), check=False)
    assert done.returncode == 1 and "a directory is there already" in done.err
    assert there.read() == BEFORE


@containers_only("seen from outside")
def test_directories_that_are_there_are_joined_and_keep_what_they_are(host, tmp_path):
    here, there = Here(tmp_path), There(host, "up")
    here.write({"dir/both/new": b"1"})
    os.chmod(here.path("dir/both"), 0o711)
    there.write({"dir/both/old": b"2"})
    host.ctl("cp", here.path("dir"), there.path(""))
    assert there.read() == {"dir/both/old": b"2", "dir/both/new": b"1"}
    assert stat.S_IMODE(there.root("dir/both").stat().st_mode) == 0o755


@both_kinds
def test_a_link_to_a_directory_is_gone_through_within_the_workload(host, tmp_path):
    here, there = Here(tmp_path), There(host, "up")
    here.write({"bin/new": b"1"})
    there.write({"usr/bin/old": b"2", "bin": f"{LINK}{there.base}/usr/bin"})
    host.ctl("cp", here.path("bin"), there.path(""))
    assert there.read() == {"usr/bin/old": b"2", "usr/bin/new": b"1", "bin": f"{LINK}{there.base}/usr/bin"}


@both_kinds
def test_streams(host, tmp_path):
    there = There(host, "up")
    host.ctl("cp", "-", there.path("made"), input=trees.to_tar({"a": b"1", "b/c": b"2"}))
    assert there.read() == {"made/a": b"1", "made/b/c": b"2"}
    assert trees.from_tar(host.ctl("cp", there.path("made"), "-").stdout) == {"made/a": b"1", "made/b/c": b"2"}
    assert trees.from_tar(host.ctl("cp", there.path("made/."), "-").stdout) == {"made/a": b"1", "made/b/c": b"2"}
    assert trees.from_tar(host.ctl("cp", there.path("made/a"), "-").stdout) == {"a": b"1"}


@pytest.mark.parametrize("source,destination,says", [
    ("a", "b", "NAME:PATH"), ("up:/a", "down:/b", "NAME:PATH"), ("up:", "b", "its root is up:/"), ("No_Name:/x", "b", "./No_Name:/x"),
])
@containers_only("capsulectl finds it")
def test_a_wrong_command_line(host, source, destination, says):
    done = host.ctl("cp", source, destination, check=False)
    assert done.returncode == 2 and says in done.err


@both_kinds
def test_a_local_name_with_a_colon(host, tmp_path):
    (tmp_path / "a:b").write_bytes(b"1")
    there = There(host, "up")
    host.ctl("cp", tmp_path / "a:b", there.path("x/"))
    assert there.read() == {"x/a:b": b"1"}


# ---- what a copy keeps ----

def listing(base):
    """Everything that a copy is to keep, by path, from lstat() and the rest."""
    found, inodes = {}, {}
    for where, dirs, files in os.walk(os.fsencode(base)):
        for name in [b"."] + files + [d for d in dirs if os.path.islink(os.path.join(where, d))]:
            full = os.path.join(where, name)
            path = os.path.relpath(full, os.fsencode(base))
            st = os.lstat(full)
            kind = stat.S_IFMT(st.st_mode)
            content = None
            if stat.S_ISREG(st.st_mode):
                with open(full, "rb") as f:
                    content = hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
                        hashlib.sha256(f.read()).hexdigest()
                inodes.setdefault(st.st_ino, set()).add(path)
            elif stat.S_ISLNK(st.st_mode):
                content = os.readlink(full)
            names = [] if stat.S_ISLNK(st.st_mode) else [a for a in os.listxattr(full) if a.startswith(("user.", "security.cap"))]
            found[path] = (kind, stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns if path != b"." else 0, content,
                           {a: os.getxattr(full, a) for a in names})
    return found, {frozenset(names) for names in inodes.values()}


def make_everything(base):
    """A tree with every kind of file and of name. Times go back, so that they cannot be right by chance."""
    base = os.fsencode(base)
    os.makedirs(os.path.join(base, b"d/closed/deep"))
    long = os.path.join(base, *[b"l" * 200] * 5)
    os.makedirs(long)
    files = [b"plain", b"d/closed/deep/f", b"odd \n\t\x01\xff\xfe\\ name", "\u00e9 and e\u0301".encode(), os.path.join(long, b"n" * 255)]
    for i, name in enumerate(files):
        with open(os.path.join(base, name), "wb") as f:
            f.write(b"%d" % i * 1000)
    os.link(os.path.join(base, b"plain"), os.path.join(base, b"d/other name"))
    os.symlink(b"/nowhere/\xff", os.path.join(base, b"link"))
    os.symlink(b"d", os.path.join(base, b"link to dir"))
    os.mkfifo(os.path.join(base, b"fifo"), 0o640)
    with open(os.path.join(base, b"set-id"), "wb") as f:
        f.write(b"#!/bin/true\n")
    os.chown(os.path.join(base, b"set-id"), 1234, 5678)
    os.chmod(os.path.join(base, b"set-id"), 0o6755)
    os.chmod(os.path.join(base, b"plain"), 0o604)
    os.chown(os.path.join(base, b"d/closed/deep"), 1234, 5678)
    os.chmod(os.path.join(base, b"d/closed/deep"), 0o1777)
    os.chmod(os.path.join(base, b"d/closed"), 0o500)
    for where, dirs, names in os.walk(base, topdown=False):
        for name in names + [b"."]:
            os.utime(os.path.join(where, name), ns=(10 ** 18 + 123456789, 10 ** 18 + 123456789), follow_symlinks=False)


@both_kinds
def test_archive_keeps_everything(host, tmp_path):
    there = There(host, "up")
    source = tmp_path / "source"
    make_everything(source)
    os.setxattr(source / "plain", "user.colour", b"red\0blue")
    run("setcap", "cap_net_bind_service=ep", source / "set-id")
    os.chmod(source / "set-id", 0o6755)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    expected = listing(source)
    host.ctl("cp", "-a", source, there.path("copy"))
    host.ctl("cp", "-a", there.path("copy"), tmp_path / "back")
    for files, links in [listing(tmp_path / "back"), *([listing(there.root("copy"))] if there.seen else [])]:
        assert links == expected[1] and files.keys() == expected[0].keys()
        # overlayfs has no user.* attributes unless it is mounted for them.
        for path, fields in expected[0].items():
            assert files[path][:6] == fields[:6], path
        assert "security.capability" in files[b"set-id"][6]


@containers_only("seen from outside")
def test_a_plain_copy_belongs_to_its_new_place(host, tmp_path):
    there = There(host, "up")
    source = tmp_path / "source"
    make_everything(source)
    expected = listing(source)[0]
    host.ctl("cp", source, there.path("copy"))
    inside = listing(there.root("copy"))[0]
    assert inside.keys() == expected.keys()
    for path, (kind, mode, uid, gid, mtime, content, _) in expected.items():
        assert inside[path][:6] == (kind, mode & 0o1777, 0, 0, mtime, content), path
    host.ctl("cp", "-a", source, there.path("exact"))
    host.ctl("cp", there.path("exact"), tmp_path / "back")
    for path, fields in listing(tmp_path / "back")[0].items():
        assert fields[:6] == inside[path][:6], path


@both_kinds
def test_a_user_without_rights_gets_copies_of_his_own(host, tmp_path):
    there = There(host, "up")
    make_everything(tmp_path / "source")
    host.ctl("cp", "-a", tmp_path / "source", there.path("copy"))
    stream = host.ctl("cp", there.path("copy"), "-").stdout
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, 4321, 4321)
    for directory in tmp_path.parents:
        if directory.stat().st_mode & 0o777 == 0o700:
            os.chmod(directory, 0o711)
    os.chmod(tmp_path, 0o711)
    run("setpriv", "--reuid=4321", "--regid=4321", "--clear-groups", COPY_WORKER, "unpack", own / "x", input=stream)
    got = listing(own / "x")[0]
    assert got.keys() == listing(tmp_path / "source")[0].keys()
    assert {fields[2] for fields in got.values()} == {4321}
    assert not any(fields[1] & 0o6000 for fields in got.values())


@both_kinds
def test_devices_are_not_made_here_unasked(host, tmp_path):
    there = There(host, "up")
    host.ctl("cp", "-", there.path(""), input=images.layer_tar([images.Device("zero", 1, 5), images.File("f")]))
    done = host.ctl("cp", there.path("zero"), tmp_path, check=False)
    assert done.returncode == 1 and "it is a device" in done.err and not (tmp_path / "zero").exists()
    host.ctl("cp", there.path("."), tmp_path / "all")
    assert os.listdir(tmp_path / "all") == ["f"]
    host.ctl("cp", "-a", there.path("zero"), tmp_path)
    assert (tmp_path / "zero").is_char_device()


@both_kinds
def test_a_socket_is_left_out(host, tmp_path):
    here, there = Here(tmp_path), There(host, "up")
    here.write({"dir/f": b"1"})
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(here.path("dir/s"))
        host.ctl("cp", here.path("dir"), there.path(""))
        done = host.ctl("cp", here.path("dir/s"), there.path(""), check=False)
    assert done.returncode == 1 and "is a socket" in done.err
    assert there.read() == {"dir/f": b"1"}


@every_place
def test_ten_thousand_files(host, tmp_path, name):
    here, there = Here(tmp_path), There(host, name, "/data")
    here.write({f"many/{i % 100}/{i}": b"%d" % i for i in range(10000)})
    host.ctl("cp", here.path("many"), there.path(""))
    host.ctl("cp", there.path("many"), here.path("back"))
    assert trees.read(here.path("back")) == trees.read(here.path("many"))


def data_of(path):
    """What is not zero in a sparse file: offset -> byte."""
    found, end = {}, 0
    with open(path, "rb") as f:
        while True:
            try:
                start = os.lseek(f.fileno(), end, os.SEEK_DATA)
            except OSError:  # no data after this
                return found
            end = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            found.update({start + i: byte for i, byte in enumerate(os.pread(f.fileno(), end - start, start)) if byte})


def sparse_file_both_ways(host, tmp_path, size):
    """A file of this size with a byte here and there, and one that is one hole."""
    here, there = Here(tmp_path), There(host, "up")
    for name, places in (("big", range(1, size, size // 7)), ("hole", ())):
        with open(here.path(name), "wb") as f:
            f.truncate(size)
            for place in places:
                f.seek(place)
                f.write(b"x")
    for name in ("big", "hole"):
        host.ctl("cp", here.path(name), there.path(name), timeout=300)
        host.ctl("cp", there.path(name), here.path(name + ".back"), timeout=300)
        for copy in [pathlib.Path(here.path(name + ".back")), *([there.root(name)] if there.seen else [])]:
            assert copy.stat().st_size == size and copy.stat().st_blocks * 512 < 1 << 20
            assert data_of(copy) == data_of(here.path(name))


@both_kinds
def test_a_sparse_file_of_256_mib(host, tmp_path):
    sparse_file_both_ways(host, tmp_path, 256 << 20)


@containers_only("it takes long through an emulated machine")
@pytest.mark.shipped
def test_a_sparse_file_of_2_gib(host, tmp_path):
    sparse_file_both_ways(host, tmp_path, 2 << 30)


@every_place
def test_volumes_are_seen(host, tmp_path, name):
    here = Here(tmp_path)
    here.write({"file": name.encode()})
    host.ctl("cp", here.path("file"), f"{name}:/data/mark")
    host.ctl("cp", f"{name}:/data/mark", here.path("back"))
    assert here.read()["back"] == name.encode()
    # It is the volume that has it, not the root below it.
    host.ctl("cp", f"{name}:/data", here.path("data"))
    assert (pathlib.Path(here.path("data")) / "lost+found").is_dir()


@both_kinds
def test_what_the_kernel_shows_is_left_out_of_a_root(host, tmp_path):
    host.ctl("cp", "up:/", tmp_path / "root")
    assert (tmp_path / "root/busybox").stat().st_size == os.stat("/bin/busybox").st_size
    assert (tmp_path / "root/proc").is_dir() and not os.listdir(tmp_path / "root/proc")
    assert not os.listdir(tmp_path / "root/sys")


# ---- what a copy cannot be led to ----

OUTSIDE = ["/", "../../../../../../..", "/../.."]


@every_place
@pytest.mark.parametrize("target", OUTSIDE)
def test_links_in_the_workload_stay_in_the_workload(host, tmp_path, name, target):
    here, there = Here(tmp_path), There(host, name)
    mark = f"mark{next(serial)}"
    secret = tmp_path / "secret"
    secret.write_text("of this machine")
    here.write({mark: b"1", f"tree/out/{mark}2": b"2"})
    there.write({"out": LINK + target})
    host.ctl("cp", here.path(mark), there.path("out/"))
    host.ctl("cp", here.path("tree/."), there.path(""))
    assert not os.path.exists(f"/{mark}") and not os.path.exists(f"/{mark}2")
    for inside in (mark, mark + "2"):
        host.ctl("cp", f"{name}:/{inside}", here.path(""))
    done = host.ctl("cp", there.path(f"out{secret}"), here.path("stolen"), check=False)
    assert done.returncode == 1 and "there is no" in done.err and "stolen" not in here.read()


@containers_only("hostPid")
def test_the_kernels_links_to_other_roots_are_not_followed(host, tmp_path):
    """A workload that sees the host's processes sees links to the host's root that no root can hold in."""
    host.run_container("spy", "busybox:test", command=["sleep", "100000"], hostPid=True, stopGracePeriodSeconds=0)
    (tmp_path / "f").write_text("x")
    there = There(host, "spy")
    there.write({"host": LINK + "/proc/1/root", "self": LINK + "/proc/self/root"})
    for link in ("host", "self"):
        done = host.ctl("cp", there.path(link + "/etc/hostname"), tmp_path / "stolen", check=False)
        assert done.returncode == 1 and not (tmp_path / "stolen").exists()
        done = host.ctl("cp", tmp_path / "f", there.path(f"{link}{tmp_path}/planted"), check=False)
        assert done.returncode == 1 and not (tmp_path / "planted").exists()
    host.ctl("workload", "delete", "spy")


def hostile_tars(victim):
    def tar(*entries):
        return images.layer_tar(list(entries))
    return {
        "parent": tar(images.File("../victim/planted", b"x")),
        "absolute": tar(images.Entry(f"{victim}/planted", tarfile.REGTYPE, b"x", 0o644, 0, 0, 0, "", (0, 0), {})),
        "inner parent": tar(images.File("a/../../victim/planted", b"x")),
        "own link": tar(images.Symlink("out", str(victim)), images.File("out/planted", b"x")),
        "own relative link": tar(images.Symlink("out", "../victim"), images.File("out/planted", b"x")),
        "hard link": tar(images.Hardlink("planted", "../victim/secret")),
        "hard link through link": tar(images.Symlink("out", str(victim)), images.Hardlink("planted", "out/secret")),
    }


@pytest.mark.parametrize("how", sorted(hostile_tars("/v")))
def test_a_hostile_stream_stays_in_its_destination(tmp_path, how):
    victim, destination = tmp_path / "victim", tmp_path / "destination"
    victim.mkdir()
    destination.mkdir()
    (victim / "secret").write_text("secret")
    subprocess.run([COPY_WORKER, "unpack", destination], input=hostile_tars(victim)[how], capture_output=True, timeout=60)
    assert os.listdir(victim) == ["secret"] and (victim / "secret").stat().st_nlink == 1


@containers_only("its files are mounts")
def test_what_something_is_mounted_on_is_not_replaced(host, tmp_path):
    (tmp_path / "hosts").write_text("other")
    there = pathlib.Path(f"/proc/{host.status('up')['pid']}/root/etc/hosts")
    before = there.read_text()
    done = host.ctl("cp", tmp_path / "hosts", "up:/etc/hosts", check=False)
    assert done.returncode == 1 and "something is mounted there" in done.err and there.read_text() == before


# What a workload may send when a directory that is not there yet is to become a copy of one of its own.
TO_A_NEW_DIRECTORY = {
    "link to a neighbour": [images.Dir("x"), images.Symlink("x/a", "/victim"), images.File("x/a/secret", b"x")],
    "relative link": [images.Dir("x"), images.Symlink("x/a", "../victim"), images.File("x/a/secret", b"x")],
    "new directory beyond a link": [images.Dir("x"), images.Symlink("x/a", "/victim"), images.Dir("x/a/planted"),
                                    images.File("x/a/planted/f", b"x")],
    "missing parent beyond a link": [images.Dir("x"), images.Symlink("x/a", "/victim"), images.File("x/a/planted/f", b"x")],
    "link instead of a directory": [images.Dir("x"), images.Symlink("x/a", "/victim"), images.Dir("x/a"),
                                    images.File("x/a/secret", b"x")],
    "link at the top": [images.Symlink("x", "/victim"), images.File("x/secret", b"x")],
    "link to the root at the top": [images.Symlink("x", "/"), images.File("x/victim/secret", b"x")],
    "hard link through a link": [images.Dir("x"), images.Symlink("x/a", "/victim"), images.Hardlink("x/b", "x/a/secret")],
}


@pytest.mark.parametrize("how", TO_A_NEW_DIRECTORY)
@pytest.mark.parametrize("options", [[], ["--archive"], ["--contents"]], ids=["plain", "archive", "contents"])
def test_a_hostile_stream_stays_in_a_new_directory(tmp_path, how, options):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/secret").write_text("secret")
    done = subprocess.run([COPY_WORKER, "unpack", *options, "new"], input=images.layer_tar(TO_A_NEW_DIRECTORY[how]), cwd=tmp_path,
                          capture_output=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert set(os.listdir(tmp_path)) <= {"victim", "new"} and os.listdir(tmp_path / "victim") == ["secret"]
    assert (tmp_path / "victim/secret").read_text() == "secret" and (tmp_path / "victim/secret").stat().st_nlink == 1


@both_kinds
def test_links_in_a_local_destination_lead_nowhere_else(host, tmp_path):
    here, there = Here(tmp_path), There(host, "up")
    there.write({"dir/sub/f": b"1", "dir/file": b"2"})
    here.write({"victim/file": b"kept", "dst/dir/sub": f"{LINK}../../victim", "dst/dir/file": f"{LINK}../../victim/file"})
    host.ctl("cp", there.path("dir"), here.path("dst"), check=False)
    assert trees.read(here.path("victim")) == {"file": b"kept"}


@every_place
def test_a_hostile_stream_is_refused_by_the_daemon(host, name):
    there = There(host, name)
    there.write({"x": b"1"})
    for how, says in (("parent", '".." is refused'), ("absolute", "absolute path is refused")):
        done = host.ctl("cp", "-", there.path(""), input=hostile_tars("/victim")[how], check=False)
        assert done.returncode == 1 and says in done.err
    assert there.read() == {"x": b"1"}
