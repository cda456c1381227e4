"""The rows that are measured: distinct, a realistic mix, 40 % with personal data, in the three wire forms."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import google_crc32c
import polars as pl
import pyarrow as pa
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from heimdall_client.samples import sample_ndjson

PAYLOAD_BYTES = 1024 * 1024
ARROW_ROWS = 20_000
OTLP_ROWS = 5_000
_SEVERITIES = {"DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}


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
    """Append batches that can be sent again and again behind one another."""

    kind: source_pb2.Format.Kind.ValueType
    batches: Sequence[tuple[int, bytes, int]]
    """Offset units, payload and its CRC-32C."""


def ndjson_round(ndjson: bytes, payload_bytes: int = PAYLOAD_BYTES) -> Round:
    """Batches of about 1 MiB, cut anywhere."""
    payloads = [ndjson[offset : offset + payload_bytes] for offset in range(0, len(ndjson), payload_bytes)]
    return _round(source_pb2.Format.KIND_NDJSON, [(len(payload), payload) for payload in payloads])


def paced_round(ndjson: bytes, rows_per_batch: int) -> Round:
    """Batches of whole lines."""
    lines = ndjson.splitlines(keepends=True)
    payloads = [b"".join(lines[i : i + rows_per_batch]) for i in range(0, len(lines), rows_per_batch)]
    return _round(source_pb2.Format.KIND_NDJSON, [(len(payload), payload) for payload in payloads])


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
        batches.append((part.num_rows, sink.getvalue().to_pybytes()))
    return _round(source_pb2.Format.KIND_ARROW, batches)


def otlp_requests(frame: pl.DataFrame) -> list[bytes]:
    """Encoded Export requests of 5,000 records."""
    return [_export(frame.slice(offset, OTLP_ROWS)) for offset in range(0, frame.height, OTLP_ROWS)]


def _export(part: pl.DataFrame) -> bytes:
    request = logs_service_pb2.ExportLogsServiceRequest()
    for (service, host), rows in part.group_by(["service", "host"], maintain_order=True):
        resource = request.resource_logs.add()
        resource.resource.attributes.append(_pair("service.name", str(service)))
        resource.resource.attributes.append(_pair("host.name", str(host)))
        records = resource.scope_logs.add().log_records
        for row in rows.iter_rows(named=True):
            record = records.add(
                time_unix_nano=int(time.mktime(time.strptime(row["time"][:19], "%Y-%m-%dT%H:%M:%S"))) * 10**9
                + int(row["time"][20:29]),
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
    return request.SerializeToString()


def _pair(key: str, value: str) -> common_pb2.KeyValue:
    return common_pb2.KeyValue(key=key, value=common_pb2.AnyValue(string_value=value))


def open_request(source: str, kind: source_pb2.Format.Kind.ValueType) -> pb.AppendRequest:
    """The first message of a stream."""
    return pb.AppendRequest(open=pb.AppendRequest.Open(source_id=source, format=source_pb2.Format(kind=kind)))


def batch_request(offset: int, next_offset: int, payload: bytes, crc32c: int) -> pb.AppendRequest:
    """One batch."""
    return pb.AppendRequest(
        batch=pb.AppendRequest.Batch(offset=offset, next_offset=next_offset, crc32c=crc32c, payload=payload)
    )


def _round(kind: source_pb2.Format.Kind.ValueType, batches: Sequence[tuple[int, bytes]]) -> Round:
    return Round(kind, [(size, payload, google_crc32c.value(payload)) for size, payload in batches])


def split(data: bytes, parts: int) -> Iterator[bytes]:
    """Cut NDJSON into about equal parts at line ends, for parallel streams."""
    start = 0
    for part in range(parts):
        end = len(data) if part == parts - 1 else data.rfind(b"\n", 0, len(data) * (part + 1) // parts) + 1
        yield data[start:end]
        start = end
