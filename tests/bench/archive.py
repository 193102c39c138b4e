# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Large images made of this machine's files, as a plain `docker save` archive and as an OCI archive with gzip."""
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile

import images

REFERENCE = "bench/large:1"
ROOTS = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/include")
LAYERS, FILES, BYTES = 3, 24_000, 750 << 20
LARGEST_FILE = 24 << 20


def machine_files():
    for root in ROOTS:
        for directory, _, names in os.walk(root):
            for name in sorted(names):
                path = os.path.join(directory, name)
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= LARGEST_FILE:
                    yield path, status.st_size


def chosen_files(n_files, n_bytes):
    """As many files as wanted with about the wanted sum: the larger ones are left out where the average would grow too much."""
    chosen, total = [], 0
    for path, size in machine_files():
        fair = n_bytes * (len(chosen) + 1) / n_files
        if len(chosen) < n_files and total + size <= fair + LARGEST_FILE:
            chosen.append(path)
            total += size
    return chosen


def digest_of(path):
    with open(path, "rb") as f:
        return "sha256:" + hashlib.file_digest(f, "sha256").hexdigest()


def write_layer(path, files):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in files:
            tar.add(name, recursive=False)


def add_bytes(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def gzipped(path):
    subprocess.run(["gzip", "--keep", "--force", path], check=True)
    return path.with_name(path.name + ".gz")


def write_docker(path, config, layers):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        name = hashlib.sha256(config).hexdigest() + ".json"
        add_bytes(tar, name, config)
        members = []
        for layer in layers:
            members.append(f"{digest_of(layer)[7:]}/layer.tar")
            tar.add(layer, members[-1])
        add_bytes(tar, "manifest.json", json.dumps([{"Config": name, "RepoTags": [REFERENCE], "Layers": members}]).encode())


def write_oci(path, config, layers):
    def blob(media_type, data_digest, size):
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": data_digest, "size": size}

    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        add_bytes(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        described = []
        for layer in layers:
            digest = digest_of(layer)
            tar.add(layer, f"blobs/sha256/{digest[7:]}")
            described.append(blob("layer.v1.tar+gzip", digest, layer.stat().st_size))
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": blob("config.v1+json", images.digest(config), len(config)), "layers": described}
        data = json.dumps(manifest).encode()
        for each in (config, data):
            add_bytes(tar, f"blobs/sha256/{images.digest(each)[7:]}", each)
        top = blob("manifest.v1+json", images.digest(data), len(data))
        top["annotations"] = {"io.containerd.image.name": images.full_reference(REFERENCE),
                              "org.opencontainers.image.ref.name": images.full_reference(REFERENCE)}
        add_bytes(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [top]}).encode())


def make_layers(directory, n_files, n_bytes):
    """(the image's configuration, its layers as tar files, the number of files)."""
    files = chosen_files(n_files, n_bytes)
    layers = []
    for n in range(LAYERS):
        layers.append(directory / f"layer{n}.tar")
        write_layer(layers[-1], files[n::LAYERS])
    config = json.dumps({"architecture": images.ARCHITECTURE, "os": "linux", "created": images.CREATED,
                         "config": {"Cmd": ["/usr/bin/true"]},
                         "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}}).encode()
    return config, layers, len(files)


def make(directory):
    """(docker archive, gzip OCI archive, number of files)."""
    config, layers, n_files = make_layers(directory, FILES, BYTES)
    docker, oci = directory / "large-docker.tar", directory / "large-oci.tar"
    write_docker(docker, config, layers)
    write_oci(oci, config, [gzipped(layer) for layer in layers])
    return docker, oci, n_files


def make_with_tree(directory, n_files, n_bytes):
    """(docker archive, a directory with what the image holds)."""
    config, layers, _ = make_layers(directory, n_files, n_bytes)
    docker, tree = directory / "medium.tar", directory / "medium"
    write_docker(docker, config, layers)
    tree.mkdir()
    for layer in layers:
        subprocess.run(["tar", "-x", "-C", tree, "-f", layer], check=True)
    return docker, tree
