"""The scanner that others rely on finds what is there."""

from __future__ import annotations

import base64
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.byte_scan import Finding, Scanner

VALUE = "alice.smith@example.com"
CARD = "4111-1111-1111-1234"


@pytest.mark.parametrize(
    "hidden",
    [
        VALUE.encode(),
        VALUE.upper().encode(),
        urllib.parse.quote(VALUE, safe="").encode(),
        VALUE.encode("utf-16"),
        VALUE.encode("utf-16-be"),
        VALUE.encode().hex().encode(),
        VALUE[::-1].encode(),
        base64.b64encode(VALUE.encode()),
        base64.b64encode(b"x" + VALUE.encode() + b"tail"),
        base64.b64encode(b"xy" + VALUE.encode() + b"t"),
        base64.urlsafe_b64encode(b"xyz\xff" + VALUE.encode()),
    ],
)
def test_every_form_is_found(hidden: bytes) -> None:
    found = Scanner({"email": VALUE}).scan("here", [b"\0\xff" * 50 + hidden + b"\xc3"])
    assert found
    assert {one.label for one in found} == {"email"}


def test_digits_are_found_without_their_separators_and_backwards() -> None:
    scanner = Scanner({"card": CARD})
    assert scanner.scan("here", [b"x4111111111111234x"])
    assert scanner.scan("here", [b"x4321111111111114x"])
    assert not scanner.scan("here", [b"x4111111111111235x"])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300), st.integers(1, 40))
def test_it_does_not_matter_how_bytes_are_cut(before: int, size: int) -> None:
    whole = b"z" * before + VALUE.encode() + b"z" * 20
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    found = Scanner({"email": VALUE}).scan("here", pieces)
    assert any(one.form == "plain" for one in found)


def test_files_and_their_names_are_looked_through(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "data.bin").write_bytes(b"\0" * (5 << 20) + VALUE.encode())
    (tmp_path / f"dump-{VALUE}").write_bytes(b"nothing")
    (tmp_path / "clean").write_bytes(b"alice.smith at example.com")
    found = Scanner({"email": VALUE}).scan_files(tmp_path)
    assert {one.place for one in found} == {"deep/data.bin", f"the name dump-{VALUE}"}
    assert Finding("deep/data.bin", 5 << 20, "email", "plain") in found
