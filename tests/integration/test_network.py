# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Networks as users see them. The daemon's host is a network namespace, another host is a second one (`Lan`)."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

from capsule import Lan, http_get, in_netns, run, wait_for
from kinds import both_kinds, wait_new_run

PAGE = "Hello from nginx\n"
PORT = 8080
SLEEP = ["sleep", "10000"]

ASK_UDP = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(2)
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.send(b"hello")
    print(s.recv(1024).decode(), end="")
"""


@pytest.fixture
def host(lan, make_capsule):
    return make_capsule(netns=lan.host, push=("busybox:test", "nginx:test", "udp-echo:test"))


def run_web(capsule, name="web", port=PORT, **spec):
    done = capsule.run_workload(name, "nginx:test", ports=[{"containerPort": 80, "hostPort": port}], **spec)
    if done.returncode == 0:
        capsule.wait_listening(name, 80)
    return done


def run_echo(capsule, *more_ports):
    capsule.run_workload("echo", "udp-echo:test", args=["7"],
                         ports=[{"containerPort": 7, "hostPort": 7007, "protocol": "udp"}, *more_ports])
    wait_for(lambda: ask_udp(in_netns(capsule.netns), capsule.address("echo"), 7), "the echo to answer")


def in_workload(capsule, name):
    """What stands before a command to run it on the network of a container."""
    return ["nsenter", "--target", str(capsule.status(name)["pid"]), "--net"]


def fetch(where, address, port, *options):
    """The page, or None where nobody answers. where: what stands before the command."""
    done = subprocess.run([*where, "curl", "-sS", "--max-time", "3", *options, f"http://{address}:{port}/"],
                          capture_output=True)
    return done.stdout.decode() if done.returncode == 0 else None


def ask_udp(where, address, port):
    """What the echo at this address says; the address that it saw, and the question. None where nobody answers."""
    done = subprocess.run([*where, sys.executable, "-c", ASK_UDP, address, str(port)], capture_output=True)
    return done.stdout.decode() if done.returncode == 0 else None


def ports_of(capsule):
    """The published ports as they stand in the kernel: {(protocol, host port): (address, port)}."""
    done = run(*in_netns(capsule.netns), "nft", "-j", "list", "map", "ip", capsule.table, "ports", check=False)
    if done.returncode != 0:
        return {}
    table, = (item["map"] for item in json.loads(done.stdout)["nftables"] if "map" in item)
    # An element with a comment is {"elem": {"val": ...}}.
    return {tuple(key.get("elem", {}).get("val", key)["concat"]): tuple(value["concat"])
            for key, value in table.get("elem", [])}


def everywhere(capsule, lan, other, itself):
    """Where a published port is called from, and by which address: (name, what stands before the command, address). Without
    the microVM itself, on whose network no command of the host runs."""
    gateway = f"{capsule.net}.1"
    places = [
        ("another host", in_netns(lan.remote), Lan.HOST),
        ("the host by its address", in_netns(lan.host), Lan.HOST),
        ("the host by 127.0.0.1", in_netns(lan.host), "127.0.0.1"),
        ("the host by the bridge's address", in_netns(lan.host), gateway),
        ("another workload by the host's address", in_workload(capsule, other), Lan.HOST),
        ("another workload by the bridge's address", in_workload(capsule, other), gateway),
    ]
    if capsule.kind == "Container":
        places += [("itself by the host's address", in_workload(capsule, itself), Lan.HOST),
                   ("itself by the bridge's address", in_workload(capsule, itself), gateway)]
    return places


# ---- published ports ----

@both_kinds
def test_a_published_port_answers_from_everywhere(host, lan):
    run_web(host)
    host.run_container("other", "busybox:test", command=SLEEP)
    for name, where, address in everywhere(host, lan, "other", "web"):
        assert fetch(where, address, PORT) == PAGE, name
    for address in (Lan.HOST, f"{host.net}.1"):
        assert host.inside("web", "busybox", "wget", "-qO-", f"http://{address}:{PORT}/") == PAGE
    assert fetch(in_netns(lan.remote), Lan.HOST, PORT, "--interface", Lan.REMOTE_ROUTED) == PAGE
    assert host.inside("other", "wget", "-qO-", "http://web/") == PAGE
    assert host.inside("other", "wget", "-qO-", f"http://{host.address('web')}/") == PAGE


@both_kinds
def test_a_published_udp_port_answers_from_everywhere(host, lan):
    run_echo(host)
    host.run_container("other", "busybox:test", command=SLEEP)
    for name, where, address in everywhere(host, lan, "other", "echo"):
        assert re.fullmatch(r"[0-9.]+ hello", ask_udp(where, address, 7007) or "nothing"), name
    assert ask_udp(in_workload(host, "other"), host.address("echo"), 7) == f"{host.address('other')} hello"
    assert ask_udp(in_netns(lan.remote), Lan.HOST, 7007) == f"{Lan.REMOTE} hello"


@both_kinds
def test_the_address_of_a_remote_client_is_preserved(host, lan):
    run_web(host)
    assert fetch(in_netns(lan.remote), Lan.HOST, PORT) == PAGE
    assert fetch(in_netns(lan.remote), Lan.HOST, PORT, "--interface", Lan.REMOTE_ROUTED) == PAGE
    wait_for(lambda: host.logs("web").count('"GET /') == 2, "the access log")
    clients = [line.split()[0] for line in host.logs("web").splitlines() if '"GET /' in line]
    assert clients == [Lan.REMOTE, Lan.REMOTE_ROUTED]


def test_tcp_and_udp_of_one_number_are_two_ports(host, lan):
    run_web(host, port=7007)
    run_echo(host)
    assert fetch(in_netns(lan.remote), Lan.HOST, 7007) == PAGE
    assert ask_udp(in_netns(lan.remote), Lan.HOST, 7007) == f"{Lan.REMOTE} hello"


@both_kinds
def test_only_what_is_published_can_be_reached_from_outside(host, lan):
    run_web(host)
    run("ip", "-n", lan.remote, "route", "add", f"{host.net}.0/24", "via", Lan.HOST)
    assert fetch(in_netns(lan.remote), Lan.HOST, 80) is None
    assert fetch(in_netns(lan.remote), host.address("web"), 80) is None
    assert fetch(in_netns(lan.host), host.address("web"), 80) == PAGE


def test_the_hosts_network(host, lan):
    host.run_container("web", "nginx:test", networkMode="NETWORK_MODE_HOST")
    host.run_container("other", "busybox:test", command=SLEEP)
    assert "address" not in host.status("web")
    for name, where, address in everywhere(host, lan, "other", "web"):
        assert fetch(where, address, 80) == PAGE, name


def test_the_daemons_sockets_are_for_itself_alone(host):
    run_web(host)
    inherited = {}
    for path in pathlib.Path(f"/proc/{host.process.pid}/fdinfo").iterdir():
        flags = int(re.search(r"^flags:\s+(\d+)$", path.read_text(), re.M).group(1), 8)
        if int(path.name) > 2 and not flags & os.O_CLOEXEC:
            inherited[path.name] = os.readlink(f"/proc/{host.process.pid}/fd/{path.name}")
    assert inherited == {}


def test_rules_come_and_go_with_the_workload(host, lan):
    run_web(host)
    run_echo(host, {"containerPort": 8, "hostPort": 7008})
    web = {("tcp", PORT): (host.address("web"), 80)}
    echo = {("udp", 7007): (host.address("echo"), 7), ("tcp", 7008): (host.address("echo"), 8)}
    assert ports_of(host) == {**web, **echo}
    host.ctl("workload", "stop", "echo")
    assert ports_of(host) == web
    host.ctl("workload", "start", "--wait", "echo")
    assert ports_of(host) == {**web, **echo}
    run_web(host, port=PORT + 1)
    assert ports_of(host) == {("tcp", PORT + 1): (host.address("web"), 80), **echo}
    host.ctl("workload", "delete", "echo", "web")
    assert ports_of(host) == {}
    # An empty bridge is kept for a while, for the next workload; it does not outlive the daemon.
    host.stop()
    assert host.table not in run(*in_netns(lan.host), "nft", "list", "tables").stdout.decode()
    assert host.bridge not in run("ip", "-n", lan.host, "link").stdout.decode()


def test_an_empty_bridge_goes_after_a_while(host, lan):
    run_web(host)
    host.ctl("workload", "stop", "web")
    wait_for(lambda: host.bridge not in run("ip", "-n", lan.host, "link").stdout.decode(), "the bridge to go")
    wait_for(lambda: not (host.run_dir / "dns/dnsmasq.pid").exists(), "the resolver to go")
    host.ctl("workload", "start", "--wait", "web")


def test_the_rules_are_whole_again_after_somebody_flushed_them(host, lan):
    run_web(host)
    run(*in_netns(lan.host), "nft", "flush", "ruleset")
    assert fetch(in_netns(lan.remote), Lan.HOST, PORT) is None
    host.ctl("workload", "restart", "web")
    wait_for(lambda: fetch(in_netns(lan.remote), Lan.HOST, PORT) == PAGE, "the page")
    # One that publishes nothing needs the rest of them.
    run(*in_netns(lan.host), "nft", "flush", "ruleset")
    host.run_container("other", "busybox:test", command=["sleep", "1000"])
    assert fetch(in_netns(lan.remote), Lan.HOST, PORT) == PAGE
    run(*in_netns(lan.host), "nft", "flush", "ruleset")
    host.ctl("workload", "delete", "other")
    assert fetch(in_netns(lan.remote), Lan.HOST, PORT) == PAGE


# ---- conflicts ----

def test_a_port_of_another_workload_is_refused(host):
    run_web(host)
    done = run_web(host, "second", check=False)
    assert done.returncode == 1
    assert f"{PORT}" in done.err and "web" in done.err
    assert host.names() == ["web"]
    host.ctl("workload", "stop", "web")
    assert run_web(host, "second", check=False).returncode == 1, "it wants its port back some day"
    host.ctl("workload", "delete", "web")
    run_web(host, "second")


def publishing(host, name, port, **spec):
    return host.manifest(name, "busybox:test", kind="Container", ports=[{"containerPort": 80, "hostPort": port}],
                         **{"command": SLEEP, **spec})


def documents(*manifests):
    return "\n---\n".join(json.dumps(m) for m in manifests)


def test_a_former_port_is_held_until_its_run_has_ended(host, lan):
    stubborn = {"command": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"], "stopGracePeriodSeconds": 8}
    host.apply(publishing(host, "first", PORT, **stubborn), "--wait")
    wait_for(lambda: "up" in host.logs("first"), "the trap")
    host.apply(publishing(host, "first", PORT + 1, **stubborn))
    host.apply(publishing(host, "second", PORT, restartPolicy="RESTART_POLICY_NEVER"))
    assert wait_for(lambda: host.status("second").get("message", "").startswith("waiting"), "the second to wait")
    status = host.status("second")
    assert status["message"] == f"waiting for host port {PORT}/tcp, which the former run of workload first has until it has ended"
    assert status["phase"] == "WORKLOAD_PHASE_PENDING" and "nextAttemptUnixMs" not in status
    assert ports_of(host) == {("tcp", PORT): (host.address("first"), 80)}
    host.wait_phase("second", "Running")
    host.wait_phase("first", "Running")
    assert ports_of(host) == {("tcp", PORT): (host.address("second"), 80), ("tcp", PORT + 1): (host.address("first"), 80)}


def test_a_port_passes_on_while_the_daemon_is_away(host, lan):
    """As long as the former runs last they have what their specs named; one has left the bridge by its present one."""
    stubborn = {"command": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"], "stopGracePeriodSeconds": 60}
    host.apply(documents(publishing(host, "first", PORT, **stubborn), publishing(host, "third", PORT + 2, **stubborn)), "--wait")
    wait_for(lambda: all("up" in host.logs(name) for name in ("first", "third")), "the traps")
    had = {("tcp", PORT): (host.address("first"), 80), ("tcp", PORT + 2): (host.address("third"), 80)}
    leaving = host.manifest("third", "busybox:test", kind="Container", networkMode="HOST", **stubborn)
    host.apply(documents(publishing(host, "second", PORT), publishing(host, "first", PORT + 1, **stubborn), leaving))
    host.kill()
    host.start()
    wait_for(lambda: all("stopping" in host.status(name).get("message", "") for name in ("first", "third")), "the stops")
    assert ports_of(host) == had
    for spec in (publishing(host, "first", PORT + 1, **stubborn), leaving):
        host.apply({**spec, "stopGracePeriodSeconds": 0})
    host.wait_phase("third", "Running")
    host.wait_phase("second", "Running")
    host.wait_phase("first", "Running")
    assert ports_of(host) == {("tcp", PORT): (host.address("second"), 80), ("tcp", PORT + 1): (host.address("first"), 80)}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["giver first", "taker first"])
def test_one_apply_moves_a_port(host, lan, order):
    host.apply(documents(publishing(host, "first", PORT), publishing(host, "second", PORT + 1)), "--wait")
    moved = publishing(host, "first", PORT + 2), publishing(host, "second", PORT)
    text = documents(*(moved[i] for i in order))
    diff = host.ctl("diff", "-f", "-", input=text).out
    assert "workload/first would be configured\n" in diff and "workload/second would be configured\n" in diff
    assert f"  ~ container.ports[0].hostPort: {PORT + 1} -> {PORT}\n" in diff
    done = host.apply(text, "--wait")
    assert sorted(done.out.splitlines()[:2]) == ["workload/first configured", "workload/second configured"] and not done.err
    assert ports_of(host) == {("tcp", PORT + 2): (host.address("first"), 80), ("tcp", PORT): (host.address("second"), 80)}
    assert "would be" not in host.ctl("diff", "-f", "-", input=text).out


def test_one_apply_swaps_ports(host, lan):
    host.apply(documents(publishing(host, "first", PORT), publishing(host, "second", PORT + 1)), "--wait")
    swapped = publishing(host, "first", PORT + 1), publishing(host, "second", PORT)
    other = publishing(host, "third", PORT)
    text = documents(*swapped)
    assert "workload/second would be configured" in host.ctl("diff", "-f", "-", input=text).out
    # One of them alone is told who has it, and so is one whose wish nobody fulfils.
    refused = host.apply(swapped[0], check=False)
    assert refused.returncode == 1
    assert refused.err == (f"capsulectl: workload/first: host port {PORT + 1}/tcp is taken by workload second; choose another host "
                           "port or delete that workload\n")
    refused = host.apply(documents(other, publishing(host, "fourth", PORT + 3)), check=False)
    assert refused.returncode == 1 and refused.out == "workload/fourth created\n"
    assert f"workload/third: host port {PORT}/tcp is taken by workload first" in refused.err
    done = host.apply(text, "--wait")
    assert done.out.startswith("workload/first configured\nworkload/second configured\n") and not done.err
    assert ports_of(host) == {("tcp", PORT + 1): (host.address("first"), 80), ("tcp", PORT): (host.address("second"), 80),
                              ("tcp", PORT + 3): (host.address("fourth"), 80)}


def test_a_trial_of_ports_that_pass_on_says_what_an_apply_does(host, lan):
    """One is refused for good, so each is judged alone: the second takes what the first gives up, whose new port the last gives up."""
    names = ("first", "second", "last", "keeper")
    host.apply(documents(*(publishing(host, name, PORT + n) for n, name in enumerate(names))), "--wait")
    text = documents(publishing(host, "first", PORT + 2), publishing(host, "second", PORT), publishing(host, "hopeless", PORT + 3),
                     publishing(host, "last", PORT + 4))
    for command, word in (["diff"], "would be configured"), (["apply"], "configured"):
        done = host.ctl(*command, "-f", "-", input=text, check=False)
        assert done.returncode == 1 and f"host port {PORT + 3}/tcp is taken by workload keeper" in done.err
        assert done.err.count("\n") == 1
        told = [line for line in done.out.splitlines() if line.startswith("workload/")]
        assert told == [f"workload/{name} {word}" for name in ("last", "first", "second")]


def test_no_port_is_waited_for_of_a_run_that_is_not_there(host, lan):
    """Two that exchange theirs between attempts to start, of which one cannot start again."""
    def crashing(name, port, image):
        return host.manifest(name, image, kind="Container", command=["false"], ports=[{"containerPort": 80, "hostPort": port}])
    host.apply(documents(crashing("first", PORT, "busybox:test"), crashing("second", PORT + 1, "busybox:test")))
    wait_for(lambda: all(host.status(name).get("restartCount", 0) >= 2 for name in ("first", "second")), "the restarts")
    host.apply(documents(crashing("first", PORT + 1, "localhost:1/none:1"), publishing(host, "second", PORT)))
    host.wait_phase("second", "Running")
    assert ports_of(host) == {("tcp", PORT): (host.address("second"), 80)}


@pytest.mark.parametrize("protocol,kind", [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_a_port_of_a_process_is_refused_by_its_name(host, lan, protocol, kind):
    code = (f"import socket, sys\ns = socket.socket(socket.AF_INET, {int(kind)})\ns.bind(('0.0.0.0', {PORT}))\n"
            + ("s.listen()\n" if protocol == "tcp" else "") + "print(flush=True)\nsys.stdin.read()\n")
    holder = subprocess.Popen([*in_netns(lan.host), sys.executable, "-c", code], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    with holder:
        holder.stdout.readline()
        ports = [{"containerPort": 80, "hostPort": PORT, "protocol": protocol}]
        done = host.run_container("web", "nginx:test", check=False, ports=ports)
        holder.stdin.close()
    assert done.returncode == 1
    assert f"host port {PORT}/{protocol} is in use by python3" in done.err and f"(pid {holder.pid})" in done.err
    assert host.names() == []
    host.run_container("web", "nginx:test", ports=ports)


# ---- another subnet ----

def test_a_subnet_that_is_refused_changes_nothing(host):
    """Neither a start that is refused nor a --down with other options costs a workload its run or its writable layer."""
    host.run_container("w", "busybox:test", command=["sh", "-c", "echo run >> /runs; exec sleep 10000"])
    address, pid = host.address("w"), host.status("w")["pid"]
    elsewhere = [*host.argv(), "--subnet", "10.99.7.1/24"]
    host.stop()
    for more, told in (([], f"give --subnet {host.net}.1/24"), (["--bridge", f"{host.bridge}x"], "give the --subnet")):
        done = run(*elsewhere, *more, check=False)
        assert done.returncode == 1 and told.encode() in done.stderr, done.stderr
    host.start()
    assert host.status("w")["pid"] == pid and host.address("w") == address
    host.stop()
    run(*elsewhere, "--down")
    host.start()
    host.wait_phase("w", "running")
    assert host.address("w") == address
    assert host.inside("w", "cat", "/runs") == "run\nrun\n"


@both_kinds
def test_another_subnet_moves_the_addresses_only(host):
    host.run_workload("w", "busybox:test", command=["sh", "-c", "echo run >> /runs; sync; exec sleep 10000"])
    host.stop()
    run(*host.argv(), "--down")
    host.options += ["--subnet", "10.99.7.1/24"]
    host.start()
    host.wait_phase("w", "running")
    assert host.address("w").startswith("10.99.7.")
    wait_for(lambda: host.inside("w", "cat", "/runs", check=False) == "run\nrun\n", "both runs in the layer")


# ---- names and addresses ----

def lookup(capsule, name, of):
    """The address that a workload finds for a name, or None."""
    answer = capsule.inside(name, "nslookup", of, check=False)
    found = re.search(rf"Name:\s+{re.escape(of)}\nAddress(?: 1)?: ([0-9.]+)", answer)
    return found and found[1]


@both_kinds
def test_names_resolve_and_follow_their_workloads(host):
    host.run_container("client", "busybox:test", command=SLEEP)
    assert lookup(host, "client", "web") is None
    run_web(host)
    address = host.address("web")
    assert lookup(host, "client", "web") == address
    assert lookup(host, "client", "client") == host.address("client")
    pid = host.status("web")["pid"]
    host.ctl("workload", "restart", "web")
    wait_new_run(host, "web", pid)
    host.wait_listening("web", 80)
    assert host.address("web") == address and lookup(host, "client", "web") == address
    assert host.inside("client", "wget", "-qO-", "http://web/") == PAGE
    host.restart()
    assert lookup(host, "client", "web") == address
    host.ctl("workload", "delete", "web")
    assert lookup(host, "client", "web") is None


def test_names_come_back_when_the_resolver_is_killed(host):
    run_web(host)
    host.run_container("client", "busybox:test", command=SLEEP)
    pid = int((host.run_dir / "dns/dnsmasq.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: lookup(host, "client", "web") == host.address("web"), "the resolver to be back")
    assert int((host.run_dir / "dns/dnsmasq.pid").read_text()) != pid


def test_the_resolver_answers_nobody_outside(host, lan):
    run_web(host)
    run("ip", "-n", lan.remote, "route", "add", f"{host.net}.0/24", "via", Lan.HOST)
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01"
    ask = ("import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(1)\n"
           f"s.sendto({query!r}, (sys.argv[1], 53))\ns.recv(512)\n")
    for address in (Lan.HOST, f"{host.net}.1"):
        assert run(*in_netns(lan.remote), sys.executable, "-c", ask, address, check=False).returncode != 0, address
    run(*in_workload(host, "web"), sys.executable, "-c", ask, f"{host.net}.1")


@both_kinds
def test_a_workload_reaches_the_outside_by_masquerade(host, lan):
    code = ("import socket\ns = socket.create_server(('', 9000))\nprint(flush=True)\n"
            "while True:\n c, peer = s.accept()\n c.sendall(peer[0].encode())\n c.close()\n")
    outside = subprocess.Popen([*in_netns(lan.remote), sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        outside.stdout.readline()
        host.run_workload("client", "busybox:test", command=SLEEP)
        for address in (Lan.REMOTE, Lan.REMOTE_ROUTED):
            assert host.inside("client", "nc", address, "9000") == Lan.HOST
    finally:
        outside.kill()
        outside.communicate()


@both_kinds
def test_what_a_workload_is_told_of_its_network(host):
    host.run_workload("w", "busybox:test", command=SLEEP)
    assert f"{host.address('w')}\tw\n" in host.inside("w", "cat", "/etc/hosts")
    assert "127.0.0.1\tlocalhost" in host.inside("w", "cat", "/etc/hosts")
    assert host.inside("w", "cat", "/etc/hostname") == "w\n" == host.inside("w", "hostname")
    resolvers = re.findall(r"^nameserver (\S+)$", host.inside("w", "cat", "/etc/resolv.conf"), re.M)
    assert resolvers == [f"{host.net}.1"]


# ---- what goes on without interruption ----

class Connection:
    """A connection that stays open, from another host to a published port."""

    def __init__(self, lan):
        code = ("import socket, sys\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)\n"
                "for line in sys.stdin.buffer:\n s.sendall(line)\n sys.stdout.buffer.write(s.recv(1024))\n"
                " sys.stdout.flush()\n")
        self.client = subprocess.Popen([*in_netns(lan.remote), sys.executable, "-c", code, Lan.HOST, str(PORT)],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def echo(self, line):
        self.client.stdin.write(line)
        self.client.stdin.flush()
        return self.client.stdout.readline()

    def close(self):
        self.client.kill()
        self.client.communicate()


@both_kinds
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_an_open_connection_outlives_the_daemon(host, lan, sig):
    host.run_workload("echo", "busybox:test", command=["nc", "-ll", "-p", "7", "-e", "cat"],
                      ports=[{"containerPort": 7, "hostPort": PORT}])
    wait_for(lambda: host.inside("echo", "netstat", "-ltn").count(":7 "), "the server")
    connection = Connection(lan)
    try:
        assert connection.echo(b"before\n") == b"before\n"
        host.stop(sig)
        assert connection.echo(b"without\n") == b"without\n"
        host.start()
        assert connection.echo(b"after\n") == b"after\n"
        host.run_container("beside", "busybox:test", command=SLEEP, ports=[{"containerPort": 80, "hostPort": PORT + 1}])
        assert connection.echo(b"beside another\n") == b"beside another\n"
    finally:
        connection.close()


# ---- beside other firewalls ----

DOCKER_LIKE = """
table ip filter {
    chain DOCKER-USER { return; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
}
"""

IPTABLES_LIKE = """
table ip filter {
    chain FORWARD { type filter hook forward priority filter; policy drop; }
}
"""

OTHER_FIREWALL = """
table inet guard {
    chain routed { type filter hook forward priority 10; policy drop; }
    chain incoming { type filter hook input priority 10; policy drop; iifname { "lo", "lan0" } accept; ct state established accept; }
}
"""


def load_rules(lan, rules):
    run(*in_netns(lan.host), "nft", "-f", "-", input=rules.encode())


def list_chain(lan, *chain):
    return run(*in_netns(lan.host), "nft", "list", "chain", *chain).stdout.decode()


@pytest.mark.parametrize("rules,chain", [(DOCKER_LIKE, "DOCKER-USER"), (IPTABLES_LIKE, "FORWARD")],
                         ids=["docker", "iptables"])
@pytest.mark.parametrize("first", ["the other firewall", "the workload"])
def test_beside_docker(host, lan, rules, chain, first):
    if first == "the other firewall":
        load_rules(lan, rules)
        run_web(host)
    else:
        run_web(host)
        load_rules(lan, rules)
        host.restart()
    host.run_container("other", "busybox:test", command=SLEEP)
    for name, where, address in everywhere(host, lan, "other", "web"):
        assert fetch(where, address, PORT) == PAGE, name
    assert f'iifname "{host.bridge}"' in list_chain(lan, "ip", "filter", chain)
    host.ctl("workload", "delete", "web", "other")
    host.stop()
    assert host.bridge not in list_chain(lan, "ip", "filter", chain)


def test_a_firewall_that_blocks_is_named_with_what_helps(host, lan):
    load_rules(lan, OTHER_FIREWALL)
    assert "inet guard routed" in run_web(host).err
    assert fetch(in_netns(lan.remote), Lan.HOST, PORT) is None
    host.run_container("other", "busybox:test", command=SLEEP)
    by_name = ("timeout", "5", "wget", "-qO-", "http://web/")
    assert host.inside("other", *by_name, check=False) == ""
    message = host.status("web")["message"]
    assert "inet guard routed" in message and "inet guard incoming" in message and host.bridge in message
    for command in re.findall(r"nft (insert rule [^;\n]*)", message):
        load_rules(lan, command.replace("\\\"", "\""))
    assert fetch(in_netns(lan.remote), Lan.HOST, PORT) == PAGE
    assert host.inside("other", *by_name) == PAGE
    host.ctl("workload", "restart", "web")
    wait_for(lambda: host.phase("web") == "Running" and "message" not in host.status("web"), "no more complaint")
