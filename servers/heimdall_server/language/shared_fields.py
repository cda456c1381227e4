"""The fields of a batch that many expressions read: what one of them needed is there for all.

Beyond what `BatchFields` keeps: map columns are taken apart by key once, texts are dictionary-encoded once, so that
"is equal to this constant" is a lookup; and some of the rows can be looked at without taking the other columns along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.language.lookup import MAPS, BatchFields, Floats, Mask, Rows, to_series
from heimdall_server.language.word_table import WordLookup, WordTable

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Coded:
    """A column as codes from 0 and what they stand for."""

    codes: Codes
    values: pa.Array

    @property
    def count(self) -> int:
        """Distinct values."""
        return len(self.values)


@dataclass(frozen=True, slots=True)
class _Keys:
    """The flat entries of a map column, by key."""

    codes: Codes
    """The key of each entry."""
    rows: Rows
    """The row of each entry."""
    code_of: dict[str, int]
    start: int
    """Where the column's entries begin among those of the array it is a slice of."""


class SharedFields(BatchFields):
    """The fields of one batch. Not thread-safe; make one per batch."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        super().__init__(batch)
        self._keys: dict[str, _Keys] = {}
        self._coded: dict[tuple[str, FieldRef], Coded] = {}
        self._tables: dict[FieldRef, WordTable] = {}
        self._kept: dict[object, Any] = {}

    def kept(self, key: object) -> Any:  # noqa: ANN401 - whatever was kept
        """What `keep` was given under a key; None: nothing."""
        return self._kept.get(key)

    def keep(self, key: object, value: object) -> None:
        """Keep something for as long as the batch is looked at."""
        self._kept[key] = value

    def entries(self, column: str, name: str) -> tuple[Rows, pa.Array]:
        """As `BatchFields.entries`."""
        key = (column, name)
        found = self._cache.get(key)
        if isinstance(found, tuple):
            return found
        keys = self._keys_of(column)
        places = np.flatnonzero(keys.codes == keys.code_of.get(name, -1))
        rows = keys.rows[places]
        if len(rows) > 1:
            first = np.concatenate(([True], rows[1:] != rows[:-1]))
            rows, places = rows[first], places[first]
        result = rows, self.batch.column(column).items.take(pa.array(places + keys.start))
        self._cache[key] = result
        return result

    def _keys_of(self, column: str) -> _Keys:
        found = self._keys.get(column)
        if found is None:
            array = self.batch.column(column)
            offsets = array.offsets.to_numpy(zero_copy_only=False)
            start, end = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
            encoded = array.keys.slice(start, end - start).dictionary_encode()
            codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            rows = np.repeat(np.arange(len(array)), np.diff(offsets)) if len(offsets) else codes
            names = {name: code for code, name in enumerate(encoded.dictionary.to_pylist())}
            found = self._keys[column] = _Keys(codes, rows, names, start)
        return found

    def scoped(self, ref: FieldRef, evaluate: Callable[[str], Mask]) -> Mask:
        """As `BatchFields.scoped`."""
        if ref.scope is not Scope.ANY:
            return evaluate(str(ref.scope))
        mask = evaluate("attributes")
        if self.has_resources():
            mask = mask | (~self.has_key("attributes", ref.name) & evaluate("resource"))
        return mask

    def has_resources(self) -> bool:
        """Whether any record has an attribute of its resource."""
        found: bool | None = self.kept("resources")
        if found is None:
            found = any(len(self._keys_of("resource" + suffix).codes) > 0 for suffix in MAPS)
            self.keep("resources", found)
        return found

    def numbers(self, ref: FieldRef) -> Floats:
        """As `BatchFields.numbers`."""
        key = ("numbers", ref)
        found: Floats | None = self.kept(key)
        if found is None:
            found = super().numbers(ref)
            self.keep(key, found)
        return found

    def coded(self, ref: FieldRef) -> Coded:
        """A field's text alone, as `strings` gives it, as codes."""
        return self._encode("strings", ref)

    def coded_display(self, ref: FieldRef) -> Coded:
        """A field as groups name it, as `display` gives it, as codes."""
        return self._encode("display", ref)

    def _encode(self, kind: str, ref: FieldRef) -> Coded:
        if ref.scope in (Scope.CORE, Scope.COMPUTED):
            kind = "strings"  # Where there is one map, it isn't two things.
        found = self._coded.get((kind, ref))
        if found is None:
            texts = self.strings(ref) if kind == "strings" else self.display(ref)
            encoded = texts.dictionary_encode()
            codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            found = self._coded[kind, ref] = Coded(codes, encoded.dictionary)
        return found

    def words(self, ref: FieldRef, lookup: WordLookup) -> WordTable:
        """The words of a text column; the same lookup for all who ask about a batch."""
        found = self._tables.get(ref)
        if found is None:
            found = self._tables[ref] = WordTable(pc.ascii_lower(self.text(ref)), lookup)
        return found

    def subset(self, rows: Rows) -> SharedFields:
        """Some of the rows, as a batch of its own."""
        return _SubsetFields(self, rows)


class _TakenColumns:
    """Stands for a batch of some rows; a column is taken when it is asked for."""

    def __init__(self, whole: pa.RecordBatch, rows: Rows) -> None:
        self._whole = whole
        self._rows = pa.array(rows)
        self.num_rows = len(rows)

    def column(self, name: str) -> pa.Array:
        """A column's rows."""
        return self._whole.column(name).take(self._rows)


class _SubsetFields(SharedFields):
    def __init__(self, whole: SharedFields, rows: Rows) -> None:
        super().__init__(_TakenColumns(whole.batch, rows))
        self._whole = whole
        self._rows = rows

    def text(self, ref: FieldRef) -> pa.Array:
        found = self._cache.get(("text", ref.name))
        if found is None:
            found = self._cache["text", ref.name] = self._whole.text(ref).take(pa.array(self._rows))
        return found

    def lowered(self, ref: FieldRef) -> pl.Series:
        return to_series(pc.ascii_lower(self.text(ref)))

    def entries(self, column: str, name: str) -> tuple[Rows, pa.Array]:
        key = (column, name)
        found = self._cache.get(key)
        if isinstance(found, tuple):
            return found
        rows, values = self._whole.entries(column, name)
        _, here, there = np.intersect1d(self._rows, rows, assume_unique=True, return_indices=True)
        result = here.astype(np.int64), values.take(pa.array(there))
        self._cache[key] = result
        return result

    def numbers(self, ref: FieldRef) -> Floats:
        return self._whole.numbers(ref)[self._rows]

    def exists(self, ref: FieldRef) -> Mask:
        return self._whole.exists(ref)[self._rows]

    def has_resources(self) -> bool:
        return self._whole.has_resources()


@dataclass(frozen=True, slots=True)
class _Solid:
    """The columns of a batch in which some row isn't empty, and the places of those and of the others."""

    columns: pa.RecordBatch
    places: Sequence[int]
    hollow: Sequence[int]


def take_rows(fields: SharedFields, rows: Rows) -> pa.RecordBatch:
    """Some rows of a batch, in any order and more than once, all columns of it. Columns in which every row is empty aren't gone through."""
    batch = fields.batch
    if len(rows) == batch.num_rows and (np.diff(rows) == 1).all():
        return batch
    solid: _Solid | None = fields.kept("solid")
    if solid is None:
        hollow = [place for place, column in enumerate(batch.columns) if _is_hollow(column)]
        places = [place for place in range(batch.num_columns) if place not in hollow]
        solid = _Solid(batch.select(places), places, hollow)
        fields.keep("solid", solid)
    columns: list[pa.Array] = [None] * batch.num_columns
    # All in one call: it costs more to make than to do.
    for place, column in zip(solid.places, solid.columns.take(pa.array(rows)).columns, strict=True):
        columns[place] = column
    for place in solid.hollow:
        column = batch.column(place)
        # As many as are wanted, which may be more than there are: one empty value is like the other.
        columns[place] = column.slice(0, len(rows)) if len(rows) <= len(column) else _repeated(column, len(rows))
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _repeated(hollow: pa.Array, count: int) -> pa.Array:
    return hollow.take(pa.array(np.zeros(count, np.int64)))


def _is_hollow(column: pa.Array) -> bool:
    """Texts without a byte, maps without an entry."""
    if column.null_count or not (pa.types.is_map(column.type) or pa.types.is_string(column.type)):
        return False
    ends = column.buffers()[1]
    offsets = np.frombuffer(ends or b"", np.int32)[column.offset : column.offset + len(column) + 1]
    return not len(offsets) or bool(offsets[0] == offsets[-1])
