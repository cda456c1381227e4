"""What a batch says about the groups of a `stats`: which there are, how many records, and each aggregate's part.

It is kept with the batch, so that everyone who groups the same rows alike shares it. A column to group by is codes and
the values they stand for, made once a batch; the rest is arithmetic on codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heimdall_server.domain.expression.fields import CORE_FIELDS, FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.tree import Aggregate, Bucket, Function, GroupKey
from heimdall_server.language.lookup import Rows
from heimdall_server.language.shared_fields import Codes, SharedFields
from heimdall_server.language.sketches import hashes_of

GroupValue: TypeAlias = str | int | float | None
"""Text (empty: missing), number, or nanoseconds of a time; None: missing."""
Key: TypeAlias = tuple[GroupValue, ...]
Nanoseconds: TypeAlias = npt.NDArray[np.int64]

_BUCKETS_MAX: Final = 4096
"""Buckets of one batch that are numbered through; more are numbered as they occur."""
_CODES_MAX: Final = 2**31
"""Codes of several columns are made one code as long as there are no more of them than this."""
_HASHED_AS: Final = {FieldKind.TIME: pl.Int64, FieldKind.SEVERITY: pl.UInt64, FieldKind.NUMBER: pl.UInt64}
"""Types of what isn't text."""


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column to group by."""

    codes: Codes
    values: Sequence[Any]
    """What each code stands for."""
    hashes: npt.NDArray[np.uint64] | None = None
    """Of each value; None: they weren't asked for."""
    present: npt.NDArray[np.bool_] | None = None
    """Whether each value is one, and not "missing"."""


def nanoseconds(fields: SharedFields, name: str) -> Nanoseconds:
    """A column of times."""
    key = ("ns", name)
    found: Nanoseconds | None = fields.kept(key)
    if found is None:
        found = fields.batch.column(name).cast(pa.int64()).to_numpy(zero_copy_only=False)
        fields.keep(key, found)
    return found


def bucket_starts(fields: SharedFields, interval_ns: int) -> Nanoseconds:
    """Where the bucket of each record begins."""
    key = ("starts", interval_ns)
    found: Nanoseconds | None = fields.kept(key)
    if found is None:
        times = nanoseconds(fields, "time")
        found = times - times % interval_ns
        fields.keep(key, found)
    return found


def newness(fields: SharedFields) -> Nanoseconds:
    """How new each record is: the earlier of its time and the moment it was observed."""
    found: Nanoseconds | None = fields.kept("newness")
    if found is None:
        found = np.minimum(nanoseconds(fields, "time"), nanoseconds(fields, "observed_time"))
        fields.keep("newness", found)
    return found


@dataclass(frozen=True, slots=True)
class Span:
    """The buckets that some rows fall into."""

    starts: Sequence[int]
    """Where they begin, ascending."""
    positions: Sequence[int]
    """The journal position of the first record of each."""
    newest_ns: int
    """How new the newest record is."""


def span_of(fields: SharedFields, rows: Rows, interval_ns: int) -> Span:
    """The buckets of some rows of a batch with positions.

    Args:
        fields: Of the batch.
        rows: Row numbers, ascending, at least one; the same array is answered from what is kept.
        interval_ns: The width of a bucket.
    """
    place = ("span", id(rows), interval_ns)
    found: tuple[Rows, Span] | None = fields.kept(place)
    if found is None:
        column = key_column(fields, Bucket(interval_ns))
        codes = column.codes[rows]
        firsts = np.full(len(column.values), -1, np.int64)
        firsts[codes[::-1]] = rows[::-1]
        present = np.flatnonzero(firsts >= 0)
        positions = fields.batch.column("position").to_numpy()[firsts[present]].tolist()
        starts = [column.values[code] for code in present.tolist()]
        span = Span(starts, positions, int(newness(fields)[rows].max()))
        # With the rows, so that no other array gets their id.
        found = rows, span
        fields.keep(place, found)
    return found[1]


def key_column(fields: SharedFields, key: GroupKey) -> KeyColumn:
    """A group key as a column."""
    place = ("key", key)
    found: KeyColumn | None = fields.kept(place)
    if found is None:
        found = _bucket_column(fields, key.interval_ns) if isinstance(key, Bucket) else _field_column(fields, key)
        fields.keep(place, found)
    return found


def _bucket_column(fields: SharedFields, interval_ns: int) -> KeyColumn:
    starts = bucket_starts(fields, interval_ns)
    first = int(starts.min()) if len(starts) else 0
    span = (int(starts.max()) - first) // interval_ns + 1 if len(starts) else 0
    if span <= _BUCKETS_MAX:
        return KeyColumn((starts - first) // interval_ns, range(first, first + span * interval_ns, interval_ns))
    return _numbered(starts)


def _field_column(fields: SharedFields, ref: FieldRef) -> KeyColumn:
    kind = CORE_FIELDS[ref.name] if ref.scope is Scope.CORE else None
    if kind is FieldKind.TIME:
        return _numbered(nanoseconds(fields, ref.name))
    if kind is FieldKind.SEVERITY:
        codes = fields.batch.column(ref.name).to_numpy(zero_copy_only=False).astype(np.int64)
        return KeyColumn(codes, [None, *range(1, int(codes.max(initial=0)) + 1)])
    if kind is FieldKind.NUMBER:
        return _numbered(fields.batch.column(ref.name).to_numpy(zero_copy_only=False))
    coded = fields.coded_display(ref)
    return KeyColumn(coded.codes, coded.values.to_pylist())


def _numbered(values: npt.NDArray[Any]) -> KeyColumn:
    distinct, codes = np.unique(values, return_inverse=True)
    return KeyColumn(codes.astype(np.int64), distinct.tolist())


@dataclass(slots=True)
class Groups:
    """Some rows of a batch, by group."""

    fields: SharedFields
    rows: Rows
    keys: list[Key]
    counts: list[int]
    _members: Codes
    """The group of each row."""
    _parts: dict[tuple[Function, FieldRef], list[Any]]
    _order: tuple[Rows, Rows] | None = None

    def parts(self, aggregate: Aggregate) -> list[Any]:
        """By group, what the aggregate's state merges; see there."""
        if aggregate.field is None:
            return [None] * len(self.keys)
        key = (aggregate.function, aggregate.field)
        found = self._parts.get(key)
        if found is None:
            found = self._parts[key] = self._summarise(aggregate.function, aggregate.field)
        return found

    def _sorted(self) -> tuple[Rows, Rows]:
        """The rows, group by group, and where each group begins."""
        if self._order is None:
            ends = np.cumsum(self.counts)
            starts = np.concatenate(([0], ends[:-1])).astype(np.int64)
            self._order = self.rows[np.argsort(self._members, kind="stable")], starts
        return self._order

    def _summarise(self, function: Function, ref: FieldRef) -> list[Any]:
        rows, starts = self._sorted()
        if function is Function.COUNT:
            carried: list[int] = np.add.reduceat(_exists(self.fields, ref)[rows].astype(np.int64), starts).tolist()
            return carried
        if function is Function.COUNT_DISTINCT:
            return self._hashes(ref, rows, starts)
        if ref.scope is Scope.CORE and CORE_FIELDS[ref.name] is FieldKind.TIME:
            times = nanoseconds(self.fields, ref.name)[rows]
            least = function is Function.MIN
            ends: list[int] = (np.minimum if least else np.maximum).reduceat(times, starts).tolist()
            return ends
        values = self.fields.numbers(ref)[rows]
        is_number = ~np.isnan(values)
        if function is Function.QUANTILE:
            return [part[~np.isnan(part)] for part in np.split(values, starts[1:])]
        counts = np.add.reduceat(is_number.astype(np.int64), starts).tolist()
        if function in (Function.SUM, Function.AVG):
            sums = np.add.reduceat(np.where(is_number, values, 0.0), starts).tolist()
            return list(zip(sums, counts, strict=True))
        if function is Function.MIN:
            found = np.minimum.reduceat(np.where(is_number, values, np.inf), starts).tolist()
        else:
            found = np.maximum.reduceat(np.where(is_number, values, -np.inf), starts).tolist()
        return [value if count else None for value, count in zip(found, counts, strict=True)]

    def _hashes(self, ref: FieldRef, rows: Rows, starts: Rows) -> list[Any]:
        column = _hashed(self.fields, ref)
        codes = column.codes[rows]
        parts = []
        for part in np.split(codes, starts[1:]):
            distinct = np.unique(part)
            if column.present is not None and column.hashes is not None:
                parts.append(column.hashes[distinct[column.present[distinct]]])
        return parts


def _exists(fields: SharedFields, ref: FieldRef) -> npt.NDArray[np.bool_]:
    key = ("exists", ref)
    found: npt.NDArray[np.bool_] | None = fields.kept(key)
    if found is None:
        found = fields.exists(ref)
        fields.keep(key, found)
    return found


def _hashed(fields: SharedFields, ref: FieldRef) -> KeyColumn:
    """A column with the hashes of its values."""
    place = ("hashed", ref)
    found: KeyColumn | None = fields.kept(place)
    if found is None:
        column = key_column(fields, ref)
        values = column.values
        # The type is the field's own, whatever this batch holds: it has a part in the hash.
        kind = CORE_FIELDS[ref.name] if ref.scope is Scope.CORE else None
        series = pl.Series(values, dtype=_HASHED_AS.get(kind, pl.String) if kind else pl.String)
        present = np.array([value is not None and value != "" for value in values], np.bool_)
        found = KeyColumn(column.codes, values, hashes_of(series), present)
        fields.keep(place, found)
    return found


def group_rows(fields: SharedFields, rows: Rows, by: tuple[GroupKey, ...]) -> Groups:
    """Group some rows of a batch.

    Args:
        fields: Of the batch.
        rows: Row numbers, ascending, at least one; the same array is answered from what is kept.
        by: The keys; none: all rows are one group.
    """
    place = ("groups", id(rows), by)
    found: Groups | None = fields.kept(place)
    if found is None:
        # It holds `rows`, so that no other array gets its id.
        found = _grouped(fields, rows, by)
        fields.keep(place, found)
    return found


def _grouped(fields: SharedFields, rows: Rows, by: tuple[GroupKey, ...]) -> Groups:
    if not by:
        return Groups(fields, rows, [()], [len(rows)], np.zeros(len(rows), np.int64), {})
    columns = [key_column(fields, key) for key in by]
    codes, size = columns[0].codes[rows], len(columns[0].values)
    for column in columns[1:]:
        if size * len(column.values) > _CODES_MAX:
            distinct, codes = np.unique(codes, return_inverse=True)
            size = len(distinct)
        codes, size = codes * len(column.values) + column.codes[rows], size * len(column.values)
    if size > 4 * len(rows) + 1024:
        distinct, codes = np.unique(codes, return_inverse=True)
        size = len(distinct)
    counts = np.bincount(codes, minlength=size)
    # The first row of each group stands for it: written last, so that it stays.
    firsts = np.zeros(size, np.int64)
    firsts[codes[::-1]] = rows[::-1]
    present = np.flatnonzero(counts)
    members = np.zeros(size, np.int64)
    members[present] = np.arange(len(present))
    firsts = firsts[present]
    values = [[column.values[code] for code in column.codes[firsts].tolist()] for column in columns]
    keys: list[Key] = list(zip(*values, strict=True))
    return Groups(fields, rows, keys, counts[present].tolist(), members[codes], {})
