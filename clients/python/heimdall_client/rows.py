"""Rows of an answer: Arrow IPC messages to batches, batches to plain Python values."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from heimdall.query.v1 import query_service_pb2
from heimdall_client.errors import InputError

Row = dict[str, Any]


def read_schema(message: bytes) -> pa.Schema:
    """Schema of an answer, from its Arrow IPC message."""
    return pa.ipc.read_schema(pa.py_buffer(message))


def read_batch(schema_message: bytes, batch_message: bytes) -> pa.RecordBatch:
    """A record batch of an answer.

    Args:
        schema_message: Arrow IPC schema message, which came first.
        batch_message: Arrow IPC record batch message, with what dictionaries it needs before it.

    Raises:
        InputError: The bytes aren't that.
    """
    try:
        return pa.ipc.open_stream(pa.py_buffer(schema_message + batch_message)).read_next_batch()
    except (pa.ArrowInvalid, OSError, StopIteration) as error:
        name = "answer"
        raise InputError(name, f"not an Arrow record batch: {error}") from error


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """Rows as dicts.

    Times become aware `datetime`s, which hold microseconds: what lies below is cut (Arrow keeps it). Maps become
    dicts, ids lower-case hex, and an id of zeros, which means none, None.
    """
    lists = [_values(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*lists, strict=True)]


def rows_of_message(batch: query_service_pb2.SearchResponse.Batch, schema_message: bytes) -> list[Row]:
    """Rows of a batch message, in whichever encoding it is."""
    if batch.arrow_batch:
        return rows_of(read_batch(schema_message, batch.arrow_batch))
    return [json.loads(row) for row in batch.json_rows]


def _values(column: pa.Array) -> list[Any]:
    kind = column.type
    zone = dt.UTC if pa.types.is_timestamp(kind) and kind.tz else None
    values: list[Any] = (
        column.to_pylist(maps_as_pydicts="lossy") if pa.types.is_nested(kind) else _naive(column).to_pylist()
    )
    if pa.types.is_fixed_size_binary(kind):
        return [_id(value) for value in values]
    return [value and value.replace(tzinfo=zone) for value in values] if zone else values


def _naive(column: pa.Array) -> pa.Array:
    if not pa.types.is_timestamp(column.type):
        return column
    # Without a zone: for one with a zone pyarrow loads pandas, if it is there, which takes over a second.
    if column.type.unit == "ns":
        # cut, not rounded, and towards the past on both sides of 1970
        column = pc.floor_temporal(column, unit="microsecond")
    return column.cast(pa.timestamp("us", tz=column.type.tz)).view(pa.timestamp("us"))


def _id(value: bytes | None) -> str | None:
    return value.hex() if value and any(value) else None
