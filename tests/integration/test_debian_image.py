# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""exec and cp in a whole Debian: glibc, bash with job control and line editing, users made by useradd, GNU tar."""
import io
import os
import pathlib
import stat
import tarfile

import pytest

import images
import trees
from capsule import wait_for
from exec_tools import on_terminal, output, run_in, wait_process

ODD = "odd \n\t\\ name \u00fc"


@pytest.fixture(scope="module")
def debian(shared_capsule, tmp_path_factory):
    """A daemon with a workload w of Debian's base system, in which there is the user maria."""
    archive = images.make_debian_image(str(tmp_path_factory.mktemp("debian") / "debian.tar"), "debian:test")
    shared_capsule.push(archive)
    shared_capsule.run_container("w", "debian:test", command=["sleep", "infinity"], stopGracePeriodSeconds=0)
    output(shared_capsule, "w", "--", "groupadd", "-g", "3000", "crew")
    output(shared_capsule, "w", "--", "useradd", "-m", "-u", "2000", "-s", "/bin/bash", "-G", "crew", "maria")
    return shared_capsule


# ---- exec ----

@pytest.mark.parametrize("user,expected", [
    ("maria", "uid=2000(maria) gid=2000(maria) groups=2000(maria),3000(crew)"),
    ("maria:crew", "uid=2000(maria) gid=3000(crew) groups=3000(crew)"),
    ("2000", "uid=2000(maria) gid=2000(maria) groups=2000(maria),3000(crew)"),
    ("games", "uid=5(games) gid=60(games) groups=60(games)"),
])
def test_users_that_were_made_in_the_workload(debian, user, expected):
    assert output(debian, "--user", user, "w", "--", "id").strip() == expected


def test_the_environment_of_a_user(debian):
    assert output(debian, "--user", "maria", "w", "--", "bash", "-c", "echo $HOME; cd; pwd; whoami").split() == \
        ["/home/maria", "/home/maria", "maria"]


@pytest.mark.parametrize("script,code", [("kill -SEGV $$", 139), ("timeout 0.1 sleep 100", 124), ("exit 200", 200)])
def test_exit_codes_of_bash(debian, script, code):
    assert run_in(debian, "w", "--", "bash", "-c", script).returncode == code


def test_a_shell_on_a_terminal_that_changes_its_size(debian):
    t = on_terminal(debian, "-t", "--user", "maria", "w", "--", "bash", "--norc", "-i", columns=100)
    t.type("PS1='ready> '; echo size $LINES $COLUMNS of $(tty)\n")
    t.read_until("size 24 100 of /dev/pts/")
    t.type("trap 'echo now $(stty size)' WINCH; echo trap''ped\n")
    t.read_until("trapped\r")
    t.resize(137, 43)
    t.read_until("now 43 137")
    # readline: a line thrown away, a letter taken back, a name completed.
    t.type("wrong\x15cd; touch certain-file; echo x\x7fedited $((6 * 7))\n")
    t.read_until("edited 42")
    t.type("echo certa\t")
    t.read_until("echo certain-file")
    t.type("\n")
    t.type("exit 9\n")
    assert t.end() == 9


def has_the_terminal(pid):
    """Of its fields (proc(5)): the process group, and that of the terminal's foreground."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return fields[2] == fields[5]


def test_job_control(debian):
    t = on_terminal(debian, "-t", "w", "--", "bash", "--norc", "-i")
    t.type("sleep 4731\n")
    pid = wait_process(debian, "sleep", "4731")
    t.type("\x1a")
    t.read_until("Stopped")
    t.type("bg; jobs -r; echo list''ed\n")
    t.read_until("Running")
    t.read_until("listed\r")
    t.type("fg\n")
    wait_for(lambda: has_the_terminal(pid), "the job to be in the foreground")
    t.type("\x03echo interrupted $?\n")
    t.read_until("interrupted 130")
    assert not os.path.exists(f"/proc/{pid}")
    t.type("exit\n")
    assert t.end() == 0


def test_gnu_tar_through_exec(debian):
    tree = {"a": b"x" * 300_000, "d/" + ODD: b"y", "d/link": trees.LINK + "../a", "empty": trees.DIR}
    output(debian, "w", "--", "mkdir", "-p", "/srv/through")
    output(debian, "w", "--", "tar", "-xf", "-", "-C", "/srv/through", input=trees.to_tar(tree))
    done = run_in(debian, "w", "--", "tar", "-cf", "-", "-C", "/srv/through", ".")
    assert done.returncode == 0 and trees.from_tar(done.stdout) == tree


# ---- cp ----

def seen_by_tar(data):
    """What is in an archive, entry by entry, as tarfile reads it."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {os.path.normpath(m.name): (m.type, m.mode, m.uid, m.gid, m.size, m.mtime, m.linkname) for m in tar}


MAKE_TREE = """
set -e
mkdir -p /srv/tree/sub/deep && cd /srv/tree
printf hello > file && ln file hard && ln -s file soft && ln -s /nowhere dangling
printf odd > $'odd \\n\\t\\\\ name \\u00fc'
install -m 4755 -o maria -g crew /bin/true set-id
truncate -s 10M sparse && printf end >> sparse
mkfifo -m 640 fifo && mkdir -m 1777 sticky
touch -d '2001-02-03 04:05:06' file sub/deep sub
"""


def test_archive_out_and_back_in_is_what_gnu_tar_sees(debian, tmp_path):
    output(debian, "-e", "LC_ALL=C.UTF-8", "w", "--", "bash", "-c", MAKE_TREE)
    debian.ctl("cp", "--archive", "w:/srv/tree", tmp_path)
    here = tmp_path / "tree"
    assert (here / "set-id").stat().st_uid == 2000 and stat.S_IMODE((here / "set-id").stat().st_mode) == 0o4755
    assert (here / ODD).read_bytes() == b"odd"
    assert (here / "file").stat().st_ino == (here / "hard").stat().st_ino
    assert (here / "sparse").stat().st_blocks * 512 < 1 << 20
    debian.ctl("cp", "--archive", here, "w:/srv/back")

    def archive(name):
        done = run_in(debian, "w", "--", "tar", "--sort=name", "--format=posix", "--sparse", "-cf", "-", "-C", f"/srv/{name}", ".")
        assert done.returncode == 0, done.err
        return seen_by_tar(done.stdout)
    before, after = archive("tree"), archive("back")
    assert len(before) == 12 and before == after


@pytest.mark.parametrize("stopped", [False, True])
def test_the_whole_of_etc(debian, tmp_path, stopped):
    """Compared with what GNU tar packs of it. The same, running or not: the writable layer over the image's."""
    expected = trees.from_tar(run_in(debian, "w", "--", "tar", "-cf", "-", "-C", "/etc", "--exclude=./hosts",
                                     "--exclude=./hostname", "--exclude=./resolv.conf", ".").stdout)
    if stopped:
        debian.ctl("workload", "stop", "w")
    try:
        debian.ctl("cp", "w:/etc", tmp_path)
    finally:
        debian.ctl("workload", "start", "w")
    got = {path: what for path, what in trees.read(tmp_path / "etc").items() if path not in ("hosts", "hostname", "resolv.conf")}
    assert b"maria:!:2000:2000" in got["passwd"] and got == expected
