#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""An ordinary Debian host as an emulated machine, for `machine`, which runs a command in it, and `power-cuts`.

Its kernel is that of linux-image-amd64, unpacked from its package into build-vm/. Its root is this host's root, shared
read-only, under an overlay on a disk or in memory: it sees this build and every installed package as they are. Everything is
emulated (no KVM), so that it works on any machine; it is several times slower. Run alone, this unpacks the kernel, for machines
that will be started at once.
"""
import lzma
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading

from debian_kernel import Failed, run, unpack
from tsc import tsc_khz

TOP = pathlib.Path(__file__).resolve().parents[2]
HERE = TOP / "tests/vm"
CACHE = TOP / "build-vm"
# In the order in which they need each other.
BOOT_MODULES = ["virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "virtio_console", "netfs", "fscache", "9pnet",
                "9pnet_virtio", "9p", "overlay", "crc16", "mbcache", "jbd2", "crc32c_generic", "libcrc32c", "ext4"]
# On a busy host a kernel now and then hangs before its first process, which says this on the console.
SIGN_OF_LIFE = "the first process runs"
BOOT_PATIENCE = 120  # seconds, until then: some on an idle host
XZ_MAGIC = b"\xfd7zXZ\0"
DISK_SIZE = 8 << 30  # of a sparse file
SYSTEMD = ["/lib/systemd/systemd"]
# The time stamp counter is the host's and good: a kernel that measured it on a busy host would go by ticks, of which many are
# lost, and its deadlines would be too long. QEMU translates code for the address at which it runs: a program that lies elsewhere
# each time is translated each time, and takes several times as long to start.
CMDLINE = ["console=ttyS0", "quiet", "panic=-1", "reboot=t", "tsc=reliable", "no_timer_check", "norandmaps",
           "systemd.wants=vm-command.service"]


def kernel():
    """Debian's kernel, unpacked: the directory that has boot/ and lib/modules/."""
    directory = CACHE / "kernel"
    unpack("linux-image-amd64", directory)
    return directory


def vmlinux():
    """The kernel as its boot loader would unpack it, which in emulation takes seconds."""
    CACHE.mkdir(exist_ok=True)
    path = CACHE / "vmlinux"
    if not path.exists():
        image = next(kernel().glob("boot/vmlinuz-*")).read_bytes()
        part = path.with_suffix(".part")
        part.write_bytes(lzma.LZMADecompressor().decompress(image[image.index(XZ_MAGIC):]))
        part.rename(path)
    return path


def plain(program, *arguments):
    """The first process of a machine without systemd, in which this program of tests/vm runs."""
    return [str(HERE / "init"), str(HERE / program), *map(str, arguments)]


def make_initramfs(out, start, command=(), environment=(), orderly=False):
    """busybox, the modules that the root needs, and tests/vm/initramfs-init with its settings.

    start: the first process of the machine, as plain() or SYSTEMD. command: what tests/vm/finish runs there. orderly: whether the machine then goes
    down as systemd does it, not as if its power were cut."""
    modules = kernel() / "lib/modules"
    settings = {"top": TOP, "modules": modules, "start": shlex.join(start), "command": shlex.join(command),
                "environment": shlex.join(environment), "orderly": "yes" if orderly else "", "sign_of_life": SIGN_OF_LIFE}
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        tree = pathlib.Path(scratch)
        for name in ("bin", "modules", "proc", "sys", "dev", "host", "disk", "new"):
            (tree / name).mkdir()
        shutil.copy("/bin/busybox", tree / "bin")
        shutil.copy(HERE / "initramfs-init", tree / "init")
        found = {p.stem.replace("-", "_"): p for p in modules.rglob("*.ko")}
        for number, name in enumerate(BOOT_MODULES):
            if name in found:  # else it is built in
                shutil.copy(found[name], tree / f"modules/{number:02}-{name}.ko")
        (tree / "settings").write_text("".join(f"{k}={shlex.quote(str(v))}\n" for k, v in settings.items()))
        names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*")))
        with open(out, "wb") as f:
            subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=tree, input=names.encode(), stdout=f, check=True)


def came_up(console):
    return console.exists() and SIGN_OF_LIFE in console.read_text(errors="replace")


def kill_if_hung(process, console):
    """A timer that ends the machine if it gives no sign of life. The caller cancels it when the machine has ended."""
    timer = threading.Timer(BOOT_PATIENCE, lambda: came_up(console) or process.kill())
    timer.start()
    return timer


def run_or_again(run_machine, console):
    """Calls what runs a machine with this console to its end; once more if its kernel did not come up."""
    for last_try in (False, True):
        console.unlink(missing_ok=True)
        try:
            return run_machine()
        except Failed:
            if last_try or came_up(console):
                raise
        print("the machine's kernel did not come up; once more", file=sys.stderr)


def make_disk(path, size=DISK_SIZE):
    with open(path, "wb") as f:
        f.truncate(size)
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", path)


def disk(name, where, cache="unsafe"):
    """Options of QEMU for a disk, with its name as its serial. The one named "root" holds what the machine writes."""
    return ["-drive", f"if=none,id={name},file={where},format=raw,cache={cache}",
            "-device", f"virtio-blk-device,drive={name},serial={name},physical_block_size=4096"]


def port(name, path):
    """Options of QEMU for a virtio-serial port: what is written to it is appended to a file or a pipe."""
    return ["-chardev", f"file,id={name},path={path},append=on", "-device", f"virtserialport,chardev={name},name={name}"]


def share(tag, options):
    return ["-fsdev", f"local,id={tag},{options}", "-device", f"virtio-9p-device,fsdev={tag},mount_tag={tag}"]


def qemu(initramfs, console, *devices, memory=2048, processors=2):
    """The command. console: a file that takes what the kernel says. devices: lists of options, as from disk() and port()."""
    cmdline = [*CMDLINE, f"tsc_early_khz={tsc_khz()}"]
    return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-M", "microvm,rtc=on,pit=on,pic=on",
            "-m", str(memory), "-smp", str(processors), "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
            "-kernel", str(vmlinux()), "-initrd", str(initramfs), "-append", " ".join(cmdline),
            "-chardev", f"file,id=console,path={console}", "-serial", "chardev:console", "-device", "virtio-serial-device",
            *share("host", "path=/,security_model=passthrough,readonly=on,multidevs=remap"),
            *(option for options in devices for option in options)]


if __name__ == "__main__":
    vmlinux()
