"""Keeps the `stats` of a query up to date over batches as they come, for watches.

Records are grouped in columns, by a library; Python touches a group of a batch at a time, never a record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.columns import Columns, key_name
from heimdall_server.domain.expression.fields import FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.needs import split_at_stats
from heimdall_server.domain.expression.tree import (
    Aggregate,
    Bucket,
    Fields,
    Function,
    GroupKey,
    Limit,
    Query,
    Sort,
    SortKey,
    Stage,
    Stats,
    Where,
)
from heimdall_server.domain.records import TIME_TYPE
from heimdall_server.language.aggregates import ROWS, State, new_state
from heimdall_server.language.live_rows import RowPipeline
from heimdall_server.language.lookup import BatchFields
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.language.sketches import hashes_of

GROUPS_MAX: Final = 10_000
"""Groups that one aggregate holds; records of further ones are counted as overflow."""

GroupValue: TypeAlias = str | int | float | None
"""Text (empty: missing), number, or nanoseconds of a time; None: missing."""
Key: TypeAlias = tuple[GroupValue, ...]


@dataclass(slots=True)
class _Group:
    """The state of one group."""

    states: list[State]
    revision: int = 0


@dataclass(slots=True)
class LiveRows:
    """Groups and their values at one moment."""

    batch: pa.RecordBatch
    """Group columns and aggregates under their names; null is missing."""
    revisions: list[int] = field(default_factory=list)
    """By row: goes up with each update of the group, from 1. Empty where later stages chose the rows."""
    approximate: frozenset[str] = frozenset()
    """Aggregates of which some value here is an estimate."""


class LiveAggregate:
    """The one `stats` of a query, kept up to date. Not thread-safe."""

    def __init__(self, query: Query, *, groups_max: int = GROUPS_MAX) -> None:
        """Compile the query.

        Args:
            query: Has a `stats`; `timechart` and `top` are ones, too. `check_query` accepts it.
            groups_max: Bound on groups, those of each bucket counted.

        Raises:
            InvalidArgumentError: It hasn't exactly one `stats`, or a sort or limit stands before it.
        """
        self._pipeline = RowPipeline(query)
        before, stats = split_at_stats(query)
        self._later = query.stages[len(before) + 1 :]
        if stats is None or any(isinstance(stage, Stats) for stage in self._later):
            raise InvalidArgumentError("query.stages", "a live aggregate has exactly one stats")
        if self._pipeline.limit is not None:
            raise InvalidArgumentError("query.stages", "a limit before stats has no meaning on a stream")
        columns = Columns()
        for stage in before:
            columns = columns.after(stage)
        self._stats = stats
        self._columns = columns
        self._kinds = columns.after(stats).computed
        self._bucket = next((place for place, key in enumerate(stats.by) if isinstance(key, Bucket)), None)
        self._key_names = [f"key{place}" for place in range(len(stats.by))]
        self._summaries = [each for state in self._new_group().states for each in state.summaries()]
        self._groups: dict[Key, _Group] = {} if stats.by else {(): self._new_group()}
        self._groups_max = groups_max
        self._changed: set[Key] = set()
        self.overflow_count = 0
        """Records of groups beyond the bound: they are in no value."""
        self.record_count = 0
        """Records that matched."""

    @property
    def group_count(self) -> int:
        """Groups held."""
        return len(self._groups)

    def update(self, batch: pa.RecordBatch) -> None:
        """Count a batch of records in.

        Args:
            batch: Columns of `RECORD_SCHEMA` or `POSITIONED_SCHEMA`.
        """
        batch = self._pipeline(batch)
        if batch.num_rows == 0:
            return
        self.record_count += batch.num_rows
        fields = BatchFields(batch)
        columns = {
            name: self._key_column(fields, key) for name, key in zip(self._key_names, self._stats.by, strict=True)
        }
        for place, aggregate in enumerate(self._stats.aggregates):
            if aggregate.field is not None:
                columns[f"value{place}"] = self._value_column(fields, aggregate, aggregate.field)
        summaries = [pl.len().alias(ROWS), *self._summaries]
        if self._key_names:
            grouped = pl.DataFrame(columns).group_by(self._key_names).agg(summaries)
        elif columns:
            grouped = pl.DataFrame(columns).select(summaries)
        else:
            grouped = pl.DataFrame({ROWS: [batch.num_rows]})
        for part in grouped.iter_rows(named=True):
            self._merge(tuple(part[name] for name in self._key_names), part)

    def _merge(self, key: Key, part: Mapping[str, Any]) -> None:
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= self._groups_max:
                self.overflow_count += int(part[ROWS])
                return
            group = self._groups[key] = self._new_group()
        for state in group.states:
            state.merge(part)
        group.revision += 1
        self._changed.add(key)

    def _new_group(self) -> _Group:
        aggregates = enumerate(self._stats.aggregates)
        return _Group([new_state(aggregate, f"value{place}") for place, aggregate in aggregates])

    def _key_column(self, fields: BatchFields, key: GroupKey) -> pl.Series:
        if isinstance(key, Bucket):
            times = fields.batch.column("time").cast(pa.int64()).to_numpy(zero_copy_only=False)
            return pl.Series(times - times % key.interval_ns)
        return self._shown(fields, key)

    def _shown(self, fields: BatchFields, ref: FieldRef) -> pl.Series:
        """A field as groups name it: texts, numbers, times as nanoseconds; null where it is missing."""
        kind = self._columns.kind(ref)
        if kind is FieldKind.TIME:
            return pl.Series(values=fields.batch.column(ref.name).cast(pa.int64()))
        if kind is FieldKind.SEVERITY:
            return pl.Series(values=fields.batch.column(ref.name)).replace(0, None)
        if kind is FieldKind.NUMBER:
            return pl.Series(values=fields.batch.column(ref.name))
        return pl.Series(values=fields.display(ref))

    def _value_column(self, fields: BatchFields, aggregate: Aggregate, ref: FieldRef) -> pl.Series:
        """What the aggregate's state reads; null where a record has no value."""
        if aggregate.function is Function.COUNT:
            return pl.Series(fields.exists(ref))
        if aggregate.function is Function.COUNT_DISTINCT:
            shown = self._shown(fields, ref)
            present = shown.is_not_null() & (shown != "") if shown.dtype == pl.String else shown.is_not_null()
            return pl.Series(hashes_of(shown)).set(~present, None)
        if self._columns.kind(ref) is FieldKind.TIME:
            return self._shown(fields, ref)
        return pl.Series(fields.numbers(ref)).fill_nan(None)

    def rows(self) -> LiveRows:
        """Every group, with the later stages (`where`, `sort`, `limit`, `fields`) applied."""
        rows = self._rows(self._groups)
        for stage in self._later:
            rows.batch = _apply(stage, rows.batch)
            rows.revisions = []
        return rows

    def changed(self) -> LiveRows:
        """The groups that were updated since the last call, to be sent as upserts: no later stage applies."""
        rows = self._rows(self._changed)
        self._changed.clear()
        return rows

    def forget(self, *, before_ns: int) -> int:
        """Drop the buckets that begin before a time; without a bucket among the groups, nothing.

        Returns:
            How many groups went.
        """
        place = self._bucket
        if place is None:
            return 0
        gone = [key for key in self._groups if isinstance(start := key[place], int) and start < before_ns]
        for key in gone:
            del self._groups[key]
            self._changed.discard(key)
        return len(gone)

    def _rows(self, keys: Collection[Key]) -> LiveRows:
        groups = [self._groups[key] for key in keys]
        names = [key_name(key) for key in self._stats.by]
        arrays = [
            pa.array([key[place] for key in keys], self._key_type(names[place], each))
            for place, each in enumerate(self._stats.by)
        ]
        approximate = set()
        for place, aggregate in enumerate(self._stats.aggregates):
            names.append(aggregate.name)
            states = [group.states[place] for group in groups]
            arrays.append(pa.array([state.value() for state in states], self._value_type(aggregate)))
            if not all(state.is_exact for state in states):
                approximate.add(aggregate.name)
        batch = pa.RecordBatch.from_arrays(arrays, names=names)
        return LiveRows(batch, [group.revision for group in groups], frozenset(approximate))

    def _key_type(self, name: str, key: GroupKey) -> pa.DataType:
        kind = self._kinds[name]
        if kind is FieldKind.TIME:
            return TIME_TYPE
        if kind is FieldKind.SEVERITY:
            return pa.uint8()
        is_core = isinstance(key, FieldRef) and key.scope is Scope.CORE
        return pa.string() if kind is FieldKind.KEYWORD else pa.uint64() if is_core else pa.float64()

    def _value_type(self, aggregate: Aggregate) -> pa.DataType:
        if aggregate.function in (Function.COUNT, Function.COUNT_DISTINCT):
            return pa.uint64()
        return TIME_TYPE if self._kinds[aggregate.name] is FieldKind.TIME else pa.float64()


def _apply(stage: Stage, batch: pa.RecordBatch) -> pa.RecordBatch:
    """A stage behind `stats`, on its result."""
    if isinstance(stage, Where):
        return batch.filter(compile_predicate(stage.expression)(batch))
    if isinstance(stage, Limit):
        return batch.slice(0, stage.count)
    if isinstance(stage, Fields):
        return batch.select([ref.name for ref in stage.fields])
    return batch.take(_order(batch, stage.keys)) if isinstance(stage, Sort) else batch


def _order(batch: pa.RecordBatch, keys: Sequence[SortKey]) -> pa.Array:
    """Row numbers in order: missing last, ties by the columns from the left."""
    arrays: dict[str, pa.Array] = {}
    order: list[tuple[str, str]] = []
    ties: Iterable[SortKey] = (SortKey(FieldRef(Scope.COMPUTED, name)) for name in batch.schema.names)
    for place, key in enumerate([*keys, *ties]):
        array = batch.column(key.field.name)
        if pa.types.is_string(array.type):
            array = pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)
        arrays[f"missing{place}"], arrays[f"value{place}"] = pc.is_null(array), array
        way = "descending" if key.descending else "ascending"
        order += [(f"missing{place}", "ascending"), (f"value{place}", way)]
    return pc.sort_indices(pa.table(arrays), sort_keys=order)
