# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""A thread with a mount namespace of its own: what it starts sees plain v1 cgroups, as crun needs them on a hybrid host, and
what it mounts is gone with it."""
import concurrent.futures
import ctypes
import os

from measure import run

CLONE_NEWNS = 0x20000


def enter():
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    run("mount", "--make-rslave", "/")
    if os.path.ismount("/sys/fs/cgroup/unified"):
        run("mount", "-t", "tmpfs", "-o", "size=16m", "bench", "/sys/fs/cgroup/unified")


class PrivateMounts:
    def __init__(self):
        self.thread = concurrent.futures.ThreadPoolExecutor(1, initializer=enter)

    def call(self, function, *args):
        return self.thread.submit(function, *args).result()

    def wrap(self, function):
        return lambda *args: self.call(function, *args)

    def close(self):
        self.thread.shutdown()
