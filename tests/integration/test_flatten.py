# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What capsule-image makes of layers for microVMs, mounted beside the overlay that a container has of them."""
import collections
import contextlib
import hashlib
import os
import pathlib
import random
import stat
import struct
import subprocess

import pytest

from capsule import IMAGE_WORKER

BLOCK = 4096
INODE = 64
SIZES = [0, 1, 2, BLOCK - INODE - 1, BLOCK - INODE, BLOCK - INODE + 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK,
         3 * BLOCK + BLOCK // 2, 200_000]
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # vfs_cap_data, version 2: effective, CAP_NET_BIND_SERVICE
ACL = struct.pack("<I" + "HHI" * 5, 2, 1, 7, 2**32 - 1, 2, 6, 1000, 4, 5, 2**32 - 1, 16, 7, 2**32 - 1, 32, 4, 2**32 - 1)


class Layers:
    """Unpacked layers, the lowest first; `mounted()` is (what was flattened, the overlay)."""

    def __init__(self, directory, n=3):
        self.directory = directory
        self.dirs = [directory / f"layer{i}" for i in range(n)]
        for path in [*self.dirs, directory / "stage", directory / "below"]:
            path.mkdir()
        self.file = directory / "flat.erofs"

    def flatten(self, check=True):
        with open(self.file, "wb+") as out:
            # PAYLOAD_FD (image/payload.h)
            return subprocess.run(["sh", "-c", 'exec "$@" 3>&1', "sh", IMAGE_WORKER, "flatten", "--root",
                                   self.directory / "stage", *self.dirs], check=check, stdout=out, stderr=subprocess.PIPE, text=True)

    @contextlib.contextmanager
    def mounted(self):
        flat, overlay = self.directory / "flat", self.directory / "overlay"
        lower = ":".join(str(path) for path in [*reversed(self.dirs), self.directory / "below"])
        with contextlib.ExitStack() as stack:
            for path, kind, options, source in (flat, "erofs", "loop,ro", self.file), (overlay, "overlay", f"lowerdir={lower}", "overlay"):
                path.mkdir()
                subprocess.run(["mount", "-t", kind, "-o", options, source, path], check=True)
                stack.callback(subprocess.run, ["umount", path], check=True)
            yield flat, overlay

    def compare(self):
        self.flatten()
        subprocess.run(["fsck.erofs", "--extract", self.file], check=True, stdout=subprocess.DEVNULL)
        with self.mounted() as (flat, overlay):
            found, expected = shown(flat), shown(overlay)
        assert found.keys() == expected.keys()
        for path in expected:
            assert found[path] == expected[path], path
        return found


def names_in(path):
    """Those that are found. An overlay also lists the whiteouts of directories that only one layer has."""
    return sorted(name for name in os.listdir(path) if os.path.lexists(path / name))


def content(path, mode):
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if stat.S_ISREG(mode):
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    return names_in(path) if stat.S_ISDIR(mode) else None


def shown(root):
    """What a tree shows: path -> all that can be asked about it."""
    seen, names = {}, collections.defaultdict(list)
    paths = [root]
    while paths:
        path = paths.pop()
        st = os.lstat(path)
        directory = stat.S_ISDIR(st.st_mode)
        if directory:
            paths += (path / name for name in names_in(path))
        else:
            names[st.st_ino].append(str(path.relative_to(root)))
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
        # An overlay does not count the links of a directory, and the size of one is the file system's own affair.
        seen[str(path.relative_to(root))] = [
            st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, None if directory else (st.st_size, st.st_nlink), st.st_rdev,
            attributes, content(path, st.st_mode)]
    for same in names.values():
        for path in same:
            seen[path].append(sorted(same))
    return seen


@pytest.fixture
def layers(tmp_path):
    return Layers(tmp_path)


def put(path, data=b"", mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def hide(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def make_opaque(path):
    path.mkdir(parents=True, exist_ok=True)
    os.setxattr(path, "trusted.overlay.opaque", b"y")


# ---- what hides what ----

def test_an_upper_layer_hides_and_adds(layers):
    low, middle, top = layers.dirs
    for name in ("kept", "replaced", "hidden", "dir/kept", "dir/hidden", "gone/a/b", "opaque/old", "file-then-dir",
                 "dir-then-file/x", "again/old"):
        put(low / name, b"low")
    put(middle / "replaced", b"middle")
    put(middle / "dir/new", b"middle")
    put(middle / "dir-then-file", b"middle")
    put(middle / "file-then-dir/in", b"middle")
    for name in "hidden", "dir/hidden", "gone", "again":
        hide(middle / name)
    make_opaque(middle / "opaque")
    put(middle / "opaque/between", b"middle")
    put(top / "opaque/new", b"top")
    put(top / "hidden", b"back")
    # A directory where a layer in between has nothing: what was below that stays hidden.
    put(top / "again/new", b"top")
    found = layers.compare()
    assert {"kept", "hidden", "dir/kept", "dir/new", "opaque/between", "opaque/new", "file-then-dir/in", "again/new"} <= found.keys()
    assert not {"dir/hidden", "gone", "opaque/old", "again/old", "dir-then-file/x"} & found.keys()


def test_a_directory_is_as_its_uppermost_layer_says(layers):
    for n, layer in enumerate(layers.dirs):
        put(layer / "dir/file").chmod(0o600 + n)
        os.chown(layer / "dir", 1000 + n, 70000 + n)
        (layer / "dir").chmod(0o1700 + n)
        layer.chmod(0o750 + n)
        os.setxattr(layer / "dir", "user.layer", str(n).encode())
    found = layers.compare()
    assert found["dir"][1:3] == [1002, 70002] and found["."][0] == stat.S_IFDIR | 0o752


@pytest.mark.parametrize("what", ["whiteout", "opaque root"])
def test_a_mark_in_the_lowest_layer_hides_nothing(layers, what):
    put(layers.dirs[0] / "file")
    if what == "whiteout":
        hide(layers.dirs[0] / "nothing")
    else:
        make_opaque(layers.dirs[0])
    assert layers.compare().keys() == {".", "file"}


def test_an_opaque_root_hides_all_layers_below(layers):
    put(layers.dirs[0] / "old")
    make_opaque(layers.dirs[1])
    put(layers.dirs[1] / "new")
    put(layers.dirs[2] / "newer")
    layers.flatten()
    with layers.mounted() as (flat, _):
        assert names_in(flat) == ["new", "newer"]


# ---- what a file is ----

def test_files_of_all_sizes(layers):
    rng = random.Random(1)
    for layer in layers.dirs:
        for size in SIZES:
            put(layer / f"{layer.name}-{size}", rng.randbytes(size))
    layers.compare()


def test_files_of_all_types(layers):
    top = layers.dirs[2]
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "char", 0o600 | stat.S_IFCHR, os.makedev(5, 1))
    os.mknod(top / "block", 0o660 | stat.S_IFBLK, os.makedev(259, 70000))
    for length in 1, 100, BLOCK - INODE, BLOCK - INODE + 1, BLOCK - 1:
        os.symlink("t" * length, top / f"link{length}")
    put(top / "setuid", b"x", 0o6755)
    os.chown(top / "char", 2**32 - 2, 2**31)
    for n, ns in enumerate((0, -1_500_000_000, 2**33 * 10**9 + 999_999_999)):
        os.utime(put(top / f"time{n}"), ns=(ns, ns))
    os.lchown(top / "link1", 65534, 65535)
    layers.compare()


def test_hard_links_are_one_file_within_a_layer(layers):
    low, middle, _ = layers.dirs
    first = put(low / "a/first", b"same" * 2000)
    for name in "b/second", "c/third", "hidden":
        (low / name).parent.mkdir(exist_ok=True)
        os.link(first, low / name)
    hide(middle / "hidden")
    put(middle / "b/second", b"other")
    os.symlink("target", low / "link")
    os.link(low / "link", low / "link-too", follow_symlinks=False)
    layers.flatten()
    with layers.mounted() as (flat, _):
        assert os.path.samefile(flat / "a/first", flat / "c/third") and os.stat(flat / "a/first").st_nlink == 2
        assert (flat / "c/third").read_bytes() == b"same" * 2000 and (flat / "b/second").read_bytes() == b"other"
        assert os.lstat(flat / "link").st_ino == os.lstat(flat / "link-too").st_ino


def test_extended_attributes(layers):
    top = layers.dirs[2]
    os.setxattr(put(top / "program", b"x", 0o755), "security.capability", CAPABILITY)
    os.setxattr(put(top / "shared", b"x" * 5000), "system.posix_acl_access", ACL)
    (top / "dir").mkdir()
    os.setxattr(top / "dir", "system.posix_acl_default", ACL)
    for n in range(8):
        os.setxattr(put(top / f"user{n}", b"y" * n), f"user.{'n' * (1 + n * 30)}", b"v" * (n * 13))
        os.setxattr(top / f"user{n}", "user.second", b"")
    # More than an inode's block holds.
    large = put(top / "large", b"z" * 100)
    for n in range(3):
        os.setxattr(large, f"user.{n}", bytes([n]) * 1200)
    found = {path: about[6] for path, about in layers.compare().items()}
    assert found["program"] == {"security.capability": CAPABILITY}
    assert found["dir"] == {"system.posix_acl_default": ACL}


def test_attributes_of_the_host_s_own_are_left_out(layers):
    os.setxattr(put(layers.dirs[2] / "file"), "trusted.other", b"x")
    layers.flatten()
    with layers.mounted() as (flat, _):
        assert os.listxattr(flat / "file") == []


def test_holes_stay_holes(layers):
    with open(layers.dirs[1] / "sparse", "wb") as f:
        f.truncate(1 << 30)
        for offset in 0, 100 << 20, (1 << 30) - 5000:
            f.seek(offset)
            f.write(b"data" * 300)
    with open(layers.dirs[1] / "empty-hole", "wb") as f:
        f.truncate(50_000_001)
    layers.compare()
    assert os.stat(layers.file).st_blocks * 512 < 8 << 20


# ---- directories ----

def test_names_are_sorted_as_bytes(layers):
    names = ["!", "+x", "-", ".", "..", "...", ".a", "..a", "/", "A", "a", "aa", "a.b", "a b", "z" * 255, "\xe4", "\udcff",
             "\u20ac", "\n"]
    for name in names:
        if name not in (".", "..", "/"):
            put(layers.dirs[2] / name)
    layers.compare()


@pytest.mark.parametrize("length", [1, 8, 200, 255])
def test_large_directories(layers, length):
    for n in range(1500):
        name = f"{n:x}".rjust(length, "n")
        os.close(os.open(layers.dirs[n % 3] / name, os.O_CREAT))
    found = layers.compare()
    assert len(found) > 1500


def test_deep_directories(layers):
    path = layers.dirs[0]
    for n in range(60):
        path /= f"{n:060}"
    put(path / "file", b"deep")
    layers.compare()


# ---- all together ----

def grow(rng, layer):
    """Random entries, of names that other layers have too."""
    names = [str(n) for n in range(8)]
    for _ in range(60):
        path = layer.joinpath(*(rng.choice(names) for _ in range(rng.randint(1, 4))))
        if os.path.lexists(path) or any(os.path.lexists(p) and (p.is_symlink() or not p.is_dir()) for p in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = rng.choice(["file", "file", "file", "dir", "link", "hide", "opaque"])
        if kind == "file":
            put(path, rng.randbytes(rng.choice(SIZES)), rng.choice([0o600, 0o755]))
        elif kind == "dir":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("x" * rng.randint(1, 300))
        elif kind == "hide":
            hide(path)
        else:
            make_opaque(path)


@pytest.mark.parametrize("seed", range(12))
def test_random_layers(tmp_path, seed):
    rng = random.Random(seed)
    layers = Layers(tmp_path, rng.randint(1, 6))
    for layer in layers.dirs:
        grow(rng, layer)
    layers.compare()


# ---- how ----

def test_the_same_layers_give_the_same_bytes(layers):
    rng = random.Random(3)
    for layer in layers.dirs:
        grow(rng, layer)
    layers.flatten()
    first = layers.file.read_bytes()
    layers.flatten()
    assert layers.file.read_bytes() == first


def test_layers_and_payload_on_different_file_systems(layers, tmp_path):
    put(layers.dirs[0] / "file", os.urandom(300_000))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", layers.dirs[1]], check=True)
    try:
        put(layers.dirs[1] / "other", os.urandom(1_000_001))
        layers.compare()
    finally:
        subprocess.run(["umount", layers.dirs[1]], check=True)


def test_what_cannot_be_written_is_told(layers):
    layers.dirs[1] = layers.directory / "missing"
    done = layers.flatten(check=False)
    assert done.returncode == 1 and "cannot open the layer" in done.stderr
