"""What a watch does with records: lets rows through, or keeps aggregates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    And,
    Bucket,
    Compare,
    Expression,
    Operator,
    Or,
    Query,
    Stats,
)
from heimdall_server.domain.records import POSITIONED_SCHEMA
from heimdall_server.language.live import GROUPS_MAX, LiveAggregate
from heimdall_server.language.live_rows import RowPipeline


@dataclass(frozen=True, slots=True)
class Upsert:
    """Groups of one bucket."""

    batch: pa.RecordBatch
    bucket_ns: int | None


def with_datasets(query: Query, datasets: Sequence[str], configured: Sequence[str]) -> Query:
    """The query, narrowed to some datasets."""
    if set(datasets) >= set(configured):
        return query
    field = FieldRef(Scope.CORE, "dataset")
    wanted: Expression = Or(tuple(Compare(field, Operator.EQ, name) for name in datasets))
    return Query(And((query.filter, wanted)), query.stages)


class RowEvaluator:
    """Rows that match. Not thread-safe, but for one caller at a time from any thread."""

    aggregates = False

    def __init__(self, query: Query) -> None:
        """Compile.

        Raises:
            InvalidArgumentError: A stage has no meaning on a stream.
        """
        self._pipeline = RowPipeline(query)
        self.limit = self._pipeline.limit
        """Rows after which the watch ends; None: never."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of what `take` gives."""
        return self.take(POSITIONED_SCHEMA.empty_table().to_batches()[0]).schema

    def take(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that match, as the query shows them."""
        return self._pipeline.shown(self._pipeline(batch))


class AggregateEvaluator:
    """Aggregates, as upserts. Not thread-safe, but for one caller at a time from any thread."""

    aggregates = True

    def __init__(self, query: Query, *, horizon_ns: int = 0) -> None:
        """Compile.

        Args:
            query: Has exactly one `stats`.
            horizon_ns: Buckets that begin before it are closed: their records are no longer counted.

        Raises:
            InvalidArgumentError: A stage has no meaning on a stream.
        """
        self._live = LiveAggregate(query)
        place = next(index for index, stage in enumerate(query.stages) if isinstance(stage, Stats))
        stats = query.stages[place]
        buckets = [key for key in stats.by if isinstance(key, Bucket)] if isinstance(stats, Stats) else []
        self._bucket = buckets[0] if buckets else None
        self._ranked = place + 1 < len(query.stages)
        self._first_positions: dict[int, int] = {}
        self._dirty = False
        self.horizon_ns = horizon_ns
        self.late_count = 0
        """Records of closed buckets, which are in no value."""

    @property
    def by_bucket(self) -> bool:
        """Whether it counts by intervals of time, or all since the watch began."""
        return self._bucket is not None

    @property
    def schema(self) -> pa.Schema:
        """Columns of the upserts."""
        return self._live.rows().batch.schema

    def update(self, batch: pa.RecordBatch, position: int) -> None:
        """Count a frame's records in."""
        if self._bucket is not None:
            batch = self._open_only(batch)
            self._note_positions(batch, position)
        before = self._live.record_count
        self._live.update(batch)
        self._dirty = self._dirty or self._live.record_count != before
        if self._bucket is not None and self._live.group_count > GROUPS_MAX // 2:
            self._close_oldest()

    def upserts(self) -> Iterator[Upsert]:
        """What changed since the last call, a bucket at a time; a ranking is sent whole."""
        if not self._dirty:
            return
        self._dirty = False
        rows = self._live.rows() if self._ranked else self._live.changed()
        if self._bucket is None or self._bucket.name not in rows.batch.schema.names:
            if rows.batch.num_rows:
                yield Upsert(rows.batch, None)
            return
        starts = rows.batch.column(self._bucket.name).cast(pa.int64())
        for start in sorted(pc.unique(starts).to_pylist()):
            yield Upsert(rows.batch.filter(pc.equal(starts, start)), start)

    def resume_position(self, cursor: int) -> int:
        """The position after which a new reader must count to get every open bucket whole."""
        if self._bucket is None:
            return cursor
        return min(self._first_positions.values(), default=cursor + 1) - 1

    def _open_only(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not self.horizon_ns:
            return batch
        is_open = pc.greater_equal(batch.column("time").cast(pa.int64()), self.horizon_ns)
        self.late_count += int(batch.num_rows) - int(is_open.true_count)
        return batch if is_open.true_count == batch.num_rows else batch.filter(is_open)

    def _note_positions(self, batch: pa.RecordBatch, position: int) -> None:
        if self._bucket is None or not batch.num_rows:
            return
        times = batch.column("time").cast(pa.int64()).to_numpy(zero_copy_only=False)
        for start in np.unique(times - times % self._bucket.interval_ns).tolist():
            self._first_positions.setdefault(start, position)

    def _close_oldest(self) -> None:
        """Too many groups: the older half of the buckets is closed for good."""
        starts = sorted(self._first_positions)
        self.horizon_ns = starts[len(starts) // 2] if len(starts) > 1 else self.horizon_ns
        self._live.forget(before_ns=self.horizon_ns)
        self._first_positions = {s: p for s, p in self._first_positions.items() if s >= self.horizon_ns}


Evaluator = RowEvaluator | AggregateEvaluator


def evaluator_of(query: Query, *, horizon_ns: int = 0) -> Evaluator:
    """The evaluator that a query needs.

    Raises:
        InvalidArgumentError: A stage has no meaning on a stream.
    """
    if any(isinstance(stage, Stats) for stage in query.stages):
        return AggregateEvaluator(query, horizon_ns=horizon_ns)
    return RowEvaluator(query)
