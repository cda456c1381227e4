"""Rows for the wire: Arrow IPC or JSON, in messages of at most 1 MiB."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from heimdall.query.v1 import query_service_pb2 as pb

MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""No response message is larger: other people's clients refuse 4 MiB, and large ones stall a stream."""
_PAYLOAD_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 64 * 1024
"""Room for what stands around the rows."""
_ARROW_CHUNK_ROWS: Final = 8_192


def schema_out(schema: pa.Schema, encoding: pb.RowEncoding.ValueType) -> pb.SearchResponse.Schema:
    """Columns, and for Arrow the IPC schema message."""
    arrow = encoding != pb.ROW_ENCODING_JSON
    return pb.SearchResponse.Schema(
        columns=[pb.SearchResponse.Column(name=field.name, type=str(field.type)) for field in schema],
        arrow_schema=schema.serialize().to_pybytes() if arrow else b"",
    )


def batches_out(
    batch: pa.RecordBatch, encoding: pb.RowEncoding.ValueType, token: bytes
) -> Iterator[pb.SearchResponse.Batch]:
    """Messages for one batch; only the last carries the token, since it stands for all of them."""
    pieces = _json_pieces(batch) if encoding == pb.ROW_ENCODING_JSON else _arrow_pieces(batch)
    held: pb.SearchResponse.Batch | None = None
    for piece in pieces:
        if held is not None:
            yield held
        held = piece
    if held is not None:
        held.resume_token = token
        yield held


def _arrow_pieces(batch: pa.RecordBatch) -> Iterator[pb.SearchResponse.Batch]:
    waiting = [batch.slice(start, _ARROW_CHUNK_ROWS) for start in range(0, batch.num_rows, _ARROW_CHUNK_ROWS)][::-1]
    while waiting:
        piece = waiting.pop()
        if piece.nbytes <= 4 * _PAYLOAD_BYTES_MAX or piece.num_rows == 1:
            raw = piece.serialize()
            if raw.size <= _PAYLOAD_BYTES_MAX or piece.num_rows == 1:
                yield pb.SearchResponse.Batch(row_count=piece.num_rows, arrow_batch=raw.to_pybytes())
                continue
        half = piece.num_rows // 2
        waiting += [piece.slice(half), piece.slice(0, half)]


def _json_pieces(batch: pa.RecordBatch) -> Iterator[pb.SearchResponse.Batch]:
    rows: list[str] = []
    size = 0
    for text in json_rows(batch):
        length = len(text.encode()) + 8
        if rows and size + length > _PAYLOAD_BYTES_MAX:
            yield pb.SearchResponse.Batch(row_count=len(rows), json_rows=rows)
            rows, size = [], 0
        rows.append(text)
        size += length
    if rows:
        yield pb.SearchResponse.Batch(row_count=len(rows), json_rows=rows)


def json_rows(batch: pa.RecordBatch) -> Iterator[str]:
    """One JSON object a row: maps as objects, times as RFC 3339 with nanoseconds, ids as hex, missing as null."""
    names = batch.schema.names
    columns = [_plain(batch.column(index)) for index in range(batch.num_columns)]
    for values in zip(*columns, strict=True):
        yield json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False, separators=(",", ":"))


def _plain(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        utc = column.cast(pa.timestamp("ns", "UTC"))
        return [None if v is None else f"{v}Z" for v in pc.strftime(utc, format="%Y-%m-%dT%H:%M:%S").to_pylist()]
    if pa.types.is_map(kind):
        return [None if v is None else {k: _value(x) for k, x in v} for v in column.to_pylist()]
    if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_large_binary(kind):
        return [None if v is None or not any(v) else v.hex() for v in column.to_pylist()]
    return [_value(v) for v in column.to_pylist()]


def _value(value: object) -> object:
    """JSON has no NaN and no infinity; they travel as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return value
