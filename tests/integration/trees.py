# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Trees of files as dicts, for tests of copies: path -> content (bytes), LINK + target, or DIR."""
import io
import os
import tarfile

DIR = "a directory"
LINK = "a link to "


def write(base, tree):
    """Makes the tree below a directory of this machine."""
    for path, what in tree.items():
        full = os.path.join(base, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if what == DIR:
            os.makedirs(full, exist_ok=True)
        elif isinstance(what, bytes):
            with open(full, "wb") as f:
                f.write(what)
        else:
            os.symlink(what.removeprefix(LINK), full)


def read(base):
    """The tree below a directory of this machine. Directories that are not empty go without saying."""
    tree = {}
    for where, dirs, files in os.walk(base):
        here = os.path.relpath(where, base)
        for name in dirs + files:
            full = os.path.join(where, name)
            path = os.path.normpath(os.path.join(here, name))
            if os.path.islink(full):
                tree[path] = LINK + os.readlink(full)
            elif name in files:
                with open(full, "rb") as f:
                    tree[path] = f.read()
            elif not os.listdir(full):
                tree[path] = DIR
    return tree


def to_tar(tree):
    """The tree as a tar stream."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, what in tree.items():
            info = tarfile.TarInfo(path)
            if what == DIR:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(what, bytes):
                info.size = len(what)
            else:
                info.type, info.linkname = tarfile.SYMTYPE, what.removeprefix(LINK)
            tar.addfile(info, io.BytesIO(what) if isinstance(what, bytes) else None)
    return out.getvalue()


def from_tar(data, below="."):
    """The tree in a tar stream, or below a directory of it, as read() gives it."""
    tree, inner = {}, set()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            path = os.path.relpath(info.name, below)
            inner.add(os.path.dirname(path))
            if info.isdir():
                tree[path] = DIR
            elif info.issym():
                tree[path] = LINK + info.linkname
            else:
                tree[path] = tar.extractfile(info).read()
    return {path: what for path, what in tree.items() if not (what == DIR and path in inner | {"."})}
