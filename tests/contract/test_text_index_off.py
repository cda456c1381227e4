"""A store without an index of words: the same answers by reading, and tables that follow the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from heimdall_server.domain.datasets import Dataset
from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.tree import Words
from heimdall_server.ports.log_store import Path
from heimdall_server.storage.clickhouse.embedded import ChdbConnection, ChdbEngine
from heimdall_server.storage.clickhouse.schema import TUNING
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from tests.support.log_stores import asked, counted, fill, frame, rows_of

WORD = Words(resolve("body"), ("frame", "2"))
BUILT_WITHIN_S = 20.0


@pytest.fixture
def connection(chdb_engine: ChdbEngine) -> Iterator[ChdbConnection]:
    opened = chdb_engine.connect()
    yield opened
    opened.close()


@pytest.fixture
def database(connection: ChdbConnection, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"words_{request.node.originalname}"[:60]
    yield name
    connection.command(f"DROP DATABASE IF EXISTS `{name}` SYNC")


def _indexes(connection: ChdbConnection, database: str, table: str) -> set[str]:
    found = connection.table(
        "SELECT name FROM system.data_skipping_indices WHERE database = {database:String} AND table = {table:String}",
        {"database": database, "table": table},
    )
    return set(found.column("name").to_pylist())


def _store(engine: ChdbEngine, database: str, *, text_index: bool = True, dataset: bool = True) -> ClickHouseLogStore:
    return ClickHouseLogStore(
        engine, ClickHouseConfig(database, (Dataset("logs", text_index=dataset),), text_index=text_index)
    )


@pytest.mark.parametrize(("instance", "dataset"), [(False, True), (True, False)], ids=["instance", "dataset"])
async def test_words_are_found_by_reading_and_the_plan_says_so(
    chdb_engine: ChdbEngine, connection: ChdbConnection, database: str, instance: bool, dataset: bool
) -> None:
    store = _store(chdb_engine, database, text_index=instance, dataset=dataset)
    await store.open()
    try:
        await fill(store, [frame(1, 30), frame(2, 20)])
        assert _indexes(connection, database, "logs") == {"trace", "positions"}
        assert not store.word_index(["logs"])
        assert len(await rows_of(store, asked(WORD))) == 20
        assert [row["n"] for row in await rows_of(store, asked(WORD, counted()))] == [20]
        plan = await store.explain(asked(WORD))
        assert plan.path is Path.NEWEST_FIRST
        assert "without a text index" in plan.reason
        assert "without a text index" not in (await store.explain(asked())).reason
    finally:
        await store.close()


async def test_a_table_that_exists_follows_the_configuration(
    chdb_engine: ChdbEngine, connection: ChdbConnection, database: str
) -> None:
    for round_, text_index in enumerate((False, True, False)):
        store = _store(chdb_engine, database, text_index=text_index)
        await store.open()
        try:
            await fill(store, [frame(2 + 10 * round_, 20)])
            assert ("words" in _indexes(connection, database, "logs")) is text_index
            assert store.word_index([]) is text_index
            # Records from before the change are found, too, whether the index is built for them already or not.
            found = await rows_of(store, asked(Words(resolve("body"), ("request", "7")), through=100))
            assert len(found) == round_ + 1
            assert ((await store.explain(asked(WORD))).path is Path.TEXT_INDEX) is text_index
            if text_index:
                await _until_built(connection, database)
        finally:
            await store.close()


async def test_a_dataset_that_only_records_name_follows_the_instance(
    chdb_engine: ChdbEngine, connection: ChdbConnection, database: str
) -> None:
    store = _store(chdb_engine, database, text_index=False)
    await store.open()
    try:
        await fill(store, [frame(1, 3, dataset="stray")])
        assert "words" not in _indexes(connection, database, "stray")
    finally:
        await store.close()
    # It isn't configured the next time either: its table stays as it is.
    store = _store(chdb_engine, database)
    await store.open()
    try:
        assert "words" not in _indexes(connection, database, "stray")
        assert not store.word_index(["stray"])
        assert len(await rows_of(store, asked(Words(resolve("body"), ("request",))))) == 3
    finally:
        await store.close()


async def test_every_table_of_a_dataset_is_tuned(
    chdb_engine: ChdbEngine, connection: ChdbConnection, database: str
) -> None:
    store = _store(chdb_engine, database)
    await store.open()
    try:
        await fill(store, [frame(1, 3), frame(2, 3, dataset="stray")])
    finally:
        await store.close()
    tables = connection.table(
        "SELECT name, engine_full FROM system.tables WHERE database = {database:String} AND name != 'meta:facts'",
        {"database": database},
    ).to_pylist()
    assert len(tables) == 6
    for table in tables:
        assert all(f"{name} = {value}" in table["engine_full"] for name, value in TUNING.items()), table


async def _until_built(connection: ChdbConnection, database: str) -> None:
    async with asyncio.timeout(BUILT_WITHIN_S):
        while _is_building(connection, database):  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.05)


def _is_building(connection: ChdbConnection, database: str) -> bool:
    running = connection.table(
        "SELECT count() AS n FROM system.mutations WHERE NOT is_done AND database = {database:String}",
        {"database": database},
    )
    return bool(running.column("n")[0].as_py())
