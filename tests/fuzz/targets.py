"""What is fuzzed: each target takes bytes and raises nothing, whatever they are.

A target swallows the errors that its subject is allowed to raise and asserts what must hold for any input; every other
exception, a failed assertion or a hang is a finding.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import pyarrow as pa
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

from heimdall.ingest.v1 import ingest_service_pb2
from heimdall_client.append_protocol import AppendProtocol, Phase
from heimdall_client.errors import HeimdallError as ClientError
from heimdall_server.decode import dispatch
from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.errors import HeimdallError
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.edge.http import bulk, loki_entries, otlp_json
from heimdall_server.edge.http.messages import RefusedError
from heimdall_server.edge.syslog.framing import Framer
from heimdall_server.language import format as language_format
from heimdall_server.language.parser import parse
from heimdall_server.language.sql import parse_sql
from heimdall_server.ports.journal import Frame
from heimdall_server.services.ingest import translate
from heimdall_server.services.ingest.logic import lane
from heimdall_server.services.ingest.logic.lane import Chunk, Fed, Lane
from heimdall_server.storage.journal import framing
from heimdall_server.storage.journal.control import decode_control
from tests.support.decoding import CONTEXT
from tests.support.journal import make_entry, opened, read_all, small_config

NOW_NS: Final = 1_800_000_000_000_000_000
KINDS: Final = (None, *FormatKind)
PIECES: Final = (1, 2, 3, 7, 16, 61, 256, 1 << 20)
FRAMES: Final = 6


def decode(data: bytes) -> None:
    """Any format, hinted or sniffed: the first byte says which, the second how it is cut. Pieces give what the whole gives."""
    if len(data) < 2:
        return
    hint, piece_bytes, payload = KINDS[data[0] % len(KINDS)], PIECES[data[1] % len(PIECES)], data[2:]
    if hint in (FormatKind.ARROW, FormatKind.OTLP):
        _decode_whole(payload, hint)
        return
    whole_format, whole = _fed(payload, hint, len(payload) or 1)
    pieces_format, pieces = _fed(payload, hint, max(piece_bytes, len(payload) // 16 + 1))
    for fed in (*whole, *pieces):
        _check_fed(fed)
    if whole_format is not None and whole_format == pieces_format and not _failed(whole) and not _failed(pieces):
        assert _counts(whole) == _counts(pieces), (
            f"{_counts(whole)} records and errors whole, {_counts(pieces)} in pieces"
        )
        if whole_format.kind is FormatKind.NDJSON:
            filled = sum(bool(line.strip()) for line in payload.split(b"\n"))
            assert sum(_counts(whole)) <= filled, f"{_counts(whole)} of {filled} lines"


def _decode_whole(payload: bytes, kind: FormatKind) -> None:
    try:
        decoded = dispatch.decode(payload, Format(kind), CONTEXT, at_start=True)
    except HeimdallError:
        return
    _check_batch(decoded.batch)
    if kind is FormatKind.OTLP:
        if decoded.errors and not decoded.batch.num_rows:
            return  # refused as a whole, which is told as an error of its first record
        try:
            request = logs_service_pb2.ExportLogsServiceRequest.FromString(payload)
        except DecodeError:
            return  # ours passes over a field that it doesn't know even where its number is none
        sent = sum(len(scope.log_records) for resource in request.resource_logs for scope in resource.scope_logs)
        assert decoded.record_count == sent, f"{decoded.record_count} of {sent} records"


def _fed(payload: bytes, hint: FormatKind | None, piece_bytes: int) -> tuple[Format | None, list[Fed]]:
    """As a stream feeds its lane; up to the first failure."""
    one = Lane(CONTEXT, 0, None, None if hint is None else Format(hint))
    fed: list[Fed] = []
    for begin in range(0, len(payload), piece_bytes):
        piece = payload[begin : begin + piece_bytes]
        fed.append(one.feed([Chunk(begin, begin + len(piece), piece)], observed_time_ns=NOW_NS, final=False))
        if fed[-1].failure is not None:
            return one.format, fed
    fed.append(one.feed([], observed_time_ns=NOW_NS, final=True))
    if fed[-1].failure is None:
        assert not one.tail, f"{len(one.tail)} bytes are held although the source is over"
        assert one.offset == len(payload), f"decided up to {one.offset} of {len(payload)}"
    return one.format, fed


def _check_fed(fed: Fed) -> None:
    if fed.failure is not None and not isinstance(fed.failure, HeimdallError):
        raise fed.failure
    for piece in fed.pieces:
        _check_batch(piece.batch)
    for error in fed.errors:
        assert error.reason != lane._BUG_REASON, "a decoder failed"


def _check_batch(batch: pa.RecordBatch) -> None:
    batch.validate(full=True)
    assert batch.schema.equals(RECORD_SCHEMA), "not the schema of records"
    assert all(column.null_count == 0 for column in batch.columns), "a null"


def _failed(feds: Sequence[Fed]) -> bool:
    return any(fed.failure is not None for fed in feds)


def _counts(feds: Sequence[Fed]) -> tuple[int, int]:
    return sum(fed.accepted_count for fed in feds), sum(len(fed.errors) for fed in feds)


def language(data: bytes) -> None:
    """Queries as text and as SQL. What is read can be written, and read again as the same."""
    text = data.decode("utf-8", "replace")
    for read in (parse, parse_sql):
        try:
            query = read(text, now_ns=NOW_NS)
        except HeimdallError:
            continue
        written = language_format.format_query(query)
        again = language_format.format_query(parse(written, now_ns=NOW_NS))
        assert again == written, f"{written!r} is read as {again!r}"


def journal(data: bytes) -> None:
    """The parts of a segment file, and a whole one in which bytes were changed: what is read was once written."""
    framing.peek_format_version(data)
    framing.unpack_head(data)
    framing.unpack_frame_header(data, data[:8])
    framing.foot_bytes(data[-framing.TRAILER_BYTES :], data[:8])
    framing.unpack_foot(data)
    with contextlib.suppress(DecodeError, HeimdallError):
        decode_control(data, None)
    if len(data) >= 3:
        asyncio.run(_damaged(data, *_segment()))


def _bodies(frames: Sequence[Frame]) -> list[str]:
    return [str(frame.entry.batch and frame.entry.batch.column("body").to_pylist()) for frame in frames]


@cache
def _segment() -> tuple[dict[str, bytes], list[str]]:
    """A small journal's files, and what is in it."""

    async def make(folder: Path) -> list[str]:
        async with opened(small_config(folder)) as written:
            for number in range(FRAMES):
                await written.append([make_entry(f"s{number}", rows=1)])
            return _bodies(await read_all(written))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        bodies = asyncio.run(make(path))
        return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}, bodies


async def _damaged(data: bytes, files: Mapping[str, bytes], bodies: Sequence[str]) -> None:
    """Three bytes an edit: two say where, one is what stands there then."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        path.mkdir(mode=0o700)
        for name, content in files.items():
            changed = bytearray(content)
            if name.endswith(".segment"):
                for begin in range(0, len(data) - 2, 3):
                    place = int.from_bytes(data[begin : begin + 2], "big") % len(changed)
                    changed[place] = data[begin + 2]
            (path / name).write_bytes(changed)
        try:
            async with opened(small_config(path)) as damaged:
                found = _bodies(await read_all(damaged))
        except HeimdallError:
            return
        assert found == bodies[: len(found)], f"{found} was never written"


def append_client(data: bytes) -> None:
    """The client's half of an Append stream, whatever the server says."""
    protocol = AppendProtocol(ingest_service_pb2.AppendRequest.Open(source_id="s"), chunk_bytes=16)
    protocol.connect()
    now_s = 0.0
    for message in _messages(data):
        if protocol.phase in (Phase.FINISHED, Phase.FAILED):
            return
        now_s += 1.0
        try:
            response = ingest_service_pb2.AppendResponse.FromString(message)
        except DecodeError:
            protocol.disconnect()
            protocol.connect()
            continue
        before = protocol.durable_offset
        try:
            protocol.receive(response)
        except ClientError:
            return
        if protocol.phase is Phase.STREAMING and protocol.has_room:
            protocol.write(b"x" * 64, now_s=now_s)
        assert before <= protocol.durable_offset <= protocol.written_offset, "acknowledged what wasn't written"
        for _ in range(8):
            if protocol.next_request(now_s) is None:
                break


def append_server(data: bytes) -> None:
    """The server's half, as far as words: from messages to values."""

    async def read() -> None:
        async for _ in translate.requests_in(_parsed(data), actor="spiffe://t/c", now_ns=lambda: NOW_NS):
            pass

    with contextlib.suppress(HeimdallError):
        asyncio.run(read())


async def _parsed(data: bytes) -> AsyncIterator[ingest_service_pb2.AppendRequest]:
    for message in _messages(data):
        try:
            yield ingest_service_pb2.AppendRequest.FromString(message)
        except DecodeError:
            return


def _messages(data: bytes) -> list[bytes]:
    """Each begins with a byte that says how long it is."""
    found = []
    while data:
        size = data[0]
        found.append(data[1 : 1 + size])
        data = data[1 + size :]
    return found


def http_bodies(data: bytes) -> None:
    """Bodies at the HTTP edge; the first byte says of which door."""
    if not data:
        return
    body = data[1:]
    try:
        match data[0] % 4:
            case 0:
                _decode_whole(otlp_json.to_protobuf(body), FormatKind.OTLP)
            case 1:
                _decode_lines(loki_entries.to_documents(loki_entries.of_json(body)))
            case 2:
                _decode_lines(loki_entries.to_documents(loki_entries.of_protobuf(body)))
            case _:
                bulk.answer(bulk.split(body, "logs"), [])
    except RefusedError:
        pass


def _decode_lines(documents: bytes) -> None:
    for fed in _fed(documents, FormatKind.NDJSON, len(documents) or 1)[1]:
        _check_fed(fed)


def syslog_frames(data: bytes) -> None:
    """Syslog over a connection: no byte of a message is lost by where it is cut."""
    if not data:
        return
    step = 1 + data[0] % 16
    framer = Framer()
    for begin in range(1, len(data), step):
        framer.feed(data[begin : begin + step])
    framer.finish()
    assert not framer.held_bytes


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "decode": decode,
    "language": language,
    "journal": journal,
    "append_client": append_client,
    "append_server": append_server,
    "http_bodies": http_bodies,
    "syslog_frames": syslog_frames,
}
