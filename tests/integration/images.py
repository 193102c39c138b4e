#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Images for tests, made from files of this machine, in the forms that the tools of the field write.

As a module:

    make_busybox_image("bb.tar", "busybox:1")
    make_nginx_image("nginx.tar", "nginx:1", fmt="oci", compression="gzip")
    make_image("x.tar", "x:1", [File("/etc/motd", b"hello")], {"Cmd": ["cat", "/etc/motd"]}, fmt="docker")

As a command:

    images.py busybox --ref busybox:1 --out bb.tar [--fmt oci] [--compression zstd] [--outer gzip]

Forms (fmt):
    docker-old  docker save before Docker 1.10 (its image/spec/v1.md): repositories, <id>/json, <id>/layer.tar
    docker      docker save before Docker 25: manifest.json, <id>/layer.tar, <config>.json
    docker-new  docker save since: blobs/sha256/, manifest.json and index.json
    oci         an OCI image layout in a tar, as skopeo's oci-archive
compression is that of the layers ("", "gzip", "zstd"; docker, docker-old: always plain), outer that of the whole archive.
Only Python's standard library; nothing here starts a shell.
"""
import argparse
import collections
import gzip
import hashlib
import io
import json
import os
import platform
import re
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile

FORMATS = ("docker-old", "docker", "docker-new", "oci")
COMPRESSIONS = ("", "gzip", "zstd")
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
CREATED = "2026-01-02T03:04:05Z"
MTIME = 1767323045

Entry = collections.namedtuple("Entry", "name type data mode uid gid mtime target device xattrs")


def entry(name, type, data=b"", mode=0o644, uid=0, gid=0, mtime=MTIME, target="", device=(0, 0), xattrs=None):
    return Entry(name.lstrip("/"), type, data, mode, uid, gid, mtime, target, device, xattrs or {})


def File(name, data=b"", mode=0o644, **kw):
    return entry(name, tarfile.REGTYPE, data=data, mode=mode, **kw)


def Dir(name, mode=0o755, **kw):
    return entry(name, tarfile.DIRTYPE, mode=mode, **kw)


def Symlink(name, target, **kw):
    return entry(name, tarfile.SYMTYPE, target=target, mode=0o777, **kw)


def Hardlink(name, target, **kw):
    return entry(name, tarfile.LNKTYPE, target=target, **kw)


def Device(name, major, minor, block=False, mode=0o600, **kw):
    return entry(name, tarfile.BLKTYPE if block else tarfile.CHRTYPE, device=(major, minor), mode=mode, **kw)


def Fifo(name, mode=0o644, **kw):
    return entry(name, tarfile.FIFOTYPE, mode=mode, **kw)


def Host(path, name=None):
    """A regular file of this machine with its mode; symbolic links are followed."""
    with open(path, "rb") as f:
        return File(name or path, f.read(), mode=stat.S_IMODE(os.stat(path).st_mode))


def layer_tar(entries):
    """The bytes of a layer. The names are taken as they are."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for e in entries:
            info = tarfile.TarInfo(e.name)
            info.type, info.mode, info.uid, info.gid, info.mtime = e.type, e.mode, e.uid, e.gid, e.mtime
            info.linkname = e.target
            info.devmajor, info.devminor = e.device
            info.pax_headers = {
                "SCHILY.xattr." + k: v.decode("utf-8", "surrogateescape") for k, v in e.xattrs.items()}
            if e.type == tarfile.REGTYPE:
                info.size = len(e.data)
                tar.addfile(info, io.BytesIO(e.data))
            else:
                tar.addfile(info)
    return out.getvalue()


def zstd_stored(data):
    """A zstd frame of uncompressed blocks (RFC 8878), which needs no zstd to be made."""
    out = [b"\x28\xb5\x2f\xfd", bytes([0x00, 0x38])]  # no content size, 128 KiB window
    step = 128 << 10
    starts = range(0, max(len(data), 1), step)
    for i in starts:
        block = data[i:i + step]
        out += [struct.pack("<I", len(block) << 3 | (i == starts[-1]))[:3], block]
    return b"".join(out)


def compress(data, how):
    if how == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if how == "zstd":
        return zstd_stored(data)
    return data


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Archive:
    """A tar of tars, in memory, entry by entry."""

    def __init__(self):
        self.out = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.out, mode="w", format=tarfile.USTAR_FORMAT)
        self.names = set()

    def add(self, name, data):
        if name in self.names:
            return
        self.names.add(name)
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self.tar.addfile(info, io.BytesIO(data))

    def link(self, name, target):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self.tar.addfile(info)

    def json(self, name, value):
        self.add(name, json.dumps(value).encode())

    def blob(self, data):
        self.add("blobs/sha256/" + digest(data)[7:], data)
        return {"digest": digest(data), "size": len(data)}

    def finish(self):
        self.tar.close()
        return self.out.getvalue()


def image_config(config, layers):
    return json.dumps({
        "created": CREATED, "architecture": ARCHITECTURE, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(t) for t in layers]},
        "history": [{"created": CREATED} for _ in layers]}).encode()


def full_reference(ref):
    first = ref.split("/")[0]
    if "/" not in ref:
        ref = "docker.io/library/" + ref
    elif not ("." in first or ":" in first or first == "localhost"):
        ref = "docker.io/" + ref
    return ref if ":" in ref.rsplit("/", 1)[1] or "@" in ref else ref + ":latest"


def docker_archive(images):
    archive, manifest, repositories, seen = Archive(), [], {}, {}
    for ref, layers, config in images:
        body = image_config(config, layers)
        paths = []
        for i, layer in enumerate(layers):
            id = hashlib.sha256(body + bytes([i])).hexdigest()
            path = id + "/layer.tar"
            if digest(layer) in seen:  # as Docker does with a layer that is there twice
                archive.link(path, "../" + seen[digest(layer)])
            else:
                archive.add(path, layer)
                seen[digest(layer)] = path
            archive.add(id + "/VERSION", b"1.0")
            archive.json(id + "/json", {"id": id})
            paths.append(path)
        name = digest(body)[7:] + ".json"
        archive.add(name, body)
        manifest.append({"Config": name, "RepoTags": [ref] if ref else None, "Layers": paths})
        if ref and ":" in ref:
            repositories.setdefault(ref.rsplit(":", 1)[0], {})[ref.rsplit(":", 1)[1]] = id if layers else ""
    archive.json("manifest.json", manifest)
    archive.json("repositories", repositories)
    return archive.finish()


EMPTY_LAYER = bytes(1024)


def docker_old_archive(images):
    """As in Docker's description of it: a layer's ID is arbitrary, what has no content (ENV, CMD) is an empty layer, and the
    topmost layer's description holds the configuration. The order of the files is that of a directory: none."""
    archive, repositories = Archive(), {}
    for ref, layers, config in images:
        id = None
        for layer in [*layers, EMPTY_LAYER, EMPTY_LAYER]:
            description = {"created": CREATED, "architecture": ARCHITECTURE, "os": "linux", "docker_version": "1.9.1",
                           "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop)"]}, "Size": len(layer)}
            if id:
                description["parent"] = id
            id = hashlib.sha256(layer + (id or "").encode()).hexdigest()
            archive.json(id + "/json", {"id": id, **description, "config": config})
            archive.add(id + "/layer.tar", layer)
            archive.add(id + "/VERSION", b"1.0")
        if ref:
            name, tag = ref.rsplit(":", 1)
            repositories.setdefault(name, {})[tag] = id
    if repositories:
        archive.json("repositories", repositories)
    return archive.finish()


def oci_archive(images, compression, with_docker):
    archive, index, manifest = Archive(), [], []
    suffix = "+" + compression if compression else ""
    archive.json("oci-layout", {"imageLayoutVersion": "1.0.0"})
    for ref, layers, config in images:
        body = image_config(config, layers)
        descriptors = [dict(archive.blob(compress(t, compression)),
                            mediaType="application/vnd.oci.image.layer.v1.tar" + suffix) for t in layers]
        config_descriptor = dict(archive.blob(body), mediaType="application/vnd.oci.image.config.v1+json")
        document = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config_descriptor, "layers": descriptors}).encode()
        annotations = {}
        if ref and with_docker:
            annotations = {"io.containerd.image.name": full_reference(ref),
                           "org.opencontainers.image.ref.name": full_reference(ref).rsplit(":", 1)[1]}
        elif ref:
            annotations = {"org.opencontainers.image.ref.name": ref}
        index.append(dict(archive.blob(document), mediaType="application/vnd.oci.image.manifest.v1+json",
                          annotations=annotations))
        manifest.append({"Config": "blobs/sha256/" + config_descriptor["digest"][7:], "RepoTags": [ref] if ref else None,
                         "Layers": ["blobs/sha256/" + d["digest"][7:] for d in descriptors]})
    archive.json("index.json", {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                                "manifests": index})
    if with_docker:
        archive.json("manifest.json", manifest)
    return archive.finish()


def make_images(path, images, fmt="docker", compression="", outer=""):
    """images: (reference or None, list of layers as tar bytes, config) each. path: a file name, or None to get the bytes."""
    if fmt == "docker":
        data = docker_archive(images)
    elif fmt == "docker-old":
        data = docker_old_archive(images)
    elif fmt in FORMATS:
        data = oci_archive(images, compression, fmt == "docker-new")
    else:
        raise ValueError("fmt is one of " + ", ".join(FORMATS))
    data = compress(data, outer)
    if path is None:
        return data
    with open(path, "wb") as f:
        f.write(data)
    return path


def make_image(path, ref, files, config=None, fmt="docker", compression="", outer="", layers=None):
    """files: the entries of a single layer. layers: lists of entries instead, lowest first."""
    tars = [layer_tar(entries) for entries in (layers if layers is not None else [files])]
    return make_images(path, [(ref, tars, config or {})], fmt, compression, outer)


# ---- busybox ----

BUSYBOX_ETC = [
    Dir("/etc"),
    File("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\n"
                        b"web:x:1000:1000:Web:/var/www:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    File("/etc/group", b"root:x:0:\ndaemon:x:1:\nweb:x:1000:\nstaff:x:50:web\nnogroup:x:65534:\n"),
]


def busybox_entries(busybox="/bin/busybox"):
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    entries = [Dir("/bin"), Host(busybox, "/bin/busybox")]
    entries += [Symlink("/bin/" + a, "busybox") for a in sorted(applets) if a != "busybox"]
    entries += [Dir(d) for d in ("/dev", "/proc", "/sys", "/root", "/run", "/var", "/var/www")]
    return entries + [Dir("/tmp", mode=0o1777), Dir("/usr"), Symlink("/usr/bin", "../bin"), Symlink("/sbin", "bin")]


def make_busybox_image(path, ref, fmt="docker", compression="", outer="", config=None, extra=()):
    """Debian's static busybox with its applets, in two layers; extra entries make a third."""
    layers = [busybox_entries(), BUSYBOX_ETC] + ([list(extra)] if extra else [])
    defaults = {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    return make_image(path, ref, None, {**defaults, **(config or {})}, fmt, compression, outer, layers)


# ---- programs with their libraries ----

def library_closure(program):
    """The files that the dynamic linker loads for a program, itself excluded."""
    out = subprocess.run(["/usr/bin/ldd", program], check=True, capture_output=True, text=True).stdout
    found = []
    for line in out.splitlines():
        words = line.split()
        path = words[2] if "=>" in words and len(words) > 2 else words[0]
        if path.startswith("/"):
            found.append(path)
    return found


def add_from_host(entries, path):
    """Adds a file, link or directory of this machine with its parents to entries (path -> entry), once each. Links on the way
    to it are resolved first, so that the names do not depend on how this machine's / is merged: the name it got."""
    name = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if name == "/" or name in entries:
        return name
    add_from_host(entries, os.path.dirname(name))
    st = os.lstat(name)
    if stat.S_ISDIR(st.st_mode):
        entries[name] = Dir(name, stat.S_IMODE(st.st_mode))
    elif stat.S_ISLNK(st.st_mode):
        entries[name] = Symlink(name, os.readlink(name))
    elif stat.S_ISREG(st.st_mode):
        entries[name] = Host(name)
    return name


def tree_entries(paths):
    """Files, links and directories of this machine below the given paths, with their parents, once each."""
    entries = {}
    for path in paths:
        name = add_from_host(entries, path)
        if os.path.islink(name):
            add_from_host(entries, os.path.realpath(name))
        for base, dirs, files in os.walk(name):
            for f in sorted(dirs + files):
                add_from_host(entries, os.path.join(base, f))
    return list(entries.values())


MERGED = [Symlink(d, "usr/" + d) for d in ("bin", "sbin", "lib", "lib64")]

NGINX_CONF = b"""\
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 128; }
http {
    include /etc/nginx/mime.types;
    access_log /dev/stdout;
    server { listen 80; root /usr/share/nginx/html; index index.html; }
}
"""


def make_nginx_image(path, ref, fmt="docker", compression="", outer="", config=None, page=b"Hello from nginx\n"):
    """Debian's nginx with the libraries it loads, and the libraries that name look-ups of users load at run time. And busybox,
    for tests inside."""
    program = "/usr/sbin/nginx"
    libraries = library_closure(program)
    nss = [os.path.join(os.path.dirname(lib), "libnss_files.so.2") for lib in libraries if "libc.so" in lib]
    base = MERGED + tree_entries(libraries + [p for p in nss if os.path.exists(p)])
    nginx = tree_entries([program]) + [
        Host("/bin/busybox", "/usr/bin/busybox"),
        Dir("/etc/nginx"), Host("/etc/nginx/mime.types"), File("/etc/nginx/nginx.conf", NGINX_CONF),
        File("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        File("/etc/group", b"root:x:0:\nnogroup:x:65534:\n"),
        Dir("/usr/share/nginx/html"), File("/usr/share/nginx/html/index.html", page),
        Dir("/run"), Dir("/tmp", mode=0o1777), Dir("/var"), Dir("/var/log"), Dir("/var/log/nginx"), Dir("/var/lib"),
        Dir("/var/lib/nginx"), Dir("/dev"), Dir("/proc"), Dir("/sys")]
    defaults = {"Entrypoint": [program], "Cmd": ["-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT"}
    return make_image(path, ref, None, {**defaults, **(config or {})}, fmt, compression, outer, [base, nginx])


# ---- Debian ----

def dpkg_query(field, *packages):
    return subprocess.run(["dpkg-query", "-W", "-f", "${binary:Package} ${%s}\\n" % field, *packages], check=True,
                          capture_output=True, text=True).stdout.splitlines()


def debian_packages(wanted):
    """The packages that Debian calls essential and the wanted ones, with all that they depend on, of those installed here."""
    needs = {}
    for field in ("Depends", "Pre-Depends"):
        for line in dpkg_query(field):
            name, _, text = line.partition(" ")
            names = needs.setdefault(name.partition(":")[0], set())
            names.update(re.split(r"[ (:]", one.strip())[0] for one in re.split(r"[,|]", text))
    found = set()
    more = {line.partition(" ")[0].partition(":")[0] for line in dpkg_query("Essential") if line.endswith(" yes")} | set(wanted)
    while more:
        found |= more
        more = {n for package in more for n in needs[package] if n in needs} - found
    return sorted(found)


def make_debian_image(path, ref, fmt="docker", compression="", outer="", config=None, packages=("passwd", "procps")):
    """Debian's base system as it is installed on this machine, without documentation and translations."""
    useless = re.compile(r"/usr/share/(doc|man|info|locale|lintian|i18n|perl|zoneinfo)/|/usr/lib/.*/gconv/")
    listed = subprocess.run(["dpkg-query", "-L", *debian_packages(packages)], check=True, capture_output=True, text=True)
    entries = {}
    for name in sorted(set(listed.stdout.splitlines())):
        if name.startswith("/") and name != "/." and not useless.search(name) and os.path.lexists(name):
            add_from_host(entries, name)
    for name in ("passwd", "group"):
        entries[f"/etc/{name}"] = Host(f"/usr/share/base-passwd/{name}.master", f"/etc/{name}")
    base = [e for e in MERGED if "/" + e.name not in entries] + list(entries.values())
    defaults = {"Cmd": ["bash"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    return make_image(path, ref, base, {**defaults, **(config or {})}, fmt, compression, outer)


# ---- a program of ours ----

def make_program_image(path, ref, source):
    """An image of one program, made from this C source."""
    with tempfile.TemporaryDirectory() as directory:
        program = os.path.join(directory, "program")
        subprocess.run(["gcc", "-O1", "-static", "-o", program, source], check=True)
        return make_image(path, ref, [Host(program, "/program")], {"Entrypoint": ["/program"]})


def make_udp_image(path, ref):
    """A program that answers datagrams with the address that they came from (udp_echo.c), on the port that is its argument."""
    return make_program_image(path, ref, os.path.join(os.path.dirname(os.path.abspath(__file__)), "udp_echo.c"))


def main():
    makers = {"busybox": make_busybox_image, "debian": make_debian_image, "nginx": make_nginx_image}
    parser = argparse.ArgumentParser(description="Makes an image from files of this machine.")
    parser.add_argument("image", choices=sorted(makers))
    parser.add_argument("--ref", required=True)
    parser.add_argument("--out", required=True, help="file, or - for standard output")
    parser.add_argument("--fmt", choices=FORMATS, default="docker")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="")
    parser.add_argument("--outer", choices=COMPRESSIONS, default="")
    a = parser.parse_args()
    make = makers[a.image]
    if a.out == "-":
        sys.stdout.buffer.write(make(None, a.ref, a.fmt, a.compression, a.outer))
    else:
        make(a.out, a.ref, a.fmt, a.compression, a.outer)


if __name__ == "__main__":
    main()
