"""Records as the store holds them, for what the journal has let go of: a slice of them, or all by their positions.

They are read page by page, so that no statement runs for long and none waits for the graph.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.errors import (
    BudgetExceededError,
    OverloadedError,
    QueryCostError,
    QueryTimeoutError,
    StoreError,
)
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    All,
    And,
    Compare,
    Exists,
    Expression,
    Not,
    Operator,
    Query,
    TimeRange,
)
from heimdall_server.domain.records import POSITIONED_SCHEMA, RECORD_SCHEMA
from heimdall_server.ports.log_store import Limits, LogStore, Order, RowKey, StoreQuery
from heimdall_server.projections.graph.facts import DAY_NS

SHARD: Final = 0
PAGE_ROWS: Final = 65_536
PAGE_LIMITS: Final = Limits(time_s=600.0, scan_rows=2**62, result_rows=PAGE_ROWS, threads=1, background=True)
_SPAN_MAX: Final = 1 << 20

Found = Sequence[tuple[int, pa.RecordBatch]]
"""Records by their positions, in their order; a position may come again with later rows."""


@dataclass(frozen=True, slots=True)
class Page:
    """All records of some positions."""

    first: int
    last: int
    found: Found


@dataclass(slots=True)
class StoredRecords:
    """See the module. All methods raise StoreError when the store fails or is too slow."""

    store: LogStore
    limits: Limits = field(default_factory=lambda: PAGE_LIMITS)
    span: int = 64
    """Positions of the next page."""

    async def of_slice(self, source: str, dump: str, day: int | None, *, through: int) -> AsyncIterator[Found]:
        """Records of a source's day, or of a dump.

        Args:
            source: Theirs.
            dump: Theirs; empty: of no dump.
            day: Of their time, since 1970 UTC; None: all.
            through: The last position.
        """
        asked = StoreQuery(
            Query(And((_is("source", source), _is("dump", dump)))),
            TimeRange() if day is None else TimeRange(day * DAY_NS, (day + 1) * DAY_NS),
            {SHARD: through},
            order=Order.OLDEST_FIRST,
            limits=self.limits,
        )
        after: RowKey | None = None
        while True:
            batches = await self._page(replace(asked, after=after))
            if batches:
                after = _key_of(batches[-1])
                yield await asyncio.to_thread(_by_position, batches)
            if sum(len(batch) for batch in batches) < self.limits.result_rows:
                return

    async def page(self, first: int, last: int) -> Page:
        """All records of some positions, from a first one on, as many as a page has room for.

        Args:
            first: Where it begins.
            last: Where it ends at the latest, inclusive.
        """
        while True:
            end = min(first + self.span - 1, last)
            limits = self.limits if end > first else replace(self.limits, result_rows=2**31)
            asked = StoreQuery(
                Query(All()),
                TimeRange(),
                {SHARD: end},
                after_positions={SHARD: first - 1},
                order=Order.JOURNAL,
                limits=limits,
            )
            batches = await self._page(asked)
            count = sum(len(batch) for batch in batches)
            if count >= limits.result_rows:  # there may be more, and a page has whole frames
                self.span = max(1, (end - first + 1) // 4)
                continue
            if count < limits.result_rows // 4:
                self.span = min(self.span * 4, _SPAN_MAX)
            return Page(first, end, await asyncio.to_thread(_by_position, batches) if batches else ())

    async def _page(self, asked: StoreQuery) -> list[pa.RecordBatch]:
        try:
            async with self.store.query(asked) as result:
                found = [batch.select(POSITIONED_SCHEMA.names) async for batch in result.batches()]
                cut_by = result.statistics.truncated_by
        except (QueryTimeoutError, QueryCostError, BudgetExceededError, OverloadedError) as error:
            raise StoreError(self.store.name, str(error)) from error
        if cut_by not in ("", "result_rows"):
            raise StoreError(self.store.name, f"records couldn't be read within {cut_by}")
        return found


def _is(name: str, value: str) -> Expression:
    field_ = FieldRef(Scope.CORE, name)
    return Compare(field_, Operator.EQ, value) if value else Not(Exists(field_))


def _key_of(batch: pa.RecordBatch) -> RowKey:
    time_ns, shard, position, row = (
        int(batch.column(name).cast(pa.int64())[-1].as_py()) for name in ("time", "shard", "position", "row")
    )
    return RowKey(time_ns, shard, position, row)


def _by_position(batches: Sequence[pa.RecordBatch]) -> Found:
    """Records in the order of the journal, cut where the position changes."""
    table = pa.Table.from_batches(batches).cast(POSITIONED_SCHEMA).combine_chunks()
    order = pc.sort_indices(table, sort_keys=[("position", "ascending"), ("row", "ascending")])
    records = table.take(order).combine_chunks().to_batches()[0]
    positions = np.asarray(records.column("position").to_numpy(), np.int64)
    records = records.select(RECORD_SCHEMA.names)
    starts = np.flatnonzero(np.diff(positions, prepend=-1))
    ends = np.append(starts[1:], len(positions))
    return [
        (int(positions[start]), records.slice(int(start), int(end - start)))
        for start, end in zip(starts, ends, strict=True)
    ]
