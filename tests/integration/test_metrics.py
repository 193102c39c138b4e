# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The endpoint for Prometheus."""
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from capsule import PATIENCE, free_port, wait_for

FOREVER = ["sleep", "100000"]


@pytest.fixture
def measured(make_capsule):
    port = free_port()
    capsule = make_capsule("--metrics", f"127.0.0.1:{port}")
    capsule.metrics_port = port
    return capsule


def fetch(capsule):
    with urllib.request.urlopen(f"http://127.0.0.1:{capsule.metrics_port}/metrics", timeout=PATIENCE) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return response.read().decode()


def figures(capsule):
    """(name, label value or None) -> value, as Prometheus' own parser reads them."""
    found = {}
    for family in text_string_to_metric_families(fetch(capsule)):
        assert family.documentation and family.type in ("counter", "gauge"), family
        for sample in family.samples:
            key = sample.name, next(iter(sample.labels.values()), None)
            assert key not in found and len(sample.labels) <= 1
            assert family.type == "gauge" or sample.name.endswith("_total")
            found[key] = sample.value
    return found


def ask(port, data, timeout=PATIENCE):
    """What the endpoint answers to these bytes, until it hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
        s.sendall(data)
        answer = b""
        while True:
            try:
                more = s.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                return answer.decode()
            answer += more


def test_figures_of_the_daemon(measured):
    before = figures(measured)
    assert before["capsule_workloads", "running"] == 0
    measured.run_container("w", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    measured.run_container("off", "busybox:test", command=FOREVER, desiredState="Stopped", wait=False)
    measured.wait_phase("off", "stopped")
    after = figures(measured)
    assert after["capsule_workloads", "running"] == 1 and after["capsule_workloads", "stopped"] == 1
    assert after["capsule_events_total", "started"] == 1 and after["capsule_events_total", "applied"] == 2
    apply = ("capsule_api_calls_total", "capsule.v1.WorkloadService/Apply")
    assert after[apply] == before[apply] + 2
    assert after["process_resident_memory_bytes", None] > 1 << 20
    assert after["process_open_fds", None] > 5
    assert abs(after["process_start_time_seconds", None] - time.time()) < 2 * PATIENCE


def test_figures_of_workloads(measured):
    port = free_port()
    measured.run_container("w", "busybox:test", command=["sh", "-c", "exec httpd -f -p 80 -h /bin"], stopGracePeriodSeconds=0,
                           resources={"memoryMib": 64, "pidsMax": 20}, ports=[{"containerPort": 80, "hostPort": port}])
    measured.run_container("end", "busybox:test", command=["false"], wait=False, restartPolicy="OnFailure")
    wait_for(lambda: measured.status("end").get("restartCount"), "a restart")
    wait_for(lambda: subprocess.run(["curl", "-so", "/dev/null", f"http://127.0.0.1:{port}/busybox"]).returncode == 0,
             "the server")
    found = figures(measured)
    assert found["capsule_workload_running", "w"] == 1
    assert found["capsule_workload_restarts_total", "w"] == 0 and found["capsule_workload_restarts_total", "end"] >= 1
    assert found["capsule_workload_memory_limit_bytes", "w"] == 64 << 20 and found["capsule_workload_pids_limit", "w"] == 20
    assert 0 < found["capsule_workload_memory_bytes", "w"] <= 64 << 20
    assert 0 < found["capsule_workload_cpu_seconds_total", "w"] < 60
    assert found["capsule_workload_network_sent_bytes_total", "w"] > 100_000
    measured.ctl("workload", "delete", "w")
    assert not [key for key in figures(measured) if key[1] == "w"]


def test_health(measured):
    measured.run_container("plain", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0)
    measured.run_container("checked", "busybox:test", command=FOREVER, stopGracePeriodSeconds=0, restartPolicy="Never",
                           healthCheck={"exec": {"command": ["test", "-e", "/ready"]}, "interval": "1s", "retries": 1})
    for script, state, figure in (("true", "HEALTH_UNHEALTHY", 0), ("touch /ready", "HEALTH_HEALTHY", 1)):
        measured.ctl("workload", "exec", "checked", "--", "sh", "-c", script)
        wait_for(lambda: measured.status("checked")["health"] == state, state)
        found = figures(measured)
        assert {key[1]: value for key, value in found.items() if key[0] == "capsule_workload_healthy"} == {"checked": figure}
        stats = json.loads(measured.ctl("workload", "stats", "--no-stream", "-o", "json").out)["stats"]
        assert {s["name"]: s.get("health") for s in stats} == {"checked": state, "plain": None}


@pytest.mark.parametrize("request_text,status,header", [
    ("GET /metrics HTTP/1.0\n\n", "200 OK", ""),
    ("GET / HTTP/1.1\r\n\r\n", "404 Not Found", ""),
    ("POST /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "405 Method Not Allowed", "Allow: GET, HEAD"),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 Bad Request", ""),
    ("GET /metrics HTTP/1.1\r\nA: " + 10000 * "a", "431 Request Header Fields Too Large", ""),
])
def test_what_is_answered(measured, request_text, status, header):
    answer = ask(measured.metrics_port, request_text.encode())
    assert answer.startswith(f"HTTP/1.1 {status}\r\n") and header in answer and "Connection: close\r\n" in answer
    assert figures(measured)


def test_head_has_no_body(measured):
    answer = ask(measured.metrics_port, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition("\r\n\r\n")
    assert int(re.search(r"Content-Length: (\d+)", head)[1]) > 1000 and body == ""


def test_silent_peers_hold_nobody_up(measured):
    """All the connections there may be are taken by who says nothing; the next one is served when their time is over."""
    silent = [socket.create_connection(("127.0.0.1", measured.metrics_port)) for _ in range(16)]
    began = time.monotonic()
    assert figures(measured)
    assert 5 < time.monotonic() - began < PATIENCE
    assert all(s.recv(1) == b"" for s in silent)
    for s in silent:
        s.close()
    assert measured.ctl("workload", "list").out


def test_bytes_by_and_by(measured):
    with socket.create_connection(("127.0.0.1", measured.metrics_port), timeout=PATIENCE) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n":
            s.sendall(bytes([byte]))
        assert s.recv(12) == b"HTTP/1.1 200"


def test_the_daemon_ends_while_it_is_asked(measured):
    """Connections in every state: silent, half asked, not reading the answer."""
    peers = [socket.create_connection(("127.0.0.1", measured.metrics_port)) for _ in range(6)]
    for s in peers[2:4]:
        s.sendall(b"GET /met")
    for s in peers[4:]:
        s.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    measured.stop()
    for s in peers:
        s.close()
    measured.start()
    assert figures(measured)


def test_options(make_capsule, tmp_path):
    capsule = make_capsule()
    capsule.stop()
    for value, why in (("nowhere", "nowhere"), ("unix:/run/x", "is not of the form HOST:PORT"), ("host.example:1", "numeric")):
        done = subprocess.run([str(a) for a in capsule.argv()] + ["--metrics", value, "--root", tmp_path / "r", "--run",
                                                                  tmp_path / "run"], capture_output=True, timeout=PATIENCE)
        assert done.returncode == 1
        assert "--metrics" in done.stderr.decode() and why in done.stderr.decode()


def test_off_by_default(capsule):
    """The daemon listens on its socket and nothing else."""
    inodes = {os.readlink(f"/proc/{capsule.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{capsule.process.pid}/fd")}
    with open(f"/proc/{capsule.process.pid}/net/tcp") as f:
        listening = {f"socket:[{line.split()[9]}]" for line in f.readlines()[1:] if line.split()[3] == "0A"}
    assert not inodes & listening
    assert capsule.stop(signal.SIGTERM) == 0
