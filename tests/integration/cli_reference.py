# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""What capsulectl says of itself, as it stands in its documents between the lines "begin" and "end"."""
import re
import subprocess

from capsule import CAPSULECTL, TOP

MAN_PAGE = TOP / "man/capsulectl.1.scd"
REFERENCE = TOP / "docs/cli.md"


def between(document, begin, end, text):
    """The document with this text in the place of the one between the two lines."""
    before, rest = document.read_text().split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"


def help_all(form):
    return subprocess.run([CAPSULECTL, "__help-all", form], capture_output=True, text=True, check=True).stdout


def man_page():
    return between(MAN_PAGE, "; begin\n", "; end\n", help_all("scdoc"))


def reference(screens):
    """screens: the errors of each command, see cli_errors.py. Every command has some."""
    sections = re.findall(r"^(#+ (capsulectl.*?)\n\n```\n.*?```\n)", help_all("markdown"), re.MULTILINE | re.DOTALL)
    assert {command for _, command in sections} == set(screens)
    text = "\n".join(f"{section}\nErrors:\n\n```\n{screens[command].strip()}\n```\n" for section, command in sections)
    return between(REFERENCE, "<!-- begin -->\n", "<!-- end -->\n", text)
