#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Writes a file as a C array: embed.py SYMBOL INPUT OUTPUT. Defines SYMBOL[] and SYMBOL_len."""
import sys

symbol, source, target = sys.argv[1:]
with open(source, "rb") as f:
    data = f.read()
with open(target, "w") as f:
    f.write("#include <stddef.h>\n#include <stdint.h>\n\n")
    f.write(f"extern const uint8_t {symbol}[];\nextern const size_t {symbol}_len;\n\n")
    f.write(f"const uint8_t {symbol}[] = {{\n")
    for i in range(0, len(data), 20):
        f.write("\t" + ", ".join(str(b) for b in data[i:i + 20]) + ",\n")
    f.write(f"}};\nconst size_t {symbol}_len = {len(data)};\n")
