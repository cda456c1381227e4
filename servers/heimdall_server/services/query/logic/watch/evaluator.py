"""What a watch does with records that match: lets them through, or counts them into the buckets that are open.

A bucket is open from its first record until a matching record comes that is newer than the bucket's end by `open_ns`;
then it is closed for good, and what comes for it later is late: counted as such, in no value. How new a record is, is
told by the earlier of its time and the moment it was observed, so that one stamp from the future closes nothing. What
is late depends on the records and their order only, not on how they are cut into batches: counting again from the first
record of the oldest open bucket, with closed ones left out, gives the same values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.errors import QueryCostError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.needs import split_at_stats
from heimdall_server.domain.expression.tree import (
    All,
    And,
    Bucket,
    Compare,
    Expression,
    Fields,
    Operator,
    Or,
    Query,
    Stats,
)
from heimdall_server.domain.records import POSITIONED_SCHEMA
from heimdall_server.language.live import GROUPS_MAX, LiveAggregate
from heimdall_server.language.live_rows import RowPipeline
from heimdall_server.language.predicate import compile_predicate

_Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Matched:
    """Rows that matched, as the query shows them, and where each stands."""

    shown: pa.RecordBatch
    keys: pa.RecordBatch
    """`position` and `row`."""

    @property
    def count(self) -> int:
        """How many."""
        return int(self.keys.num_rows)

    def slice(self, start: int, count: int) -> Matched:
        """Some of the rows."""
        return Matched(self.shown.slice(start, count), self.keys.slice(start, count))


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
        """Compile a query that `check_watchable` accepts."""
        self._pipeline = RowPipeline(query)
        self.limit = self._pipeline.limit
        """Rows after which the watch ends; None: never."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of what `take` gives."""
        nothing = pa.RecordBatch.from_pylist([], schema=POSITIONED_SCHEMA)
        return self.take([nothing]).shown.schema

    def take(self, batches: Sequence[pa.RecordBatch]) -> Matched:
        """The rows that match.

        Args:
            batches: `POSITIONED_SCHEMA`, in journal order; at least one.
        """
        shown: list[pa.RecordBatch] = []
        keys: list[pa.RecordBatch] = []
        for batch in batches:
            matching = self._pipeline(batch)
            if matching.num_rows or not shown:
                shown.append(self._pipeline.shown(matching))
                keys.append(matching.select(["position", "row"]))
        return Matched(pa.concat_batches(shown), pa.concat_batches(keys))


class AggregateEvaluator:
    """Aggregates, as upserts. Not thread-safe, but for one caller at a time from any thread."""

    aggregates = True
    limit: int | None = None
    """None: it never ends by itself."""

    def __init__(self, query: Query, *, open_ns: int, horizon_ns: int = 0) -> None:
        """Compile.

        Args:
            query: `check_watchable` accepts it.
            open_ns: How long a bucket stays open behind its end.
            horizon_ns: Buckets that begin before it are closed.
        """
        before, stats = split_at_stats(query)
        later = query.stages[len(before) + 1 :]
        keys = stats.by if isinstance(stats, Stats) else ()
        self._bucket = next((key for key in keys if isinstance(key, Bucket)), None)
        self._predicate = compile_predicate(query.filter)
        self._shown: list[str] | None = None
        stages = query.stages
        if self._bucket is not None:
            # A sort says nothing about upserts; which columns are shown is decided here, behind the split by bucket.
            stages = stages[: len(before) + 1]
            kept = [stage.fields for stage in later if isinstance(stage, Fields)]
            self._shown = [ref.name for ref in kept[-1]] if kept else None
        # The filter was applied before: what is counted here is what the filter let through.
        self._live = LiveAggregate(Query(All(), stages))
        self._is_ranked = self._bucket is None and bool(later)
        self._open_ns = open_ns
        self._newest_ns = 0
        self._firsts: dict[int, int] = {}
        self._has_changed = False
        self._was_withheld = False
        self.horizon_ns = horizon_ns
        self.late_count = 0
        """Records of closed buckets."""

    @property
    def by_bucket(self) -> bool:
        """Whether it counts by intervals of time, or all since the watch began."""
        return self._bucket is not None

    @property
    def schema(self) -> pa.Schema:
        """Columns of the upserts."""
        schema = self._live.rows().batch.schema
        return schema if self._shown is None else pa.schema([schema.field(name) for name in self._shown])

    def update(self, batches: Sequence[pa.RecordBatch], *, quiet: bool = False) -> list[Upsert]:
        """Count records in.

        Args:
            batches: `POSITIONED_SCHEMA`, in journal order.
            quiet: Say nothing of buckets that stay open.

        Returns:
            What must be sent before these records count as looked at: the last values of buckets that closed.

        Raises:
            QueryCostError: There are more groups than can be held.
        """
        for batch in batches:
            mask = self._predicate(batch)
            matching = batch if mask.true_count == batch.num_rows else batch.filter(mask)
            if self._bucket is not None:
                matching = self._open_only(matching, self._bucket.interval_ns)
            before = self._live.record_count
            self._live.update(matching)
            self._has_changed |= self._live.record_count != before
        if self._live.overflow_count:
            raise QueryCostError(
                f"the watch would hold more than {GROUPS_MAX} groups; group by fewer values, or by longer buckets"
            )
        return self._close(open_too=not quiet)

    def upserts(self) -> list[Upsert]:
        """What changed since the last call, a bucket at a time; a ranking is sent whole."""
        if self._bucket is not None:
            return self._changed(open_too=True)
        if not self._has_changed:
            return []
        self._has_changed = False
        batch = (self._live.rows() if self._is_ranked else self._live.changed()).batch
        return [Upsert(batch, None)] if batch.num_rows else []

    def resume_position(self, cursor: int) -> int:
        """The position after which a new reader must count to get every open bucket whole."""
        if self._bucket is None:
            return cursor
        return min(self._firsts.values(), default=cursor + 1) - 1

    def _open_only(self, batch: pa.RecordBatch, interval_ns: int) -> pa.RecordBatch:
        """The records that aren't late; notes the first position of each bucket."""
        if not batch.num_rows:
            return batch
        times = _nanoseconds(batch, "time")
        starts = times - times % interval_ns
        newness = np.minimum(times, _nanoseconds(batch, "observed_time"))
        newest = np.maximum.accumulate(np.concatenate(([self._newest_ns], newness)))
        self._newest_ns = int(newest[-1])
        is_open = (starts >= self.horizon_ns) & (starts + interval_ns > newest[:-1] - self._open_ns)
        late_count = int(batch.num_rows - np.count_nonzero(is_open))
        if late_count:
            self.late_count += late_count
            batch, starts = batch.filter(pa.array(is_open)), starts[is_open]
        positions = batch.column("position").to_numpy()
        unique, first = np.unique(starts, return_index=True)
        for start, position in zip(unique.tolist(), positions[first].tolist(), strict=True):
            self._firsts.setdefault(start, position)
        return batch

    def _close(self, *, open_too: bool) -> list[Upsert]:
        """Close what is old or too much; its last values come back."""
        if self._bucket is None:
            return []
        interval_ns = self._bucket.interval_ns
        horizon_ns = (self._newest_ns - self._open_ns) // interval_ns * interval_ns
        if self._live.group_count > GROUPS_MAX // 2 and len(self._firsts) > 1:
            # The older half goes, and with it room for as many groups again.
            horizon_ns = max(horizon_ns, sorted(self._firsts)[len(self._firsts) // 2])
        if horizon_ns <= self.horizon_ns or not any(start < horizon_ns for start in self._firsts):
            return []
        self.horizon_ns = horizon_ns
        upserts = self._changed(open_too=open_too)
        self._live.forget(before_ns=horizon_ns)
        self._firsts = {start: position for start, position in self._firsts.items() if start >= horizon_ns}
        return upserts

    def _changed(self, *, open_too: bool) -> list[Upsert]:
        """Changed groups by bucket; those of open buckets now, or with the next call."""
        if self._bucket is None or not (self._has_changed or self._was_withheld):
            return []
        changed = self._live.changed().batch
        batch = self._live.rows().batch if self._was_withheld else changed
        starts = _nanoseconds(batch, self._bucket.name)
        upserts = []
        for start in np.unique(starts).tolist():
            if open_too or start < self.horizon_ns:
                groups = batch.filter(pa.array(starts == start))
                upserts.append(Upsert(groups if self._shown is None else groups.select(self._shown), start))
        self._was_withheld = not open_too and (self._was_withheld or len(starts) > 0)
        self._has_changed = False
        return upserts


def _nanoseconds(batch: pa.RecordBatch, name: str) -> _Int64:
    column = pc.cast(batch.column(name), pa.int64())
    values: _Int64 = column.to_numpy(zero_copy_only=False)
    return values


Evaluator = RowEvaluator | AggregateEvaluator


def evaluator_of(query: Query, *, open_ns: int, horizon_ns: int = 0) -> Evaluator:
    """The evaluator that a query needs.

    Raises:
        InvalidArgumentError: A stage has no meaning on a stream.
    """
    if any(isinstance(stage, Stats) for stage in query.stages):
        return AggregateEvaluator(query, open_ns=open_ns, horizon_ns=horizon_ns)
    return RowEvaluator(query)
