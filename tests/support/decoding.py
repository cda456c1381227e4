"""A decode context, and batches as plain records."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pyarrow as pa

from heimdall_server.domain.decoding import DecodeContext, Decoded
from heimdall_server.domain.records import RECORD_SCHEMA

OBSERVED = dt.datetime(2024, 6, 10, 12, tzinfo=dt.UTC)
CONTEXT = DecodeContext(source="files/app.log", dataset="logs", observed_time_ns=int(OBSERVED.timestamp()) * 10**9)


def context(**changes: Any) -> DecodeContext:
    """The usual context with some fields changed."""
    return replace(CONTEXT, **changes)


def ns(moment: dt.datetime) -> int:
    """Nanoseconds since 1970."""
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000


def attributes(batch: pa.RecordBatch, kind: str = "attributes") -> list[dict[str, Any]]:
    """The attributes of each record, of all three types; a key that comes twice fails."""
    out: list[dict[str, Any]] = []
    for parts in zip(*(batch[name].to_pylist() for name in (kind, f"{kind}_number", f"{kind}_bool")), strict=True):
        pairs = [pair for part in parts for pair in part]
        assert len(dict(pairs)) == len(pairs), "a key comes twice"
        out.append(dict(pairs))
    return out


def check(decoded: Decoded) -> pa.RecordBatch:
    """The batch, after checking that it is exactly what the schema promises."""
    batch = decoded.batch
    batch.validate(full=True)
    assert batch.schema.equals(RECORD_SCHEMA)
    assert all(column.null_count == 0 for column in batch.columns)
    rows = [error.row for error in decoded.errors]
    assert rows == sorted(set(rows))
    return batch


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Records with attributes as dictionaries: what two ways of decoding must agree on."""
    maps = [name for name in batch.schema.names if pa.types.is_map(batch.schema.field(name).type)]
    return [{**row, **{name: dict(row[name]) for name in maps}} for row in batch.to_pylist()]
