"""The rows that are measured: distinct, a realistic mix, 40 % with personal data, in the three wire forms."""

from __future__ import annotations

import io
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import google_crc32c
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from heimdall_client.samples import sample_ndjson
from tests.bench.stamps import EPOCH, RFC3339, Stamped, fractions

PAYLOAD_BYTES = 1024 * 1024
ARROW_ROWS = 20_000
OTLP_ROWS = 5_000
_BEGIN: Final = re.compile(rb'\{"time": ?(?P<quote>"?)')
_FRACTION: Final = len("2000-01-01T00:00:00.000")
_MARK: Final = 0x5AA5C33C
"""Upper half of what stands where an OTLP record's time goes."""
_MARKED: Final = re.compile(rb"\x09(?P<order>.{4})" + re.escape(_MARK.to_bytes(4, "little")), re.DOTALL)
_SEVERITIES: Final = {"DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}


@dataclass(frozen=True)
class Corpus:
    """The same rows in every form."""

    ndjson: bytes
    frame: pl.DataFrame
    row_count: int

    @classmethod
    def make(cls, row_count: int, *, seed: int) -> Corpus:
        """Generate the rows; not part of any measurement."""
        ndjson = b"".join(sample_ndjson(row_count, seed=seed, end_time_ns=time.time_ns(), span_s=6 * 3600))
        return cls(ndjson, pl.read_ndjson(io.BytesIO(ndjson)), row_count)


@dataclass(frozen=True)
class Round:
    """Append batches that can be sent again and again behind one another, each time as of now."""

    kind: source_pb2.Format.Kind.ValueType
    batches: Sequence[tuple[int, Stamped]]
    """Offset units, and the payload."""


def ndjson_round(ndjson: bytes, payload_bytes: int = PAYLOAD_BYTES) -> Round:
    """Batches of about 1 MiB, cut anywhere."""
    return _ndjson_round(ndjson, list(range(0, len(ndjson), payload_bytes)))


def paced_round(ndjson: bytes, rows_per_batch: int) -> Round:
    """Batches of whole lines."""
    starts = _line_starts(np.frombuffer(ndjson, np.uint8))
    return _ndjson_round(ndjson, starts[::rows_per_batch].tolist())


def _ndjson_round(ndjson: bytes, cuts: Sequence[int]) -> Round:
    begin = _BEGIN.match(ndjson)
    assert begin, "each line begins with its time"
    raw = np.frombuffer(bytearray(ndjson), np.uint8)
    places = _line_starts(raw) + begin.end()
    if begin["quote"]:
        raw[places[:, np.newaxis] + np.arange(_FRACTION, _FRACTION + 6)] = fractions(len(places))
    batches = []
    for start, end in itertools.pairwise([*cuts, len(ndjson)]):
        # The one before the first may reach into this payload.
        first, last = max(0, np.searchsorted(places, start) - 1), np.searchsorted(places, end)
        text = RFC3339 if begin["quote"] else EPOCH
        payload = Stamped.texts(raw[start:end].tobytes(), places[first:last] - start, text)
        batches.append((end - start, payload))
    return Round(source_pb2.Format.KIND_NDJSON, batches)


def _line_starts(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.flatnonzero(raw == ord("\n"))[:-1] + 1])


def sparse_ndjson(row_count: int) -> bytes:
    """Rows of which each carries 8 of 40 keys, numbers and texts."""
    lines = []
    for row in range(row_count):
        pairs = [
            f'"key_{(row * 7 + k * 5) % 40:02d}":{(row * k) % 997 if k % 2 else chr(34) + f"value {row % 613}" + chr(34)}'
            for k in range(8)
        ]
        seconds = 1_790_000_000 + row // 1000
        lines.append(f'{{"time":{seconds}.{row % 1000:03d},"message":"sparse row {row}",{",".join(pairs)}}}\n')
    return "".join(lines).encode()


def arrow_round(frame: pl.DataFrame) -> Round:
    """Batches of Arrow streams of 20,000 rows."""
    table = frame.with_columns(pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ns")).to_arrow()
    batches = []
    for offset in range(0, table.num_rows, ARROW_ROWS):
        part = table.slice(offset, ARROW_ROWS).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
        payload = sink.getvalue()
        times = pa.ipc.open_stream(payload).read_next_batch().column("time").buffers()[1]
        order = np.arange(part.num_rows)
        places = times.address - payload.address + 8 * order
        batches.append((part.num_rows, Stamped.binary(payload.to_pybytes(), places, order)))
    return Round(source_pb2.Format.KIND_ARROW, batches)


def otlp_requests(frame: pl.DataFrame) -> list[Stamped]:
    """Encoded Export requests of 5,000 records."""
    return [_export(frame.slice(offset, OTLP_ROWS)) for offset in range(0, frame.height, OTLP_ROWS)]


def _export(part: pl.DataFrame) -> Stamped:
    request = logs_service_pb2.ExportLogsServiceRequest()
    rows_of = part.with_row_index("order").group_by(["service", "host"], maintain_order=True)
    for (service, host), rows in rows_of:
        resource = request.resource_logs.add()
        resource.resource.attributes.append(_pair("service.name", str(service)))
        resource.resource.attributes.append(_pair("host.name", str(host)))
        records = resource.scope_logs.add().log_records
        for row in rows.iter_rows(named=True):
            record = records.add(
                time_unix_nano=_MARK << 32 | row["order"],
                severity_number=_SEVERITIES[row["level"]],
                severity_text=row["level"],
                trace_id=bytes.fromhex(row["trace_id"]),
            )
            record.body.string_value = row["message"]
            record.attributes.append(_pair("region", row["region"]))
            duration = record.attributes.add(key="duration_ms")
            duration.value.int_value = row["duration_ms"]
            cached = record.attributes.add(key="cached")
            cached.value.bool_value = row["cached"]
    payload = request.SerializeToString()
    marked = list(_MARKED.finditer(payload))
    assert len(marked) == part.height, "each record has one mark where its time goes"
    places = np.array([one.start("order") for one in marked])
    order = np.array([int.from_bytes(one["order"], "little") for one in marked])
    return Stamped.binary(payload, places, order)


def _pair(key: str, value: str) -> common_pb2.KeyValue:
    return common_pb2.KeyValue(key=key, value=common_pb2.AnyValue(string_value=value))


def open_request(source: str, kind: source_pb2.Format.Kind.ValueType) -> pb.AppendRequest:
    """The first message of a stream."""
    return pb.AppendRequest(open=pb.AppendRequest.Open(source_id=source, format=source_pb2.Format(kind=kind)))


def batch_request(offset: int, next_offset: int, payload: bytes) -> pb.AppendRequest:
    """One batch."""
    crc32c = google_crc32c.value(payload)
    return pb.AppendRequest(
        batch=pb.AppendRequest.Batch(offset=offset, next_offset=next_offset, crc32c=crc32c, payload=payload)
    )


def split(data: bytes, parts: int) -> Iterator[bytes]:
    """Cut NDJSON into about equal parts at line ends, for parallel streams."""
    start = 0
    for part in range(parts):
        end = len(data) if part == parts - 1 else data.rfind(b"\n", 0, len(data) * (part + 1) // parts) + 1
        yield data[start:end]
        start = end
