"""What every log store promises of a deletion."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.domain.errors import StoreError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.language.parser import parse
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from tests.support.log_stores import DATASETS, SECOND_NS, TIME_NS, asked, fill, frame, rollup_counts, rows_of

FILTERS = (
    "body:request AND service:api",
    '"request 3 of"',
    "user:u1 OR host:host-2",
    "body:/of frame-[12] d/",
    "NOT service:web",
    "ms:>=5 AND severity:>=ERROR",
    'path:"/x" AND source:b.log',
    "_exists_:user AND body:reques*",
    "trace_id:" + "00" * 14 + "0101",
    "client:10.1.0.0/16",
)


def _frames() -> list[pa.RecordBatch]:
    plain = [frame(position, 12) for position in (1, 2, 3)]
    return [*plain, frame(4, 3, attributes={"client": "10.1.2.3"}), frame(5, 4, dataset="dumps")]


@pytest.fixture
async def store(chdb_engine: ChdbEngine) -> AsyncIterator[ClickHouseLogStore]:
    opened = ClickHouseLogStore(chdb_engine, ClickHouseConfig("deletion", DATASETS, 2))
    await opened.open()
    await fill(opened, _frames())
    yield opened
    await opened.close()
    connection = chdb_engine.connect()
    connection.command("DROP DATABASE `deletion` SYNC")
    connection.close()


def _keys(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return sorted((row["position"], row["row"]) for row in rows)


@pytest.mark.parametrize("text", FILTERS)
async def test_what_a_filter_finds_goes_and_all_else_stays(store: ClickHouseLogStore, text: str) -> None:
    filter_ = parse(text, now_ns=0).filter
    everything, doomed = _keys(await rows_of(store, asked())), _keys(await rows_of(store, asked(filter_)))
    assert doomed
    assert await store.delete(filter_, time_range=TimeRange(), datasets=(), through={0: 1000}) == len(doomed)
    store.settled({0: 5})
    assert _keys(await rows_of(store, asked())) == sorted(set(everything) - set(doomed))
    for dataset in ("logs", "dumps"):
        counts = await rollup_counts(store, dataset)
        assert counts["rollup host"] == counts["scan host"]
        assert counts["rollup severity"] == counts["scan severity"]
    assert await store.delete(filter_, time_range=TimeRange(), datasets=(), through={0: 1000}) == 0
    store.settled({0: 5})


async def test_only_what_was_there_then_of_that_time_and_dataset_goes(store: ClickHouseLogStore) -> None:
    filter_ = parse("*", now_ns=0).filter
    early = TimeRange(None, TIME_NS + 2_005 * SECOND_NS)
    assert await store.delete(filter_, time_range=early, datasets=("logs",), through={0: 1}) == 12
    assert await store.delete(filter_, time_range=early, datasets=("logs",), through={0: 1000}) == 5
    assert await store.delete(filter_, time_range=early, datasets=("dumps",), through={0: 1000}) == 0
    store.settled({0: 5})
    assert len(await rows_of(store, asked())) == 43 - 17


async def test_deleted_rows_are_no_longer_in_any_part(store: ClickHouseLogStore, chdb_engine: ChdbEngine) -> None:
    await store.delete(parse("service:api", now_ns=0).filter, time_range=TimeRange(), datasets=(), through={0: 1000})
    store.settled({0: 5})
    connection = chdb_engine.connect()
    masked = connection.table(
        "SELECT count() AS n FROM system.parts WHERE active AND database = 'deletion' AND has_lightweight_delete"
    )
    rows = connection.table(
        "SELECT sum(rows) AS n FROM system.parts WHERE active AND database = 'deletion' AND table = 'logs'"
    )
    connection.close()
    assert masked.column("n")[0].as_py() == 0
    assert rows.column("n")[0].as_py() == len(await rows_of(store, asked(datasets=["logs"])))


async def test_a_deletion_that_dies_at_any_step_is_whole_when_it_is_made_again(chdb_engine: ChdbEngine) -> None:
    class Killed(BaseException):
        """Nothing may take it for an error of the engine."""

    filter_ = parse("service:api OR user:u1", now_ns=0).filter
    steps_done, number = True, 0
    while steps_done:
        number += 1
        seen = 0

        def die(step: str, at: int = number) -> None:
            nonlocal seen
            if step.startswith("insert"):
                return
            seen += 1
            if seen == at:
                raise Killed(step)

        store = ClickHouseLogStore(chdb_engine, ClickHouseConfig("dying", DATASETS[:1], 2), step=die)
        await store.open()
        seen = 0
        await fill(store, [frame(1, 12), frame(2, 12)])
        try:
            await store.delete(filter_, time_range=TimeRange(), datasets=(), through={0: 2})
            steps_done = False
        except (Killed, StoreError):
            await store.delete(filter_, time_range=TimeRange(), datasets=(), through={0: 2})
        store.settled({0: 2})
        left = await rows_of(store, asked())
        assert all(row["service"] != "api" for row in left)
        counts = await rollup_counts(store, "logs")
        assert counts["rollup host"] == counts["scan host"]
        assert counts["rollup severity"] == counts["scan severity"]
        await store.close()
        connection = chdb_engine.connect()
        connection.command("DROP DATABASE `dying` SYNC")
        connection.close()
    assert number > 5
