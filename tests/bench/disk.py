# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""A new file system to measure on."""
import contextlib

from measure import run

SIZE = 24 << 30  # of a sparse file


@contextlib.contextmanager
def fresh_disk(directory):
    """A directory on an ext4 of its own, with a journal, as hosts have it. On an ext4 without one, as some builders' machines have
    it, making a file takes the longer the more files were deleted within the last five minutes (the kernel's
    recently_deleted()): there each engine would wait for what the one before it has deleted."""
    image, mounted = directory / "disk.img", directory / f"{directory.name}-disk"
    with contextlib.ExitStack() as stack:
        with open(image, "wb") as f:
            f.truncate(SIZE)
        stack.callback(image.unlink)
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
        device = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
        stack.callback(run, "losetup", "--detach", device)
        mounted.mkdir()
        stack.callback(mounted.rmdir)
        run("mount", device, mounted)
        stack.callback(run, "umount", mounted)
        yield mounted
