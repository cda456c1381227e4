"""Requests of JSON lines decoded together: each knows its own records and its own bad lines."""

from __future__ import annotations

import json

from heimdall_server.decode import documents
from heimdall_server.domain.decoding import DecodeContext

CONTEXT = DecodeContext(source="elastic/a", dataset="logs", observed_time_ns=1_800_000_000_000_000_000)


def lines(*bodies: str) -> bytes:
    return b"".join(json.dumps({"message": body}).encode() + b"\n" if body != "bad" else b"{bad\n" for body in bodies)


def test_counts_are_of_good_and_bad_lines_and_errors_are_in_order() -> None:
    decoded = documents.decode([lines("a", "bad"), lines("bad"), lines("b", "c"), b""], CONTEXT)
    assert decoded.counts == [2, 1, 2, 0]
    assert decoded.problems == [None] * 4
    assert decoded.decoded.batch.column("body").to_pylist() == ["a", "b", "c"]
    assert [error.row for error in decoded.decoded.errors] == [1, 2]
    assert all(error.raw == b"{bad" for error in decoded.decoded.errors)


def test_the_log_level_of_the_common_schema_is_the_severity() -> None:
    decoded = documents.decode([b'{"log":{"level":"warning"},"message":"x"}\n'], CONTEXT).decoded
    assert decoded.batch.column("severity").to_pylist() == [13]
    assert decoded.batch.column("attributes").to_pylist() == [[]]
