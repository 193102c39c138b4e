# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

from capsule import PATIENCE


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, argv, env, columns=80, stdout=None):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave

        def control():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(argv, stdin=slave, stdout=stdout or slave, stderr=slave, env=env, preexec_fn=control)
        self.text = ""

    def read_until(self, what):
        deadline = time.monotonic() + PATIENCE
        while what not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{what!r} did not appear in {self.text!r}"
            self.text += os.read(self.master, 65536).decode()
        return self.text

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        """The exit code, when everything printed has been read."""
        code = self.process.wait(timeout=PATIENCE)
        while select.select([self.master], [], [], 0)[0]:
            self.text += os.read(self.master, 65536).decode()
        assert termios.tcgetattr(self.slave) == self.before, "the terminal's settings were changed"
        os.close(self.slave)
        os.close(self.master)
        return code
