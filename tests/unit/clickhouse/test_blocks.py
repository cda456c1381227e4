"""What a block's columns become before the engine sees them, and the counts made from them."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.domain.datasets import AgeFrom, Dataset, PartitionUnit
from heimdall_server.storage.clickhouse import blocks
from heimdall_server.storage.clickhouse.blocks import by_dataset, counted, encoded
from heimdall_server.storage.clickhouse.schema import LOW_CARDINALITY, PARTITIONS_PER_INSERT_MAX, ROLLUPS, Rollup
from tests.support.log_stores import DAY_NS, SECOND_NS, TIME_NS, frame

DAILY = Dataset("logs")
MONTHLY = Dataset("dumps", PartitionUnit.MONTH, age_from=AgeFrom.OBSERVED_TIME)
FRAMES = [frame(1, 40), frame(2, 7, host="", event_name=""), frame(3, 90, step_ns=7 * SECOND_NS)]


def _one_by_one(batches: list[pa.RecordBatch], dataset: Dataset, rollup: Rollup) -> Counter[tuple[Any, ...]]:
    counts: Counter[tuple[Any, ...]] = Counter()
    for record in pa.Table.from_batches(batches).to_pylist():
        day = record["time" if dataset.age_from is AgeFrom.TIME else "observed_time"].date()
        period = day if dataset.partition_unit is PartitionUnit.DAY else day.replace(day=1)
        minute = int(record["time"].timestamp()) // 60 * 60
        counts[period, minute, *(record[name] for name in rollup.dimensions)] += 1
    return counts


def _rows(batches: list[pa.RecordBatch]) -> Counter[tuple[Any, ...]]:
    rows = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
    assert len({row[:-1] for row in rows}) == len(rows)
    return Counter({row[:-1]: row[-1] for row in rows})


def test_encoded_records_are_the_same_records_with_one_dictionary_a_column() -> None:
    made = encoded(FRAMES)
    for name in LOW_CARDINALITY:
        first, *others = [batch.column(name) for batch in made]
        assert all(first.dictionary.equals(other.dictionary) for other in others), name
    plain = [pa.RecordBatch.from_arrays([*map(_plain, batch.columns)], schema=FRAMES[0].schema) for batch in made]
    assert plain == FRAMES


def test_a_slice_is_encoded_by_its_own_texts() -> None:
    batch = pa.concat_batches([frame(1, 3, dump="d-1"), frame(2, 3, dump="")])
    assert encoded([batch.slice(3)])[0].column("dump").to_pylist() == ["", "", ""]
    assert encoded([batch.slice(2)])[0].column("dump").to_pylist() == ["d-1", "", "", ""]
    assert encoded([batch.slice(6)])[0].column("dump").to_pylist() == []


@pytest.mark.parametrize("dataset", [DAILY, MONTHLY], ids=["daily", "monthly"])
@pytest.mark.parametrize("rollup", ROLLUPS, ids=lambda rollup: rollup.name)
@pytest.mark.parametrize(("dense_max", "combinations_max"), [(1 << 20, 1 << 62), (0, 1 << 62), (0, 64)])
def test_counts_are_those_of_the_records_one_by_one(
    dataset: Dataset, rollup: Rollup, dense_max: int, combinations_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_DENSE_MAX", dense_max)
    monkeypatch.setattr(blocks, "_COMBINATIONS_MAX", combinations_max)
    assert _rows(counted(encoded(FRAMES), dataset, rollup)) == _one_by_one(FRAMES, dataset, rollup)


def test_counts_of_many_days_come_in_groups_of_few_partitions_oldest_first() -> None:
    days = PARTITIONS_PER_INSERT_MAX * 2 + 3
    batch = frame(0, days, step_ns=DAY_NS, start_ns=TIME_NS)
    groups = counted(encoded([batch]), DAILY, ROLLUPS[0])
    periods = [group.column("period").to_pylist() for group in groups]
    assert [len(set(each)) for each in periods] == [PARTITIONS_PER_INSERT_MAX, PARTITIONS_PER_INSERT_MAX, 3]
    assert list(chain(*periods)) == sorted(chain(*periods))


def test_records_of_a_dataset_keep_their_order() -> None:
    mixed = pa.concat_batches([frame(1, 2), frame(1, 2, dataset="dumps")])
    parts = by_dataset([mixed, mixed.slice(0, 0), frame(2, 1)])
    assert {name: [batch.num_rows for batch in part] for name, part in parts.items()} == {"logs": [2, 1], "dumps": [2]}


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
