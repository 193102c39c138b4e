# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What a daemon with these workloads has on the host, and nothing more."""
import glob
import hashlib
import json
import os
import pathlib

from capsule import Failed, find_cgroups, run, wait_for


HOLDERS = ("capsule-shim", "capsule-vm")
MONITORS = ("qemu-system-", "firecracker")


def argv_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def programs(capsule):
    """The processes of this daemon that are no payload: program -> list of (pid, argv)."""
    found = {}
    for pid in capsule.pids():
        argv = argv_of(pid)
        if argv and str(capsule.dir) in " ".join(argv):
            found.setdefault(os.path.basename(argv[0]), []).append((pid, argv))
    return found


def shims(capsule):
    """Workload -> pid of its shim, or of what holds its microVM."""
    found = programs(capsule)
    return {argv[-1]: pid for program in HOLDERS for pid, argv in found.get(program, [])}


def monitors(capsule):
    """The pids of the processes that are microVMs."""
    found = []
    for pid in capsule.pids():
        try:
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith(MONITORS):
                found.append(pid)
        except OSError:
            pass
    return found


def names_in(directory):
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def published_ports(capsule):
    """Host ports in the daemon's table."""
    done = run("nft", "-j", "list", "map", "ip", capsule.table, "ports", check=False)
    if done.returncode != 0:
        return []
    elements = next(o["map"] for o in json.loads(done.stdout)["nftables"] if "map" in o).get("elem", [])
    return sorted(key["elem"]["val"]["concat"][1] for key, _ in elements)


def bridge_ports(capsule):
    """Workloads that have a link on the bridge."""
    done = run("ip", "-j", "link", "show", "master", capsule.bridge, check=False)
    links = json.loads(done.stdout or "[]") if done.returncode == 0 else []
    return sorted(link.get("ifalias", "").rsplit(":", 1)[-1] for link in links)


def mounted_volumes(capsule):
    out = run("losetup", "-n", "-O", "BACK-FILE", check=False).stdout.decode().split("\n")
    prefix = f"{capsule.root}/volumes/"
    return sorted(line.strip().removeprefix(prefix).removesuffix(".img") for line in out if line.strip().startswith(prefix))


def cgroups(capsule):
    return sorted({os.path.basename(p) for top in find_cgroups(capsule.table) for p in glob.glob(f"{top}/*") if os.path.isdir(p)})


def temporary_files(capsule):
    """Half-written files; what payloads have in their writable layers is theirs."""
    return sorted(str(p.relative_to(capsule.dir)) for top in (capsule.root, capsule.run_dir) for p in top.rglob(".tmp-*")
                  if "upper" not in p.parts)


def footprint(capsule):
    """All of it, by kind."""
    running = programs(capsule)
    return {
        "run directories": names_in(capsule.run_dir / "workloads"),
        "runtime states": names_in(capsule.run_dir / "runtime"),
        "cgroups": cgroups(capsule),
        "shims": sorted(argv[-1] for program in HOLDERS for _, argv in running.get(program, [])),
        "monitors": len(monitors(capsule)),
        "daemons": len(running.get("capsuled", [])),
        "resolvers": len(running.get("dnsmasq", [])),
        "other programs": sorted(p for p in running if p not in ("capsuled", "dnsmasq", *HOLDERS) and not p.startswith(MONITORS)),
        "links": bridge_ports(capsule),
        "published ports": published_ports(capsule),
        "mounted volumes": mounted_volumes(capsule),
        "volume files": names_in(capsule.root / "volumes"),
    }


def surprises(capsule, running, volumes):
    """What there is on the host and what there should be, where these differ.
    running: name -> {"bridge": bool, "ports": [...], "volumes": [...]} of what runs, and "machine": True for a microVM; volumes:
    names."""
    names = sorted(running)
    containers = [n for n in names if not running[n].get("machine")]
    bridged = sorted(n for n in names if running[n]["bridge"])
    found = footprint(capsule)
    expected = {
        "run directories": names,
        "runtime states": containers,
        "cgroups": names,
        "shims": names,
        "monitors": len(names) - len(containers),
        "daemons": 1,
        # An empty bridge and its resolver are kept for a while.
        "resolvers": 1 if bridged else min(found["resolvers"], 1),
        "other programs": [],
        "links": bridged,
        "published ports": sorted(port for w in running.values() for port in w["ports"]),
        "mounted volumes": sorted(volume for w in running.values() for volume in w["volumes"]),
        "volume files": sorted(f"{v}.img" for v in volumes),
    }
    return {kind: (found[kind], expected[kind]) for kind in expected if found[kind] != expected[kind]}


def expect(capsule, running, volumes=()):
    """Waits until there are no surprises: what was killed goes asynchronously."""
    try:
        wait_for(lambda: not surprises(capsule, running, volumes), "the host to look as it should", timeout=30)
    except Failed:
        raise Failed(f"kind: (found, expected): {surprises(capsule, running, volumes)}") from None


def check_image_store(capsule):
    """Whatever the index names is there and is what its digest says."""
    images = capsule.root / "images"
    layers = capsule.root / "layers"

    def blob(digest):
        data = (images / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
        assert "sha256:" + hashlib.sha256(data).hexdigest() == digest, f"blob {digest} is damaged"
        return data

    for entry in json.loads((images / "index.json").read_text())["manifests"]:
        manifest = json.loads(blob(entry["digest"]))
        config = json.loads(blob(manifest["config"]["digest"]))
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
            blob(layer["digest"])
            assert (layers / diff_id.removeprefix("sha256:")).is_dir(), f"layer {diff_id} is not unpacked"
