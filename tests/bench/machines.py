# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What is measured of microVMs: their starts, their memory, further processes, and the disk that an image becomes."""
import shutil

import archive
from bare_machine import BareMachine
from capsule import GUEST_KERNEL
from daemon import HOST, VM_MEMORY_MIB, mapped, memory
from measure import Series, alternate, timed
from parts import IMAGE

FLEET = 10
START_ROUNDS, BUILD_ROUNDS = 3, 3
IMAGE_FILES, IMAGE_BYTES = 12_000, 400 << 20


def vm(bench):
    """MicroVMs against QEMU alone, mkfs.erofs alone and a container."""
    if not GUEST_KERNEL.exists():
        bench.report.missing("microVMs", f"there is no {GUEST_KERNEL}: make guest-kernel")
        return
    emulated = bench.ours.machines_are_emulated(bench.report)
    starts(bench, BareMachine(bench.dir, emulated), emulated)
    executions(bench)
    payloads(bench)


# ---- starts and memory ----

def starts(bench, bare, emulated):
    """Of a fleet of one image, in turn and at once, each next to the same number of bare machines."""
    report, ours = bench.report, bench.ours
    manifests = [ours.machine(f"vm-{n}", IMAGE) for n in range(FLEET)]
    names = [m["name"] for m in manifests]
    first, second = Series("apply to first log line, first of an image"), Series("apply to first log line, second")
    last, at_once = Series("apply to first log line, tenth"), Series(f"apply to first log line, {FLEET} at once")
    alone, alone_at_once = Series("QEMU alone to PID 1"), Series(f"QEMU alone to PID 1, {FLEET} at once")
    for _ in range(min(bench.rounds, START_ROUNDS)):
        ours.forget(IMAGE)
        ours.push(bench.small_archive)
        for series, number in (first, 0), (second, 1):
            alone.add(bare.run())
            series.add(ours.talk([manifests[number]]))
        ours.talk(manifests[2:-1])
        alone.add(bare.run())
        last.add(ours.talk([manifests[-1]]))
        costs = [costs_of(ours, name) for name in names]
        ours.delete(*names)
        alone_at_once.add(bare.run(FLEET))
        at_once.add(ours.talk(manifests))
        ours.delete(*names)

    for series in (alone, first, second, last, alone_at_once, at_once):
        report.figure(series.name, series)
    for series in (first, second, last):
        report.ratio(series, alone, at_most=1.25)
    report.ratio(last, second, at_most=1.1)
    report.ratio(at_once, alone_at_once)
    show_costs(report, costs, emulated)


def costs_of(ours, name):
    """Of an idle microVM, in KiB: (all of its memory on the host, what of it the guest touched, translated code)."""
    monitor, holder = int(ours.status(name)["pid"]), ours.holder(name)
    guest = mapped(monitor, "rw-p", VM_MEMORY_MIB << 20)
    if not guest:
        raise RuntimeError(f"the guest's memory was not found in the monitor of {name}")
    return memory(monitor, "Pss") + memory(holder, "Pss"), guest, mapped(monitor, "rwxp")


def show_costs(report, costs, emulated):
    everything, guest, code = (sum(column) / len(costs) / 1024 for column in zip(*costs))
    report.figure(f"memory that an idle guest has touched (mean of {FLEET})", f"{guest:.1f} MiB")
    report.figure("memory of its monitor and its holder beyond that, PSS", f"{everything - guest:.1f} MiB")
    if emulated:
        report.figure("of that, code that emulation translated", f"{code:.1f} MiB")


# ---- inside ----

def executions(bench):
    """A further process in a microVM and in a container."""
    ours = bench.ours
    in_machine, in_container = Series("exec true in a microVM"), Series("exec true in a container")
    ours.apply([ours.machine("machine", IMAGE), ours.manifest("container", IMAGE, HOST)])
    alternate(bench.rounds, (in_machine, lambda: ours.exec("machine", "true")),
              (in_container, lambda: ours.exec("container", "true")))
    ours.delete("machine", "container")
    for series in (in_machine, in_container):
        bench.report.figure(series.name, series)
    bench.report.ratio(in_machine, in_container)


# ---- the disk that an image becomes ----

def payloads(bench):
    """Apply to a finished payload, against its maker alone on the same files."""
    report, ours = bench.report, bench.ours
    path, tree = archive.make_with_tree(bench.dir, IMAGE_FILES, IMAGE_BYTES)
    alone_file = bench.dir / "alone.erofs"
    mine, alone = Series(f"payload of a {path.stat().st_size >> 20} MiB image"), Series("mkfs.erofs alone")
    large = {"name": "large", "kind": "MicroVM", "restartPolicy": "Never", "microVm": {"image": archive.REFERENCE}}
    ours.forget(IMAGE)

    def make():
        ours.push(path)
        seconds = ours.apply_until([large], lambda: any(p.suffix == ".erofs" for p in ours.payloads()))
        ours.delete("large")
        ours.forget(archive.REFERENCE)
        return seconds

    def make_alone():
        alone_file.unlink(missing_ok=True)
        return timed("/usr/bin/mkfs.erofs", "--quiet", "--preserve-mtime", alone_file, tree)

    alternate(min(bench.rounds, BUILD_ROUNDS), (mine, make), (alone, make_alone))
    for series in (mine, alone):
        report.figure(series.name, series)
    report.ratio(mine, alone, at_most=1.1)
    ours.push(bench.small_archive)
    shutil.rmtree(tree)
