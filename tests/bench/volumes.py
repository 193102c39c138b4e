# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What fio says of a volume in a container and in a microVM, and of what lies below it."""
import collections
import contextlib
import json
import os

import images
from capsule import GUEST_KERNEL
from daemon import HOST
from measure import Rate, alternate, run

FIO = "/usr/bin/fio"
REFERENCE = "fio:1"
FILE_MIB, VOLUME_MIB = 256, 512
ROUNDS, SECONDS = 8, 1
MEMORY_MIB = 512
DATA = "/data/file"

Pattern = collections.namedtuple("Pattern", "name rw block depth unit bytes")
PATTERNS = [Pattern("4 KiB random read", "randread", "4k", 16, "IOPS", 4096),
            Pattern("4 KiB random write", "randwrite", "4k", 16, "IOPS", 4096),
            Pattern("1 MiB sequential read", "read", "1M", 4, "MiB/s", 1 << 20),
            Pattern("1 MiB sequential write", "write", "1M", 4, "MiB/s", 1 << 20)]


def volume(bench):
    """fio with direct I/O in volumes, against files of the same size on the same disk: as a raw loop device, and as they are."""
    if not os.access(FIO, os.X_OK):
        bench.report.missing("fio")
        return
    with contextlib.ExitStack() as stack:
        device, plain = raw_places(bench, stack)
        contestants = {"raw loop device": on_host(device), "plain file": on_host(plain)}
        aims = {}
        for name, kind, aim in (("container", "Container", 0.95), ("microVM", "MicroVM", 0.85)):
            if inside := workload(bench, stack, name.lower(), kind):
                contestants[name] = inside
                aims[name] = aim
        for fio in contestants.values():
            lay_out(fio)
        for pattern in PATTERNS:
            compare(bench, pattern, contestants, aims)


def compare(bench, pattern, contestants, aims):
    series = {name: Rate(f"{pattern.name}, {name}", pattern.unit) for name in contestants}
    alternate(min(bench.rounds, ROUNDS), *((series[name], measuring(fio, pattern)) for name, fio in contestants.items()))
    for each in series.values():
        bench.report.figure(each.name, each)
    for name, aim in aims.items():
        bench.report.ratio(series[name], series["raw loop device"], faster=aim)
        bench.report.ratio(series[name], series["plain file"])


# ---- fio ----

def lay_out(fio):
    """Once from beginning to end, so that nothing has to be allocated any more."""
    fio("--rw=write", "--bs=1M", "--iodepth=4", "--end_fsync=1")


def measuring(fio, pattern):
    """Seconds for one block."""
    def once():
        job = fio(f"--rw={pattern.rw}", f"--bs={pattern.block}", f"--iodepth={pattern.depth}", "--time_based",
                  f"--runtime={SECONDS}", "--norandommap")
        done = job["read" if "read" in pattern.rw else "write"]
        return pattern.bytes / done["bw_bytes"]
    return once


def command(path):
    return [FIO, "--name=bench", f"--filename={path}", f"--size={FILE_MIB}M", "--direct=1", "--ioengine=libaio", "--thread",
            "--output-format=json"]


def running(*argv):
    """fio with further options, in one place; it gives what the job's report says."""
    def fio(*options):
        said = run(*argv, *options)
        return json.loads(said[said.index("{"):])["jobs"][0]
    return fio


def on_host(path):
    return running(*command(path))


# ---- places ----

def raw_places(bench, stack):
    """(a loop device as volumes are on one, a plain file), beside the volumes."""
    backing, plain = bench.ours.dir / "raw.img", bench.ours.dir / "plain"
    for path in (backing, plain):
        with open(path, "wb") as f:
            f.truncate(VOLUME_MIB << 20)
        stack.callback(path.unlink)
    device = run("losetup", "--find", "--show", "--direct-io=on", backing).strip()
    stack.callback(run, "losetup", "--detach", device)
    return device, plain


def workload(bench, stack, name, kind):
    """fio in a workload with a volume; None, said in the report, where there is no such workload."""
    ours, mounts = bench.ours, [{"volumeName": name, "mountPath": os.path.dirname(DATA)}]
    if kind == "MicroVM":
        if not GUEST_KERNEL.exists():
            bench.report.missing("microVMs", f"there is no {GUEST_KERNEL}: make guest-kernel")
            return None
        ours.machines_are_emulated(bench.report)
        manifest = ours.machine(name, REFERENCE)
        manifest["microVm"].update(mounts=mounts, memoryMib=MEMORY_MIB)
    else:
        push_fio(bench)
        manifest = ours.manifest(name, REFERENCE, {**HOST, "mounts": mounts})
    ours.apply([{"name": name, "kind": "Volume", "size": f"{VOLUME_MIB}MiB"}, manifest])
    stack.callback(ours.delete, name)
    return running(*ours.client, "workload", "exec", name, "--", *command(DATA))


def push_fio(bench):
    """This machine's fio with the libraries it loads, and what keeps a workload running."""
    path = bench.dir / "fio.tar"
    files = images.MERGED + images.tree_entries(["/bin/sh", FIO, *images.library_closure("/bin/sh"), *images.library_closure(FIO)])
    files += [images.Host("/bin/busybox", "/usr/bin/sleep"), images.Dir("/tmp"), images.Dir("/dev"), images.Dir("/proc"),
              images.Dir("/sys")]
    images.make_image(str(path), REFERENCE, files)
    bench.ours.push(path)
    path.unlink()
