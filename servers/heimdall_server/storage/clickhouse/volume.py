"""How many records lie where in time: kept in memory, roughly, so that a query's cost is known before it is asked."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.datasets import AgeFrom, Dataset, PartitionUnit
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.storage.clickhouse.connection import Connection
from heimdall_server.storage.clickhouse.schema import Tables

HOUR_NS: Final = 3_600_000_000_000
DAY_NS: Final = 24 * HOUR_NS
_HOURS_MAX: Final = 96
_FOREVER_NS: Final = 2**63 - 1
Span = tuple[int, int]
"""First nanosecond and length of a piece of time; length 0: records of any time."""


class Volume:
    """Records by dataset and day, by hour where they came in lately. Belongs to the event loop."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Span, int]] = {}

    def replace(self, rows: Mapping[str, Mapping[Span, int]]) -> None:
        """Take what `counted_days` found."""
        self._rows = {name: dict(spans) for name, spans in rows.items()}

    def add(self, dataset: Dataset, batches: Sequence[pa.RecordBatch]) -> None:
        """Count what was inserted; a batch counts for the hour of its newest record."""
        spans = self._rows.setdefault(dataset.name, {})
        for batch in batches:
            span = (0, 0)
            if _is_daily(dataset):
                span = (int(pc.max(batch.column("time")).value) // HOUR_NS * HOUR_NS, HOUR_NS)
            spans[span] = spans.get(span, 0) + int(batch.num_rows)
        hours = sorted(span for span in spans if span[1] == HOUR_NS)
        for old in hours[: len(hours) - _HOURS_MAX if len(hours) > _HOURS_MAX else 0]:
            day = (old[0] // DAY_NS * DAY_NS, DAY_NS)
            spans[day] = spans.get(day, 0) + spans.pop(old)

    def between(self, time_range: TimeRange, names: Sequence[str]) -> int:
        """Records of some datasets in a time range, as if those of a span were spread evenly over what is past of it."""
        start = time_range.start_ns_inclusive or 0
        end = _FOREVER_NS if time_range.end_ns_exclusive is None else time_range.end_ns_exclusive
        now_ns = time.time_ns()
        total = 0.0
        for name in names or self._rows:
            for (first, length), rows in self._rows.get(name, {}).items():
                last = first + length
                if first < now_ns < last:
                    last = now_ns
                shared = min(end, last) - max(start, first)
                total += rows if not length else rows * max(0, shared) / (last - first)
        return round(total)


def counted_days(connection: Connection, tables: Tables, datasets: Mapping[str, Dataset]) -> dict[str, dict[Span, int]]:
    """Records by dataset and day, from the engine's books."""
    found = connection.table(
        "SELECT table, partition, sum(rows) AS n FROM system.parts WHERE active AND database = {database:String} "
        "AND table IN {tables:Array(String)} GROUP BY table, partition",
        {"database": tables.database, "tables": list(datasets)},
    ).to_pylist()
    rows: dict[str, dict[Span, int]] = {}
    for line in found:
        span = (0, 0)
        if _is_daily(datasets[line["table"]]):
            first = dt.datetime.fromisoformat(line["partition"]).replace(tzinfo=dt.UTC)
            span = (int(first.timestamp()) * 1_000_000_000, DAY_NS)
        spans = rows.setdefault(line["table"], {})
        spans[span] = spans.get(span, 0) + int(line["n"])
    return rows


def _is_daily(dataset: Dataset) -> bool:
    """Whether partitions are the days of the records' own time."""
    return dataset.age_from is AgeFrom.TIME and dataset.partition_unit is PartitionUnit.DAY
