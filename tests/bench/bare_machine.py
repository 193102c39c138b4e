# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""QEMU alone with the kernel of microVMs and a first process that says a word: what no microVM starts faster than."""
import select
import subprocess
import sys
import time

from capsule import GUEST_KERNEL, TOP
from daemon import VM_MEMORY_MIB

sys.path.append(str(TOP / "tests/vm"))
from tsc import tsc_khz  # noqa: E402

DEADLINE = 300
FIRST_PROCESS = """\
#include <stdio.h>
#include <unistd.h>
int main(void) { puts("up"); fflush(stdout); for (;;) pause(); }
"""


class BareMachine:
    """The machine that capsule-vm makes (vm/qemu.c), without devices but its console."""

    def __init__(self, directory, emulated):
        self.initramfs = self.make_initramfs(directory / "bare-machine")
        accel, cpu, clock = "kvm", "host", ""
        if emulated:
            accel, cpu = "tcg", "max,la57=off"
            clock = f" tsc_early_khz={tsc_khz()} tsc=reliable no_timer_check noreplace-smp"
        self.argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                     "-machine", "microvm,acpi=off,rtc=on,pic=on,pit=on,usb=off", "-accel", accel, "-cpu", cpu,
                     "-m", str(VM_MEMORY_MIB), "-serial", "stdio", "-kernel", str(GUEST_KERNEL),
                     "-initrd", str(self.initramfs),
                     "-append", f"console=ttyS0 panic=-1 reboot=t acpi=off quiet{clock}"]

    @staticmethod
    def make_initramfs(directory):
        directory.mkdir()
        (directory / "init.c").write_text(FIRST_PROCESS)
        subprocess.run(["gcc", "-static", "-O1", "-s", "-o", directory / "init", directory / "init.c"], check=True)
        archive = subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], cwd=directory, input=b"init\n",
                                 capture_output=True, check=True).stdout
        (directory / "initramfs.cpio").write_bytes(archive)
        return directory / "initramfs.cpio"

    def run(self, n=1):
        """Seconds from the start of n machines at once to the word of the last."""
        begin = time.perf_counter()
        machines = [subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for _ in range(n)]
        try:
            for machine in machines:
                self.await_word(machine, begin + DEADLINE)
            return time.perf_counter() - begin
        finally:
            for machine in machines:
                machine.kill()
                machine.wait()
                machine.stdout.close()

    @staticmethod
    def await_word(machine, deadline):
        said = b""
        while b"up" not in said:
            if not select.select([machine.stdout], [], [], max(deadline - time.perf_counter(), 0))[0]:
                raise RuntimeError(f"QEMU alone is too late; its console: {said.decode(errors='replace')}")
            data = machine.stdout.read1()
            if not data:
                raise RuntimeError(f"QEMU alone exited {machine.wait()}; its console: {said.decode(errors='replace')}")
            said += data
