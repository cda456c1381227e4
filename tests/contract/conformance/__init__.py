"""Reads `cases.json`: what a query means, by example. Every store and the predicate pass every case."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from heimdall_server.domain.expression.tree import Query
from heimdall_server.language.instants import instant_text, parse_instant
from heimdall_server.language.parser import parse
from tests.support.random_records import TIME_NS, batch_of, record

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Case:
    """A query and what it gives."""

    name: str
    text: str
    query: Query
    rows: list[str] | None
    """Ids of the records that match, in time order."""
    table: list[dict[str, Any]] | None
    """Rows of an aggregation."""

    @property
    def ordered(self) -> bool:
        """The query says in which order its rows come."""
        return any(word in self.text for word in ("sort", "timechart", "top"))


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((Path(__file__).parent / "cases.json").read_text("utf-8"))
    return document


def nanoseconds(text: str) -> int:
    span = parse_instant(text, 0)
    assert span is not None
    return span[0]


def ids() -> list[str]:
    """Ids of the records; a record's row is its place here."""
    return list(_document()["records"])


def records() -> pa.RecordBatch:
    """The records, as columns of `POSITIONED_SCHEMA`."""
    made = []
    for row, values in enumerate(_document()["records"].values()):
        values = dict(values)
        for name in ("trace_id", "span_id"):
            if name in values:
                values[name] = bytes.fromhex(values[name])
        values["time"] = nanoseconds(values["time"]) if "time" in values else TIME_NS + row * SECOND_NS
        made.append(record(row, **values))
    return batch_of(made)


def _case(entry: Mapping[str, Any]) -> Case:
    now_ns = nanoseconds(entry.get("now", "2026-01-03T00:00:00Z"))
    query = parse(entry["query"], now_ns=now_ns, known_fields=entry.get("known_fields", ()))
    return Case(entry["name"], entry["query"], query, entry.get("rows"), entry.get("table"))


def row_cases() -> list[Case]:
    """Queries for records."""
    return [_case(entry) for entry in _document()["cases"]]


def table_cases() -> list[Case]:
    """Queries that aggregate."""
    return [_case(entry) for entry in _document()["tables"]]


def table_of(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
    """An aggregation's rows as the cases write them: times as text, whole seconds without a fraction."""
    arrays = {}
    for name in batch.schema.names:
        values = batch.column(name)
        if pa.types.is_timestamp(values.type):
            texts = [instant_text(value) for value in values.cast(pa.int64()).to_pylist()]
            arrays[name] = [text.replace(".000000000Z", "Z") for text in texts]
        else:
            arrays[name] = values.to_pylist()
    return [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]
