# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What a container sees and may do, told by itself: namespaces, capabilities, files, and what the host* fields open."""
import glob
import os
import re
import subprocess

import pytest

from capsule import wait_for

SLEEP = ["sleep", "10000"]
# The set of Docker and of most other tools.
DEFAULT_CAPABILITIES = ("chown", "dac_override", "fsetid", "fowner", "mknod", "net_raw", "setgid", "setuid", "setfcap",
                        "setpcap", "net_bind_service", "sys_chroot", "kill", "audit_write")
NUMBERS = {"chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7, "setpcap": 8,
           "net_bind_service": 10, "net_raw": 13, "sys_chroot": 18, "mknod": 27, "audit_write": 29, "setfcap": 31}
NAMESPACES = ("ipc", "mnt", "net", "pid", "uts")


def tell(capsule, script, **spec):
    """What a container says that runs a script with what a container may do (Capsule.inside() may do more)."""
    capsule.run_container("w", "busybox:test", wait=False, restartPolicy="Never",
                          command=["sh", "-c", script + "\ntrue"], **spec)
    capsule.wait_phase("w", "stopped")
    return capsule.logs("w")


def process_status(capsule, **spec):
    return parse_status(tell(capsule, "cat /proc/self/status", **spec))


def parse_status(text):
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def own_namespaces(capsule, **spec):
    """The kinds of namespaces that a running container does not share with this process."""
    capsule.run_container("w", "busybox:test", command=SLEEP, **spec)
    pid = capsule.status("w")["pid"]
    return {n for n in NAMESPACES if os.readlink(f"/proc/{pid}/ns/{n}") != os.readlink(f"/proc/self/ns/{n}")}


# What only a privileged container may do, and does without harm to anybody.
PRIVILEGED_WORK = {
    "mount": "mount -t tmpfs none /tmp", "host name": "hostname other", "user namespace": "unshare -U true",
    "kernel setting": "cat /proc/sys/vm/swappiness > /proc/sys/vm/swappiness",
    "bridge": "ip link add br9 type bridge", "device": "mknod /tmp/loop-control c 10 237 && : < /tmp/loop-control",
}
HARMFUL = {
    "sysrq": "echo h > /proc/sysrq-trigger", "reboot": "reboot -f",
    "cgroup": "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do "
              "[ -e $d/cgroup.procs ] && mkdir $d/mine && exit 0; done; exit 1",
}


def attempt(capsule, commands, **spec):
    """The names of those commands that work in a container."""
    script = "\n".join(f"( {command} ) >/dev/null 2>&1 && echo '{name}'" for name, command in commands.items())
    return set(tell(capsule, script, **spec).splitlines())


# ---- by default ----

def test_capabilities_and_filters(capsule):
    status = process_status(capsule)
    expected = sum(1 << NUMBERS[name] for name in DEFAULT_CAPABILITIES)
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[kind], 16) == expected, kind
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"


def test_what_is_refused(capsule):
    assert attempt(capsule, {**PRIVILEGED_WORK, **HARMFUL}) == set()


def test_masked_and_read_only_paths(capsule):
    out = tell(capsule, "for f in /proc/kcore /proc/keys /proc/timer_list; do\n"
                        "  [ -e $f ] && echo $f $(head -c 64 $f | wc -c)\ndone\n"
                        "ls /sys/firmware /proc/scsi 2>/dev/null\ngrep -E ' /(proc|sys|proc/sys) ' /proc/self/mounts")
    masked = re.findall(r"^(/proc/\S+) (\d+)$", out, re.M)
    assert masked and {size for _, size in masked} == {"0"}
    assert re.search(r"^\S+ /sys sysfs ro,", out, re.M) and re.search(r"^\S+ /proc/sys proc ro,", out, re.M)
    assert "acpi" not in out and "device_info" not in out


def test_namespaces_of_its_own(capsule):
    assert own_namespaces(capsule) == set(NAMESPACES)
    assert capsule.inside("w", "ps", "-o", "pid,args").split("\n")[1].split() == ["1", *SLEEP]


def test_devices(capsule):
    out = tell(capsule, "ls /dev; echo x > /dev/null && head -c 4 /dev/zero | wc -c; head -c 8 /dev/urandom | wc -c; "
                        "echo shared > /dev/shm/x && cat /dev/shm/x; cat; test -w /dev/full; ls -d /proc/self/fd/*")
    for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin"):
        assert re.search(rf"^{name}$", out, re.M), name
    assert "4\n8\nshared\n" in out
    for name in ("loop-control", "kvm", "mem", "sda"):
        assert not re.search(rf"^{name}$", out, re.M), name


def test_the_files_made_for_it(capsule):
    out = tell(capsule, "cat /etc/hostname; hostname; echo $HOSTNAME; cat /etc/hosts; touch /etc/hosts && echo end")
    assert out.startswith("w\nw\nw\n") and f"{capsule.address('w')}\tw\n" in out and out.endswith("end\n")


def test_its_files_are_out_of_reach_of_the_hosts_users(capsule):
    """A set-user-ID program and a device of its own, neither of which does anything for its own users, would be root's for them."""
    def seen_by_nobody(path):
        return subprocess.run(["cat", path], user=65534, group=65534, extra_groups=[], capture_output=True).returncode == 0
    tell(capsule, "cp /bin/busybox /suid; chmod 4755 /suid")
    file = capsule.root / "workloads/w/upper/suid"
    assert file.stat().st_mode & 0o4005 == 0o4005 and not seen_by_nobody(file)
    (capsule.root / "workloads").chmod(0o711)
    assert seen_by_nobody(file), "else this shows nothing"
    capsule.restart()
    assert not seen_by_nobody(file)


def test_the_image_is_not_changed_by_its_containers(capsule):
    assert tell(capsule, "echo changed > /etc/passwd; rm /bin/ls; cat /etc/passwd") == "changed\n"
    capsule.run_container("second", "busybox:test",
                          command=["sh", "-c", "head -n 1 /etc/passwd; ls -d /bin; exec sleep 10000"])
    wait_for(lambda: capsule.logs("second") == "root:x:0:0:root:/root:/bin/sh\n/bin\n", "what the image holds")


# ---- opened ----

def test_privileged(capsule):
    status = process_status(capsule, privileged=True)
    with open("/proc/self/status") as f:
        own = parse_status(f.read())
    assert status["CapEff"] == own["CapBnd"] and status["NoNewPrivs"] == "0" and status["Seccomp"] == "0"
    capsule.ctl("workload", "delete", "w")
    assert attempt(capsule, PRIVILEGED_WORK, privileged=True) == set(PRIVILEGED_WORK)
    capsule.ctl("workload", "delete", "w")
    missing = set(os.listdir("/dev")) - set(tell(capsule, "ls /dev", privileged=True).split())
    assert missing <= {"console", "core", "fd", "initctl", "log", "stderr", "stdin", "stdout"}


@pytest.mark.parametrize("field,namespace", [("hostPid", "pid"), ("hostIpc", "ipc")])
def test_a_namespace_of_the_host(capsule, field, namespace):
    assert own_namespaces(capsule, **{field: True}) == set(NAMESPACES) - {namespace}


def test_the_hosts_network_namespace(capsule):
    assert own_namespaces(capsule, networkMode="NETWORK_MODE_HOST") == set(NAMESPACES) - {"net"}


def all_commands():
    """The arguments of every process of this host."""
    commands = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path) as f:
                commands.append(f.read().rstrip("\0").split("\0"))
        except (OSError, UnicodeDecodeError):
            pass
    return commands


def test_host_pid_sees_the_hosts_processes_and_ends_alone(capsule):
    seconds = str(100_000 + os.getpid())  # by which its process is told from all others on this host
    out = tell(capsule, f"cat /proc/{os.getpid()}/comm; sleep {seconds} &", hostPid=True)
    with open("/proc/self/comm") as f:
        assert out == f.read()
    wait_for(lambda: ["sleep", seconds] not in all_commands(), "its processes to end")


def test_host_mount_shows_the_hosts_files(capsule, tmp_path):
    (tmp_path / "file").write_text("of the host\n")
    assert tell(capsule, f"cat /host{tmp_path}/file; ls /host", hostMount=True).startswith("of the host\n")


def test_host_bind_paths(capsule, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/file").write_text("of the host\n")
    (tmp_path / "single").write_text("one file\n")
    binds = [f"{tmp_path}/shared:/shared", f"{tmp_path}/shared:/ro:ro", f"{tmp_path}/single"]
    out = tell(capsule, f"cat /shared/file; echo written > /shared/new; cat /ro/file; touch /ro/new 2>/dev/null || "
                        f"echo refused; cat {tmp_path}/single", hostBindPaths=binds)
    assert out == "of the host\nof the host\nrefused\none file\n"
    assert (tmp_path / "shared/new").read_text() == "written\n"


def test_a_host_bind_path_that_is_not_there(capsule):
    done = capsule.run_container("w", "busybox:test", command=SLEEP, hostBindPaths=["/no/such/path:/x"], check=False,
                                 restartPolicy="Never")
    assert done.returncode == 1 and "/no/such/path" in done.err and "No such file" in done.err


def test_the_debug_shell_of_the_examples(capsule):
    capsule.run_container("debug", "busybox:test", command=["sh", "-c", "sleep 10000"], networkMode="NETWORK_MODE_HOST",
                          privileged=True, hostPid=True, hostIpc=True, hostMount=True, stopGracePeriodSeconds=1)
    pid = capsule.status("debug")["pid"]
    shared = {n for n in NAMESPACES if os.readlink(f"/proc/{pid}/ns/{n}") == os.readlink(f"/proc/self/ns/{n}")}
    assert shared == {"ipc", "net", "pid"}
    assert os.path.samefile(f"/proc/{pid}/root/host/etc/passwd", "/etc/passwd")
