"""Journal frames as the blocks that a table takes: by dataset, few partitions at a time, and counted.

The per-minute counts are made here, from the columns that are at hand, for a thirtieth of what a
materialised view costs. Pure functions on columns; no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.datasets import AgeFrom, Dataset, PartitionUnit
from heimdall_server.domain.expression.needs import MINUTE_NS
from heimdall_server.domain.records import POSITIONED_SCHEMA
from heimdall_server.storage.clickhouse.schema import LOW_CARDINALITY, PARTITIONS_PER_INSERT_MAX, Rollup

_DAY_NS: Final = 86_400_000_000_000
_DENSE_MAX: Final = 1 << 20
_COMBINATIONS_MAX: Final = 1 << 62
"""Beyond it a combination of keys would no longer fit its number."""


def by_dataset(batches: Sequence[pa.RecordBatch]) -> dict[str, list[pa.RecordBatch]]:
    """Batches apart by the dataset of their records, order kept; empty ones are left out."""
    parts: dict[str, list[pa.RecordBatch]] = {}
    for batch in batches:
        if not batch.num_rows:
            continue
        column = batch.column("dataset")
        names = pc.unique(column).to_pylist()
        for name in names:
            rows = batch if len(names) == 1 else batch.filter(pc.equal(column, name))
            parts.setdefault(name, []).append(rows)
    return parts


def periods(batch: pa.RecordBatch, dataset: Dataset) -> npt.NDArray[np.int32]:
    """The partition of each record, as days since 1970: what `schema.period_expression` computes."""
    column = batch.column("time" if dataset.age_from is AgeFrom.TIME else "observed_time")
    days: npt.NDArray[np.int32] = (column.cast(pa.int64()).to_numpy() // _DAY_NS).astype(np.int32)
    if dataset.partition_unit is PartitionUnit.DAY or not len(days):
        return days
    low = days.min()
    first: npt.NDArray[np.int32] = (
        np.arange(low, days.max() + 1)
        .astype("datetime64[D]")
        .astype("datetime64[M]")
        .astype("datetime64[D]")
        .astype(np.int32)
    )
    starts: npt.NDArray[np.int32] = first[days - low]
    return starts


def insertable(batches: Sequence[pa.RecordBatch], dataset: Dataset) -> list[list[pa.RecordBatch]]:
    """Records of a dataset in groups that touch few partitions each.

    Returns:
        One group as a rule; several where the records span more partitions than one insert may touch.
    """
    keys = [periods(batch, dataset) for batch in batches]
    distinct = np.unique(np.concatenate([np.unique(key) for key in keys]))
    if len(distinct) <= PARTITIONS_PER_INSERT_MAX:
        return [list(batches)]
    groups = []
    for start in range(0, len(distinct), PARTITIONS_PER_INSERT_MAX):
        wanted = distinct[start : start + PARTITIONS_PER_INSERT_MAX]
        low, high = wanted[0], wanted[-1]
        rows = [batch.filter(pa.array((key >= low) & (key <= high))) for batch, key in zip(batches, keys, strict=True)]
        groups.append([batch for batch in rows if batch.num_rows])
    return groups


def encoded(batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Records with what has few distinct values as dictionaries, one of a column for all batches.

    The table's columns are dictionaries, too: the engine then hashes each value once instead of in each record,
    and the counting reads numbers instead of texts.
    """
    columns = {name: _encoded([batch.column(name) for batch in batches]) for name in LOW_CARDINALITY}
    return [
        pa.RecordBatch.from_arrays(
            [columns[name][index] if name in columns else batch.column(name) for name in batch.schema.names],
            names=batch.schema.names,
        )
        for index, batch in enumerate(batches)
    ]


def _encoded(arrays: Sequence[pa.StringArray]) -> Sequence[pa.DictionaryArray]:
    if all(_has_no_text(array) for array in arrays):
        nothing = pa.array([""])
        return [pa.DictionaryArray.from_arrays(np.zeros(len(array), np.int32), nothing) for array in arrays]
    chunks: list[pa.DictionaryArray] = pa.chunked_array(arrays).dictionary_encode().chunks
    return chunks


def _has_no_text(array: pa.StringArray) -> bool:
    if not len(array):
        return True
    ends = np.frombuffer(array.buffers()[1], np.int32)
    return bool(ends[array.offset] == ends[array.offset + len(array)])


def counted(batches: Sequence[pa.RecordBatch], dataset: Dataset, rollup: Rollup) -> list[pa.RecordBatch]:
    """Records of a dataset, as `encoded` made them, as rows of a rollup, in groups that touch few partitions each."""
    days = np.concatenate([periods(batch, dataset) for batch in batches])
    minutes = np.concatenate([batch.column("time").cast(pa.int64()).to_numpy() for batch in batches]) // MINUTE_NS
    columns = {name: pa.chunked_array([batch.column(name) for batch in batches]) for name in rollup.dimensions}
    rows, counts = _grouped([_span(days), _span(minutes), *(_numbered(column) for column in columns.values())])
    order = np.argsort(days[rows], kind="stable")
    rows, counts = rows[order], counts[order]
    taken = pa.array(rows)
    table = pa.table(
        {
            "period": pa.array(days[rows], pa.date32()),
            "minute": (minutes[rows] * 60).astype(np.uint32),
            **{name: column.take(taken).cast(POSITIONED_SCHEMA.field(name).type) for name, column in columns.items()},
            "count": counts.astype(np.int64),
        }
    )
    starts = np.flatnonzero(np.diff(days[rows], prepend=days[rows[0]] - 1))[::PARTITIONS_PER_INSERT_MAX]
    ends = [*starts[1:].tolist(), len(rows)]
    return [
        table.slice(start, end - start).combine_chunks().to_batches()[0]
        for start, end in zip(starts.tolist(), ends, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Key:
    """A column as numbers from 0 up to, and without, `size`."""

    codes: npt.NDArray[np.int64]
    size: int


def _span(values: npt.NDArray[np.integer]) -> _Key:
    low = int(values.min())
    codes = values.astype(np.int64)
    codes -= low
    return _Key(codes, int(values.max()) - low + 1)


def _numbered(column: pa.ChunkedArray) -> _Key:
    if not pa.types.is_dictionary(column.type):
        return _span(column.to_numpy())
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks])
    return _Key(codes.astype(np.int64), len(column.chunk(0).dictionary))


def _grouped(keys: Sequence[_Key]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A row of each distinct combination of keys, and how many rows have it."""
    codes, size = keys[0].codes, keys[0].size
    for key in keys[1:]:
        if size * key.size > _COMBINATIONS_MAX:
            distinct, codes = np.unique(codes, return_inverse=True)
            size = len(distinct)
        # In place, here and in `_span`: at this size each array is memory that the system hands out anew.
        codes *= key.size
        codes += key.codes
        size *= key.size
    if size > _DENSE_MAX:
        _, rows, counts = np.unique(codes, return_index=True, return_counts=True)
        return rows, counts
    # Few combinations are possible: counting in place is a tenth of sorting.
    per_code = np.bincount(codes, minlength=size)
    row_of = np.empty(size, np.int64)
    row_of[codes] = np.arange(len(codes))
    found = np.flatnonzero(per_code)
    return row_of[found], per_code[found]
