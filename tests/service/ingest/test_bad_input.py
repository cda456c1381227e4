"""Malformed everything, over the wire: a clear error or a dead letter, and nobody else notices."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.logs.v1 import logs_pb2

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from heimdall_server.domain.records import TimeFlag
from tests.support.ingest_server import (
    FINISH,
    IngestServer,
    Sent,
    batch,
    ingest_server,
    opening,
    reason_of,
    reason_of_call,
)
from tests.support.pki import Pki

Kind = source_pb2.Format
MIB = 1024 * 1024
NEIGHBOUR_LINES = 20


# One server for all of them: each test is the neighbour of those before.
pytestmark = pytest.mark.asyncio(loop_scope="module")
_numbers = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[IngestServer]:
    async with ingest_server(pki, tmp_path_factory.mktemp("ingest")) as running:
        yield running


@pytest.fixture
def source() -> str:
    """A source that no other test has."""
    return f"source {next(_numbers)}"


@asynccontextmanager
async def neighbour(server: IngestServer) -> AsyncIterator[None]:
    """Another source of the same identity, fed all the while: it must not notice."""

    name = f"neighbour {next(_numbers)}"

    async def feed() -> AsyncIterator[pb.AppendRequest]:
        yield opening(name, kind=Kind.KIND_NDJSON)
        offset = 0
        for n in range(NEIGHBOUR_LINES):
            line = b'{"message":"neighbour %d"}\n' % n
            yield batch(offset, line)
            offset += len(line)
            await asyncio.sleep(0.001)
        yield FINISH

    task = asyncio.create_task(server.append(feed()))
    try:
        yield
    finally:
        sent = Sent(await task)
    assert sent.finished.accepted_count == NEIGHBOUR_LINES
    assert not sent.of("nack")
    assert await server.bodies_of(name) == [f"neighbour {n}" for n in range(NEIGHBOUR_LINES)]


@dataclass
class Case:
    """Bytes of a source, and what becomes of them."""

    kind: int
    data: bytes
    accepted: int = 0
    rejected: int = 0
    refused: str = ""
    """Reason with which the stream ends."""
    fields: dict[str, Any] = field(default_factory=dict)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


GOOD = b'{"message":"fine"}\n'
MESSAGE = b"<13>1 2026-11-24T10:00:00Z host app - - - hello"
CASES = {
    "invalid UTF-8 in a line": Case(Kind.KIND_NDJSON, GOOD + b'{"message":"\xff\xfe"}\n' + GOOD, 2, 1),
    "invalid UTF-8 in text": Case(Kind.KIND_TEXT, b"fine\n\xff\xfe broken\nfine\n", 3),
    "an escaped NUL": Case(Kind.KIND_NDJSON, b'{"message":"a\\u0000b"}\n', 1),
    "raw NUL bytes": Case(Kind.KIND_NDJSON, GOOD + b"\0\0\0\0\n" + GOOD, 2, 1),
    "NUL bytes in text": Case(Kind.KIND_TEXT, b"a\0b\nfine\n", 2),
    "half of a surrogate pair": Case(Kind.KIND_NDJSON, GOOD + b'{"message":"\\ud800"}\n', 1, 1),
    "10,000 columns": Case(
        Kind.KIND_CSV, b",".join(b"c%d" % n for n in range(10_000)) + b"\n" + b",".join([b"1"] * 10_000) + b"\n", 1
    ),
    "more columns than are read": Case(
        Kind.KIND_CSV, b",".join(b"c%d" % n for n in range(10_001)) + b"\n" + b"1\n", refused="FORMAT_INVALID"
    ),
    "10,000 keys": Case(Kind.KIND_NDJSON, json.dumps({f"k{n}": n for n in range(10_000)}).encode() + b"\n", 1),
    "deep nesting": Case(Kind.KIND_NDJSON, GOOD + nested(100_000) + b"\n" + GOOD, 2, 1),
    "deep nesting in a document": Case(Kind.KIND_JSON, b"[" + nested(20_000) + b"," + GOOD + b"]", 1, 1),
    "brackets that never close": Case(Kind.KIND_JSON, b"[" * 10_000, 0, 1),
    "huge numbers": Case(Kind.KIND_NDJSON, b'{"a":1e999,"b":%d,"c":-0.0,"d":1e-400}\n' % 10**400, 1),
    "a number that is none": Case(Kind.KIND_NDJSON, GOOD + b'{"a":NaN}\n{"a":01}\n', 1, 2),
    "duplicate keys": Case(Kind.KIND_NDJSON, b'{"message":"first","message":"last"}\n', 1),
    "ragged rows": Case(Kind.KIND_CSV, b"a,b\n1,2\n3\n4,5,6\n7,8\n", 3, 1),
    "a quote that never closes": Case(Kind.KIND_CSV, b'a,b\n1,2\n"3,4\n5,6\n', 2, 1),
    "frames with lying lengths": Case(
        Kind.KIND_SYSLOG,
        b"%d %s" % (len(MESSAGE), MESSAGE) + b"3 %s" % MESSAGE + b"%d %s" % (len(MESSAGE), MESSAGE),
        3,
        1,
        fields={"options": {"framing": "octet"}},
    ),
    "a frame that ends too soon": Case(
        Kind.KIND_SYSLOG,
        b"%d %s" % (len(MESSAGE), MESSAGE) + b"999999 %s" % MESSAGE,
        1,
        1,
        fields={"options": {"framing": "octet"}},
    ),
    "no frames at all": Case(Kind.KIND_SYSLOG, b"\xff" * 5_000, 0, 1, fields={"options": {"framing": "octet"}}),
    "another unicode": Case(Kind.KIND_UNSPECIFIED, "hello".encode("utf-16") * 9, refused="FORMAT_INVALID"),
    "binary data": Case(Kind.KIND_UNSPECIFIED, bytes(5_000), refused="FORMAT_INVALID"),
    "Arrow that isn't named": Case(
        Kind.KIND_UNSPECIFIED, b"\xff\xff\xff\xff" + struct.pack("<i", 64) + bytes(64), refused="FORMAT_INVALID"
    ),
    "an unknown pattern": Case(
        Kind.KIND_TEXT, b"hello\n", refused="FORMAT_INVALID", fields={"options": {"pattern": "nope"}}
    ),
    "a regex that doesn't compile": Case(
        Kind.KIND_TEXT, b"hello\n", refused="FORMAT_INVALID", fields={"options": {"regex": "(?P<a>("}}
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_bad_records_become_dead_letters_and_bad_sources_are_refused(
    server: IngestServer, source: str, name: str
) -> None:
    async with neighbour(server):
        await check(server, CASES[name], f"{source} whole", MIB)
        if not CASES[name].refused:
            # A client that goes on writing when its stream was ended makes itself an error of that.
            await check(server, CASES[name], f"{source} pieces", 4_001)


async def check(server: IngestServer, case: Case, source: str, payload_bytes: int) -> None:
    pieces = [batch(o, case.data[o : o + payload_bytes]) for o in range(0, len(case.data), payload_bytes)]
    requests = [opening(source, kind=case.kind, **case.fields), *pieces, FINISH]
    if case.refused:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.append(requests)
        assert reason_of_call(caught.value) == case.refused
        assert await server.bodies_of(source) == []
        return
    sent = Sent(await server.append(requests))
    assert (sent.finished.accepted_count, sent.finished.rejected_count) == (case.accepted, case.rejected)
    assert len(await server.bodies_of(source)) == case.accepted
    assert len(sent.row_errors) == case.rejected
    listed = await server.stub.ListDeadLetters(pb.ListDeadLettersRequest(source_id=source))
    assert len(listed.dead_letters) == case.rejected
    assert all(letter.reason and letter.raw_bytes_count for letter in listed.dead_letters)


@pytest.mark.parametrize("kind", [Kind.KIND_NDJSON, Kind.KIND_TEXT, Kind.KIND_CSV])
async def test_a_line_of_64_megabytes_costs_one_dead_letter(server: IngestServer, source: str, kind: int) -> None:
    first = b"message\nfine\n" if kind == Kind.KIND_CSV else b'{"message":"fine"}\n'
    size = 64 * MIB

    async def requests() -> AsyncIterator[pb.AppendRequest]:
        yield opening(source, kind=kind)
        yield batch(0, first)
        piece = b"x" * (4 * MIB)
        for n in range(size // len(piece)):
            yield batch(len(first) + n * len(piece), piece)
        yield batch(len(first) + size, b"\n" + first.splitlines(keepends=True)[-1])
        yield FINISH

    async with neighbour(server):
        sent = Sent(await server.append(requests()))
    assert (sent.finished.accepted_count, sent.finished.rejected_count) == (2, 1)
    assert "limit" in sent.row_errors[0].reason
    (letter,) = (await server.stub.ListDeadLetters(pb.ListDeadLettersRequest(source_id=source))).dead_letters
    assert letter.raw_bytes_count == MIB


async def test_a_stream_that_breaks_inside_an_over_long_line_passes_over_the_rest(pki: Pki, tmp_path: Path) -> None:
    data = GOOD + b"x" * (3 * MIB) + b"\n" + GOOD
    cut = 2 * MIB
    async with ingest_server(pki, tmp_path) as server:
        requests = [opening("s", kind=Kind.KIND_NDJSON), batch(0, data[:cut])]
        first = Sent(await server.append(requests)).of("ack")[-1]
        assert (first.next_offset, first.accepted_count, first.rejected_count) == (cut, 1, 1)
    async with ingest_server(pki, tmp_path) as server:
        sent = Sent(await server.append([opening("s", kind=Kind.KIND_NDJSON), batch(cut, data[cut:]), FINISH]))
        assert (sent.finished.accepted_count, sent.finished.rejected_count) == (1, 0)
        assert await server.bodies() == ["fine", "fine"]


@pytest.mark.parametrize(
    "kind",
    [Kind.KIND_UNSPECIFIED, Kind.KIND_NDJSON, Kind.KIND_JSON, Kind.KIND_CSV, Kind.KIND_SYSLOG, Kind.KIND_TEXT,
     Kind.KIND_ARROW, Kind.KIND_OTLP],
)  # fmt: skip
async def test_an_empty_source_is_finished_and_may_grow(server: IngestServer, source: str, kind: int) -> None:
    sent = Sent(await server.append([opening(source, kind=kind), FINISH]))
    assert (sent.finished.accepted_count, sent.finished.rejected_count, sent.finished.next_offset) == (0, 0, 0)
    if kind not in (Kind.KIND_ARROW, Kind.KIND_OTLP, Kind.KIND_CSV, Kind.KIND_JSON):
        later = Sent(await server.append([opening(source, kind=kind), batch(0, MESSAGE + b"\n"), FINISH]))
        assert later.finished.accepted_count + later.finished.rejected_count == 1


async def test_times_out_of_range_are_kept_beside_the_observed_time(server: IngestServer, source: str) -> None:
    years = ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "99999-01-01T00:00:00Z"]
    data = b"".join(json.dumps({"time": year, "message": year}).encode() + b"\n" for year in years)
    data += b'{"time":1e300,"message":"number"}\n{"time":-1,"message":"negative"}\n'
    sent = await server.send(source, data, kind=Kind.KIND_NDJSON)
    assert sent.finished.accepted_count == 6
    for record in await server.records_of(source):
        assert record["time"] == record["observed_time"]
        assert record["time_flags"] & (TimeFlag.OUT_OF_RANGE | TimeFlag.MISSING)
        kept = {**dict(record["attributes"]), **dict(record["attributes_number"])}
        assert "time.original" in kept


async def test_of_duplicate_keys_the_last_counts(server: IngestServer, source: str) -> None:
    await server.send(source, b'{"message":"first","n":1,"message":"last","n":"two"}\n', kind=Kind.KIND_NDJSON)
    (record,) = await server.records_of(source)
    assert record["body"] == "last"
    assert dict(record["attributes"]) == {"n": "two"}


def arrow_stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


ARROW = arrow_stream(pa.table({"message": ["a", "b"], "n": [1, 2]}))
OTLP = logs_service_pb2.ExportLogsServiceRequest(
    resource_logs=[
        logs_pb2.ResourceLogs(scope_logs=[logs_pb2.ScopeLogs(log_records=[logs_pb2.LogRecord(), logs_pb2.LogRecord()])])
    ]
).SerializeToString()
BOMB = arrow_stream(pa.table({"message": pa.array(["x" * MIB] * 80)}), compression="zstd")
HUGE_DICTIONARY = arrow_stream(
    pa.table({"message": pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * MIB]))}),
    compression="zstd",
)
PAYLOADS = {
    "garbage": (Kind.KIND_ARROW, b"\x07" * 500, 1, "FORMAT_INVALID"),
    "truncated": (Kind.KIND_ARROW, ARROW[: len(ARROW) // 2], 2, "FORMAT_INVALID"),
    "a length that lies": (
        Kind.KIND_ARROW,
        ARROW[:4] + struct.pack("<i", 2**31 - 8) + ARROW[8:],
        2,
        "FORMAT_INVALID",
    ),
    "a negative length": (Kind.KIND_ARROW, ARROW[:4] + struct.pack("<i", -8) + ARROW[8:], 2, "FORMAT_INVALID"),
    "a count that lies": (Kind.KIND_ARROW, ARROW, 3, "INVALID_ARGUMENT"),
    "a compressed bomb": (Kind.KIND_ARROW, BOMB, 80, "RECORD_TOO_LARGE"),
    "a dictionary bomb": (Kind.KIND_ARROW, HUGE_DICTIONARY, 1000, "RECORD_TOO_LARGE"),
    "no protobuf": (Kind.KIND_OTLP, b"\xff" * 200, 5, "FORMAT_INVALID"),
    "protobuf cut short": (Kind.KIND_OTLP, b"\x0a\xff\x7f" + b"x" * 20, 5, "FORMAT_INVALID"),
    "a protobuf that explodes": (Kind.KIND_OTLP, b"\x0a\x84\x80\x80\x02\x12\x80\x80\x80\x02" + b"\x12\x00" * (2 * MIB - 16),
                                 2 * MIB - 16, "FORMAT_INVALID"),
}  # fmt: skip


@pytest.mark.parametrize("name", PAYLOADS)
async def test_a_bad_payload_is_refused_alone_and_the_stream_goes_on(
    server: IngestServer, source: str, name: str
) -> None:
    kind, payload, count, reason = PAYLOADS[name]
    good = ARROW if kind == Kind.KIND_ARROW else OTLP
    async with neighbour(server):
        talk = server.talk(opening(source, kind=kind), batch(0, good, next_offset=2))
        bad = batch(2, payload, next_offset=2 + count)
        behind = batch(2 + count, good, next_offset=4 + count)  # sent before the refusal is known
        await talk.write(bad, behind)
        nack = (await talk.until("nack")).nack
        assert (reason_of(nack.status), nack.offset) == (reason, 2)
        await talk.write(batch(2, good, next_offset=4), FINISH)
        finished = (await talk.until("finished")).finished
    assert (finished.accepted_count, finished.rejected_count, finished.next_offset) == (4, 0, 4)
    assert len(await server.bodies_of(source)) == 4


@pytest.mark.parametrize("payload_bytes", [MIB, 4_001])
async def test_a_json_record_over_the_limit_costs_one_dead_letter(
    server: IngestServer, source: str, payload_bytes: int
) -> None:
    data = b'[{"message":"fine"},{"message":"' + b"x" * (2 * MIB) + b'"},{"message":"behind"}]'
    async with neighbour(server):
        sent = await server.send(source, data, payload_bytes=payload_bytes, kind=Kind.KIND_JSON)
    # A document can't be entered again in its middle: if the record was given up before its end came, the rest is, too.
    assert sent.finished.rejected_count == 1
    assert sent.finished.accepted_count == 2 or "passed over" in sent.row_errors[0].reason


async def test_a_foreign_arrow_schema_is_mapped_as_json_would_be(server: IngestServer, source: str) -> None:
    table = pa.table(
        {
            "msg": ["hello"],
            "level": ["warn"],
            "when": pa.array([None], pa.timestamp("s")),
            "nested": pa.array([{"a": 1, "b": ["x"]}]),
            "blob": pa.array([b"\xff\x00"], pa.binary()),
            "price": pa.array([1], pa.decimal128(38, 2)),
        }
    )
    sent = Sent(
        await server.append(
            [opening(source, kind=Kind.KIND_ARROW), batch(0, arrow_stream(table), next_offset=1), FINISH]
        )
    )
    assert sent.finished.accepted_count == 1
    (record,) = await server.records_of(source)
    assert (record["body"], record["severity"]) == ("hello", 13)


REFUSED_OPENINGS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown zone": ({"defaults": source_pb2.SourceDefaults(time_zone="Mars/Olympus")}, "open.defaults.time_zone"),
    "a zone that is a folder": ({"defaults": source_pb2.SourceDefaults(time_zone="Europe")}, "open.defaults.time_zone"),
    "a zone that climbs": (
        {"defaults": source_pb2.SourceDefaults(time_zone="../../etc/passwd")},
        "open.defaults.time_zone",
    ),
    "a year beyond time": (
        {"defaults": source_pb2.SourceDefaults(reference_time=Timestamp(seconds=253402300799))},
        "open.defaults.reference_time",
    ),
    "no time at all": (
        {"defaults": source_pb2.SourceDefaults(reference_time=Timestamp(seconds=-(2**62), nanos=-5))},
        "open.defaults.reference_time",
    ),
    "an unknown dataset": ({"defaults": source_pb2.SourceDefaults(dataset="nope")}, "open.defaults.dataset"),
    "an odd dataset": ({"defaults": source_pb2.SourceDefaults(dataset="No Such!")}, "open.defaults.dataset"),
    "an odd mark": ({"defaults": source_pb2.SourceDefaults(tlp="purple")}, "open.defaults.tlp"),
    "a short hash": ({"dump": source_pb2.Dump(name="d", content_sha256=b"1")}, "open.dump.content_sha256"),
}


@pytest.mark.parametrize("name", REFUSED_OPENINGS)
async def test_an_open_that_cannot_be_is_refused_and_names_the_field(server: IngestServer, name: str) -> None:
    fields, path = REFUSED_OPENINGS[name]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.append([opening("s", **fields)])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert path in str(caught.value.details())


@pytest.mark.parametrize(
    "name", ["\0", " ", "a/../b", "..", "日本語 🌋", "\u202eevil", "a\nb\r\n", "'; DROP TABLE logs; --", "x" * 512]
)
async def test_source_ids_of_odd_characters_are_names_like_any_other(server: IngestServer, name: str) -> None:
    sent = await server.send(name, GOOD, kind=Kind.KIND_NDJSON)
    assert sent.finished.accepted_count == 1
    answer = await server.stub.GetSource(pb.GetSourceRequest(source_id=name))
    assert (answer.source.source_id, answer.source.next_offset) == (name, len(GOOD))
    assert await server.bodies_of(name) == ["fine"]


@pytest.mark.parametrize("name", ["", "x" * 513])
async def test_source_ids_out_of_bounds_are_refused(server: IngestServer, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.append([opening(name)])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def raw_append(server: IngestServer, messages: Sequence[bytes], **how: Any) -> list[pb.AppendResponse]:
    call: Any = server.channel.stream_stream(
        "/heimdall.ingest.v1.IngestService/Append", response_deserializer=pb.AppendResponse.FromString
    )
    return [response async for response in call(iter(messages), timeout=20, **how)]


OPEN = opening("raw", kind=Kind.KIND_NDJSON).SerializeToString()
RAW = {
    "garbage first": ([b"\xff\xff\xff"], grpc.StatusCode.INVALID_ARGUMENT),
    "an empty message": ([b""], grpc.StatusCode.INVALID_ARGUMENT),
    "garbage later": ([OPEN, b"\xff\xff\xff"], grpc.StatusCode.INVALID_ARGUMENT),
    "a name that isn't UTF-8": ([b"\x0a\x04\x0a\x02\xff\xfe"], grpc.StatusCode.INVALID_ARGUMENT),
    "open twice": ([OPEN, OPEN], grpc.StatusCode.FAILED_PRECONDITION),
    "nothing": ([], grpc.StatusCode.FAILED_PRECONDITION),
    "a payload one byte too large": (
        [OPEN, batch(0, b"x" * (4 * MIB + 1)).SerializeToString()],
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "a message that is too large": (
        [OPEN, batch(0, b"x" * (5 * MIB)).SerializeToString()],
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ),
    "a negative offset": (
        [OPEN, batch(-1, b"x").SerializeToString()],
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "an empty payload": ([OPEN, batch(0, b"").SerializeToString()], grpc.StatusCode.INVALID_ARGUMENT),
    "gzip that lies about its size": (
        [OPEN, gzip.compress(b"x" * 100_000)[:-4] + struct.pack("<I", 10)],
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "gzip cut short": ([OPEN, gzip.compress(bytes(range(256)) * 99)[:-20]], grpc.StatusCode.INVALID_ARGUMENT),
}


@pytest.mark.parametrize("name", RAW)
async def test_messages_that_break_the_contract_end_their_stream_only(server: IngestServer, name: str) -> None:
    messages, code = RAW[name]
    async with neighbour(server):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_append(server, messages)
    assert caught.value.code() is code
    assert server.rpc.inflight.used_bytes == 0


async def test_a_gzip_bomb_is_refused_before_it_is_inflated(server: IngestServer) -> None:
    bomb = batch(0, bytes(20 * MIB)).SerializeToString()
    assert len(gzip.compress(bomb)) < 64 * 1024
    async with neighbour(server):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_append(server, [OPEN, bomb], compression=grpc.Compression.Gzip)
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_a_compressed_batch_is_taken_like_any_other(server: IngestServer, source: str) -> None:
    messages = [
        opening(source, kind=Kind.KIND_NDJSON).SerializeToString(),
        batch(0, GOOD * 1_000).SerializeToString(),
        FINISH.SerializeToString(),
    ]
    responses = await raw_append(server, messages, compression=grpc.Compression.Gzip)
    assert responses[-1].finished.accepted_count == 1_000


@pytest.mark.parametrize(
    ("offset", "next_offset", "reason"),
    [(5, 5, "INVALID_ARGUMENT"), (5, 4, "INVALID_ARGUMENT"), (0, 2**62, "INVALID_ARGUMENT"),
     (2**62, 2**62 + 19, "OFFSET_GAP"), (1, 20, "OFFSET_GAP")],
)  # fmt: skip
async def test_wrong_offsets_are_refused_and_the_right_ones_still_work(
    server: IngestServer, source: str, offset: int, next_offset: int, reason: str
) -> None:
    wrong = batch(offset, GOOD, next_offset=next_offset)
    sent = Sent(await server.append([opening(source, kind=Kind.KIND_NDJSON), wrong, batch(0, GOOD), FINISH]))
    (nack,) = sent.of("nack")
    assert reason_of(nack.status) == reason
    assert sent.finished.accepted_count == 1


async def test_a_source_of_bad_lines_costs_no_more_than_one_of_good_ones(server: IngestServer, source: str) -> None:
    count = 300_000
    async with neighbour(server):
        sent = await server.send(source, b"x\n" * count, kind=Kind.KIND_NDJSON)
    assert sent.finished.rejected_count == count
    assert all(len(ack.row_errors) <= 100 for ack in sent.of("ack"))
    letters = [one for frame in await server.frames() for one in frame.entry.dead_letters if one.key.source == source]
    assert len(letters) < 2_000
    assert b"\n".join(letter.raw for letter in letters).count(b"x") == count
