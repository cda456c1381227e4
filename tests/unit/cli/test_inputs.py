from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_client import InputError
from heimdall_client.cli import file_sources, formats
from heimdall_client.cli.rotated_files import is_rotated_name

LINES = st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b" ") + b"\n"), min_size=1, max_size=80)


@given(LINES, st.lists(st.binary(max_size=40), max_size=20), st.data())
def test_a_file_that_has_grown_is_still_known_by_what_it_was_first_seen_with(
    lines: list[bytes], more: list[bytes], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(lines)))
    first_seen = file_sources.digests(b"".join(lines[:cut]))
    grown = b"".join(lines) + b"\n".join(more)
    assert first_seen[0] in file_sources.digests(grown)


@given(LINES, LINES)
def test_files_with_other_first_lines_are_other_sources(one: list[bytes], other: list[bytes]) -> None:
    if one[0] != other[0]:
        assert not set(file_sources.digests(b"".join(one))) & set(file_sources.digests(b"".join(other)))


def test_files_that_share_their_header_only_are_told_apart() -> None:
    header = b"time,level,msg\n"
    one = file_sources.digests(header + b"1,info,a\n2,info,b\n3,info,c\n")
    other = file_sources.digests(header + b"1,info,x\n2,info,y\n3,info,z\n")
    assert one[0] != other[0]
    assert one[-1] == other[-1]


def test_an_incomplete_first_line_has_no_digest_unless_it_is_very_long() -> None:
    assert file_sources.digests(b"") == []
    assert file_sources.digests(b"half a li") == []
    assert len(file_sources.digests(b"x" * file_sources.HEAD_BYTES)) == 1


@pytest.mark.parametrize(
    ("head", "document"),
    [
        (b'{"a": 1}\n{"a": 2}\n', False),
        (b'{"a": 1}\n{"a"', False),
        (b'{"a": 1}', True),
        (b'{\n  "a": 1\n}\n', True),
        (b'[{"a": 1}, {"a": 2}]', True),
        (b'  [\n  {"a": 1}\n]\n', True),
        (b"[Wed Oct 11 14:32:52 2000] [error] client denied\n", False),
        (b"[2024-05-01 12:00:00] started\n", False),
        (b"ARROW1\x00\x00", True),
        (b"\xff\xff\xff\xff\x10\x00", True),
        (b"a,b\n1,2\n", False),
        (b"", False),
    ],
)
def test_documents_are_told_from_lines(head: bytes, document: bool) -> None:
    assert file_sources.is_document(head) is document


def test_the_head_of_a_compressed_file_is_that_of_its_content(tmp_path: Path) -> None:
    content = b"".join(b"line %d\n" % number for number in range(5000))
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(content))
    plain = tmp_path / "a"
    plain.write_bytes(content)
    with packed.open("rb") as stream:
        assert file_sources.read_head(stream, "a.gz") == (content[: file_sources.HEAD_BYTES], True)
        assert stream.tell() == 0
    with plain.open("rb") as stream:
        assert file_sources.read_head(stream, "a") == (content[: file_sources.HEAD_BYTES], False)


def test_a_damaged_compressed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x" * 10)[:12])
    with path.open("rb") as stream, pytest.raises(InputError, match=r"a\.gz.*gzip"):
        file_sources.read_head(stream, "a.gz")


def test_a_document_is_told_by_size_and_both_ends(tmp_path: Path) -> None:
    def digest(content: bytes) -> str:
        path = tmp_path / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        with path.open("rb") as stream:
            return file_sources.whole_digest(stream)

    big = b"[" + b"x" * 300_000 + b"]"
    assert digest(big) == digest(big)
    assert len({digest(big), digest(big + b" "), digest(b"[y" + big[2:]), digest(big[:-2] + b"y]"), digest(b"")}) == 5


@pytest.mark.parametrize(
    ("name", "rotated"),
    [
        ("app.log.1", True), ("app.log.12.gz", True), ("app.log-20240501", True), ("app.log-20240501.zst", True),
        ("app.log.2024-05-01_12", True), ("app-20240501.log", True), ("app.1.log", True), ("app.1.log.gz", True),
        ("app.log", False), ("app.log.swp", False), ("app.log.bak", False), ("app.log~", False),
        ("application.log.1", False), ("app-worker.log", False), ("app.log.gz", False),
    ],
)  # fmt: skip
def test_rotated_files_are_told_by_their_names(name: str, rotated: bool) -> None:
    assert is_rotated_name(Path("/var/log/app.log"), name) is rotated


def test_a_pattern_is_a_name_or_a_regex() -> None:
    kind = formats.FormatKind
    assert formats.format_options(None, None, None) == (None, {})
    assert formats.format_options(kind.CSV, None, ["delimiter=;", "quote='"]) == (
        "csv",
        {"delimiter": ";", "quote": "'"},
    )
    assert formats.format_options(None, "nginx", None) == ("text", {"pattern": "nginx"})
    assert formats.format_options(kind.TEXT, r"(?P<body>.*)", None) == (
        "text",
        {"pattern": "custom", "regex": r"(?P<body>.*)"},
    )
