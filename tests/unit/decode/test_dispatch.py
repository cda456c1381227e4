from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.decode import dispatch
from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.errors import FormatError, RecordTooLargeError
from heimdall_server.domain.records import RECORD_BYTES_MAX
from tests.support.decode_streams import attributes, context, feed, feed_held, shown

SOURCES: dict[str, bytes] = {
    "ndjson": b'{"msg":"one","n":1}\n{"msg":"two","n":2}\n',
    "json": b'[{"msg":"one","n":1},{"msg":"two","n":2}]',
    "csv": b"msg,n\none,1\ntwo,2\n",
    "text": b'msg=one n=1\nmsg=two n=2\n',
    "syslog": b'<13>1 - - - - - [x n="1"] one\n<13>1 - - - - - [x n="2"] two\n',
}  # fmt: skip


def resolved(data: bytes) -> Format:
    found = dispatch.resolve(None, {}, data, final=True)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_is_told_and_read_alike(kind: str) -> None:
    data = SOURCES[kind]
    format_ = resolved(data)
    assert format_.kind == kind
    decoded = feed(dispatch, format_, data, [])
    assert shown(decoded, "body") == ["one", "two"]
    key = "x.n" if kind == "syslog" else "n"
    assert [row[key] for row in attributes(decoded)] == [1.0, 2.0]


@pytest.mark.parametrize("kind", SOURCES)
def test_any_cut_gives_the_same_records(kind: str) -> None:
    data = SOURCES[kind] * (1 if kind in ("json", "csv") else 5)
    format_ = resolved(data)
    whole = feed(dispatch, format_, data, [])
    for step in (1, 7, 23):
        assert feed(dispatch, format_, data, range(step, len(data), step)).batch.equals(whole.batch)


@pytest.mark.parametrize("kind", SOURCES)
def test_chunk_of_many_records_is_taken_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    once = SOURCES[kind]
    data = b"[" + b",".join([once[1:-1]] * 20) + b"]" if kind == "json" else once * 20
    format_ = resolved(data)
    whole = feed(dispatch, format_, data, [])
    monkeypatch.setattr(dispatch, "CHUNK_RECORDS_MAX", 7)
    length = dispatch.complete_length(data, format_, at_start=True, final=True)
    assert 0 < length < len(data)
    assert dispatch.decode(data[:length], format_, context(), at_start=True).record_count <= 8
    assert feed(dispatch, format_, data, []).batch.equals(whole.batch)


def test_many_octet_counted_frames_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"5 <13>x" * 40
    format_ = resolved(data)
    whole = feed(dispatch, format_, data, [])
    monkeypatch.setattr(dispatch, "CHUNK_RECORDS_MAX", 7)
    assert dispatch.complete_length(data, format_, at_start=True, final=True) == 7 * 7
    assert feed(dispatch, format_, data, []).batch.equals(whole.batch)


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_streams_and_files_are_read(new: Any) -> None:
    table = pa.table({"msg": ["one", "two"]})
    sink = pa.BufferOutputStream()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    data = bytes(sink.getvalue())
    assert dispatch.complete_length(data, resolved(data), at_start=True, final=True) == len(data)
    assert shown(dispatch.decode(data, resolved(data), context(), at_start=True), "body") == ["one", "two"]


@pytest.mark.parametrize("end", [6, 9, 16, -1, -8])
def test_arrow_file_that_is_cut_short_is_refused(end: int) -> None:
    table = pa.table({"msg": ["one", "two"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(FormatError):
        dispatch.decode(bytes(sink.getvalue())[:end], Format(FormatKind.ARROW), context(), at_start=True)


@pytest.mark.parametrize(
    "data",
    [
        SOURCES["ndjson"],
        SOURCES["csv"],
        SOURCES["text"],
        SOURCES["syslog"],
        b"once upon a time\nthere was\n",
    ],
)
def test_line_of_64_mb_is_one_dead_letter_with_bounded_memory(data: bytes) -> None:
    format_ = resolved(data)
    head, _, tail = data.rpartition(b"\n")[0].rpartition(b"\n")
    huge = b"x" * (64 * RECORD_BYTES_MAX)
    decoded, passed, held = feed_held(
        dispatch, format_, head + b"\n" + huge + b"\n" + tail + b"\n", piece_bytes=1024 * 1024
    )
    assert passed == [len(huge) + 1]
    assert [error for part in decoded for error in part.errors] == []
    whole = feed(dispatch, format_, data, [])
    assert [body for part in decoded for body in shown(part, "body")] == shown(whole, "body")
    assert held <= RECORD_BYTES_MAX + 2 * 1024 * 1024


def test_json_record_over_the_limit_is_not_held_for_ever() -> None:
    format_ = Format(FormatKind.JSON, {"depth": "1", "wrapper": ""})
    buffer = b'[{"a":"' + b"x" * RECORD_BYTES_MAX
    with pytest.raises(RecordTooLargeError):
        dispatch.complete_length(buffer, format_, at_start=True, final=False)
    assert dispatch.oversize_prefix(buffer, format_, final=False) == (len(buffer), False)


def test_otlp_request_is_read_whole() -> None:
    format_ = Format(FormatKind.OTLP)
    assert dispatch.complete_length(b"x", format_, at_start=False, final=False) == 1
    assert dispatch.decode(b"", format_, context(), at_start=False).record_count == 0
