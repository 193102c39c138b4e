# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What an administrator of this machine does and sees: the package, its service, the firewall, another host on the wire."""
import json
import os
import pathlib
import re
import subprocess

from capsule import BUILD, PATIENCE, in_netns, run

BOOT = 2 * PATIENCE  # a guest of a guest


def systemctl(*args, check=True):
    return run("systemctl", *args, check=check).stdout.decode().strip()


def main_pid():
    return systemctl("show", "-P", "MainPID", "capsuled")


def package(*options):
    return run("dpkg", *options, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, timeout=2 * PATIENCE)


def install():
    return package("--install", next(BUILD.glob("capsule_*.deb")))


def ctl(*args, **kwargs):
    return run("capsulectl", *args, **{"timeout": BOOT, **kwargs}).stdout.decode()


def status(name):
    return json.loads(ctl("workload", "get", name, "-o", "json"))["status"]


def processes(name):
    return subprocess.run(["pidof", name], capture_output=True, text=True).stdout.split()


class Firewall:
    """What many servers have: what is not asked for is dropped, coming in and passing through."""

    CONF = pathlib.Path("/etc/nftables.conf")
    RULES = """\
flush ruleset
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iifname lo accept
		meta l4proto { icmp, ipv6-icmp } accept
		tcp dport 22 accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
	}
}
"""

    def __init__(self):
        self.CONF.write_text(self.RULES)
        systemctl("enable", "--now", "nftables")

    @classmethod
    def do_as_told(cls, message):
        """Runs the commands of nft that a message names, and keeps them for the next boot."""
        rules = [rule.replace('\\"', '"').strip() for rule in re.findall(r"nft (insert rule [^;\n]*)", message)]
        run("nft", "-f", "-", input="\n".join(rules).encode())
        with open(cls.CONF, "a") as f:
            f.writelines(f"{rule}\n" for rule in rules)
        return rules


class Remote:
    """Another host on a wire: a network namespace. It has no route to the bridge."""

    NAME, ADDRESS, HOST = "remote", "192.0.2.2", "192.0.2.1"
    PAGE = "of another host\n"

    def __init__(self, directory):
        run("ip", "netns", "add", self.NAME)
        run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", self.NAME)
        for where, address in (((), self.HOST), (("-n", self.NAME), self.ADDRESS)):
            run("ip", *where, "address", "add", f"{address}/24", "dev", "lan0")
            run("ip", *where, "link", "set", "lan0", "up")
        (directory / "index.html").write_text(self.PAGE)
        self.server = subprocess.Popen([*in_netns(self.NAME), "busybox", "httpd", "-f", "-p", "80", "-h", directory])

    def close(self):
        self.server.kill()
        self.server.wait()
        run("ip", "netns", "del", self.NAME)
