# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
import ctypes
import mmap
import time


def tsc_khz():
    """The rate of this machine's time stamp counter. Given to the guest, which would measure it and now and then hang there."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3")  # rdtsc; shl $32, %rdx; or %rdx, %rax; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
    began, ticks = time.monotonic_ns(), rdtsc()
    time.sleep(0.2)
    ticks, elapsed = rdtsc() - ticks, time.monotonic_ns() - began
    return ticks * 1_000_000 // elapsed
