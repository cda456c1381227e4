"""Options of `heimdall graph note` that don't go together are refused before anything is sent."""

from __future__ import annotations

import pytest

from tests.support.cli import invoke

IP = "ip:203.0.113.7"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["note", IP], "say what to write"),
        (["note", IP, "x", "--edit", "a" * 32], "which version"),
        (["note", IP, "x", "--remove", "a" * 32], "takes no text"),
        (["note", IP, "--edit", "a" * 32, "--remove", "b" * 32], "either"),
        (["note", IP, "x", "--etag", "1"], "--edit and --remove"),
        (["note", IP, "x", "--reason", "y"], "for --remove"),
        (["note", IP, "x", "--tlp", "pink"], "amber+strict"),
        (["note", IP, "--remove", "a" * 32, "--tlp", "red"], "new note"),
        (["label", IP, "x", "--remove", "--tlp", "red"], "new label"),
        (["merge", IP, "nothing", "--reason", "x"], "TYPE:VALUE"),
        (["merge", IP, IP], "--reason"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(arguments: list[str], told: str) -> None:
    outcome = invoke("graph", *arguments)
    assert outcome.code == 2
    assert told in outcome.err
