"""Statements that read less than they seem to need give the same answers as those that don't."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator

import pytest

from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.tree import All, And, Compare, Expression, Limit, Not, Operator, Regex, Words
from heimdall_server.ports.log_store import FrameRange, Order, Path
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.stages import TIMES_FIRST_ROWS_MAX
from heimdall_server.storage.clickhouse.store import ClickHouseLogStore
from tests.support.log_stores import DAY_NS, TIME_NS, asked, counted, fill, frame, opened_store, rows_of

API = Compare(resolve("service"), Operator.EQ, "api")
ALICE = Compare(resolve("user"), Operator.EQ, "u1")
FILTERS: dict[str, Expression] = {
    "everything": All(),
    "a column": API,
    "an attribute": ALICE,
    "a pattern": Regex(resolve("body"), "request [0-9]*7 of .*"),
    "nothing": Compare(resolve("service"), Operator.EQ, "none"),
    "several": And((API, Not(ALICE))),
}


@pytest.fixture
async def store(chdb_engine: ChdbEngine, request: pytest.FixtureRequest) -> AsyncIterator[ClickHouseLogStore]:
    database = f"shortcuts_{request.node.originalname}"
    async with opened_store(chdb_engine, database) as opened:
        yield opened
    connection = chdb_engine.connect()
    connection.command(f"DROP DATABASE `{database}` SYNC")
    connection.close()


async def test_the_first_rows_by_their_times_are_the_first_rows(store: ClickHouseLogStore) -> None:
    r = random.Random(5)
    for position in range(1, 9):
        # Many records of one time, across frames and days: only the whole key tells which are first.
        time_ns = TIME_NS + r.randrange(3) * DAY_NS + r.randrange(4)
        await fill(store, [frame(position, 40, time=time_ns)])
    for filter_ in FILTERS.values():
        for order in (Order.NEWEST_FIRST, Order.OLDEST_FIRST):
            whole = await rows_of(store, asked(filter_, order=order, through=6))
            for limit in (1, 7, 39, 41, 1000):
                assert limit <= TIMES_FIRST_ROWS_MAX
                query = asked(filter_, Limit(limit), order=order, through=6)
                async with store.query(query) as result:
                    assert "time IN (" in result.plan.sql
                assert await rows_of(store, query) == whole[:limit]


async def test_more_rows_than_that_are_read_as_they_come(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 10)])
    async with store.query(asked(None, Limit(TIMES_FIRST_ROWS_MAX + 1))) as result:
        assert "time IN (" not in result.plan.sql


async def test_words_are_counted_without_positions_while_nothing_changes(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 10), frame(2, 20)])
    count = asked(Words(resolve("body"), ("request",)), counted(), through=2)
    async with store.query(count) as result:
        assert result.plan.path is Path.TEXT_INDEX
        assert "position <=" not in result.plan.sql
    assert await rows_of(store, count) == [{"n": 30}]


async def test_words_of_an_older_snapshot_are_counted_by_positions(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 10), frame(2, 20)])
    count = asked(Words(resolve("body"), ("request",)), counted(), through=1)
    assert await rows_of(store, count) == [{"n": 10}]


async def test_records_that_are_there_but_not_settled_are_not_counted(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 10)])
    await store.insert(FrameRange(0, 2, 2), [frame(2, 20)], token="t")
    count = asked(Words(resolve("body"), ("request",)), counted("service"), through=1)
    assert sum(row["n"] for row in await rows_of(store, count)) == 10
    store.settled({0: 2})
    assert sum(row["n"] for row in await rows_of(store, count)) == 10


async def test_counts_of_words_are_of_their_snapshot_while_records_come_in(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 100)])
    through = 1
    is_over = asyncio.Event()

    async def put() -> None:
        nonlocal through
        for position in range(2, 14):
            await store.insert(FrameRange(0, position, position), [frame(position, 100)], token=str(position))
            store.settled({0: position})
            through = position
        is_over.set()

    putting = asyncio.create_task(put())
    while not is_over.is_set():
        now = through
        count = asked(Words(resolve("body"), ("request",)), counted(), through=now)
        assert await rows_of(store, count) == [{"n": 100 * now}]
        await asyncio.sleep(0)
    await putting


@pytest.mark.parametrize(("held_at", "by_position"), [("logs", False), ("dumps", True)])
async def test_words_are_counted_without_positions_until_an_insert_commits(
    chdb_engine: ChdbEngine, held_at: str, *, by_position: bool
) -> None:
    reached, going_on = threading.Event(), threading.Event()

    def hold(step: str) -> None:
        if step == f"insert records {held_at} 0" and not reached.is_set():
            reached.set()
            assert going_on.wait(10)

    # Of two datasets the records of "logs" are there before those of "dumps" are inserted.
    database = f"shortcuts_held_at_{held_at}"
    count = asked(Words(resolve("body"), ("request",)), counted(), datasets=("logs",), through=1)
    async with opened_store(chdb_engine, database) as store:
        await fill(store, [frame(1, 10)])
    async with opened_store(chdb_engine, database, step=hold) as store:
        store.settled({0: 1})
        batches = [frame(2, 20), frame(2, 5, dataset="dumps")]
        inserting = asyncio.create_task(store.insert(FrameRange(0, 2, 2), batches, token="t"))
        assert await asyncio.to_thread(reached.wait, 10)
        async with store.query(count) as result:
            assert ("position <=" in result.plan.sql) is by_position
            assert [row["n"] async for batch in result.batches() for row in batch.to_pylist()] == [10]
        going_on.set()
        await inserting
    connection = chdb_engine.connect()
    connection.command(f"DROP DATABASE `{database}` SYNC")
    connection.close()


async def test_rows_of_a_time_range_are_known_about_without_asking(
    store: ClickHouseLogStore, chdb_engine: ChdbEngine, request: pytest.FixtureRequest
) -> None:
    await fill(store, [frame(1, 50, start_ns=TIME_NS), frame(2, 30, start_ns=TIME_NS + 2 * DAY_NS)])
    everything = asked().time_range
    assert store.rows_between(everything, ["logs"]) == 80
    assert store.rows_between(everything, ["dumps"]) == 0
    assert store.rows_between(type(everything)(TIME_NS + DAY_NS), ["logs"]) == 30
    await store.close()
    async with opened_store(chdb_engine, f"shortcuts_{request.node.originalname}") as again:
        assert again.rows_between(everything, []) == 80
        assert again.rows_between(type(everything)(TIME_NS + DAY_NS), ["logs"]) == 30
