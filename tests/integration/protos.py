# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Stubs of an independent gRPC, generated from .proto files when a test needs them."""
import subprocess
import sys


def generate(out, proto_path, files):
    """Python modules for the files, found below the directories of proto_path; they can be imported afterwards."""
    subprocess.run(["protoc", *(f"--proto_path={p}" for p in proto_path), f"--python_out={out}", f"--grpc_out={out}",
                    "--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin", *map(str, files)], check=True)
    sys.path.insert(0, str(out))
