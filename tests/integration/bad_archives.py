# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Image archives that are damaged, incomplete or hostile. Each function gives the bytes of one."""
import gzip
import io
import json
import tarfile

from images import ARCHITECTURE, Archive, File, compress, image_config, layer_tar, make_image

LAYER = layer_tar([File("a", b"a")])
NAMED = [{"Config": "c.json", "RepoTags": ["bad:1"], "Layers": ["l.tar"]}]
MISSING = "sha256:" + 64 * "1"


def good(reference="bad:1", **options):
    return make_image(None, reference, [File("a", b"a" * 3000)], **options)


def files(**named):
    """A tar with these files; "_" in a name stands for ".". Text and JSON values become bytes."""
    archive = Archive()
    for name, data in named.items():
        archive.add(name.replace("_", "."), data if isinstance(data, bytes) else json.dumps(data).encode())
    return archive.finish()


def docker(layer=LAYER, config=None, manifest=NAMED):
    """What docker save writes, reduced to what counts; any part may be replaced by a bad one."""
    return files(c_json=image_config({}, [layer]) if config is None else config, l_tar=layer, manifest_json=manifest)


def layer_of(*entries):
    return docker(layer_tar(entries))


def raw_entry(name, size=0, type=tarfile.REGTYPE, data=b"", target="", **more):
    """A tar header that Python's own writer would correct or refuse, with whatever data follows."""
    info = tarfile.TarInfo("x")
    info.size, info.type, info.linkname = size, type, target
    for key, value in more.items():
        setattr(info, key, value)
    info.name = name
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def raw_layer(*entries):
    return docker(b"".join(entries) + bytes(1024))


def pax_entry(records, name="a"):
    """An entry after a pax header with these records, valid or not."""
    return raw_entry("./PaxHeaders/a", len(records), tarfile.XHDTYPE, records) + raw_entry(name)


def pax_record(key, value):
    body = b" " + key + b"=" + value + b"\n"
    size = len(body)
    while len(str(size).encode() + body) != size:
        size = len(str(size).encode() + body)
    return str(size).encode() + body


class Oci:
    """An image layout in a tar, in which each document can be made wrong."""

    def __init__(self):
        self.archive = Archive()
        self.config = self.document(json.loads(image_config({}, [LAYER])), "config")
        self.layer = dict(self.archive.blob(LAYER), mediaType="application/vnd.oci.image.layer.v1.tar")

    def document(self, value, kind="manifest"):
        return dict(self.archive.blob(json.dumps(value).encode()), mediaType=f"application/vnd.oci.image.{kind}.v1+json")

    def manifest(self, **changes):
        return self.document({"schemaVersion": 2, "config": self.config, "layers": [self.layer], **changes})

    def finish(self, *images):
        named = [dict(i, annotations={"org.opencontainers.image.ref.name": "bad:1"}) for i in images]
        self.archive.json("index.json", {"schemaVersion": 2, "manifests": named})
        return self.archive.finish()


def oci_with_a_blob_that_is_another():
    oci = Oci()
    oci.archive.add("blobs/sha256/" + MISSING[7:], b"{}")
    return oci.finish(dict(oci.manifest(), digest=MISSING))


def oci_with_a_size_that_is_wrong():
    oci = Oci()
    return oci.finish(oci.manifest(layers=[dict(oci.layer, size=oci.layer["size"] + 1)]))


def oci_with_a_missing_manifest():
    oci = Oci()
    return oci.finish({"digest": MISSING, "size": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"})


def oci_with_a_missing_layer():
    oci = Oci()
    return oci.finish(oci.manifest(layers=[dict(oci.layer, digest=MISSING)]))


def oci_with(**changes):
    oci = Oci()
    return oci.finish(oci.manifest(**changes))


def oci_with_a_digest_that_is_a_path():
    oci = Oci()
    return oci.finish(dict(oci.manifest(), digest="sha256:../../../../etc/passwd"))


def oci_for_other_platforms():
    oci = Oci()
    entries = [dict(oci.manifest(), platform={"os": "linux", "architecture": "s390x"}),
               dict(oci.manifest(), platform={"os": "linux", "architecture": "arm", "variant": "v6"}),
               dict(oci.manifest(), platform={"os": "unknown", "architecture": "unknown"})]
    return oci.finish(oci.document({"schemaVersion": 2, "manifests": entries}, "index"))


def oci_with_indexes_in_each_other(depth=8):
    oci = Oci()
    inner = dict(oci.manifest(), platform={"os": "linux", "architecture": ARCHITECTURE})
    for _ in range(depth):
        inner = oci.document({"schemaVersion": 2, "manifests": [inner]}, "index")
    return oci.finish(inner)


class OldDocker:
    """What docker save wrote before Docker 1.10, in which each part can be made wrong. The layers' IDs are of one digit."""

    def __init__(self):
        self.archive = Archive()

    def layer(self, digit, layer=LAYER, **description):
        id = digit * 64
        self.archive.json(id + "/json", {"id": id, **description})
        if layer is not None:
            self.archive.add(id + "/layer.tar", layer)
        return self

    def finish(self, top="1", repositories=None):
        self.archive.json("repositories", repositories or {"bad": {"1": top * 64}})
        return self.archive.finish()


def old_docker_chain(length):
    """An image of so many layers."""
    old, parent = OldDocker(), {}
    for id in (f"{n:064x}" for n in range(length)):
        old.archive.json(id + "/json", {"id": id, **parent})
        parent = {"parent": id}
    return old.finish(repositories={"bad": {"1": id}})


def old_docker_with(text):
    """The bytes are the description of the only layer."""
    old = OldDocker()
    old.archive.add("1" * 64 + "/json", text)
    old.archive.add("1" * 64 + "/layer.tar", LAYER)
    return old.finish()


def old_docker_with_large_descriptions():
    """None of them is too large, all together are."""
    old = OldDocker()
    for digit in "23451":
        old.layer(digit, None, comment="x" * (4 << 20))
    return old.finish()


def foreign_config(**platform):
    return docker(config=json.dumps({**json.loads(image_config({}, [LAYER])), **platform}).encode())


def with_diff_ids(*ids):
    return docker(config=json.dumps({**json.loads(image_config({}, [])),
                                     "rootfs": {"type": "layers", "diff_ids": list(ids)}}).encode())


def circle():
    """The layer's file in the archive is a link that leads to itself."""
    archive = Archive()
    archive.add("c.json", image_config({}, [LAYER]))
    archive.link("l.tar", "m.tar")
    archive.link("m.tar", "l.tar")
    archive.json("manifest.json", NAMED)
    return archive.finish()


def damaged(data, at):
    """One bit is not what it was."""
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:]


def bomb(size):
    """A manifest.json of so many blanks: next to nothing while it is compressed."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as f:
        f.write(raw_entry("manifest.json", size))
        for _ in range(size >> 20):
            f.write(b" " * (1 << 20))
        f.write(bytes(1024))
    return out.getvalue()


def many_files(count):
    return compress(b"".join(raw_entry(f"{i}", 1, data=b"{") for i in range(count)) + bytes(1024), "gzip")


def many_tags(count):
    return docker(manifest=[dict(NAMED[0], RepoTags=[f"bad:{i}" for i in range(count)])])
