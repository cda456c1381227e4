"""A lane gives the same records however its source is cut, however little room a group has, wherever it is taken up again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.domain.decoding import DecodeContext, Format, FormatKind
from heimdall_server.domain.errors import FormatError
from heimdall_server.domain.records import RECORD_BYTES_MAX
from heimdall_server.services.ingest.logic.jobs import Room
from heimdall_server.services.ingest.logic.lane import Chunk, Fed, Lane
from tests.support.journal import START_NS

CONTEXT = DecodeContext("s", "logs", START_NS, dump="d", first_record_number=1)
TRACE = "2026-11-24 10:00:{:02d},000 ERROR [main] failure {}\njava.lang.Exception: no\n\tat Main.run(Main.java:{})\n"
MESSAGE = "<13>1 2026-11-24T10:00:00Z host app {} - - hello"
SOURCES: dict[str, tuple[Format, bytes]] = {
    "ndjson": (
        Format(FormatKind.NDJSON),
        b"".join(b"not json\n" if n % 7 == 3 else b'{"message":"r%d","n":%d}\n' % (n, n) for n in range(60))
        + b'{"half',
    ),
    "csv": (
        Format(FormatKind.CSV),
        b"id,message\n" + b"".join(b'%d,"row\n%d"\n' % (n, n) if n % 5 else b"%d,a,b,c\n" % n for n in range(60)),
    ),
    "json": (
        Format(FormatKind.JSON),
        json.dumps({"records": [{"message": f"r{n}"} if n % 6 else n for n in range(60)]}, indent=1).encode(),
    ),
    "text": (Format(FormatKind.TEXT), "".join(TRACE.format(n % 60, n, n) for n in range(40)).encode()),
    "octet": (
        Format(FormatKind.SYSLOG, {"framing": "octet"}),
        b"".join(
            b"garbage" if n % 9 == 4 else b"%d %s" % (len(one := MESSAGE.format(n).encode()), one) for n in range(60)
        ),
    ),
}


def rows_of(fed: Fed) -> list[Any]:
    """Good and bad records in order: what a dump's numbers say, and what they are."""
    found: list[Any] = []
    for piece in fed.pieces:
        for number, body, attributes in zip(
            *(piece.batch[name].to_pylist() for name in ("record_number", "body", "attributes")), strict=True
        ):
            found.append((number, body, sorted(attributes)))
    return found


def letters_of(fed: Fed) -> list[Any]:
    return [(error.offset, error.reason, error.raw) for error in fed.errors]


def feed_whole(format_: Format, data: bytes) -> tuple[list[Any], list[Any]]:
    lane = Lane(CONTEXT, 0, None, format_)
    fed = lane.feed([Chunk(0, len(data), data)], observed_time_ns=START_NS, final=True)
    assert fed.failure is None
    assert fed.next_offset == len(data)
    return rows_of(fed), letters_of(fed)


@pytest.mark.parametrize("name", SOURCES)
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_cut_any_room_and_any_break_give_the_same_records(name: str, data: st.DataObject) -> None:
    format_, source = SOURCES[name]
    rows, letters = feed_whole(format_, source)
    lane = Lane(CONTEXT, 0, None, format_)
    got_rows: list[Any] = []
    got_letters: list[Any] = []
    offset = 0
    while True:
        size = len(source) // 2 - data.draw(st.integers(0, len(source) // 2 - 1))
        final = offset + size >= len(source)
        chunks = [Chunk(offset, min(offset + size, len(source)), source[offset : offset + size])]
        more = True
        while more:
            room = Room(30 - data.draw(st.integers(0, 29)), 1 << 40)
            fed = lane.feed(chunks, observed_time_ns=START_NS, final=final, room=room)
            assert fed.failure is None
            got_rows += rows_of(fed)
            got_letters += letters_of(fed)
            chunks, more = [], fed.more
        offset = fed.received_offset
        if final:
            break
        if data.draw(st.booleans()) and lane.format is not None:
            # The stream breaks; the next one goes on from what is decided, with what is remembered.
            number = len(got_rows) + len(got_letters) + 1
            lane = Lane(replace(CONTEXT, first_record_number=number), fed.next_offset, lane.format, None, "", fed.skip)
            offset = fed.next_offset
    assert [row[1:] for row in got_rows] == [row[1:] for row in rows]
    assert [row[0] for row in got_rows] == [row[0] for row in rows]
    assert got_letters == letters
    assert fed.next_offset == len(source)


@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("kind", ["ndjson", "text", "csv", "octet"])
def test_an_over_long_record_is_one_letter_wherever_the_stream_breaks(kind: str, breaks: bool) -> None:
    format_, _ = SOURCES[kind]
    good = {"ndjson": b'{"message":"fine"}\n', "text": b"fine\n", "csv": b"1,fine\n", "octet": b"4 fine"}[kind]
    long = b"x" * (3 * RECORD_BYTES_MAX)
    source = {"octet": good + b"%d " % len(long) + long + good}.get(kind, good + long + b"\n" + good)
    if kind == "csv":
        source = b"id,message\n" + source
    lane = Lane(CONTEXT, 0, None, format_)
    rows, letters, offset = [], [], 0
    while offset < len(source):
        end = min(len(source), offset + 700_000)
        chunk = Chunk(offset, end, source[offset:end])
        fed = lane.feed([chunk], observed_time_ns=START_NS, final=end == len(source))
        rows += rows_of(fed)
        letters += letters_of(fed)
        offset = fed.received_offset
        if breaks and fed.skip is not None:
            context = replace(CONTEXT, first_record_number=len(rows) + len(letters) + 1)
            lane = Lane(context, fed.next_offset, lane.format, None, "", fed.skip)
    assert [row[0] for row in rows] == [1, 3]
    (letter,) = letters
    assert "limit" in letter[1]
    assert len(letter[2]) == RECORD_BYTES_MAX


def test_wide_rows_are_decoded_a_few_at_a_time() -> None:
    names = [f"{n}".ljust(200, "c") for n in range(2_000)]
    source = ",".join(names).encode() + b"\n" + b",".join([b"1"] * len(names)) + b"\n"
    source += (b",".join([b"1"] * len(names)) + b"\n") * 400
    lane = Lane(CONTEXT, 0, None, Format(FormatKind.CSV))
    room = Room(1 << 40, 100 * 1024 * 1024)
    fed = lane.feed([Chunk(0, len(source), source)], observed_time_ns=START_NS, final=True, room=room)
    assert fed.more
    assert len(fed.pieces) >= 2
    assert max(piece.batch.nbytes for piece in fed.pieces) < 64 * 1024 * 1024


def test_arrow_in_a_source_of_bytes_is_refused_with_the_way_out() -> None:
    lane = Lane(CONTEXT, 0, None)
    payload = b"\xff\xff\xff\xff" + (64).to_bytes(4, "little") + bytes(64)
    fed = lane.feed([Chunk(0, len(payload), payload)], observed_time_ns=START_NS, final=False)
    assert isinstance(fed.failure, FormatError)
    assert "name the format in open" in str(fed.failure)
    assert fed.next_offset == 0
