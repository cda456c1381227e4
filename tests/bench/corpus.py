"""The rows that are measured: distinct, a realistic mix, 40 % with personal data, in the three wire forms."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
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


def ndjson_requests(ndjson: bytes, source: str) -> list[pb.AppendRequest]:
    """Append requests of about 1 MiB, made beforehand."""
    requests = [_open(source, source_pb2.Format.KIND_NDJSON)]
    for offset in range(0, len(ndjson), PAYLOAD_BYTES):
        payload = ndjson[offset : offset + PAYLOAD_BYTES]
        requests.append(_batch(offset, offset + len(payload), payload))
    return [*requests, pb.AppendRequest(finish=pb.AppendRequest.Finish())]


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


def arrow_requests(frame: pl.DataFrame, source: str) -> list[pb.AppendRequest]:
    """Append requests of Arrow streams of 20,000 rows."""
    requests = [_open(source, source_pb2.Format.KIND_ARROW)]
    table = frame.with_columns(pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ns")).to_arrow()
    for offset in range(0, table.num_rows, ARROW_ROWS):
        part = table.slice(offset, ARROW_ROWS).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
        requests.append(_batch(offset, offset + part.num_rows, sink.getvalue().to_pybytes()))
    return [*requests, pb.AppendRequest(finish=pb.AppendRequest.Finish())]


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


def _open(source: str, kind: source_pb2.Format.Kind.ValueType) -> pb.AppendRequest:
    return pb.AppendRequest(open=pb.AppendRequest.Open(source_id=source, format=source_pb2.Format(kind=kind)))


def _batch(offset: int, next_offset: int, payload: bytes) -> pb.AppendRequest:
    return pb.AppendRequest(
        batch=pb.AppendRequest.Batch(
            offset=offset, next_offset=next_offset, crc32c=google_crc32c.value(payload), payload=payload
        )
    )


def split(data: bytes, parts: int) -> Iterator[bytes]:
    """Cut NDJSON into about equal parts at line ends, for parallel streams."""
    start = 0
    for part in range(parts):
        end = len(data) if part == parts - 1 else data.rfind(b"\n", 0, len(data) * (part + 1) // parts) + 1
        yield data[start:end]
        start = end


def ndjson_batches(payloads: list[bytes], source: str) -> list[pb.AppendRequest]:
    """Append requests with these payloads."""
    requests = [_open(source, source_pb2.Format.KIND_NDJSON)]
    offset = 0
    for payload in payloads:
        requests.append(_batch(offset, offset + len(payload), payload))
        offset += len(payload)
    return [*requests, pb.AppendRequest(finish=pb.AppendRequest.Finish())]
