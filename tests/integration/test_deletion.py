"""Deletions of the journal, carried out by the projection in a real store, replayed and resumed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow as pa
import pytest

from heimdall_server.domain.records import repeat
from heimdall_server.ports.journal import Deletion, Entry
from heimdall_server.projections.checkpoint import CheckpointFile
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.projections.warm import RetryPolicy, WarmHooks, WarmProjection
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from heimdall_server.storage.journal.journal import EmbeddedJournal
from tests.support.journal import make_batch, opened, small_config
from tests.support.log_stores import DATASETS, asked, rollup_counts, rows_of
from tests.support.warm_process import SystemClock


class Killed(BaseException):
    """Nothing may take it for an error of the engine."""


@pytest.fixture
async def store(chdb_engine: ChdbEngine) -> AsyncIterator[ClickHouseLogStore]:
    opened_store = ClickHouseLogStore(chdb_engine, ClickHouseConfig("deleting", DATASETS, 2))
    await opened_store.open()
    yield opened_store
    await opened_store.close()
    connection = chdb_engine.connect()
    connection.command("DROP DATABASE `deleting` SYNC")
    connection.close()


def entry(position: int) -> Entry:
    bodies = [f"row {row} of {position} leaked" if row == 1 else f"row {row} of {position} fine" for row in range(4)]
    batch = make_batch(bodies)
    index = batch.schema.get_field_index("dataset")
    return Entry(batch.set_column(index, batch.schema.field(index), repeat("logs", batch.num_rows, pa.string())))


def deletion(through: int) -> Entry:
    return Entry(None, deletions=(Deletion("d1", "body:leaked", None, None, (), through),))


async def project(
    journal: EmbeddedJournal, store: ClickHouseLogStore, checkpoint: Path, hooks: WarmHooks, position: int
) -> None:
    projection = WarmProjection(
        journal,
        store,
        CheckpointFile(checkpoint),
        SystemClock(),
        limits=ReadLimits(linger_s=0.01),
        retry=RetryPolicy(0.001, 0.01),
        hooks=hooks,
    )
    task = asyncio.create_task(projection.run())
    waiting = asyncio.create_task(projection.wait_through({0: position}, 20))
    done, _ = await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for one in (waiting, task):
        one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            if one in done:
                await one
            else:
                await asyncio.wait({one})


async def leaked(store: ClickHouseLogStore) -> list[int]:
    rows = await rows_of(store, asked())
    counts = await rollup_counts(store, "logs")
    assert counts["rollup host"] == counts["scan host"]
    return sorted(row["position"] for row in rows if "leaked" in row["body"])


async def test_what_came_before_goes_and_what_comes_later_stays(tmp_path: Path, store: ClickHouseLogStore) -> None:
    told: list[tuple[str, int]] = []
    async with opened(small_config(tmp_path / "journal")) as journal:
        await journal.append([entry(1), entry(2), entry(3), deletion(2), entry(5)])
        hooks = WarmHooks(on_deleted=lambda name, count: told.append((name, count)))
        await project(journal, store, tmp_path / "warm.json", hooks, 5)
    assert await leaked(store) == [3, 5]
    assert told == [("d1", 2)]


async def test_a_replay_from_the_start_deletes_again(tmp_path: Path, store: ClickHouseLogStore) -> None:
    async with opened(small_config(tmp_path / "journal")) as journal:
        await journal.append([entry(1), entry(2), deletion(2), entry(4)])
        await project(journal, store, tmp_path / "warm.json", WarmHooks(), 4)
        (tmp_path / "warm.json").unlink()
        await project(journal, store, tmp_path / "warm.json", WarmHooks(), 4)
    assert await leaked(store) == [4]
    assert len(await rows_of(store, asked())) == 10


@pytest.mark.parametrize("at", ["delete", "checkpoint"])
async def test_a_crash_around_the_deletion_loses_neither_it_nor_a_record(
    tmp_path: Path, store: ClickHouseLogStore, at: str
) -> None:
    async with opened(small_config(tmp_path / "journal")) as journal:
        await journal.append([entry(1)])
        await project(journal, store, tmp_path / "warm.json", WarmHooks(), 1)
        await journal.append([entry(2), deletion(2), entry(4)])
        deleted: list[str] = []

        def die(step: str) -> None:
            if step == at and (at == "delete" or deleted):
                raise Killed(step)

        hooks = WarmHooks(step=die, on_deleted=lambda name, _: deleted.append(name))
        with pytest.raises((Killed, BaseExceptionGroup)):
            await project(journal, store, tmp_path / "warm.json", hooks, 4)
        await project(journal, store, tmp_path / "warm.json", WarmHooks(), 4)
    assert await leaked(store) == [4]
    assert len(await rows_of(store, asked())) == 10
