# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""Which kinds of workload a test is for. One that says nothing is run with containers.

The mark sets `kind` of the daemons that the test gets, and with it what Capsule.run_workload() runs. Why a test holds for containers
only is said at its mark; what differs for users is the table in docs/microvm.md.
"""
import pytest

from capsule import BOOT, wait_for

IDS = {"container": "Container", "microvm": "MicroVM"}

both_kinds = pytest.mark.parametrize("kind", list(IDS), indirect=True)
microvms_only = pytest.mark.parametrize("kind", ["microvm"], indirect=True)


def containers_only(reason):
    """For single tests of a module that is for both."""
    assert reason
    return pytest.mark.parametrize("kind", ["container"], indirect=True)


def said(capsule, name, text, *options):
    """Waits until the workload has written the text."""
    wait_for(lambda: text in capsule.logs(name, *options), f"{name} to write {text!r}", BOOT)


def wait_new_run(capsule, name, pid):
    """Waits until another process than this one runs."""
    wait_for(lambda: capsule.phase(name) == "Running" and capsule.status(name).get("pid") not in (None, pid),
             f"another run of {name}", BOOT)
