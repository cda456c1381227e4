"""Journal frames as the blocks that a table takes: by dataset, few partitions at a time, and counted.

The per-minute counts are made here, from the columns that are at hand, for a thirtieth of what a
materialised view costs. Pure functions on columns; no engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.datasets import AgeFrom, Dataset, PartitionUnit
from heimdall_server.domain.expression.needs import MINUTE_NS
from heimdall_server.storage.clickhouse.schema import PARTITIONS_PER_INSERT_MAX, Rollup


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
    times = column.cast(pa.int64()).to_numpy().view("datetime64[ns]")
    unit = "datetime64[D]" if dataset.partition_unit is PartitionUnit.DAY else "datetime64[M]"
    days: npt.NDArray[np.int32] = times.astype(unit).astype("datetime64[D]").astype(np.int64).astype(np.int32)
    return days


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


def counted(batches: Sequence[pa.RecordBatch], dataset: Dataset, rollup: Rollup) -> list[pa.RecordBatch]:
    """Records of a dataset as rows of a rollup, in groups that touch few partitions each."""
    period = pa.array(np.concatenate([periods(batch, dataset) for batch in batches]), pa.date32())
    minutes = np.concatenate([batch.column("time").cast(pa.int64()).to_numpy() for batch in batches])
    minute = pa.array((minutes // MINUTE_NS * 60).astype(np.uint32))
    columns = [pa.chunked_array([batch.column(name) for batch in batches]) for name in rollup.dimensions]
    names = ["period", "minute", *rollup.dimensions]
    table = pa.table([period, minute, *columns], names=names)
    counts = table.group_by(names, use_threads=False).aggregate([([], "count_all")])
    counts = counts.rename_columns([*names, "count"]).sort_by("period")
    # MATERIALIZED and codec need no care here: a rollup's columns arrive as its table declares them.
    days = counts.column("period").combine_chunks().cast(pa.int32()).to_numpy()
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1))[::PARTITIONS_PER_INSERT_MAX]
    ends = [*starts[1:].tolist(), len(days)]
    return [
        counts.slice(start, end - start).combine_chunks().to_batches()[0]
        for start, end in zip(starts.tolist(), ends, strict=True)
    ]
