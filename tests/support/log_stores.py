"""Stores and records for tests of the warm tier."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from heimdall_server.domain.datasets import AgeFrom, Dataset, PartitionUnit
from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.tree import (
    Aggregate,
    All,
    Bucket,
    Expression,
    Function,
    Query,
    Stage,
    Stats,
    TimeRange,
)
from heimdall_server.domain.records import RECORD_SCHEMA, TIME_TYPE, default_column, with_position
from heimdall_server.ports.log_store import FrameRange, Path, StoreQuery
from heimdall_server.storage.clickhouse.connection import Engine
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from heimdall_server.storage.clickhouse.writer import Step

TIME_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z."""
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
DAY_NS = 86_400 * SECOND_NS
DATASETS = (
    Dataset("logs", PartitionUnit.DAY, hot_keys=("user",)),
    Dataset("dumps", PartitionUnit.MONTH, age_from=AgeFrom.OBSERVED_TIME),
)
COUNT = Aggregate(Function.COUNT, None, "n")


@contextlib.asynccontextmanager
async def opened_store(
    engine: Engine,
    database: str,
    *,
    datasets: Sequence[Dataset] = DATASETS,
    query_connections: int = 2,
    step: Step | None = None,
) -> AsyncIterator[ClickHouseLogStore]:
    """A store for the length of a block."""
    store = ClickHouseLogStore(engine, ClickHouseConfig(database, tuple(datasets), query_connections), step=step)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def frame(
    position: int, count: int, *, step_ns: int = SECOND_NS, start_ns: int = TIME_NS, **values: Any
) -> pa.RecordBatch:
    """A frame's records: one a step, services and hosts in turn; `values` are the same in each."""
    rows = np.arange(count)
    times = start_ns + (position * 1000 + rows) * step_ns
    columns = {
        "time": pa.array(times).cast(TIME_TYPE),
        "observed_time": pa.array(np.full(count, start_ns + DAY_NS)).cast(TIME_TYPE),
        "service": [("api", "web", "db")[row % 3] for row in rows],
        "host": [f"host-{row % 5}" for row in rows],
        "source": [("a.log", "b.log")[position % 2]] * count,
        "severity": [(9, 17)[row % 2] for row in rows],
        "body": [f"Request {row} of frame-{position} done" for row in rows],
        "attributes": [[("user", f"u{row % 4}"), ("path", "/x")] for row in rows],
        "attributes_number": [[("ms", float(row))] for row in rows],
        "trace_id": [position.to_bytes(15, "big") + bytes([row % 7 + 1]) for row in rows],
        "dataset": ["logs"] * count,
    }
    for name, value in values.items():
        columns[name] = [list(value.items()) if isinstance(value, dict) else value] * count
    arrays = []
    for field in RECORD_SCHEMA:
        column = columns.get(field.name)
        if column is None:
            arrays.append(default_column(field.name, count))
        else:
            arrays.append(column if isinstance(column, pa.Array) else pa.array(column, field.type))
    return with_position(pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA), shard=0, position=position)


async def fill(store: ClickHouseLogStore, frames: Sequence[pa.RecordBatch]) -> None:
    """Insert frames as a projection would."""
    positions = [int(batch.column("position")[0].as_py()) for batch in frames]
    await store.insert(FrameRange(0, min(positions), max(positions)), frames, token=uuid.uuid4().hex)
    store.settled({0: max(positions)})


def asked(
    filter_: Expression | None = None,
    *stages: Stage,
    time_range: TimeRange | None = None,
    through: int = 1000,
    path: Path | None = None,
    **values: Any,
) -> StoreQuery:
    """A question of everything, unless told otherwise."""
    query = Query(filter_ or All(), stages)
    return StoreQuery(query, time_range or TimeRange(), {0: through}, path=path, **values)


def counted(*names: str, bucket_ns: int = 0) -> Stats:
    """`stats count() by` some fields, and a bucket."""
    buckets = (Bucket(bucket_ns),) if bucket_ns else ()
    return Stats((COUNT,), (*buckets, *(resolve(name) for name in names)))


async def rows_of(store: ClickHouseLogStore, query: StoreQuery) -> list[dict[str, Any]]:
    """All rows of an answer."""
    async with store.query(query) as result:
        batches = [batch async for batch in result.batches()]
        return list(pa.Table.from_batches(batches, schema=result.schema).to_pylist())


async def rollup_counts(store: ClickHouseLogStore, dataset: str) -> dict[str, list[dict[str, Any]]]:
    """What the rollups say and what the records say, by the same columns."""
    found = {}
    for path in (Path.ROLLUP, Path.SCAN):
        for by in (("source", "service", "severity"), ("source", "host")):
            query = asked(None, counted(*by, bucket_ns=MINUTE_NS), path=path, datasets=[dataset])
            rows = await rows_of(store, query)
            found[f"{path} {by[-1]}"] = sorted(rows, key=repr)
    return found
