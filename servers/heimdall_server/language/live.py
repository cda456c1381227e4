"""Keeps the `stats` of a query up to date over batches as they come, for watches.

Records are grouped in columns, by a library; Python touches a group of a batch at a time, never a record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
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
from heimdall_server.language.aggregates import State, new_state
from heimdall_server.language.grouping import Key, group_rows
from heimdall_server.language.live_rows import RowPipeline
from heimdall_server.language.lookup import Rows
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.language.shared_fields import SharedFields

GROUPS_MAX: Final = 10_000
"""Groups that one aggregate holds; records of further ones are counted as overflow."""


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
        self.refilter(query)
        before, stats = split_at_stats(query)
        if stats is None or any(isinstance(stage, Stats) for stage in self._later):
            raise InvalidArgumentError("query.stages", "a live aggregate has exactly one stats")
        if self._pipeline.limit is not None:
            raise InvalidArgumentError("query.stages", "a limit before stats has no meaning on a stream")
        columns = Columns()
        for stage in before:
            columns = columns.after(stage)
        self._stats = stats
        self._kinds = columns.after(stats).computed
        self._bucket = next((place for place, key in enumerate(stats.by) if isinstance(key, Bucket)), None)
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

    def refilter(self, query: Query) -> None:
        """Let other records through from here on; what was counted stays.

        Args:
            query: The same as before, but for the expressions in it.
        """
        self._pipeline = RowPipeline(query)
        before, _ = split_at_stats(query)
        self._later = query.stages[len(before) + 1 :]

    def update(self, batch: pa.RecordBatch) -> None:
        """Count a batch of records in.

        Args:
            batch: Columns of `RECORD_SCHEMA` or `POSITIONED_SCHEMA`.
        """
        batch = self._pipeline(batch)
        self.absorb(SharedFields(batch), np.arange(batch.num_rows))

    def absorb(self, fields: SharedFields, rows: Rows) -> None:
        """Count records in that the stages before `stats` let through.

        Args:
            fields: Of their batch, with the columns that those stages compute.
            rows: Their row numbers in it, ascending.
        """
        if not len(rows):
            return
        self.record_count += len(rows)
        groups = group_rows(fields, rows, self._stats.by)
        parts = [groups.parts(aggregate) for aggregate in self._stats.aggregates]
        for key, count, *group_parts in zip(groups.keys, groups.counts, *parts, strict=True):
            self._merge(key, count, group_parts)

    def _merge(self, key: Key, count: int, parts: Sequence[Any]) -> None:
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= self._groups_max:
                self.overflow_count += count
                return
            group = self._groups[key] = self._new_group()
        for state, part in zip(group.states, parts, strict=True):
            state.merge(count, part)
        group.revision += 1
        self._changed.add(key)

    def _new_group(self) -> _Group:
        return _Group([new_state(aggregate) for aggregate in self._stats.aggregates])

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
