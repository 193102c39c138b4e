#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Writes the base initramfs of microVMs: the first process, static programs, and dynamic ones with what they load.

A cpio archive (kernel: driver-api/early-userspace/buffer-format.rst), not compressed: unpacking would cost the guest
more time than reading. The same inputs give the same bytes. A kernel with modules gets them from a second archive
behind this one: files, and /modules/order, a list of their paths, one a line, in the order in which they are to be
loaded.
"""
import argparse
import errno
import os
import re
import shutil
import stat
import subprocess
import tempfile

# Where programs find what the kernel gives; /mnt is where the root is mounted on itself.
DIRECTORIES = ["bin", "dev", "lib", "lib64", "mnt", "proc", "run", "sys"]
CONSOLE = os.makedev(5, 1)
SYSTEMD = "libsystemd.so.0"


class Archive:
    def __init__(self):
        self.data = bytearray()
        self.inode = 0
        self.names = set()

    def add(self, name, mode, content=b"", device=0):
        self.inode += 1
        self.names.add(name)
        fields = [self.inode, mode, 0, 0, 1, 0, len(content), 0, 0, os.major(device), os.minor(device),
                  len(name) + 1, 0]
        self.data += b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        self.pad()
        self.data += content
        self.pad()

    def pad(self):
        self.data += bytes(-len(self.data) % 4)

    def add_directory(self, name):
        if name and name not in self.names:
            self.add_directory(os.path.dirname(name))
            self.add(name, stat.S_IFDIR | 0o755)

    def add_program(self, name, path):
        """Without symbols: they are for debuggers and would only take memory."""
        with tempfile.NamedTemporaryFile() as stripped:
            subprocess.run(["strip", "-o", stripped.name, path], check=True)
            self.add_directory(os.path.dirname(name))
            self.add(name, stat.S_IFREG | 0o755, stripped.read())

    def finish(self):
        self.add("TRAILER!!!", 0)
        return bytes(self.data)


def output(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def libraries(program):
    """What the dynamic linker loads for it, itself included: paths by the name that it is looked for under."""
    listed = output("ldd", program)
    if "not found" in listed:
        raise SystemExit(f"a library of {program} is missing:\n{listed}")
    return re.findall(r"(?:=> )?(/\S+) \(0x", listed)


def needed(path):
    """The names of the libraries that a file itself asks for."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", path))


def without(program, library):
    """What the program loads besides this library and what only that needs."""
    paths = {os.path.basename(path): path for path in libraries(program)}
    loaded, wanted = set(), [name for name in needed(program) if name != library]
    while wanted:
        path = paths[wanted.pop()]
        if path not in loaded:
            loaded.add(path)
            wanted += needed(path)
    return sorted(loaded)


def without_systemd(program, compiler, directory):
    """A libsystemd that says that there is none (ENOSYS), with the functions that the program asks for. In a guest that
    is true, and the real one with the five libraries that it loads is two thirds of crun's start in emulation."""
    listed = output("nm", "-D", "--undefined-only", program)
    versions = {}
    for function, version in re.findall(r" (\w+)@+(LIBSYSTEMD_\w+)$", listed, re.MULTILINE):
        versions.setdefault(version, []).append(function)
    source, script, library = (os.path.join(directory, name) for name in ("systemd.c", "systemd.map", SYSTEMD))
    with open(source, "w") as f:
        for name in sum(versions.values(), []):
            f.write(f"int {name}(void)\n{{\n\treturn -{errno.ENOSYS};\n}}\n")
    with open(script, "w") as f:
        f.writelines(f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in versions.items())
    subprocess.run([*compiler, "-shared", "-fPIC", "-O2", "-nostdlib", f"-Wl,-soname,{SYSTEMD}",
                    f"-Wl,--version-script={script}", "-o", library, source], check=True)
    return library


def add_dynamic(archive, path, compiler, directory):
    """The program with what it loads. The names of what was read."""
    archive.add_program(f"bin/{os.path.basename(path)}", path)
    systemd = next((library for library in libraries(path) if os.path.basename(library) == SYSTEMD), None)
    found = without(path, SYSTEMD)
    if systemd:
        archive.add_program(systemd.lstrip("/"), without_systemd(path, compiler, directory))
    for library in found:
        if library.lstrip("/") not in archive.names:
            archive.add_program(library.lstrip("/"), library)
    return [path, *found]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--depfile", required=True)
    parser.add_argument("--init", required=True)
    parser.add_argument("--program", action="append", default=[], metavar="PATH:NAME", help="a static one")
    parser.add_argument("--compiler", action="append", required=True, metavar="WORD")
    parser.add_argument("--dynamic", action="append", default=[], metavar="NAME",
                        help="one of this machine, with its libraries")
    options = parser.parse_args()
    archive, inputs = Archive(), []
    for name in DIRECTORIES:
        archive.add_directory(name)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=CONSOLE)
    archive.add_program("init", options.init)
    for item in options.program:
        path, name = item.rsplit(":", 1)
        archive.add_program(f"bin/{name}", path)
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.dynamic:
            path = shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin")
            if not path:
                raise SystemExit(f"{name} is not installed")
            inputs += add_dynamic(archive, path, options.compiler, scratch)
    with open(options.out, "wb") as f:
        f.write(archive.finish())
    with open(options.depfile, "w") as f:
        f.write(f"{options.out}: {' '.join(inputs)}\n")


main()
