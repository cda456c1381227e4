"""What a watch does with records that match: lets them through, or counts them into the buckets that are open.

Batches come one by one (`take`, `update`), or as an `Evaluation` that many watches share (`look`): what one of them
has found out about a batch, the others needn't find out again.

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
import pyarrow as pa

from heimdall_server.domain.errors import QueryCostError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.needs import split_at_stats
from heimdall_server.domain.expression.tree import (
    All,
    And,
    Bucket,
    Compare,
    Expression,
    Extract,
    Fields,
    Operator,
    Or,
    Query,
    Stats,
    Where,
)
from heimdall_server.domain.records import POSITIONED_SCHEMA
from heimdall_server.language.grouping import Span, bucket_starts, newness, span_of
from heimdall_server.language.live import GROUPS_MAX, LiveAggregate
from heimdall_server.language.live_rows import RowPipeline
from heimdall_server.language.lookup import Rows
from heimdall_server.language.shared_fields import SharedFields, take_rows
from heimdall_server.language.shared_filter import Evaluation, Interner, Plan
from heimdall_server.services.query.logic.watch.matched import Keys, Matched


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

    def __init__(self, query: Query, *, interner: Interner | None = None) -> None:
        """Compile.

        Args:
            query: `check_watchable` accepts it.
            interner: Of the filters that will look at batches together; None: its own.
        """
        self.refilter(query, interner or Interner())

    def refilter(self, query: Query, interner: Interner) -> None:
        """Let other rows through from here on. Not while it looks at some.

        Args:
            query: The same as before, but for the expressions in it.
            interner: As it was made with.
        """
        self._pipeline = RowPipeline(query)
        cut = next((place for place, stage in enumerate(query.stages) if isinstance(stage, Extract)), None)
        wheres = [stage.expression for stage in query.stages[:cut] if isinstance(stage, Where)]
        self.node = interner.node(And((query.filter, *wheres)) if wheres else query.filter)
        """Whom an `Evaluation` must know."""
        # What comes behind columns that the query makes itself nobody else can share.
        self._rest = None if cut is None else RowPipeline(Query(All(), query.stages[cut:]))
        self.shape = repr(query)
        """Who has the same finds the same."""
        self.limit = self._pipeline.limit
        """Rows after which the watch ends; None: never."""
        self._plan = Plan([self.node])

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
        return self.look_at([Evaluation(self._plan, SharedFields(batch)) for batch in batches])

    def look_at(self, batches: Sequence[Evaluation]) -> Matched:
        """As `take`, with batches whose plan knows `node`."""
        found = [self._look(batch) for batch in batches]
        some = [matched for matched in found if matched.count] or found[:1]
        if len(some) == 1:
            return some[0]
        return Matched(
            pa.concat_batches([matched.shown for matched in some]), Keys.joined(matched.keys for matched in some)
        )

    def _look(self, batch: Evaluation) -> Matched:
        """The rows of a batch that match: one object for all who ask the same."""
        fields = batch.fields
        found: Matched | None = fields.kept(self.shape)
        if found is None:
            rows = self.node.rows(batch)
            # Nothing is the same for all who would be shown the same columns.
            key = self.shape if len(rows) or not self.takes_plainly else ("nothing", self.columns)
            found = fields.kept(key)
            if found is None:
                found = self.taken(fields, rows)
                fields.keep(key, found)
        return found

    @property
    def takes_plainly(self) -> bool:
        """Whether what it shows of a row is columns of the batch, and nothing that the query makes of them."""
        return self._rest is None

    @property
    def columns(self) -> tuple[FieldRef, ...] | None:
        """What it shows; None: everything."""
        return self._pipeline.fields

    def taken(self, fields: SharedFields, rows: Rows) -> Matched:
        """Some rows of a batch as it shows them; in any order and more than once where it `takes_plainly`."""
        refs = self._pipeline.fields
        if self._rest is None and refs is not None:
            places = pa.array(rows)
            core = [ref.name for ref in refs if ref.scope is Scope.CORE]
            taken = fields.batch.select([*dict.fromkeys([*core, "position", "row"])]).take(places)
            columns = [
                taken.column(ref.name) if ref.scope is Scope.CORE else _displayed(fields, ref, places) for ref in refs
            ]
            return Matched(pa.RecordBatch.from_arrays(columns, names=[str(ref) for ref in refs]), Keys.of(taken))
        taken = take_rows(fields, rows)
        if self._rest is not None:
            taken = self._rest(taken)
        return Matched(self._pipeline.shown(taken), Keys.of(taken))


def _displayed(fields: SharedFields, ref: FieldRef, places: pa.Array) -> pa.Array:
    coded = fields.coded_display(ref)
    return coded.values.take(pa.array(coded.codes).take(places))


class AggregateEvaluator:
    """Aggregates, as upserts. Not thread-safe, but for one caller at a time from any thread."""

    aggregates = True
    limit: int | None = None
    """None: it never ends by itself."""

    def __init__(self, query: Query, *, open_ns: int, horizon_ns: int = 0, interner: Interner | None = None) -> None:
        """Compile.

        Args:
            query: `check_watchable` accepts it.
            interner: Of the filters that will look at batches together; None: its own.
            open_ns: How long a bucket stays open behind its end.
            horizon_ns: Buckets that begin before it are closed.
        """
        before, stats = split_at_stats(query)
        later = query.stages[len(before) + 1 :]
        keys = stats.by if isinstance(stats, Stats) else ()
        self._bucket = next((key for key in keys if isinstance(key, Bucket)), None)
        self._shown: list[str] | None = None
        if self._bucket is not None:
            # A sort says nothing about upserts; which columns are shown is decided here, behind the split by bucket.
            kept = [stage.fields for stage in later if isinstance(stage, Fields)]
            self._shown = [ref.name for ref in kept[-1]] if kept else None
        self._live = LiveAggregate(self._counted(query))
        self.refilter(query, interner or Interner())
        self._is_ranked = self._bucket is None and bool(later)
        self._open_ns = open_ns
        self._newest_ns = 0
        self._firsts: dict[int, int] = {}
        self._has_changed = False
        self._was_withheld = False
        self.horizon_ns = horizon_ns
        self.late_count = 0
        """Records of closed buckets."""

    def refilter(self, query: Query, interner: Interner) -> None:
        """Let other records through from here on; what was counted stays. Not while it looks at some.

        Args:
            query: The same as before, but for the expressions in it.
            interner: As it was made with.
        """
        before, _ = split_at_stats(query)
        self._filter = interner.node(query.filter)
        cut = next((place for place, stage in enumerate(before) if isinstance(stage, Extract)), len(before))
        self._wheres = [interner.node(stage.expression) for stage in before[:cut] if isinstance(stage, Where)]
        # What comes behind columns that the query makes itself nobody else can share.
        self._rest = RowPipeline(Query(All(), before[cut:])) if cut < len(before) else None
        self.node = interner.node(And((query.filter, *(where.expression for where in self._wheres))))
        """Whom an `Evaluation` must know."""
        self._plan = Plan([self.node])
        self._live.refilter(self._counted(query))

    def _counted(self, query: Query) -> Query:
        """What `LiveAggregate` does: the filter was applied before, and it counts what that let through."""
        stages = query.stages
        if self._bucket is not None:
            before, _ = split_at_stats(query)
            stages = stages[: len(before) + 1]
        return Query(All(), stages)

    @property
    def group_count(self) -> int:
        """Groups held."""
        return self._live.group_count

    @property
    def has_news(self) -> bool:
        """Whether there may be something for `upserts` to say."""
        return self._has_changed or self._was_withheld

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
        return self.look([Evaluation(self._plan, SharedFields(batch)) for batch in batches], quiet=quiet)

    def look(self, batches: Sequence[Evaluation], *, quiet: bool = False) -> list[Upsert]:
        """As `update`, with batches whose plan knows `node`."""
        for batch in batches:
            rows = self._filter.rows(batch)
            if self._bucket is not None:
                rows = self._open_only(batch.fields, rows, self._bucket.interval_ns)
            for where in self._wheres:
                rows = where.narrow(batch, rows)
            before = self._live.record_count
            if self._rest is None:
                self._live.absorb(batch.fields, rows)
            else:
                self._live.update(take_rows(batch.fields, rows))
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

    def _open_only(self, fields: SharedFields, rows: Rows, interval_ns: int) -> Rows:
        """The records that aren't late; notes the first position of each bucket."""
        if not len(rows):
            return rows
        span = span_of(fields, rows, interval_ns)
        newest_ns = max(self._newest_ns, span.newest_ns)
        first_ns = span.starts[0]
        if first_ns < self.horizon_ns or first_ns + interval_ns <= newest_ns - self._open_ns:
            # Something may be late: which records, their order says.
            starts = bucket_starts(fields, interval_ns)[rows]
            newest = np.maximum.accumulate(np.concatenate(([self._newest_ns], newness(fields)[rows])))
            is_open = (starts >= self.horizon_ns) & (starts + interval_ns > newest[:-1] - self._open_ns)
            late_count = len(rows) - int(np.count_nonzero(is_open))
            if late_count:
                self.late_count += late_count
                rows = rows[is_open]
                span = span_of(fields, rows, interval_ns) if len(rows) else Span((), (), 0)
        self._newest_ns = newest_ns
        for start, position in zip(span.starts, span.positions, strict=True):
            self._firsts.setdefault(start, position)
        return rows

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
        starts = batch.column(self._bucket.name).cast(pa.int64()).to_numpy(zero_copy_only=False)
        upserts = []
        for start in np.unique(starts).tolist():
            if open_too or start < self.horizon_ns:
                groups = batch.filter(pa.array(starts == start))
                upserts.append(Upsert(groups if self._shown is None else groups.select(self._shown), start))
        self._was_withheld = not open_too and (self._was_withheld or len(starts) > 0)
        self._has_changed = False
        return upserts


Evaluator = RowEvaluator | AggregateEvaluator


def evaluator_of(query: Query, *, open_ns: int, horizon_ns: int = 0, interner: Interner | None = None) -> Evaluator:
    """The evaluator that a query needs; arguments are those of the evaluators.

    Raises:
        InvalidArgumentError: A stage has no meaning on a stream.
    """
    if any(isinstance(stage, Stats) for stage in query.stages):
        return AggregateEvaluator(query, open_ns=open_ns, horizon_ns=horizon_ns, interner=interner)
    return RowEvaluator(query, interner=interner)
