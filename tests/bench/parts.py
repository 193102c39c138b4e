# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What is measured, a function a part. Each prints its lines to the report."""
import contextlib
import copy
import functools
import shutil

import archive
import peers
from capsule import CAPSULECTL, free_port
from daemon import COMMAND, HOST, TMPFS, Daemon, memory, on_bridge
from disk import fresh_disk
from measure import Series, alternate, duration, timed
from private_mounts import PrivateMounts

IMAGE = "bench:1"
MANY = 100
WORKLOADS = 200
REST = 0.3  # seconds
PUSH_ROUNDS = 3
COPY_ROUNDS, COPIED_FILES, COPIED_BYTES = 8, 10_000, 1000


class Bench:
    """The daemons that are measured and the report. place: of our state roots, where not the usual one."""

    def __init__(self, report, rounds, directory, small_archive, place=None):
        self.report, self.rounds, self.dir, self.small_archive = report, rounds, directory, small_archive
        self.place = place
        self.mounts = PrivateMounts()
        self.stack = contextlib.ExitStack()
        self.started = {}

    def close(self):
        """Ends what runs. What is asked for afterwards is started anew."""
        self.stack.close()
        self.started.clear()
        self.__dict__.pop("ours", None)
        self.mounts.close()
        self.mounts = PrivateMounts()
        shutil.rmtree(TMPFS / self.dir.name, ignore_errors=True)

    @contextlib.contextmanager
    def on_fresh_disk(self, rounds):
        """The same, with everything on a new disk."""
        self.close()
        with fresh_disk(self.dir) as disk, contextlib.closing(
                Bench(self.report, rounds, disk, self.small_archive, place=disk)) as on_disk:
            yield on_disk

    @functools.cached_property
    def ours(self):
        return self.daemon()

    def daemon(self, *options):
        ours = Daemon(*options, place=self.place)
        self.stack.callback(ours.destroy)
        ours.start()
        ours.push(self.small_archive)
        return ours

    def peer(self, kind):
        """The running peer, started at first use; None, said in the report, where it is not installed."""
        if not peers.installed(kind):
            self.report.missing(kind.NAME)
            return None
        if kind not in self.started:
            peer = kind(self.dir, TMPFS / self.dir.name, IMAGE, COMMAND)
            self.stack.callback(self.mounts.wrap(peer.stop))
            self.mounts.call(peer.start)
            self.mounts.call(peer.load, self.small_archive)
            self.started[kind] = peer
        return self.started[kind]


# ---- start ----

def bare_runtimes(bench):
    """crun on the bundle that our daemon wrote, and on the one it writes for a runtime that compiles the filter by itself."""
    crun = peers.Crun(bench.ours.run_dir, bench.ours.dir, f"/{bench.ours.table}")
    bench.ours.apply([bench.ours.manifest("bundle", IMAGE, HOST)])
    same, layers = bench.ours.bundle("bundle")
    for_runc = bench.daemon("--oci-runtime", "runc")
    for_runc.apply([for_runc.manifest("bundle", IMAGE, HOST)])
    by_names = copy.deepcopy(same)
    by_names["annotations"].pop("run.oci.seccomp_bpf_data")
    by_names["linux"]["seccomp"] = for_runc.bundle("bundle")[0]["linux"]["seccomp"]
    for_runc.delete("bundle")

    def runner(config):
        def once():
            crun.prepare(config, layers)
            return crun.run()
        return bench.mounts.wrap(once)
    return runner(same), runner(by_names)


def start(bench):
    """Apply to running of a cached image."""
    report, ours = bench.report, bench.ours
    port = free_port()
    run_bare, run_by_names = bare_runtimes(bench)
    slow = []
    for kind in peers.ALL:
        if peer := bench.peer(kind):
            slow.append((f"{kind.NAME} run -d, host network", once(bench, peer)))
    if docker := bench.started.get(peers.Docker):
        slow.append(("docker run -d, bridge with a published port", once(bench, docker, "-p", f"{free_port()}:80")))
    fast = {"apply --wait, host network": lambda: ours.once(IMAGE, HOST),
            "crun run --detach, same bundle": run_bare,
            "apply --wait, bridge with a published port": lambda: ours.once(IMAGE, on_bridge(port)),
            "crun run --detach, filter by names (Docker's way)": run_by_names,
            "one synced write to this disk": ours.synced_write}
    # After a rest the kernel lets the first move into a cgroup wait for a grace period of its RCU, in a row not always.
    for when, rest, others in (("after a rest", REST, slow), ("in a row", 0, [])):
        contestants = [(Series(f"{name}, {when}"), function) for name, function in fast.items()]
        peer_series = [(Series(f"{name}, {when}", every=5), function) for name, function in others]
        alternate(bench.rounds, *contestants, *peer_series, rest=rest)
        report_starts(report, [series for series, _ in contestants], [series for series, _ in peer_series])
    ours.delete("bundle")


def report_starts(report, fast, slow):
    for series in fast + slow:
        report.figure(series.name, series)
    host, bare, bridge, by_names, _ = fast
    report.ratio(host, bare, at_most=1.2)
    report.below("bridge and port above host network", (bridge.median - host.median) * 1e3, 10, "ms")
    report.ratio(host, by_names, at_most=round(12 / 19, 2))
    for series in slow:
        report.ratio(bridge if "bridge" in series.name else host, series)


def once(bench, peer, *network):
    def cycle():
        seconds = peer.run("once", *network)
        peer.remove("once")
        return seconds
    return bench.mounts.wrap(cycle)


# ---- many ----

def many(bench):
    """Containers in numbers, host network: one after another, all at once, and their removal."""
    report, ours = bench.report, bench.ours
    names = [f"many-{n}" for n in range(MANY)]
    in_turn, at_once = Series(f"{MANY} applied one after another"), Series(f"{MANY} applied at once")
    removed_in_turn, removed_at_once = Series(f"{MANY} deleted one after another"), Series(f"{MANY} deleted at once")
    manifests = [ours.manifest(name, IMAGE, HOST) for name in names]
    in_turn.add(sum(ours.apply([m]) for m in manifests))
    removed_in_turn.add(sum(ours.delete(name) for name in names))
    at_once.add(ours.apply(manifests))
    removed_at_once.add(ours.delete(*names))
    ours_in = {"start": in_turn, "removal": removed_in_turn, "start at once": at_once, "removal at once": removed_at_once}
    for series in ours_in.values():
        report.figure(series.name, duration(series.median))
    for kind in peers.ALL:
        if peer := bench.peer(kind):
            for what, series in bench.mounts.call(many_of, peer, names).items():
                report.figure(series.name, duration(series.median))
                report.ratio(ours_in[what], series)


def many_of(peer, names):
    """The same with a peer: a client a container."""
    started = Series(f"{peer.NAME}: {len(names)} started one after another")
    started.add(sum(peer.run(name) for name in names))
    removed = Series(f"{peer.NAME}: {len(names)} removed {'by one command' if peer.REMOVES_MANY else 'one after another'}")
    removed.add(peer.remove(*names))
    return {"start": started, "removal at once" if peer.REMOVES_MANY else "removal": removed}


# ---- push ----

def push(bench):
    """A large archive, from a file to an image that can be started."""
    docker_archive, oci_archive, n_files = archive.make(bench.dir)
    bench.report.figure("the archive", f"{n_files} files, {docker_archive.stat().st_size >> 20} MiB plain, "
                                       f"{oci_archive.stat().st_size >> 20} MiB as OCI with gzip")
    with bench.on_fresh_disk(PUSH_ROUNDS) as on_disk:
        push_against(on_disk, "docker archive", docker_archive, {peers.Docker: 2, peers.Containerd: 4})
        push_against(on_disk, "gzip OCI archive", oci_archive, {peers.Containerd: 4})


def push_against(bench, what, path, faster):
    """faster: how many times as fast as each peer it is to be."""
    report = bench.report
    mine = Series(f"image push, {what}")
    theirs = {kind: Series(f"{kind.NAME} load, {what}") for kind in faster if bench.peer(kind)}
    alternate(bench.rounds, (mine, loading(bench.ours, path, bench.ours.push)),
              *((series, bench.mounts.wrap(loading(bench.peer(kind), path, bench.peer(kind).load)))
                for kind, series in theirs.items()), warm_up=False)
    for series in (mine, *theirs.values()):
        report.figure(series.name, series)
    for kind, series in theirs.items():
        report.ratio(mine, series, faster=faster[kind])


def loading(engine, path, load):
    def cycle():
        seconds = load(path)
        engine.forget(archive.REFERENCE)
        return seconds
    return cycle


# ---- inside ----

def inside(bench):
    """In a running container: a further process, and many small files copied into it and out of it."""
    name = "inside"
    with bench.on_fresh_disk(bench.rounds) as bench, contextlib.ExitStack() as stack:
        bench.ours.apply([bench.ours.manifest(name, IMAGE, HOST)])
        stack.callback(bench.ours.delete, name)
        running = {kind: peer for kind in peers.ALL if (peer := bench.peer(kind))}
        for peer in running.values():
            bench.mounts.call(peer.run, name)
            stack.callback(bench.mounts.wrap(peer.remove), name)
        executions(bench, name, running.values())
        copies(bench, name, running.get(peers.Docker))


def executions(bench, name, running_peers):
    mine = Series("workload exec true")
    theirs = {peer: Series(f"{peer.NAME} exec true") for peer in running_peers}
    alternate(bench.rounds, (mine, lambda: bench.ours.exec(name, "true")),
              *((series, bench.mounts.wrap(functools.partial(peer.exec, name, "true"))) for peer, series in theirs.items()))
    for series in (mine, *theirs.values()):
        bench.report.figure(series.name, series)
    for peer, series in theirs.items():
        bench.report.ratio(mine, series, faster=4 if isinstance(peer, peers.Docker) else None)


def copies(bench, name, docker):
    source = small_files(bench.dir / "copied")
    for direction, copying in (("into", copying_in), ("out of", copying_out)):
        mine = Series(f"cp of {COPIED_FILES} files {direction} a container")
        theirs = Series(f"docker cp {direction} a container")
        contestants = [(mine, copying(bench.ours, name, source))]
        if docker:
            contestants.append((theirs, bench.mounts.wrap(copying(docker, name, source))))
        alternate(min(bench.rounds, COPY_ROUNDS), *contestants)
        for series, _ in contestants:
            bench.report.figure(series.name, series)
        if docker:
            bench.report.ratio(mine, theirs, at_most=0.5)
    shutil.rmtree(source)


def small_files(directory):
    """The directory, with the files that are copied, a hundred in each of its own."""
    for n in range(COPIED_FILES):
        path = directory / str(n // 100) / str(n)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(n.to_bytes(4, "little") * (COPIED_BYTES // 4))
    return directory


def copying_in(engine, name, source):
    def cycle():
        seconds = engine.copy(source, f"{name}:/arrived")
        engine.exec(name, "rm", "-r", "/arrived")
        return seconds
    return cycle


def copying_out(engine, name, source):
    """Of files that were copied into the container before; what arrives is counted."""
    arrived = source.with_name("arrived")
    engine.copy(source, f"{name}:/there")

    def cycle():
        seconds = engine.copy(f"{name}:/there", arrived)
        files = sum(path.stat().st_size == COPIED_BYTES for path in arrived.glob("*/*"))
        if files != COPIED_FILES:
            raise RuntimeError(f"{files} of {COPIED_FILES} files arrived whole from {engine.NAME}")
        shutil.rmtree(arrived)
        return seconds
    return cycle


# ---- memory and list ----

@contextlib.contextmanager
def workloads(bench):
    """The daemon with many running workloads; before, its memory once it has run one and is idle."""
    ours = bench.ours
    ours.once(IMAGE, on_bridge())
    idle = memory(ours.process.pid, "Pss")
    names = [f"w-{n}" for n in range(WORKLOADS)]
    ours.apply([ours.manifest(name, IMAGE, on_bridge()) for name in names])
    yield ours, names, idle
    ours.delete(*names)


def resting(bench):
    """Memory, and the time of commands that only ask."""
    report = bench.report
    listed, helped = Series("workload list from start to exit"), Series("capsulectl --help")
    with workloads(bench) as (ours, names, idle):
        loaded = memory(ours.process.pid, "Pss")
        shims = [memory(ours.shim(name), "Private_Clean", "Private_Dirty") for name in names[::20]]
        alternate(5 * bench.rounds, (listed, lambda: timed(*ours.client, "workload", "list")),
                  (helped, lambda: timed(CAPSULECTL, "--help")))
    report.below("PSS of the daemon, idle", idle / 1024, 6, "MiB")
    report.below(f"PSS of the daemon with {WORKLOADS} workloads", loaded / 1024, 12, "MiB")
    report.below("private memory of a shim (mean)", sum(shims) / len(shims), 400, "KiB")
    report.below(f"{listed.name}, {WORKLOADS} workloads", listed.median * 1e3, 10, "ms")
    report.below(helped.name, helped.median * 1e3, 3, "ms")
    for kind in (peers.Docker, peers.Containerd):
        if peer := bench.peer(kind):
            total = sum(memory(pid, "Pss") for pid in peer.pids())
            report.figure(f"PSS of {kind.NAME}'s daemons, hardly used", f"{total / 1024:.1f} MiB")


# The first one finds a single daemon of ours: what two share would count half in their PSS.
PARTS = {"resting": resting, "start": start, "many": many, "inside": inside, "push": push}
