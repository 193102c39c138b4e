# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""A thin pool on a loop device, for the tests that are marked device_mapper."""
import fcntl
import json
import os
import pathlib
import signal
import struct

from capsule import run, wait_for

MIB = 1 << 20
POOL_SIZE = 256 * MIB
DISK_SIZE = 640 * MIB
DM_TARGET_MSG = 0xc138fd0e  # linux/dm-ioctl.h
DMEVENTD = pathlib.Path("/run/dmeventd.pid")


class ThinPool:
    """`activation`: settings of that section of lvm.conf(5); by default nothing watches the pool."""

    serial = 0

    def __init__(self, directory, activation="monitoring=0"):
        ThinPool.serial += 1
        self.vg = f"ct{os.getpid()}x{ThinPool.serial}"
        self.name = f"{self.vg}/pool"
        self.env = {**os.environ, "LVM_SYSTEM_DIR": str(directory / "lvm")}
        self.watched_before = DMEVENTD.exists()
        (directory / "lvm").mkdir()
        (directory / "lvm/lvm.conf").write_text(self.settings(activation))
        disk = directory / "pv.img"
        with open(disk, "wb") as f:
            f.truncate(DISK_SIZE)
        self.device = run("losetup", "--find", "--show", disk).stdout.decode().strip()
        self.lvm("pvcreate", "-q", self.device)
        self.lvm("vgcreate", "-q", self.vg, self.device)
        self.lvm("lvcreate", "-q", "-y", "--type", "thin-pool", "--size", f"{POOL_SIZE}b", "--poolmetadatasize", "2m", "--name",
                 "pool", self.vg)

    @staticmethod
    def settings(activation):
        """Where no udev makes device nodes, LVM is to do that itself."""
        if os.path.exists("/run/udev/control"):
            return f"activation {{ {activation} }}\n"
        return f"activation {{ {activation} udev_sync=0 udev_rules=0 }}\ndevices {{ obtain_device_list_from_udev=0 }}\n"

    def lvm(self, *argv, check=True):
        return run(*argv, check=check, env=self.env).stdout.decode()

    def volumes(self):
        """The names of the logical volumes besides the pool."""
        names = json.loads(self.lvm("lvs", "--reportformat", "json", "-o", "lv_name", self.vg))["report"][0]["lv"]
        return sorted(row["lv_name"] for row in names if row["lv_name"] != "pool")

    def field(self, name):
        return self.lvm("lvs", "--noheadings", "--nosuffix", "--units", "b", "-o", name, self.name).strip()

    def message(self, text):
        """To the pool's target in the kernel, as dmsetup(8) sends it, which takes long to start; whether it was accepted."""
        name, message = f"{self.vg}-pool-tpool".encode(), struct.pack("=Q", 0) + text.encode() + b"\0"
        head = struct.pack("=8I2IQ128s136s", 4, 0, 0, 312 + len(message), 312, 0, 0, 0, 0, 0, 0, name, b"")
        with open("/dev/mapper/control", "rb") as control:
            try:
                fcntl.ioctl(control, DM_TARGET_MSG, bytearray(head + message))
                return True
            except OSError:
                return False

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.lvm("vgremove", "-y", "-ff", self.vg, check=False)
        self.lvm("pvremove", "-y", "-ff", self.device, check=False)
        run("losetup", "--detach", self.device)
        # LVM has started it with the settings of this pool.
        if not self.watched_before and DMEVENTD.exists():
            os.kill(int(DMEVENTD.read_text()), signal.SIGTERM)
            wait_for(lambda: not DMEVENTD.exists(), "dmeventd to end")
