# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""A disk with a write cache that loses its content with the power, served to QEMU over NBD (a Unix socket).

What is written stays in memory until it is flushed. cut() is the loss of power: of the sectors that were
not flushed some are on the disk and some are not, in no order, as drives and their queues do it. A sector is never torn. They are
today's drives' own, of 4 KiB, not the 512 bytes in which such a drive is addressed: ext4 takes a commit block that is torn for a
journal that is damaged.
"""
import random
import socket
import struct
import threading

ADDRESSED = 512
SECTOR = 4096  # what the drive writes as one
# https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPT_ABORT, OPT_GO = 2, 7
REP_ACK, REP_INFO, REP_ERR_UNSUP = 1, 3, 0x80000001
INFO_EXPORT = 0
HAS_FLAGS, SEND_FLUSH = 1, 4
READ, WRITE, DISC, FLUSH = range(4)
EINVAL = 22
LENGTH_MAX = 64 << 20
GONE_WITHIN = 60  # seconds from a client's end to the last of what it had sent


class Gone(Exception):
    """The client has closed the connection."""


def receive(connection, length):
    data = bytearray()
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise Gone
        data += more
    return bytes(data)


class VolatileDisk:
    def __init__(self, image, path, seed):
        """image: the file with what is safe. path: of the socket. seed: decides what a cut loses."""
        self.file = open(image, "r+b")
        self.size = self.file.seek(0, 2)
        self.random = random.Random(seed)
        self.cache = {}  # sector number: content, for what is not flushed
        self.lost = 0  # sectors, in all cuts
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.server = None

    def power_on(self):
        """Serves one client, on a thread, until it goes."""
        self.server = threading.Thread(target=self.serve, daemon=True)
        self.server.start()

    def cut(self):
        """The client was killed: what is lost is decided."""
        self.server.join(GONE_WITHIN)
        kept = self.random.choice((0, 0.5, 0.9))
        for number, content in self.cache.items():
            if self.random.random() < kept:
                self.write_through(number * SECTOR, content)
            else:
                self.lost += 1
        self.cache.clear()
        self.file.flush()

    # ---- the disk ----

    def read(self, offset, length):
        first, end = offset // SECTOR, -(-(offset + length) // SECTOR)
        self.file.seek(first * SECTOR)
        data = bytearray(self.file.read((end - first) * SECTOR))
        for number in range(first, end) if self.cache else ():
            content = self.cache.get(number)
            if content:
                data[(number - first) * SECTOR:(number - first + 1) * SECTOR] = content
        return data[offset - first * SECTOR:][:length]

    def write(self, offset, data):
        first, end = offset // SECTOR, -(-(offset + len(data)) // SECTOR)
        whole = data
        if offset % SECTOR or len(data) % SECTOR:
            whole = self.read(first * SECTOR, (end - first) * SECTOR)
            whole[offset - first * SECTOR:offset - first * SECTOR + len(data)] = data
        for number in range(first, end):
            self.cache[number] = bytes(whole[(number - first) * SECTOR:(number - first + 1) * SECTOR])

    def write_through(self, offset, data):
        self.file.seek(offset)
        self.file.write(data)

    def flush(self):
        for number, content in self.cache.items():
            self.write_through(number * SECTOR, content)
        self.cache.clear()

    # ---- the protocol ----

    def serve(self):
        connection, _ = self.listener.accept()
        with connection:
            try:
                self.negotiate(connection)
                while self.answer(connection):
                    pass
            except (Gone, ConnectionError):
                pass

    def negotiate(self, connection):
        connection.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
        receive(connection, 4)
        while True:
            _, option, length = struct.unpack(">8sII", receive(connection, 16))
            receive(connection, length)

            def reply(kind, data=b""):
                connection.sendall(struct.pack(">QIII", 0x3e889045565a9, option, kind, len(data)) + data)
            if option == OPT_GO:
                reply(REP_INFO, struct.pack(">HQH", INFO_EXPORT, self.size, HAS_FLAGS | SEND_FLUSH))
                return reply(REP_ACK)
            if option == OPT_ABORT:
                raise Gone
            reply(REP_ERR_UNSUP)

    def answer(self, connection):
        """One request; False: it was the last one."""
        _, _, command, cookie, offset, length = struct.unpack(">IHHQQI", receive(connection, 28))
        error, data = 0, b""
        if length > LENGTH_MAX or offset % ADDRESSED or length % ADDRESSED or offset + length > self.size:
            raise Gone
        if command == READ:
            data = self.read(offset, length)
        elif command == WRITE:
            self.write(offset, receive(connection, length))
        elif command == FLUSH:
            self.flush()
        elif command == DISC:
            return False
        else:
            error = EINVAL
        connection.sendall(struct.pack(">IIQ", 0x67446698, error, cookie) + data)
        return True
