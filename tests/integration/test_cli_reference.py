# SPDX-License-Identifier: Apache-2.0
# Copyright The Capsule authors
"""The documents hold what the program says. Refresh them with docs/update-cli-reference."""
import cli_errors
import cli_reference


def test_man_page():
    assert cli_reference.man_page() == cli_reference.MAN_PAGE.read_text()


def test_reference_with_every_verbs_errors(capsule, fake):
    screens = cli_errors.Walk(capsule, fake).screens()
    for verb, text in screens.items():
        assert "[exit " in text and "[exit 0]" not in text, f"{verb} has a screen that is no error"
    assert cli_reference.reference(screens) == cli_reference.REFERENCE.read_text()
