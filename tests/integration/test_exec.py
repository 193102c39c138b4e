# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""capsulectl workload exec, and WorkloadService.Exec for an independent client: one workload of each kind, which all
tests leave running."""
import concurrent.futures
import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import threading

import pytest

from capsule import PATIENCE, wait_for
from exec_tools import (MIB, SLEEP, argv_of, on_terminal, output, processes, run_in, started, through_cat, wait_ended,
                        wait_process)
from grpc_client import TIMEOUT, Client, Code, fails
from kinds import both_kinds, containers_only


@pytest.fixture(scope="module")
def running(shared_capsule):
    """A daemon with a workload w that runs."""
    shared_capsule.run_workload("w", "busybox:test", command=SLEEP, stopGracePeriodSeconds=0, env={"COLOUR": "red"})
    return shared_capsule


@pytest.fixture
def client(running, stubs):
    with running.channel() as channel:
        yield Client(channel, stubs)


# ---- exit codes ----

@both_kinds
@pytest.mark.parametrize("script,code", [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137),
                                         ("kill -TERM $$", 143)])
def test_exit_code(running, script, code):
    done = run_in(running, "w", "--", "sh", "-c", script)
    assert (done.returncode, done.out, done.err) == (code, "", "")


@both_kinds
@pytest.mark.parametrize("command,code,reason", [
    ("nope", 127, "nope: not found in the workload"),
    ("/bin/nope", 127, "/bin/nope: not found in the workload"),
    ("", 125, "no command to run"),
    ("/etc/passwd", 126, "/etc/passwd: permission denied"),
    ("/etc", 126, "/etc: permission denied"),
])
def test_what_cannot_be_executed(running, command, code, reason):
    done = run_in(running, "w", "--", command)
    assert done.returncode == code
    assert reason in done.err and done.err.count("\n") == 1 and done.out == ""


@both_kinds
@pytest.mark.parametrize("content,reason", [("#!/nope\n", "its interpreter or dynamic loader is not in the workload"),
                                            ("\1\2\3\4", "not a program for this machine")])
def test_a_file_that_is_no_program(running, content, reason):
    output(running, "w", "--", "sh", "-c", "cat > /tmp/x; chmod 755 /tmp/x", input=content)
    done = run_in(running, "w", "--", "/tmp/x")
    assert done.returncode == 126 and f"/tmp/x: {reason}" in done.err


# ---- who and where it is ----

@containers_only("seen from the host")
def test_it_is_what_the_workload_is(running):
    def of(pid, name):
        with open(f"/proc/{pid}/{name}") as f:
            return f.read()
    first = running.status("w")["pid"]
    with started(running, "w", "--", "sleep", "4710"):
        pid = wait_process(running, "sleep", "4710")
        for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{first}/ns/{kind}")
        for name in ("cgroup", "limits", "oom_score_adj"):
            assert of(pid, name) == of(first, name)
        for field in ("Umask", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
                      "Seccomp_filters", "SigBlk", "SigIgn"):
            line = re.compile(rf"^{field}:.*$", re.M)
            assert line.search(of(pid, "status")).group() == line.search(of(first, "status")).group()


@both_kinds
def test_it_has_no_descriptors_but_its_streams(running):
    # 3 is the directory that ls reads.
    assert output(running, "w", "--", "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]


@both_kinds
def test_environment(running):
    env = output(running, "w", "--", "env").splitlines()
    assert "COLOUR=red" in env and "HOSTNAME=w" in env and "HOME=/root" in env
    assert not [e for e in env if e.startswith("TERM=")]
    env = output(running, "--env", "COLOUR=blue", "-e", "EMPTY=", "-e", "A=b=c", "-e", "HERE", "w", "--", "env",
                 env={"HERE": "from here"}).splitlines()
    assert {"COLOUR=blue", "EMPTY=", "A=b=c", "HERE=from here"} <= set(env) and "COLOUR=red" not in env
    done = run_in(running, "--env", "=x", "w", "--", "env")
    assert done.returncode == 2 and "names no variable" in done.err


@both_kinds
def test_path_is_that_of_the_workload(running):
    output(running, "w", "--", "sh", "-c", "mkdir -p /opt/tools; printf '#!/bin/sh\\necho tool' > /opt/tools/tool; chmod 755 /opt/tools/tool")
    assert run_in(running, "w", "--", "tool").returncode == 127
    assert output(running, "-e", "PATH=/nowhere:/opt/tools:/bin", "w", "--", "tool") == "tool\n"


@both_kinds
def test_working_directory(running):
    assert output(running, "w", "--", "pwd") == "/\n"
    assert output(running, "--workdir", "/var/www", "w", "--", "pwd") == "/var/www\n"
    done = run_in(running, "--workdir", "/nope", "w", "--", "pwd")
    assert done.returncode == 126 and "cannot change to the directory /nope: No such file" in done.err
    done = run_in(running, "--workdir", "tmp", "w", "--", "pwd")
    assert done.returncode == 125 and "not an absolute path" in done.err


@both_kinds
@pytest.mark.parametrize("directory", ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/self/fd/9"])
def test_no_directory_of_the_host_is_left_open(running, directory):
    assert run_in(running, "--workdir", directory, "w", "--", "pwd").returncode == 126


@both_kinds
@pytest.mark.parametrize("user,identity,home", [
    ("web", "uid=1000(web) gid=1000(web) groups=50(staff),1000(web)", "/var/www"),
    ("1000", "uid=1000(web) gid=1000(web) groups=50(staff),1000(web)", "/var/www"),
    ("web:staff", "uid=1000(web) gid=50(staff) groups=50(staff)", "/var/www"),
    ("4321:8765", "uid=4321 gid=8765 groups=8765", "/"),
    ("root", "uid=0(root) gid=0(root) groups=0(root)", "/root"),
])
def test_user(running, user, identity, home):
    done = run_in(running, "--user", user, "w", "--", "sh", "-c", "id; echo $HOME; echo out > /dev/stdout; echo err > /dev/stderr")
    assert (done.out.splitlines(), done.err) == ([identity, home, "out"], "err\n")


@both_kinds
def test_another_user_has_no_capabilities(running):
    status = output(running, "--user", "web", "w", "--", "cat", "/proc/self/status")
    assert re.search(r"CapPrm:\s+0+\n", status) and re.search(r"CapEff:\s+0+\n", status)
    assert run_in(running, "--user", "web", "w", "--", "touch", "/etc/passwd").returncode == 1


@both_kinds
def test_a_user_of_the_running_workload_and_one_that_is_not_there(running):
    output(running, "w", "--", "sh", "-c", "echo 'late:x:777:777::/late:/bin/sh' >> /etc/passwd")
    assert output(running, "--user", "late", "w", "--", "sh", "-c", "id -u; echo $HOME") == "777\n/late\n"
    done = run_in(running, "--user", "ghost", "w", "--", "id")
    assert done.returncode == 125 and "user ghost" in done.err


# ---- the command line ----

@both_kinds
def test_options_may_follow_the_name_and_the_commands_own_are_left_alone(running):
    assert output(running, "w", "--user", "web", "--", "id", "-un") == "web\n"
    assert output(running, "w", "-u", "web", "id", "-un") == "web\n"
    assert output(running, "w", "sh", "-c", "echo $0 $1 $2", "-u", "--", "x") == "-u -- x\n"
    assert output(running, "w", "echo", "", "--help") == " --help\n"
    done = run_in(running, "w")
    assert done.returncode == 2 and "missing NAME [--] COMMAND" in done.err


# ---- streams ----

@both_kinds
def test_streams_are_apart(running):
    done = run_in(running, "w", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.out, done.err) == ("out\n", "err\n")


@both_kinds
def test_half_close_ends_standard_input(running):
    assert output(running, "w", "--", "wc", "-c", input="12345") == "5\n"
    assert output(running, "w", "--", "wc", "-c") == "0\n"
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *argv_of(running, "w", "--", "wc", "-c")], capture_output=True,
                          timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, b"0\n")


@both_kinds
def test_a_command_that_does_not_read_its_input(running):
    assert output(running, "w", "--", "true", input=b"x" * 8 * MIB) == ""
    assert output(running, "w", "--", "head", "-c", "5", input=b"x" * 8 * MIB) == "xxxxx"


@both_kinds
def test_input_that_comes_after_the_output(running):
    with started(running, "w", "--", "sh", "-c", "echo ready; read x; echo got $x") as ctl:
        assert ctl.stdout.readline() == b"ready\n"
        ctl.stdin.write(b"it\n")
        ctl.stdin.flush()
        assert ctl.stdout.readline() == b"got it\n"
        assert ctl.wait(PATIENCE) == 0


@both_kinds
def test_what_a_process_wrote_before_its_end_arrives(running):
    done = run_in(running, "w", "--", "sh", "-c", "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2; exit 9")
    assert (done.returncode, len(done.stdout), len(done.stderr)) == (9, 60000, 60000)


@both_kinds
def test_a_process_left_in_the_background_holds_up_nobody_and_goes_on(running):
    assert output(running, "w", "--", "sh", "-c", "sleep 4713 & echo $! >/tmp/pid; echo done") == "done\n"
    wait_for(lambda: len(processes(running, "sleep", "4713")) == 1, "it to go on")  # its program may not be there yet
    output(running, "w", "--", "sh", "-c", "kill -9 $(cat /tmp/pid)")
    assert output(running, "w", "--", "sh", "-c", "yes & echo done")[:5] in ("done\n", "y\ny\ny")


@both_kinds
def test_input_and_output_that_are_one_socket(running):
    """As of a service that inetd starts: standard input, which is read without blocking, cannot be opened anew."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        with started(running, "w", "--", "sh", "-c", "read x; head -c 4000000 /dev/zero; echo got $x", stdin=theirs,
                     stdout=theirs) as ctl:
            ours.sendall(b"it\n")
            got = b""
            while not got.endswith(b"got it\n"):
                data = ours.recv(65536)
                assert data, "the end of output"
                got += data
                # Slower than the command writes.
                threading.Event().wait(0.002)
            assert len(got) == 4000000 + len("got it\n")
            assert (ctl.wait(PATIENCE), ctl.stderr.read()) == (0, b"")
        assert not fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK, "it is left as it was"


@both_kinds
def test_bytes_pass_unchanged(running):
    through_cat(running, 64)


def stands_still(read):
    """Whether the count, which is more than 0, does not change for a while."""
    first = read()
    return first > 0 and not threading.Event().wait(0.3) and read() == first


@both_kinds
def test_a_reader_that_stops_stops_the_process(running):
    def written():
        return 65536 * int(output(running, "w", "--", "sh", "-c", "wc -c </tmp/blocks"))
    output(running, "w", "--", "sh", "-c", ": >/tmp/blocks")
    script = "while head -c 65536 /dev/zero; do printf x >>/tmp/blocks; done"
    with started(running, "w", "--", "sh", "-c", script) as ctl:
        wait_for(lambda: stands_still(written), "the writer to be held up")
        before = written()
        assert before < 16 * MIB
        ctl.stdout.read(4 * MIB)
        wait_for(lambda: written() > before, "it to go on")
    wait_ended(running, "sh", "-c", script)


@both_kinds
def test_a_process_that_does_not_read_stops_the_writer(running):
    with started(running, "w", "--", "sleep", "4714", stdin=subprocess.PIPE) as ctl:
        count = [0]

        def write():
            with contextlib.suppress(BrokenPipeError):
                while True:
                    count[0] += os.write(ctl.stdin.fileno(), b"x" * 65536)
        threading.Thread(target=write, daemon=True).start()
        wait_for(lambda: stands_still(lambda: count[0]), "the writer to be held up")
        assert count[0] < 16 * MIB
        ctl.kill()
        ctl.wait()


# ---- terminals ----

@both_kinds
def test_terminal(running):
    t = on_terminal(running, "-t", "w", "--", "sh", columns=100)
    t.type("tty; stty size; echo TERM is $TERM; stty -a | grep -o -w icanon\n")
    t.read_until("/dev/pts/")
    t.read_until("24 100")
    t.read_until("TERM is vt220")
    t.read_until("\nicanon")
    t.resize(132, 50)
    # The size arrives with SIGWINCH: asked for until it is there.
    for _ in range(200):
        t.text = ""
        t.type("stty size; echo asked''\n")
        if "50 132" in t.read_until("\nasked"):
            break
    else:
        pytest.fail("the new size did not arrive")
    t.type("exit 7\n")
    assert t.end() == 7


@both_kinds
def test_keys_go_to_the_command(running):
    t = on_terminal(running, "-t", "w", "--", "sh")
    t.type("sleep 4715\n")
    wait_process(running, "sleep", "4715")
    t.type("\x03echo interrupted $?\n")
    t.read_until("interrupted 130")
    t.type("cat; echo end of file\n")
    wait_process(running, "cat")
    t.type("\x04")
    t.read_until("\nend of file")
    t.type("exit\n")
    assert t.end() == 0


@both_kinds
def test_a_terminal_program_is_told_of_a_new_size(running):
    t = on_terminal(running, "-t", "w", "--", "sh", "-c", "trap 'stty size; exit 0' WINCH; echo ready''; while :; do sleep 0.05; done")
    t.read_until("ready")
    t.resize(61, 17)
    t.read_until("17 61")
    assert t.end() == 0


@both_kinds
def test_a_program_on_a_terminal_has_standard_output_only(running):
    done = run_in(running, "-t", "w", "--", "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo err >&2")
    assert (done.returncode, done.out, done.err) == (0, "err\r\n", "")
    done = run_in(running, "-t", "w", "--", "nope")
    assert (done.returncode, done.out) == (127, "capsule: exec: nope: not found in the workload\r\n")


@both_kinds
def test_without_a_terminal_here_the_command_has_one_all_the_same(running):
    assert output(running, "-t", "w", "--", "cat", input="abc\n").count("abc\r\n") == 2, "echo and output; ^D at the end"
    assert output(running, "-t", "w", "--", "cat", input="abc\nd").count("d") == 2, "an unfinished line"
    assert output(running, "-t", "w", "--", "cat", input="") == ""


@both_kinds
def test_output_to_a_terminal_arrives_whole(running):
    out = output(running, "-t", "w", "--", "seq", "20000")
    assert out.split() == [str(n) for n in range(1, 20001)]


@both_kinds
def test_standard_input_is_not_taken_from_a_terminal_unasked(running):
    t = on_terminal(running, "w", "--", "wc", "-c")
    assert "0" in t.read_until("\n")
    assert t.end() == 0
    t = on_terminal(running, "-i", "w", "--", "wc", "-c")
    t.type("abc\n\x04")
    t.read_until("\n4")
    assert t.end() == 0


@both_kinds
@pytest.mark.parametrize("user", ["web", "root"])
def test_the_terminal_belongs_to_the_user(running, user):
    assert output(running, "-t", "--user", user, "w", "--", "sh", "-c", "stat -c %U $(tty); echo ok > $(tty)").split() == [user, "ok"]


@both_kinds
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_terminal_is_restored_after_a_signal(running, sig):
    t = on_terminal(running, "-t", "w", "--", "sh", "-c", "echo ready''; exec sleep 4717")
    t.read_until("ready")
    t.process.send_signal(sig)
    assert t.end() == 128 + sig
    wait_ended(running, "sleep", "4717")


# ---- ends ----

@both_kinds
@pytest.mark.parametrize("options", [(), ("-t",)])
def test_a_client_that_disappears_takes_its_process_along(running, options):
    with started(running, *options, "w", "--", "sh", "-c", "trap '' HUP; sleep 4718 & sleep 4719") as ctl:
        for n in ("4718", "4719"):
            wait_process(running, "sleep", n)
        ctl.kill()
        for n in ("4718", "4719"):
            wait_ended(running, "sleep", n)
    assert output(running, "w", "--", "echo", "on") == "on\n"


# ---- many ----

@both_kinds
def test_a_hundred_at_once(running):
    with contextlib.ExitStack() as stack:
        all_of_them = [stack.enter_context(started(running, "w", "--", "sh", "-c", f"echo up; read x; echo $x; exit {i}"))
                       for i in range(100)]
        for ctl in all_of_them:
            assert ctl.stdout.readline() == b"up\n"
        # All of them hang now, and hold up nobody.
        assert output(running, "w", "--", "echo", "still here") == "still here\n"
        for i, ctl in enumerate(all_of_them):
            ctl.stdin.write(b"%d\n" % i)
            ctl.stdin.close()
        for i, ctl in enumerate(all_of_them):
            assert ctl.stdout.read() == b"%d\n" % i and ctl.wait(PATIENCE) == i


@containers_only("test_guest.py shows the limit of a machine")
def test_more_than_the_shim_takes(running, client):
    forever = threading.Event()

    def silence():
        forever.wait()
        yield from ()
    calls = [client.exec("w", "sh", "-c", "echo up; exec cat", stdin=silence()) for _ in range(256)]
    for call in calls:
        assert next(call).stdout == b"up\n"
    wait_for(lambda: len(processes(running, "cat")) == 256, "all of them to run")
    assert "256 processes" in fails(lambda: client.run("w", "true"), Code.FAILED_PRECONDITION)
    assert running.phase("w") == "Running"
    calls.pop().cancel()
    wait_for(lambda: run_in(running, "w", "--", "true").returncode == 0, "a place to be free")
    forever.set()
    for call in calls:
        assert [m.exit.exit_code for m in call] == [0]


@both_kinds
def test_nothing_is_left_open(running):
    def open_files():
        return {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in (("daemon", running.process.pid), ("shim", running.shim("w")))}
    output(running, "w", "--", "true")
    before = wait_for(open_files, "the descriptors")
    for _ in range(5):
        output(running, "w", "--", "true")
        run_in(running, "-t", "w", "--", "nope")
        run_in(running, "-t", "w", "--", "true")
    wait_for(lambda: open_files() == before, "all descriptors to be closed")


@both_kinds
def test_starts_and_ends_in_every_order(running):
    """Clients that leave at any moment of a start."""
    def once(i):
        with started(running, *(["-t"] if i % 2 else []), "w", "--", "sleep", "4726", stdin=subprocess.DEVNULL) as ctl:
            threading.Event().wait(i * 0.0005)
            ctl.kill()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(once, range(60)))
    wait_ended(running, "sleep", "4726")
    assert output(running, "w", "--", "echo", "on") == "on\n"


# ---- the API ----

@both_kinds
def test_the_status_is_ok_whatever_the_exit_code(client):
    assert client.run("w", "sh", "-c", "echo out; echo err >&2; exit 3") == ("out\n", "err\n", 3)
    assert client.run("w", "cat", stdin=[b"a\0", b"", b"\xff" * 0 + b"b"]) == ("a\0b", "", 0)


@both_kinds
def test_a_terminal_for_a_client_of_the_api(client):
    size = client.pb.workload.WorkloadExecResize(cols=91, rows=19)
    out, err, code = client.run("w", "sh", "-c", "stty size; echo $TERM; echo err >&2", tty=True, size=size)
    assert (out, err, code) == ("19 91\r\nxterm\r\nerr\r\n", "", 0)


@both_kinds
def test_extensions(client):
    out, _, _ = client.run("w", "sh", "-c", "pwd; id -u; echo $COLOUR", working_dir="/tmp", user="1000", env={"COLOUR": "green"})
    assert out == "/tmp\n1000\ngreen\n"


@both_kinds
def test_a_cancelled_call_ends_its_process(running, client):
    call = client.exec("w", "sh", "-c", "echo up; exec sleep 4727")
    assert next(call).stdout == b"up\n"
    wait_process(running, "sleep", "4727")
    call.cancel()
    wait_ended(running, "sleep", "4727")


@both_kinds
def test_a_deadline_ends_the_process(running, client):
    fails(lambda: client.run("w", "sleep", "4728", timeout=2), Code.DEADLINE_EXCEEDED)
    wait_ended(running, "sleep", "4728")


@both_kinds
@pytest.mark.parametrize("config,code,text", [
    (dict(name="w", command=[]), Code.INVALID_ARGUMENT, "no command"),
    (dict(name="W", command=["true"]), Code.INVALID_ARGUMENT, "workload name"),
    (dict(name="ghost", command=["true"]), Code.NOT_FOUND, "ghost"),
    (dict(name="w", command=["true"], env={"A=B": "c"}), Code.INVALID_ARGUMENT, "A=B"),
    (dict(name="w", command=["true"], working_dir="tmp"), Code.INVALID_ARGUMENT, "absolute"),
    (dict(name="w", command=["true"], user="ghost"), Code.FAILED_PRECONDITION, "user ghost"),
    (dict(name="w", command=["true", "x" * 3 * MIB]), Code.OK, ""),
])
def test_configs_that_are_refused(client, stubs, config, code, text):
    w = stubs.workload
    call = client.workload.Exec(iter([w.WorkloadExecClientMessage(config=w.WorkloadExecConfig(**config))]), timeout=TIMEOUT)
    if code == Code.OK:
        # execve takes strings of 128 KiB.
        assert "Argument list too long" in next(call).stderr.decode() and next(call).exit.exit_code == 126
    else:
        assert text in fails(lambda: list(call), code)


@both_kinds
def test_messages_in_the_wrong_order(client, stubs):
    w = stubs.workload
    config = w.WorkloadExecClientMessage(config=w.WorkloadExecConfig(name="w", command=["sleep", "4729"]))
    for messages, text in (([w.WorkloadExecClientMessage(stdin=b"x")], "first message must hold the config"),
                           ([w.WorkloadExecClientMessage()], "first message must hold the config"),
                           ([config, config], "config was sent twice"),
                           ([config, w.WorkloadExecClientMessage()], "neither config nor stdin nor resize"),
                           ([], "without a config")):
        assert text in fails(lambda: list(client.workload.Exec(iter(messages), timeout=TIMEOUT)), Code.INVALID_ARGUMENT)
