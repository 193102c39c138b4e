#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Unpacks the kernel that a package of Debian's stands for: debian_kernel.py PACKAGE DIRECTORY

DIRECTORY then has boot/ and lib/modules/ with what depmod writes. Nothing is installed, and nothing done if it is there.
"""
import pathlib
import re
import subprocess
import sys
import tempfile


class Failed(Exception):
    pass


def run(*argv, **kwargs):
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)
    if done.returncode != 0:
        raise Failed(f"{argv[0]} exited {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def unpack(package, directory):
    """package: one that depends on the newest kernel of its kind, such as linux-image-cloud-amd64."""
    if directory.exists():
        return
    depends = run("apt-cache", "depends", package)
    image = re.search(r"Depends: (linux-image-\S+)", depends)
    if not image:
        raise Failed(f"no kernel package in the sources of apt:\n{depends}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        run("apt-get", "download", "-o", "APT::Sandbox::User=root", image[1], cwd=scratch)
        unpacked = pathlib.Path(scratch, "kernel")
        run("dpkg-deb", "-x", *pathlib.Path(scratch).glob("*.deb"), unpacked)
        run("/usr/sbin/depmod", "-b", unpacked, release(unpacked))
        unpacked.rename(directory)


def release(directory):
    return next(directory.glob("lib/modules/*")).name


if __name__ == "__main__":
    try:
        unpack(sys.argv[1], pathlib.Path(sys.argv[2]).absolute())
    except Failed as e:
        sys.exit(str(e))
